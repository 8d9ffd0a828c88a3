"""The load gates: both colours under load, in pairs of windows, level by level.

The candidate must pass every level, so promotion needs no correction (intersection-union); any gate may convict it, so
the false rollback rate is split evenly over the gates (union bound).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import assert_never

from rollout.errors import ConfigError, EvidenceError
from rollout.gates.names import LOAD
from rollout.gates.result import result
from rollout.model.load import Level, LevelKind, LoadWindow, WindowPair, levels
from rollout.model.policy import CostModel, LoadDemand
from rollout.model.verdict import GateResult, Outcome, Verdict
from rollout.stats.paired import Unmeasured
from rollout.stats.rates import rate_e_value
from rollout.stats.windows import WindowJudgement, WindowTest

LOAD_ERRORS = f"{LOAD} errors"
INCUMBENT_FAILS = "incumbent_fails_under_load"
"""Code of the reason that no window can help: the load is more than the incumbent itself carries."""


def gate_name(level: str) -> str:
    """Return the name of a level's gate."""
    return f"{LOAD} {level}"


class LoadTests:
    """The gates of the load phase, fed one pair of windows at a time, in any order of levels."""

    def __init__(self, demand: LoadDemand) -> None:
        self._demand = demand
        self._levels = {one.name: one for one in levels(demand)}
        # One share for each level and one for the errors.
        self._alpha = demand.false_rollback_rate / (len(self._levels) + 1)
        self._tests = {name: self._test(level) for name, level in self._levels.items()}
        self._pairs: dict[str, list[WindowPair]] = {name: [] for name in self._levels}
        self._void = dict.fromkeys(self._levels, 0)

    def hear(self, pair: WindowPair) -> None:
        """Take in the next pair; after a level's decision it counts for the errors only.

        Raises:
            EvidenceError: The policy has no such level.
        """
        level = self._levels.get(pair.level)
        if level is None:
            raise EvidenceError(
                f"a window was measured at the load level {pair.level!r}, which the policy does not have"
            )
        self._pairs[pair.level].append(pair)
        ratio = slowdown(level, pair)
        test = self._tests[pair.level]
        if ratio is None:
            self._void[pair.level] += 1
        elif test.outcome is Outcome.INCONCLUSIVE:
            test.update(ratio)

    def results(self) -> tuple[GateResult, ...]:
        """Say what the windows so far mean: one gate for each level, then the errors."""
        return (*(self._judge_level(one) for one in self._levels.values()), self._judge_errors())

    def _test(self, level: Level) -> WindowTest:
        return WindowTest(
            ratio_max=_ratio_max(self._demand, level), alpha=self._alpha, beta=self._demand.false_promote_rate
        )

    def _judge_level(self, level: Level) -> GateResult:
        judgement = self._tests[level.name].judgement()
        what = "latency" if level.kind is LevelKind.ARRIVALS else "throughput"
        code = {
            Outcome.PASS: f"load_{what}_within_margin",
            Outcome.BREACH: f"load_{what}_over_margin",
            Outcome.INCONCLUSIVE: f"load_{what}_undecided",
        }[judgement.outcome]
        void = self._void[level.name]
        figures = _figures(judgement, void=void, ratio_max=_ratio_max(self._demand, level))
        if isinstance(judgement.ratio, Unmeasured):
            text = f"{judgement.ratio.reason} ({void} pairs measured)" if void else "no window was measured"
            return result(gate_name(level.name), Outcome.INCONCLUSIVE, "load_unmeasured", text, figures)
        return result(gate_name(level.name), judgement.outcome, code, self._words(level, judgement), figures)

    def _words(self, level: Level, judgement: WindowJudgement) -> str:
        estimate = judgement.ratio
        if isinstance(estimate, Unmeasured):
            return estimate.reason
        span = f"x{estimate.value:.3g} [{estimate.bounds.lower:.3g}, {estimate.bounds.upper:.3g}]"
        allowed = _ratio_max(self._demand, level)
        windows = f"{judgement.windows_used} pairs of windows"
        if level.kind is LevelKind.ARRIVALS:
            return f"{windows}: P95 from the intended send time {span} of the incumbent's, allowed x{allowed:.3g}"
        pairs = self._pairs[level.name]
        old, new = (
            statistics.median(side.pictures_per_s for side in sides)
            for sides in ([one.incumbent for one in pairs], [one.candidate for one in pairs])
        )
        return (
            f"{windows}: {new:.3g} pictures/s, the incumbent {old:.3g}; the incumbent's throughput is {span} the "
            f"candidate's, allowed x{allowed:.3g}"
        )

    def _judge_errors(self) -> GateResult:
        pairs = [pair for one in self._pairs.values() for pair in one]
        candidate, incumbent = [one.candidate for one in pairs], [one.incumbent for one in pairs]
        figures: dict[str, float | int | str] = {
            "candidate_requests": sum(one.offered for one in candidate),
            "candidate_failed": sum(one.failed for one in candidate),
            "incumbent_requests": sum(one.offered for one in incumbent),
            "incumbent_failed": sum(one.failed for one in incumbent),
            "error_rate_max": self._demand.error_rate_max,
            "e_rollback_needed": 1.0 / self._alpha,
        }
        if not figures["candidate_requests"] or not figures["incumbent_requests"]:
            return result(LOAD_ERRORS, Outcome.INCONCLUSIVE, "load_errors_unmeasured", "no request was sent", figures)
        e_incumbent, e_candidate = (self._e_failing(one) for one in ("incumbent", "candidate"))
        figures |= {"e_incumbent": e_incumbent, "e_rollback": e_candidate}
        old, new = self._failures("incumbent", incumbent), self._failures("candidate", candidate)
        if e_incumbent >= 1.0 / self._alpha:
            text = f"{old}: this load is more than what serves now can carry, so nothing can be compared under it"
            return result(LOAD_ERRORS, Outcome.INCONCLUSIVE, INCUMBENT_FAILS, text, figures)
        if e_candidate >= 1.0 / self._alpha:
            return result(LOAD_ERRORS, Outcome.BREACH, "load_errors_over_margin", new, figures)
        for side, told in (("candidate", new), ("incumbent", old)):
            if max(self._share_failed(name, side) for name in self._levels) > self._demand.error_rate_max:
                text = f"{told}; the share is larger than allowed, and more evidence is needed"
                return result(LOAD_ERRORS, Outcome.INCONCLUSIVE, "load_errors_undecided", text, figures)
        return result(LOAD_ERRORS, Outcome.PASS, "load_errors_within_margin", new, figures)

    def _e_failing(self, side: str) -> float:
        """Return the evidence that one colour fails too often at some level.

        It is the mean over the levels, an e-value under any dependence: one bad level is not diluted by good ones.
        """
        values = []
        for name in self._levels:
            failed, offered = self._counts(name, side)
            values.append(rate_e_value(failures=failed, trials=offered, rate_max=self._demand.error_rate_max))
        return math.fsum(values) / len(values)

    def _failures(self, side: str, windows: list[LoadWindow]) -> str:
        failed, offered = sum(one.failed for one in windows), sum(one.offered for one in windows)
        if not failed:
            return f"0 of {offered} requests to the {side} failed"
        worst = max(self._levels, key=lambda name: self._share_failed(name, side))
        failed, offered = self._counts(worst, side)
        first = next((f": {one.detail}" for one in windows if one.detail), "")
        return f"{failed} of {offered} requests to the {side} failed at {worst}{first}"

    def _share_failed(self, level: str, side: str) -> float:
        failed, offered = self._counts(level, side)
        return failed / offered if offered else 0.0

    def _counts(self, level: str, side: str) -> tuple[int, int]:
        windows = [one.candidate if side == "candidate" else one.incumbent for one in self._pairs[level]]
        return sum(one.failed for one in windows), sum(one.offered for one in windows)


