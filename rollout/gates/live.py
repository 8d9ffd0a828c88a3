"""The live gate: failed live requests, as the router counts them."""

from rollout.gates.names import LIVE
from rollout.gates.result import result
from rollout.model.evidence import LiveWindow
from rollout.model.policy import LiveGate
from rollout.model.verdict import GateResult, Outcome
from rollout.stats.rates import rate_e_value

LIVE_ALPHA = 0.001
"""Chance of a false breach by live errors alone; small beside the canary's, because every stage asks again."""


def judge_live(policy: LiveGate, window: LiveWindow | None) -> GateResult:
    """Judge the candidate's live requests of one stage; None where the router was not read."""
    if window is None:
        return result(LIVE, Outcome.INCONCLUSIVE, "live_unread", "the router's counters were not read")
    figures = {"completed": window.completed, "failed": window.failed}
    text = f"{window.failed} of {window.completed} live requests failed"
    if (
        rate_e_value(failures=window.failed, trials=window.completed, rate_max=policy.error_rate_max)
        >= 1.0 / LIVE_ALPHA
    ):
        return result(LIVE, Outcome.BREACH, "live_errors", text, figures)
    if window.completed < policy.requests_min:
        few = f"{window.completed} live requests seen, {policy.requests_min} needed"
        return result(LIVE, Outcome.INCONCLUSIVE, "live_requests_few", few, figures)
    if window.failed > policy.error_rate_max * window.completed:
        return result(LIVE, Outcome.INCONCLUSIVE, "live_errors_undecided", f"{text}; more evidence is needed", figures)
    return result(LIVE, Outcome.PASS, "live_within_margin", text, figures)
