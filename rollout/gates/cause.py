"""Cause: which capability difference explains what was seen, by what each is known to cost.

What no row of the table knows ranks last and says so; a rank is a suspicion, and each names the evidence that would
settle it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rollout.gates.differences import Difference
from rollout.gates.known_costs import KNOWN, Effect, Factor, Known
from rollout.gates.names import DRIFT, LATENCY, LOAD, RECHECK
from rollout.model.verdict import GateResult, Outcome, Verdict

SIZE_UNKNOWN = 0.2
"""Weight of a change whose direction is known and whose size is not: below one whose size fits."""

MISFIT_LOG = math.log(1.5)
"""A cost that misses what was seen by this factor explains nothing of it."""

MISFIT_MIN = 0.1
"""A known cost of the right kind stays above what nothing is known of, however badly its size fits: it may not be
alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An observed slowdown with its interval; the ends are 0 and +inf where the evidence sets none."""

    value: float
    low: float
    high: float

    @property
    def open(self) -> bool:
        """True where the evidence leaves an end of the interval open."""
        return self.low <= 0.0 or not math.isfinite(self.high)

    @property
    def range(self) -> Factor:
        """The interval, an open end closed at a misfit's distance from the value, which then is all there is."""
        reach = math.exp(MISFIT_LOG)
        return Factor(
            low=self.low if self.low > 0.0 else self.value / reach,
            high=self.high if math.isfinite(self.high) else self.value * reach,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What was seen.

    Attributes:
        effects: What the gates found wrong, or could not clear.
        median: The median ratio with its interval; None where no gate estimated it.
    """

    effects: frozenset[Effect]
    median: Seen | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A capability difference and how well it explains what was seen.

    Attributes:
        difference: As `key: before -> after`.
        score: From 0, nothing known speaks for it, to 1, everything does.
        why: The score in words.
        settles: The evidence that would settle it.
    """

    difference: str
    score: float
    why: str
    settles: str


_LATENCY_GATES = frozenset({LATENCY, DRIFT, RECHECK})

_BY_CODE: Mapping[str, Effect] = {
    "cold_start_slow": Effect.COLD_START,
    "instances_restarted": Effect.MEMORY,
    "memory_grows": Effect.MEMORY,
    "latency_drifted_tail": Effect.TAIL,
}


def rank(differences: Iterable[Difference], signature: Signature) -> tuple[Suspect, ...]:
    """Rank capability differences by how well their known cost explains what was seen, likeliest first.

    The score is the share of what was seen that the change is known to touch, times how well the size fits. What
    nothing is known of scores 0 and ranks by severity.
    """
    judged = [(_judge(one, signature), one) for one in differences]
    judged.sort(key=lambda pair: (-pair[0].score, pair[1].severity.rank, pair[1].key))
    return tuple(suspect for suspect, _ in judged)


def signature_of(verdicts: Iterable[Verdict]) -> Signature:
    """Return what verdicts that did not pass found wrong; verdicts and gates that passed add nothing."""
    effects: set[Effect] = set()
    median: Seen | None = None
    for verdict in verdicts:
        for gate in verdict.gates:
            if gate.outcome is Outcome.PASS or gate.outcome is not verdict.outcome:
                continue
            effects |= _touched(gate)
            if gate.gate in _LATENCY_GATES:
                median = _span(gate, "p50_ratio") or median
    return Signature(effects=frozenset(effects), median=median)


def _touched(gate: GateResult) -> set[Effect]:
    """Return what a gate that did not pass is about; nothing where it could not measure, for then nobody was slow."""
    code = gate.reasons[0].code if gate.reasons else ""
    if code in _BY_CODE:
        return {_BY_CODE[code]}
    if gate.gate.startswith(f"{LOAD} "):
        return {Effect.LOAD} if code.endswith(("_over_margin", "_undecided")) else set()
    if gate.gate not in _LATENCY_GATES or not {"p50_ratio", "tail_ratio"} & gate.figures.keys():
        return set()
    over = {
        effect
        for effect, name in ((Effect.MEDIAN, "p50_ratio"), (Effect.TAIL, "tail_ratio"))
        if (value := _number(gate, name)) is not None and value > (_number(gate, f"{name}_max") or math.inf)
    }
    # A slow rate, or evidence that does not suffice yet, is about latency all the same.
    return over or {Effect.MEDIAN}


def _judge(one: Difference, seen: Signature) -> Suspect:
    difference = str(one)
    matches = [match for known in KNOWN if (match := _match(known, one)) is not None]
    if not matches:
        why = f"nothing is known of what this costs; severity {one.severity.value}"
        settles = f"start the release a second time with {one.key} as before and `rollout compare` the two"
        return Suspect(difference=difference, score=0.0, why=why, settles=settles)
    # A key may cost one thing one way and another thing the other: what touches what was seen comes first.
    known, factor = max(matches, key=lambda match: len(match[0].effects & seen.effects))
    touched = known.effects & seen.effects
    settles = known.settles.format(before=one.before, after=one.after)
    if not touched:
        why = f"known to touch {_listed(known.effects)}, not {_listed(seen.effects)} ({known.source})"
        return Suspect(difference=difference, score=0.0, why=why, settles=settles)
    fit, words = _fit(factor, seen.median if Effect.MEDIAN in touched else None)
    share = len(touched) / len(seen.effects)
    why = f"touches {_listed(touched)}; {words} ({known.source})"
    return Suspect(difference=difference, score=round(share * fit, 3), why=why, settles=settles)


def _match(known: Known, one: Difference) -> tuple[Known, Factor | None] | None:
    """Return the row and its factor in the direction of this difference; None where the row is about another."""
    if not fnmatchcase(one.key, known.key):
        return None
    if fnmatchcase(one.before, known.before) and fnmatchcase(one.after, known.after):
        return known, known.factor
    back = fnmatchcase(one.before, known.after) and fnmatchcase(one.after, known.before)
    if not back or known.factor is None:
        return None
    return known, Factor(low=1.0 / known.factor.high, high=1.0 / known.factor.low)


def _fit(factor: Factor | None, seen: Seen | None) -> tuple[float, str]:
    """Say how well a known cost fits what was seen.

    A range that overlaps the observed one fits the better the narrower it is, as the likelihood of a value drawn
    log-uniformly from it; beyond, the fit falls with the distance.
    """
    if factor is None:
        return SIZE_UNKNOWN, "its size is not known"
    costs = f"known to cost x{factor.low:.3g} to x{factor.high:.3g}"
    if seen is None:
        return SIZE_UNKNOWN, f"{costs}; no median was estimated to compare with"
    there = seen.range
    shown = f"x{there.low:.3g} to x{there.high:.3g} was seen"
    if seen.open:
        shown = f"x{seen.value:.3g} was seen, its interval still open"
    fit = max(1.0 / (1.0 + math.log(factor.high / factor.low)), SIZE_UNKNOWN)
    if factor.high < 1.0 < there.low:
        return 0.0, f"known to make it faster, x{factor.low:.3g} to x{factor.high:.3g}"
    if there.low > factor.high:
        far = math.log(there.low / factor.high)
        return max(MISFIT_MIN, fit * (1.0 - far / MISFIT_LOG)), f"{costs}, {shown}: it explains less than that"
    if there.high < factor.low:
        far = math.log(factor.low / there.high)
        return max(MISFIT_MIN, fit * (1.0 - far / MISFIT_LOG)), f"{costs}, {shown}: it explains more than that"
    return fit, f"{costs}, {shown}: it fits"


def _span(gate: GateResult, name: str) -> Seen | None:
    value, low, high = _number(gate, name), _number(gate, f"{name}_lower"), _number(gate, f"{name}_upper")
    return None if value is None or low is None or high is None else Seen(value=value, low=low, high=high)


def _number(gate: GateResult, name: str) -> float | None:
    try:
        value = float(gate.figures[name])
    except (KeyError, ValueError):
        return None
    return None if math.isnan(value) else value


def _listed(effects: Iterable[Effect]) -> str:
    chosen: Sequence[str] = [one.value for one in Effect if one in set(effects)]
    return " and ".join(chosen)