def slowdown(level: Level, pair: WindowPair) -> float | None:
    """Return how many times worse the candidate was in one pair of windows.

    Returns:
        Throughput of the incumbent over the candidate's, for arrivals P95 of the candidate over the incumbent's; +inf
        where the candidate alone answered nothing in time, 0 where the incumbent alone did, None where neither did.
    """
    match level.kind:
        case LevelKind.CONCURRENCY | LevelKind.BATCH:
            better, worse = pair.incumbent.pictures_per_s, pair.candidate.pictures_per_s
            return None if better == worse == 0.0 else better / worse if worse > 0.0 else math.inf
        case LevelKind.ARRIVALS:
            fast_s, slow_s = pair.incumbent.p95_s, pair.candidate.p95_s
            if fast_s is None:
                return None if slow_s is None else 0.0
            return math.inf if slow_s is None else slow_s / fast_s
        case _:
            assert_never(level.kind)


def next_window(
    demand: LoadDemand, judged: Verdict | None, windows: Mapping[str, tuple[WindowPair, ...]]
) -> tuple[Level, int] | None:
    """Return the level to measure next and the number of its pair, or None to conclude.

    Levels come one after the other, each until it is decided; then, while the errors are undecided, the level with the
    largest share of failed requests, for one failure among few requests is chance. The phase concludes when every gate
    is decided, when one convicts, and when nothing can lead to a promotion any more: the incumbent itself fails, a
    level used up its windows undecided, or the bound on requests is reached.

    Args:
        demand: What the policy demands; bounds on time and cost are the caller's.
        judged: What the gates said after the last pair; None before the first.
        windows: Level to the pairs measured so far.
    """
    gates = () if judged is None else judged.gates
    if judged is not None and judged.outcome is Outcome.BREACH:
        return None
    if any(reason.code == INCUMBENT_FAILS for gate in gates for reason in gate.reasons):
        return None
    sent = sum(one.incumbent.offered + one.candidate.offered for pairs in windows.values() for one in pairs)
    if sent >= demand.requests_max:
        return None
    passed = {gate.gate for gate in gates if gate.outcome is Outcome.PASS}
    for level in levels(demand):
        if gate_name(level.name) in passed:
            continue
        number = len(windows.get(level.name, ()))
        return (level, number) if number < demand.windows_max else None
    if LOAD_ERRORS in passed or not windows:
        return None
    worst = max(levels(demand), key=lambda one: _worst_share(windows.get(one.name, ())))
    number = len(windows.get(worst.name, ()))
    return (worst, number) if number < demand.windows_max else None


