"""How many pairs a verdict will need on this noise, told from the A/A history before anything is deployed.

The history is drawn from again and again, its ratios multiplied by an assumed effect, and each such rollout is judged
by the very test, history and budget that the real one will have.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rollout.errors import ConfigError, EvidenceError
from rollout.model.verdict import Outcome
from rollout.stats.margins import Margins, instance_margins
from rollout.stats.noise import NoiseSummary, block_pairs_for, sigma_of, summarize_noise
from rollout.stats.paired import GateName, PairedTest
from rollout.stats.series import Array, check_open_unit, checked_ratio

EFFECTS = (1.0, 1.2, 1.5, 2.0)
"""How slow a green may turn out: equal, and three that a rollout must convict."""

RUNS_MAX = 200
"""Rollouts drawn for one answer: a share of 95% is then known to about 1.5 percentage points (standard error)."""

RUNS_MIN = 20
"""Fewer would not tell a margin that is never decided from one that is decided seldom."""

PAIRS_DRAWN_MAX = 30_000
"""Pairs drawn for one answer, a second or two; past it no further rollout is begun, down to RUNS_MIN."""

PAIRS_AHEAD_MAX = PAIRS_DRAWN_MAX // RUNS_MIN
"""How far one drawn rollout is followed where the budget is larger: past 1500 pairs no history of a few hundred
ratios knows anything."""

SUFFICIENT_SHARE = 0.95
"""A budget suffices when an equal green is promoted within it in 95 of 100 rollouts."""

UNDECIDED_READ = 5
"""Undecided rollouts whose gates are read, which costs milliseconds each, to say what holds a verdict up."""

RESAMPLED_BLOCKS = 5
"""Ratios are drawn in runs this many decision blocks long where they are autocorrelated: a run's ends, at which the
dependence is cut, are then few."""

MEDIAN_VARIANCE = math.pi / 2.0
"""Variance of the median of n normal values, in units of their variance / n (asymptotically)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the rollout will be judged by.

    Attributes:
        margins: As the policy states them.
        alpha: Largest chance of a false BREACH, in (0, 1).
        beta: Largest chance of a false PASS, in (0, 1).
        budget: Pairs, at least 1.
        replicas: Instances of the candidate, at least 1; each of several must prove its own median.
    """

    margins: Margins
    alpha: float
    beta: float
    budget: int
    replicas: int = 1

    def __post_init__(self) -> None:
        check_open_unit(self.alpha, name="alpha")
        check_open_unit(self.beta, name="beta")
        if self.budget < 1:
            raise ConfigError(f"budget is {self.budget}; at least one pair must be allowed")
        if self.replicas < 1:
            raise ConfigError(f"replicas is {self.replicas}; at least one is needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectForecast:
    """What rollouts of a green with one true effect came to.

    Attributes:
        effect: Green's latency is blue's times this.
        runs: Rollouts drawn.
        promoted: Share that ended with PASS, in [0, 1].
        convicted: Share that ended with BREACH; the rest was undecided.
        pairs_median: Pairs until the verdict; +inf where half of the rollouts had none.
        pairs_p90: Likewise; +inf where a tenth or more had none.
        requests_per_pair: Work of a pair in units of one request to blue, both colours; timing of green stops where
            it can change no verdict.
    """

    effect: float
    runs: int
    promoted: float
    convicted: float
    pairs_median: float
    pairs_p90: float
    requests_per_pair: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginForecast:
    """What one margin of the median costs on this noise; the other margins are the policy's.

    Attributes:
        p50_ratio_max: The margin.
        effects: One for each effect, in the order asked; the first is an equal green.
        instance_pairs_p90: Pairs of its own until one of several equal instances is proven, in nine of ten rollouts;
            +inf where fewer got there, 0 where there is one instance.
        hopeless: True when an equal green is promoted within the budget no more often than chance would promote one
            at the margin: this noise can never decide the margin.
        open_gate: The gate that most often had not proven an equal green at the end of the budget; None where every
            rollout was decided.
    """

    p50_ratio_max: float
    effects: tuple[EffectForecast, ...]
    instance_pairs_p90: float
    hopeless: bool
    open_gate: GateName | None

    @property
    def equal(self) -> EffectForecast:
        """The forecast for a green as fast as blue."""
        return self.effects[0]

    @property
    def suffices(self) -> bool:
        """True when an equal green is promoted within the budget often enough."""
        return self.equal.promoted >= SUFFICIENT_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeNoise:
    """Noise of the requests of one shape.

    Attributes:
        shape: Its name.
        blue_s: Median seconds of a request; +inf where most failed.
        noise: None where the history holds fewer than two ratios of the shape.
    """

    shape: str
    blue_s: float
    noise: NoiseSummary | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a history says about the noise and about what verdicts will cost.

    Attributes:
        noise: Of the whole history.
        shapes: One for each shape; empty where the history does not say which prompt a ratio belongs to.
        block_pairs: Pairs over which the median gate will average; 1 where the ratios are not autocorrelated.
        question: What was asked; its margin is the first of `margins`.
        margins: One for each margin.
    """

    noise: NoiseSummary
    shapes: tuple[ShapeNoise, ...]
    block_pairs: int
    question: Question
    margins: tuple[MarginForecast, ...]

    @property
    def own(self) -> MarginForecast:
        """The forecast for the policy's own margin."""
        return self.margins[0]


