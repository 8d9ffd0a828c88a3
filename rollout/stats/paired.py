"""Judging a candidate by pairs: one prompt sent to blue and to green, decided at the first pair that suffices.

Roll back when 0.3 E_median + 0.5 E_tail + 0.2 E_slow >= 1/alpha: an average of e-values is an e-value under any
dependence (Vovk & Wang, Annals of Statistics 49(3), 2021). Promote when each gate's own evidence has at some time
reached 1/beta: every margin must be excluded, so nothing has to be corrected for (intersection-union; Berger,
Technometrics 1982).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple, TypeVar, assert_never

import numpy as np

from rollout.errors import ConfigError, EvidenceError, InvariantError
from rollout.model.verdict import Outcome
from rollout.stats.betting import NEARLY
from rollout.stats.intervals import median_bounds, tail_bounds
from rollout.stats.margins import Margins, margins_of
from rollout.stats.processes import GateProcess, MedianProcess, SlowProcess, TailProcess
from rollout.stats.quantiles import sample_quantile
from rollout.stats.series import Array, Bounds, check_open_unit, checked_latency
from rollout.stats.yardstick import yardstick_of

ROLLBACK_PAIRS_MIN = 2
"""One pair can be one accident."""

MEDIAN_WEIGHT, TAIL_WEIGHT, SLOW_WEIGHT = 0.3, 0.5, 0.2
"""Chosen by simulation; any weights that sum to 1 keep the error rate."""

_STREAMED_PAIRS = 1024
"""Stored pairs are judged one by one up to here, where nearly every test has decided, and then in batches."""

_BATCH_PAIRS = 8192

_Evidence = TypeVar("_Evidence", float, Array)


class GateName(StrEnum):
    """The three paired gates."""

    MEDIAN = "median"
    TAIL = "tail"
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Evidence of one gate: for rollback now, for promotion now, and the most it has ever been."""

    name: GateName
    e_rollback: float
    e_promote: float
    e_promote_max: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A point estimate and its interval.

    The lower end is wrong with probability at most alpha and the upper end at most beta, at whatever pair one stops.
    """

    value: float
    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmeasured:
    """No estimate, and why."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the pairs so far have shown.

    `p50_ratio` is the median of green / blue with bounds on its location; `tail_ratio` is the tail quantile of
    green / blue over that of the A/A history: a tail of the paired ratio, not the ratio of two marginal tails.
    """

    outcome: Outcome
    pairs_used: int
    pairs_void: int
    e_rollback: float
    e_rollback_needed: float
    e_promote_needed: float
    gates: tuple[GateResult, GateResult, GateResult]
    p50_ratio: Estimate | Unmeasured
    tail_ratio: Estimate | Unmeasured
    reason: str


class _Told(NamedTuple):
    """What a pair, or a block in the mean, says of the log ratio: what is bet on it, what it is at least and most."""

    bet_on: float
    least: float
    most: float


class PairedTest:
    """Sequential test of green against blue, fed one pair at a time.

    BREACH is wrong with probability at most alpha and PASS with at most beta, although the outcome is looked at after
    every pair. The probability counts the A/A history as drawn too, by the same protocol as the pairs.

    Args:
        aa_ratio: Shape (N,), N >= 100, blue / blue in the order measured. A timeout is kept as it was seen: +inf where
            the second blue timed out, 0 where the first did; pairs where both did are left out. Timeouts then widen the
            tail threshold like any other slow answer, until blue itself is shown unfit, which raises.
        margins: The limits to judge by.
        alpha: Largest chance of a false BREACH, in (0, 1).
        beta: Largest chance of a false PASS, in (0, 1).
        block_pairs: Average log ratios over this many pairs in the median gate, against autocorrelation; at least 1.

    Raises:
        EvidenceError: The history is too short, damaged, or shows that blue itself fails the margins.
        ConfigError: alpha, beta or block_pairs is out of range.
    """

    def __init__(
        self, *, aa_ratio: Array, margins: Margins, alpha: float = 0.01, beta: float = 0.01, block_pairs: int = 1
    ) -> None:
        check_open_unit(alpha, name="alpha")
        check_open_unit(beta, name="beta")
        if block_pairs < 1:
            raise ConfigError(f"block_pairs is {block_pairs}; it must be at least 1")
        self._margins, self._alpha, self._beta = margins, alpha, beta
        self._breach_at, self._pass_at = 1.0 / alpha, 1.0 / beta
        self._yardstick = yardstick = yardstick_of(aa_ratio, margins=margins, block_pairs=block_pairs)
        self._fixed_ceiling = max(margins.slow_factor, yardstick.tail_threshold)
        self._median = MedianProcess(scale_log=yardstick.scale_log, ratio_max=margins.p50_ratio_max)
        self._tail = TailProcess(aa_count=yardstick.aa_count, rank=yardstick.rank, threshold=yardstick.tail_threshold)
        self._slow = SlowProcess(margins)
        self._promote_max = [1.0, 1.0, 1.0]
        self._block_pairs = block_pairs
        self._block: list[_Told] = []
        self._log_least: list[float] = []
        self._log_most: list[float] = []
        self._scales: list[float] = []
        self._ratios: list[float] = []
        self._ratios_least: list[float] = []
        self._voids = 0
        self._outcome = Outcome.INCONCLUSIVE

    @property
    def outcome(self) -> Outcome:
        """What has been shown so far."""
        return self._outcome

    @property
    def pairs_used(self) -> int:
        """Pairs that were bet on."""
        return len(self._ratios)

    @property
    def median_promote_max(self) -> float:
        """The most evidence that the median is within its margin that there ever was."""
        return self._promote_max[0]

    @property
    def stop_ratio(self) -> float:
        """The multiple of blue's latency from which timing the next green on changes no verdict.

        A green that is stopped there is fed in as +inf: any ratio above it gives the same bits.
        """
        return max(self._fixed_ceiling, math.exp(self._median.reach_log))

    def update(self, *, blue_s: float, green_s: float) -> Outcome:
        """Take in one pair and return what has been shown so far.

        Args:
            blue_s: Latency in seconds, above 0; +inf for a timeout or an error.
            green_s: The same of green. Both +inf is a void pair: it costs budget and bets nothing.

        Raises:
            EvidenceError: A latency is NaN, zero or negative.
            InvariantError: The test has already decided; a new question needs a new test.
        """
        if not (blue_s > 0.0 and green_s > 0.0):
            raise EvidenceError(
                f"a pair of blue {blue_s} s and green {green_s} s was given; a latency is above 0, and +inf for a "
                "timeout"
            )
        if self._outcome is not Outcome.INCONCLUSIVE:
            raise InvariantError(f"the paired test has decided {self._outcome}; start a new one for new pairs")
        if math.isinf(blue_s) and math.isinf(green_s):
            self._voids += 1
            return self._outcome
        self._bet(green_s / blue_s)
        self._outcome = self._decide()
        return self._outcome

    def extend(self, *, blue_s: Array, green_s: Array) -> bool:
        """Take in many pairs at once, bit for bit as one by one, if none of them decides.

        Args:
            blue_s: Shape (n,), n >= 1, checked latencies; see `update`.
            green_s: Shape (n,), likewise.

        Returns:
            False where one of them decides: then none was taken in.
        """
        void = np.isinf(blue_s) & np.isinf(green_s)
        ratio = green_s[~void] / blue_s[~void]
        if len(ratio) and not self._extend(ratio):
            return False
        self._voids += int(np.count_nonzero(void))
        return True

    def judgement(self) -> Judgement:
        """Return everything shown so far; costs milliseconds, where an update costs microseconds."""
        gates = self._gate_results()
        return Judgement(
            outcome=self._outcome,
            pairs_used=len(self._ratios),
            pairs_void=self._voids,
            e_rollback=self._combined(),
            e_rollback_needed=self._breach_at,
            e_promote_needed=self._pass_at,
            gates=gates,
            p50_ratio=self._p50_ratio(),
            tail_ratio=self._tail_ratio(),
            reason=self._reason(gates),
        )

    @property
    def _processes(self) -> tuple[GateProcess, ...]:
        return self._median, self._tail, self._slow

    def _bet(self, ratio: float) -> None:
        score = self._score(ratio)
        if score is not None:
            self._median.stake(score)
        self._tail.bet(ratio)
        self._slow.bet(ratio)

    def _extend(self, ratio: Array) -> bool:
        saved = copy.deepcopy((self._median, self._tail, self._slow, self._block))
        bet_before, blocks_before = len(self._ratios), len(self._scales)
        gates = self._bet_median(ratio), self._tail.bet_all(ratio), self._slow.bet_all(ratio)
        combined = _combine(*(rollback for rollback, _ in gates))
        promote_max = [max(before, peak) for before, (_, peak) in zip(self._promote_max, gates, strict=True)]
        enough = np.arange(bet_before + 1, bet_before + len(ratio) + 1) >= ROLLBACK_PAIRS_MIN
        if min(promote_max) < self._pass_at and not np.any(enough & (combined >= NEARLY * self._breach_at)):
            self._promote_max = promote_max
            return True
        self._median, self._tail, self._slow, self._block = saved
        del self._ratios[bet_before:], self._ratios_least[bet_before:]
        del self._log_least[blocks_before:], self._log_most[blocks_before:], self._scales[blocks_before:]
        return False

    def _bet_median(self, ratio: Array) -> tuple[Array, float]:
        start = self._median.rollback.total
        scores = [self._score(one) for one in ratio.tolist()]
        block = np.cumsum([score is not None for score in scores])
        rollback, peak = self._median.stake_all(np.array([score for score in scores if score is not None]))
        return np.append(start, rollback)[block], peak

    def _score(self, ratio: float) -> float | None:
        """Write the ratio down and return what the median gate bets on: at the last pair of each block."""
        stop_ratio = self.stop_ratio
        ceiling = math.log(stop_ratio)
        log_ratio = math.log(ratio) if ratio > 0.0 else -math.inf
        # Above the stop ratio the exact value must not matter, to the last bit: it may be a green that was stopped.
        bet_on = ceiling if ratio > stop_ratio else self._median.clamp(log_ratio, ceiling=ceiling)
        self._ratios.append(ratio)
        self._ratios_least.append(min(ratio, stop_ratio))
        # A blue that timed out where green answered says nothing of how fast green was.
        most = log_ratio if ratio > 0.0 else bet_on
        self._block.append(_Told(bet_on=bet_on, least=min(log_ratio, ceiling), most=most))
        if len(self._block) < self._block_pairs:
            return None
        told = (
            self._block[0]
            if self._block_pairs == 1
            else _Told(*(math.fsum(one) / self._block_pairs for one in zip(*self._block, strict=True)))
        )
        self._block.clear()
        self._log_least.append(told.least)
        self._log_most.append(told.most)
        self._scales.append(self._median.scale)
        return self._median.score(told.bet_on)

    def _decide(self) -> Outcome:
        for index, process in enumerate(self._processes):
            self._promote_max[index] = max(self._promote_max[index], process.promote.total)
        if self._combined() >= self._breach_at and len(self._ratios) >= ROLLBACK_PAIRS_MIN:
            return Outcome.BREACH
        if min(self._promote_max) >= self._pass_at:
            return Outcome.PASS
        return Outcome.INCONCLUSIVE

    def _combined(self) -> float:
        return _combine(self._median.rollback.total, self._tail.rollback.total, self._slow.rollback.total)

    def _gate_results(self) -> tuple[GateResult, GateResult, GateResult]:
        used = len(self._ratios)
        margins = self._margins
        measured = (
            f"median of {used} paired ratios against the margin x{margins.p50_ratio_max:.4g}",
            (
                f"{self._tail.exceeded.count} of {used} pairs above x{self._tail.threshold:.4g}, which is "
                f"x{margins.tail_ratio_max:.4g} the P{100 * margins.tail_quantile:.4g} of the A/A history"
            ),
            (
                f"{self._slow.slow.count} of {used} pairs above x{margins.slow_factor:.4g}, against "
                f"{100 * margins.slow_rate_rollback:.4g}% to roll back and {100 * margins.slow_rate_promote:.4g}% to "
                "promote"
            ),
        )
        median, tail, slow = (
            GateResult(
                name=name,
                e_rollback=process.rollback.total,
                e_promote=process.promote.total,
                e_promote_max=promote_max,
                reason=f"{what}: evidence against {process.rollback.total:.3g}, for at most {promote_max:.3g} "
                f"(enough at {self._pass_at:.3g})",
            )
            for name, process, promote_max, what in zip(
                GateName, self._processes, self._promote_max, measured, strict=True
            )
        )
        return median, tail, slow

    def _reason(self, gates: tuple[GateResult, GateResult, GateResult]) -> str:
        pairs = f"{len(self._ratios)} pairs ({self._voids} void besides)"
        match self._outcome:
            case Outcome.BREACH:
                shares = zip((MEDIAN_WEIGHT, TAIL_WEIGHT, SLOW_WEIGHT), gates, strict=True)
                _, loudest = max(shares, key=lambda share: share[0] * share[1].e_rollback)
                return (
                    f"green is slower than the margins allow after {pairs}: combined evidence {self._combined():.3g}, "
                    f"{self._breach_at:.3g} needed, most of it from the {loudest.name.value} gate"
                )
            case Outcome.PASS:
                return f"every margin is excluded after {pairs}"
            case Outcome.INCONCLUSIVE:
                open_gates = ", ".join(gate.name.value for gate in gates if gate.e_promote_max < self._pass_at)
                return (
                    f"undecided after {pairs}: combined evidence against {self._combined():.3g} of "
                    f"{self._breach_at:.3g}; not yet excluded by: {open_gates}"
                )
            case _:
                assert_never(self._outcome)

    def _p50_ratio(self) -> Estimate | Unmeasured:
        if not self._ratios:
            return Unmeasured(reason="no pair was answered by either color")
        return location_estimate(
            self._ratios, self._log_least, self._log_most, self._scales, alpha=self._alpha, beta=self._beta
        )

    def _tail_ratio(self) -> Estimate | Unmeasured:
        if not self._ratios:
            return Unmeasured(reason="no pair was answered by either color")
        ratio = np.array(self._ratios)
        bounds = tail_bounds(
            ratio_least=np.array(self._ratios_least),
            ratio_most=ratio,
            aa_quantile=self._yardstick.aa_quantile,
            aa_count=self._yardstick.aa_count,
            rank=self._yardstick.rank,
            alpha=self._alpha,
            beta=self._beta,
        )
        live = sample_quantile(ratio, q=self._margins.tail_quantile)
        return Estimate(value=live / self._yardstick.aa_quantile, bounds=bounds)


def judge_pairs(
    blue_s: Array,
    green_s: Array,
    *,
    aa_ratio: Array,
    profile: str | Margins,
    alpha: float = 0.01,
    beta: float = 0.01,
    budget: int = 400,
    block_pairs: int = 1,
) -> Judgement:
    """Judge stored pairs, stopping at the first that decides: `PairedTest` folded over them, bit for bit.

    Args:
        blue_s: Shape (n,), seconds, in the order measured; +inf for a timeout or an error.
        green_s: Shape (n,), the same prompts answered by green.
        aa_ratio: The A/A history; see `PairedTest`.
        profile: "strict", "standard" or Margins.
        alpha: Largest chance of a false BREACH, in (0, 1).
        beta: Largest chance of a false PASS, in (0, 1).
        budget: Pairs to look at, void ones included; at least 1. Undecided by then, or at the end, is INCONCLUSIVE.
        block_pairs: See `PairedTest`.

    Raises:
        EvidenceError: Lengths differ, a latency is NaN, zero or negative (even after the deciding pair), or the history
            cannot be used.
        ConfigError: The profile is unknown, or a number is out of range.
    """
    blue, green = checked_latency(blue_s, name="blue_s"), checked_latency(green_s, name="green_s")
    if len(blue) != len(green):
        raise EvidenceError(
            f"{len(blue)} latencies of blue and {len(green)} of green were given; pairs need as many of both"
        )
    if budget < 1:
        raise ConfigError(f"budget is {budget}; at least one pair must be allowed")
    test = PairedTest(aa_ratio=aa_ratio, margins=margins_of(profile), alpha=alpha, beta=beta, block_pairs=block_pairs)
    blue, green = blue[:budget], green[:budget]
    for start, stop in pairwise((0, *range(_STREAMED_PAIRS, len(blue), _BATCH_PAIRS), len(blue))):
        if start and test.extend(blue_s=blue[start:stop], green_s=green[start:stop]):
            continue
        for blue_latency, green_latency in zip(blue[start:stop].tolist(), green[start:stop].tolist(), strict=True):
            if test.update(blue_s=blue_latency, green_s=green_latency) is not Outcome.INCONCLUSIVE:
                return test.judgement()
    return test.judgement()


def location_estimate(
    ratios: Sequence[float],
    log_least: Sequence[float],
    log_most: Sequence[float],
    scales: Sequence[float],
    *,
    alpha: float,
    beta: float,
) -> Estimate:
    """Return the median of the ratios with bounds on their location; see `median_bounds`."""
    bounds = median_bounds(
        log_least=np.array(log_least), log_most=np.array(log_most), scale=np.array(scales), alpha=alpha, beta=beta
    )
    return Estimate(value=sample_quantile(np.array(ratios), q=0.5), bounds=bounds)


def _combine(median: _Evidence, tail: _Evidence, slow: _Evidence) -> _Evidence:
    return MEDIAN_WEIGHT * median + TAIL_WEIGHT * tail + SLOW_WEIGHT * slow
