"""The error gate: failed canary requests."""

from collections.abc import Sequence

from rollout.gates.names import ERRORS
from rollout.gates.result import result
from rollout.model.evidence import Pair, Sample
from rollout.model.policy import ErrorGate
from rollout.model.verdict import GateResult, Outcome
from rollout.stats.rates import rate_e_value


def judge_errors(policy: ErrorGate, pairs: Sequence[Pair], *, alpha: float) -> GateResult:
    """Judge failed requests.

    BREACH once the candidate's failures are evidence at level `alpha` of a rate above the margin. A share above the
    margin without that evidence, or an incumbent that fails more often than the margin, is INCONCLUSIVE.
    """
    candidate = [one.candidate for one in pairs if one.candidate.failed]
    incumbent = [one.incumbent for one in pairs if one.incumbent.failed]
    figures = {"pairs": len(pairs), "candidate_failed": len(candidate), "incumbent_failed": len(incumbent)}
    if not pairs:
        return result(ERRORS, Outcome.INCONCLUSIVE, "errors_unmeasured", "no request was sent", figures)
    last = f": {candidate[-1].detail or candidate[-1].status}" if candidate else ""
    count = f"{len(candidate)} of {len(pairs)} candidate requests failed"
    if rate_e_value(failures=len(candidate), trials=len(pairs), rate_max=policy.rate_max) >= 1.0 / alpha:
        return result(ERRORS, Outcome.BREACH, "error_rate_over_margin", f"{count}{last}", figures)
    if len(incumbent) > policy.rate_max * len(pairs):
        text = f"{len(incumbent)} of {len(pairs)} incumbent requests failed: {incumbent[-1].detail}"
        return result(ERRORS, Outcome.INCONCLUSIVE, "incumbent_fails", text, figures)
    if len(candidate) > policy.rate_max * len(pairs):
        text = f"{count}{last}; more evidence is needed"
        return result(ERRORS, Outcome.INCONCLUSIVE, "error_rate_undecided", text, figures)
    return result(ERRORS, Outcome.PASS, "error_rate_within_margin", count, figures)


def judge_requests(policy: ErrorGate, samples: Sequence[Sample], *, alpha: float) -> GateResult:
    """Judge failed requests to the incumbent alone, for the drift check; the outcomes are those of `judge_errors`."""
    failed = [one for one in samples if one.failed]
    figures = {"requests": len(samples), "requests_failed": len(failed)}
    if not samples:
        return result(ERRORS, Outcome.INCONCLUSIVE, "errors_unmeasured", "no request was sent", figures)
    last = f": {failed[-1].detail or failed[-1].status}" if failed else ""
    text = f"{len(failed)} of {len(samples)} requests failed{last}"
    if rate_e_value(failures=len(failed), trials=len(samples), rate_max=policy.rate_max) >= 1.0 / alpha:
        return result(ERRORS, Outcome.BREACH, "error_rate_over_margin", text, figures)
    if len(failed) > policy.rate_max * len(samples):
        return result(ERRORS, Outcome.INCONCLUSIVE, "error_rate_undecided", f"{text}; more evidence is needed", figures)
    return result(ERRORS, Outcome.PASS, "error_rate_within_margin", text, figures)