def calibration_of(
    aa_ratio: Array,
    *,
    starts: int,
    question: Question,
    p50_ratios_max: Sequence[float] = (),
    effects: Sequence[float] = EFFECTS,
    shapes: tuple[ShapeNoise, ...] = (),
    seed: int = 0,
) -> Calibration:
    """Forecast the verdicts of rollouts from a history.

    Args:
        aa_ratio: Shape (N,), N >= 100, blue / blue in the order measured; see `PairedTest`.
        starts: Equal stretches of the history, each measured with a freshly started second instance; 1 to N. A
            drawn rollout has the location of one of them: a candidate, too, is one start, and what a start has of its
            own no number of pairs averages away.
        question: Margins, error rates and budget of the policy.
        p50_ratios_max: Further margins of the median to try.
        effects: Greens to imagine; the first must be 1, the equal one.
        shapes: Noise by shape, which is passed on.
        seed: Of the draws.

    Raises:
        EvidenceError: The history cannot be used by `PairedTest`; a short one says how many pairs are missing.
        ConfigError: An argument is outside its range.
    """
    ratio = checked_ratio(aa_ratio, name="aa_ratio")
    if not 1 <= starts <= max(len(ratio), 1):
        raise ConfigError(f"starts is {starts}; it must lie between 1 and the {len(ratio)} pairs of the history")
    if not effects or effects[0] != 1.0:
        raise ConfigError(f"effects are {list(effects)}; the first must be 1, a green as fast as blue")
    margins = (question.margins.p50_ratio_max, *p50_ratios_max)
    block_pairs = block_pairs_for(ratio)
    history = _history_of(ratio, starts=starts, block_pairs=block_pairs)
    rng = np.random.default_rng(seed)
    return Calibration(
        noise=summarize_noise(ratio, slow_factor=question.margins.slow_factor),
        shapes=shapes,
        block_pairs=block_pairs,
        question=question,
        margins=tuple(
            _margin_forecast(
                history,
                replace(question, margins=replace(question.margins, p50_ratio_max=one)),
                effects,
                rng,
            )
            for one in dict.fromkeys(margins)
        ),
    )


