"""The error gate: failed canary requests."""

from collections.abc import Sequence

from rollout.gates.names import ERRORS
from rollout.gates.result import result
from rollout.model.evidence import Pair, Sample
from rollout.model.policy import ErrorGate
from rollout.model.verdict import GateResult, Outcome
from rollout.stats.rates import rate_e_value


def judge_errors(policy: ErrorGate, pairs: Sequence[Pair], *, alpha: float) -> GateResult:
    """Judge failed requests of the candidate, as `judge_requests` does.

    Where it would be acquitted, an incumbent that itself fails more often than the margin makes it INCONCLUSIVE.
    """
    judged = judge_requests(policy, [one.candidate for one in pairs], alpha=alpha)
    incumbent = [one.incumbent for one in pairs if one.incumbent.failed]
    figures = {**judged.figures, "incumbent_failed": len(incumbent)}
    if judged.outcome is not Outcome.BREACH and len(incumbent) > policy.rate_max * len(pairs):
        text = f"{len(incumbent)} of {len(pairs)} incumbent requests failed: {incumbent[-1].detail}"
        return result(ERRORS, Outcome.INCONCLUSIVE, "incumbent_fails", text, figures)
    return judged.model_copy(update={"figures": figures})


def judge_requests(policy: ErrorGate, samples: Sequence[Sample], *, alpha: float) -> GateResult:
    """Judge failed requests to one release.

    BREACH once the failures are evidence at level `alpha` of a rate above the margin, at whatever request one looks. A
    share above the margin without that evidence is INCONCLUSIVE.
    """
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
