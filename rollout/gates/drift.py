"""The drift gate: the incumbent today against what it was measured to do when it was promoted."""

from collections.abc import Sequence

import numpy as np

from rollout.gates.latency import HISTORY_UNFIT, LatencyTest, Question
from rollout.gates.names import DRIFT, RECHECK
from rollout.gates.result import result
from rollout.model.evidence import Baseline, Pair
from rollout.model.journal import SampleMeasured
from rollout.model.policy import LatencyGate
from rollout.model.verdict import GateResult, Outcome, Verdict
from rollout.stats.detector import relative
from rollout.stats.processes import TailProcess
from rollout.stats.quantiles import drift_bounds, rank_of


class RecheckTest:
    """After an alarm: what serves (judged as green) against the earlier stack (as blue), pair by pair.

    In a pair of this stage the run's incumbent is what serves, and its candidate the earlier stack.
    """

    def __init__(self, policy: LatencyGate, aa_ratio: tuple[float, ...]) -> None:
        question = Question(must_prove=True, looks=1, pods=1)
        self._test = LatencyTest(policy=policy, aa_ratio=aa_ratio, question=question)

    def hear(self, pair: Pair) -> None:
        """Take in the next pair; pairs after the decision change nothing."""
        turned = {"incumbent": pair.candidate, "candidate": pair.incumbent}
        uids = {"incumbent_uid": pair.candidate_uid, "candidate_uid": pair.incumbent_uid}
        self._test.hear(pair.model_copy(update=turned | uids))

    def result(self) -> GateResult:
        """Say whether the stack drifted, or the environment did."""
        heard = self._test.result()
        reason = heard.reasons[0]
        if reason.code == HISTORY_UNFIT:
            return heard.model_copy(update={"gate": RECHECK})
        code, words = {
            Outcome.BREACH: ("drift_of_the_stack", "what serves is slower than the earlier stack"),
            Outcome.PASS: ("drift_of_the_environment", "the earlier stack became slower alike"),
            Outcome.INCONCLUSIVE: ("recheck_undecided", "the budget did not suffice to tell stack from environment"),
        }[heard.outcome]
        return result(RECHECK, heard.outcome, code, f"{words}: {reason.text}", heard.figures)


def only_latency_drifted(verdict: Verdict) -> bool:
    """True when a drift check breached by latency alone: lost capabilities and errors need no second look."""
    breached = {gate.gate for gate in verdict.gates if gate.outcome is Outcome.BREACH}
    return verdict.outcome is Outcome.BREACH and breached == {DRIFT}


def judge_drift(policy: LatencyGate, baseline: Baseline | None, samples: Sequence[SampleMeasured]) -> GateResult:
    """Judge today's latencies, each divided by the baseline's median for the same prompt.

    BREACH when the whole interval of the median ratio lies above the margin, or more requests are beyond the baseline's
    median or tail, by more than its margin, than chance explains (exact where both are exchangeable, and with a short
    baseline sharper than the interval); PASS when the interval lies below. The two ways to convict share
    `false_rollback_rate`.
    """
    if baseline is None or not baseline.latency_s:
        text = "no baseline is stored for this release; the next promotion stores one"
        return result(DRIFT, Outcome.INCONCLUSIVE, "baseline_missing", text)
    typical = medians(baseline)
    today = np.array([one.sample.latency_s / typical[one.prompt_id] for one in samples if one.prompt_id in typical])
    then = relative(baseline.latency_s)
    if len(today) == 0 or len(then) == 0:
        text = "no prompt of today stands often enough in the baseline"
        return result(DRIFT, Outcome.INCONCLUSIVE, "baseline_of_other_prompts", text)
    # Two questions share the error rate.
    alpha = policy.false_rollback_rate / 2.0
    bounds = drift_bounds(baseline_s=then, today_s=today, q=0.5, alpha=alpha)
    middle = _beyond(then, today, q=0.5, margin=policy.p50_ratio_max)
    tail = _beyond(then, today, q=policy.tail_quantile, margin=policy.tail_ratio_max)
    # Their mean is an e-value whatever they have to do with each other.
    evidence = (middle.rollback.total + tail.rollback.total) / 2.0
    ratio = float(np.median(today)) / float(np.median(then))
    figures = {
        "p50_ratio": ratio,
        "p50_ratio_lower": bounds.lower,
        "p50_ratio_upper": bounds.upper,
        "p50_ratio_max": policy.p50_ratio_max,
        "median_exceeded": middle.exceeded.count,
        "tail_exceeded": tail.exceeded.count,
        "e_drift": evidence,
        "e_drift_needed": 1.0 / alpha,
        "requests": len(today),
        "requests_failed": int(np.isinf(today).sum()),
        "baseline_requests": len(then),
    }
    text = (
        f"median latency x{ratio:.3g} [{bounds.lower:.3g}, {bounds.upper:.3g}] of the baseline, allowed "
        f"x{policy.p50_ratio_max:g}"
    )
    if bounds.lower > policy.p50_ratio_max:
        return result(DRIFT, Outcome.BREACH, "latency_drifted", text, figures)
    if evidence >= 1.0 / alpha:
        tail_led = tail.rollback.total > middle.rollback.total
        count = tail.exceeded.count if tail_led else middle.exceeded.count
        what = f"P{100 * policy.tail_quantile:g}" if tail_led else "median"
        beyond = f"{count} of {len(today)} requests beyond the margin of the baseline's {what}; {text}"
        code = "latency_drifted_tail" if tail_led else "latency_drifted"
        return result(DRIFT, Outcome.BREACH, code, beyond, figures)
    if bounds.upper < policy.p50_ratio_max:
        return result(DRIFT, Outcome.PASS, "latency_as_baseline", text, figures)
    return result(DRIFT, Outcome.INCONCLUSIVE, "drift_undecided", text, figures)


def medians(baseline: Baseline) -> dict[str, float]:
    """Return the typical latency of each prompt of a baseline, in seconds."""
    return {prompt: float(np.median(np.array(values))) for prompt, values in baseline.latency_s.items() if values}


def _beyond(then: np.ndarray, today: np.ndarray, *, q: float, margin: float) -> TailProcess:
    """Return what today's requests say about one quantile of the baseline: an e-value, looked at once."""
    count = len(then)
    rank = min(rank_of(q, count + 1), count)
    process = TailProcess(aa_count=count, rank=rank, threshold=margin * float(np.sort(then)[rank - 1]))
    for one in today:
        process.bet(float(one))
    return process