def noise_by_shape(
    aa_ratio: Array, *, shape_of_pair: Sequence[str], blue_s: dict[str, Array], slow_factor: float
) -> tuple[ShapeNoise, ...]:
    """Tell the noise of each shape of request.

    Args:
        aa_ratio: Shape (N,), blue / blue in the order measured.
        shape_of_pair: N names; or none, where the history does not say.
        blue_s: For each shape, seconds of its requests, shape (n,) with n >= 1, +inf for a failure.
        slow_factor: See `summarize_noise`.

    Raises:
        EvidenceError: There are some names, but not N; or half of the ratios of a shape are timeouts.
    """
    ratio = checked_ratio(aa_ratio, name="aa_ratio")
    if len(shape_of_pair) not in {0, len(ratio)}:
        raise EvidenceError(f"the history holds {len(ratio)} pairs and names the shapes of {len(shape_of_pair)}")
    names = np.array(shape_of_pair, dtype=np.str_)
    found = []
    for shape, seconds in sorted(blue_s.items()):
        own = ratio[names == shape] if len(names) else ratio[:0]
        told = summarize_noise(own, slow_factor=slow_factor) if len(own) > 1 else None
        found.append(ShapeNoise(shape=shape, blue_s=float(np.median(seconds)), noise=told))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _History:
    """What rollouts are drawn from.

    Attributes:
        ratio: As measured, the yardstick of every drawn rollout.
        residual_log: Shape (N,): each log ratio less the location of its start.
        location_log: One for each start.
        block_pairs: Pairs that the median gate averages over.
    """

    ratio: Array
    residual_log: Array
    location_log: Array
    block_pairs: int

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Return ratios of one imagined rollout: the location of one start, and neighbours around it, in a ring."""
        size = len(self.residual_log)
        length = 1 if self.block_pairs == 1 else min(RESAMPLED_BLOCKS * self.block_pairs, size)
        begun = rng.integers(size, size=-(-count // length))
        places = (begun[:, np.newaxis] + np.arange(length)).ravel()[:count] % size
        drawn: Array = np.exp(rng.choice(self.location_log) + self.residual_log[places])
        return drawn


def _history_of(ratio: Array, *, starts: int, block_pairs: int) -> _History:
    """Split log ratios into one location for each start and what is left.

    Medians of stretches differ by chance too. Their variance less that of such a median is what the starts themselves
    contribute (one-way random effects, method of moments); locations are drawn towards their mean until they show it.
    """
    with np.errstate(divide="ignore"):
        stretches = np.array_split(np.log(ratio), starts)
    medians = np.array([np.median(one) for one in stretches])
    residual = np.concatenate([one - median for one, median in zip(stretches, medians, strict=True)])
    spread = float(np.var(medians, ddof=1)) if starts > 1 else 0.0
    by_chance = MEDIAN_VARIANCE * block_pairs * sigma_of(residual) ** 2 / (len(ratio) / starts)
    kept = math.sqrt(max(0.0, 1.0 - by_chance / spread)) if spread > 0.0 else 0.0
    centre = float(medians.mean())
    return _History(
        ratio=ratio,
        residual_log=residual,
        location_log=centre + kept * (medians - centre),
        block_pairs=block_pairs,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """One imagined rollout at its end.

    Attributes:
        test: As it was left.
        spent: Pairs it took, verdict or not.
        instance_pairs: Until the instance alone was proven; +inf where it was not, 0 where there is only one.
        work: Requests of both colours, in units of one to blue; green's until timing it changed no verdict.
    """

    test: PairedTest
    spent: int
    instance_pairs: float
    work: float

    @property
    def undecided(self) -> bool:
        """True where there was no verdict."""
        return self.test.outcome is Outcome.INCONCLUSIVE

    @property
    def pairs(self) -> float:
        """Pairs until the verdict; +inf where there was none."""
        return math.inf if self.undecided else self.spent

    def open_gates(self, *, needed: float) -> list[GateName]:
        """Return the gates that had no proof."""
        return [gate.name for gate in self.test.judgement().gates if gate.e_promote_max < needed]


def _margin_forecast(
    history: _History, question: Question, effects: Sequence[float], rng: np.random.Generator
) -> MarginForecast:
    drawn = [_drawn_rollouts(history, question, effect, rng) for effect in effects]
    undecided = [one for one in drawn[0] if one.undecided][:UNDECIDED_READ]
    gates = [gate for one in undecided for gate in one.open_gates(needed=1.0 / question.beta)]
    told = tuple(_effect_forecast(effect, rollouts) for effect, rollouts in zip(effects, drawn, strict=True))
    return MarginForecast(
        p50_ratio_max=question.margins.p50_ratio_max,
        effects=told,
        hopeless=told[0].promoted <= question.beta,
        instance_pairs_p90=_quantile([one.instance_pairs for one in drawn[0]], 0.9),
        open_gate=max(GateName, key=gates.count) if gates else None,
    )


def _drawn_rollouts(history: _History, question: Question, effect: float, rng: np.random.Generator) -> list[_Drawn]:
    rollouts: list[_Drawn] = []
    spent = 0
    while len(rollouts) < RUNS_MIN or (len(rollouts) < RUNS_MAX and spent < PAIRS_DRAWN_MAX):
        rollouts.append(_drawn_rollout(history, question, effect, rng))
        spent += rollouts[-1].spent
    return rollouts


def _drawn_rollout(history: _History, question: Question, effect: float, rng: np.random.Generator) -> _Drawn:
    test = _test_of(history, question, question.margins)
    proof = _test_of(history, question, instance_margins(question.margins)) if question.replicas > 1 else None
    instance_pairs, work, spent = math.inf if proof else 0.0, 0.0, 0
    needed, stop_ratio = 1.0 / question.beta, test.stop_ratio
    for ratio in (effect * history.draw(min(question.budget, PAIRS_AHEAD_MAX), rng)).tolist():
        # A ratio of 0 is a blue that timed out where green answered.
        blue_s, green_s = (1.0, ratio) if ratio > 0.0 else (math.inf, 1.0)
        outcome = test.update(blue_s=blue_s, green_s=green_s)
        spent += 1
        work += 1.0 + min(ratio, stop_ratio)
        if proof is not None and proof.outcome is Outcome.INCONCLUSIVE and math.isinf(instance_pairs):
            proof.update(blue_s=blue_s, green_s=green_s)
            instance_pairs = spent if proof.median_promote_max >= needed else math.inf
        if outcome is not Outcome.INCONCLUSIVE:
            break
    return _Drawn(test=test, spent=spent, instance_pairs=instance_pairs, work=work)


def _test_of(history: _History, question: Question, margins: Margins) -> PairedTest:
    return PairedTest(
        aa_ratio=history.ratio,
        margins=margins,
        alpha=question.alpha,
        beta=question.beta,
        block_pairs=history.block_pairs,
    )


def _effect_forecast(effect: float, rollouts: list[_Drawn]) -> EffectForecast:
    pairs = [one.pairs for one in rollouts]
    outcomes = [one.test.outcome for one in rollouts]
    return EffectForecast(
        effect=effect,
        runs=len(rollouts),
        promoted=outcomes.count(Outcome.PASS) / len(rollouts),
        convicted=outcomes.count(Outcome.BREACH) / len(rollouts),
        pairs_median=_quantile(pairs, 0.5),
        pairs_p90=_quantile(pairs, 0.9),
        requests_per_pair=math.fsum(one.work for one in rollouts) / sum(one.spent for one in rollouts),
    )


def _quantile(pairs: list[float], q: float) -> float:
    return float(np.quantile(pairs, q, method="inverted_cdf"))