def _worst_share(pairs: Sequence[WindowPair]) -> float:
    """Return the larger share of failed requests of both colours."""
    sides = ([one.incumbent for one in pairs], [one.candidate for one in pairs])
    return max(
        sum(one.failed for one in side) / offered if (offered := sum(one.offered for one in side)) else 0.0
        for side in sides
    )


def arrival_rate(demand: LoadDemand, windows: Mapping[str, tuple[WindowPair, ...]]) -> float:
    """Return the rate of scheduled arrivals in requests per second.

    It is `arrival_share` of the highest median throughput, in requests, that the incumbent had at a concurrency level.

    Raises:
        EvidenceError: No concurrency level was measured, or the incumbent answered nothing there.
    """
    swept = [
        statistics.median(one.incumbent.requests_per_s for one in windows[level.name])
        for level in levels(demand)
        if level.kind is LevelKind.CONCURRENCY and windows.get(level.name)
    ]
    if not swept or max(swept) <= 0.0:
        raise EvidenceError(
            "the rate of arrivals rests on the incumbent's throughput at the concurrency levels, and none was measured"
        )
    return demand.arrival_share * max(swept)


def busy_s(windows: Mapping[str, tuple[WindowPair, ...]]) -> float:
    """Return the seconds that the windows so far kept either colour busy, waits for their last answers included."""
    return math.fsum(one.incumbent.busy_s + one.candidate.busy_s for pairs in windows.values() for one in pairs)


def cost_so_far(cost: CostModel | None, windows: Mapping[str, tuple[WindowPair, ...]], *, instances: int) -> float:
    """Return what the windows so far cost, in the currency of the cost model.

    Each window is priced as the time that the instances of one colour were kept busy; a stack's standing costs are
    paid with or without this phase.

    Args:
        cost: The price of a GPU.
        windows: Level to the pairs measured so far.
        instances: Instances of one colour.

    Raises:
        ConfigError: There is no price.
    """
    if cost is None:
        raise ConfigError("load.cost_max needs the section cost: nobody could tell what the phase costs")
    return busy_s(windows) / 3600.0 * cost.gpu_hour * cost.gpus_per_instance * instances


def _ratio_max(demand: LoadDemand, level: Level) -> float:
    return demand.p95_ratio_max if level.kind is LevelKind.ARRIVALS else 1.0 / demand.throughput_ratio_min


def _figures(judgement: WindowJudgement, *, void: int, ratio_max: float) -> dict[str, float | int | str]:
    figures: dict[str, float | int | str] = {
        "windows_used": judgement.windows_used,
        "windows_void": void,
        "e_rollback": judgement.e_rollback,
        "e_rollback_needed": judgement.e_rollback_needed,
        "e_promote_max": judgement.e_promote_max,
        "e_promote_needed": judgement.e_promote_needed,
        "slowdown_max": ratio_max,
    }
    if not isinstance(judgement.ratio, Unmeasured):
        figures |= {
            "slowdown": judgement.ratio.value,
            "slowdown_lower": judgement.ratio.bounds.lower,
            "slowdown_upper": judgement.ratio.bounds.upper,
        }
    return figures
