"""The drift gate: the incumbent today against what it was measured to do when it was promoted."""

from collections.abc import Mapping, Sequence

import numpy as np

from rollout.gates.names import DRIFT
from rollout.gates.result import result
from rollout.model.evidence import Baseline
from rollout.model.journal import SampleMeasured
from rollout.model.policy import LatencyGate
from rollout.model.verdict import GateResult, Outcome
from rollout.stats.quantiles import drift_bounds


def judge_drift(policy: LatencyGate, baseline: Baseline | None, samples: Sequence[SampleMeasured]) -> GateResult:
    """Judge today's latencies, each divided by the baseline's median for the same prompt.

    BREACH when the whole interval of the median ratio lies above the margin, PASS when it lies below.
    """
    if baseline is None or not baseline.latency_s:
        text = "no baseline is stored for this release; the next promotion stores one"
        return result(DRIFT, Outcome.INCONCLUSIVE, "baseline_missing", text)
    medians = {prompt: float(np.median(np.array(values))) for prompt, values in baseline.latency_s.items()}
    today = np.array([one.sample.latency_s / medians[one.prompt_id] for one in samples if one.prompt_id in medians])
    if len(today) == 0:
        text = "no prompt of today stands in the baseline"
        return result(DRIFT, Outcome.INCONCLUSIVE, "baseline_of_other_prompts", text)
    then = _normalised(baseline.latency_s, medians)
    bounds = drift_bounds(baseline_s=then, today_s=today, q=0.5, alpha=policy.false_rollback_rate)
    ratio = float(np.median(today)) / float(np.median(then))
    figures = {
        "p50_ratio": ratio,
        "p50_ratio_lower": bounds.lower,
        "p50_ratio_upper": bounds.upper,
        "p50_ratio_max": policy.p50_ratio_max,
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
    if bounds.upper < policy.p50_ratio_max:
        return result(DRIFT, Outcome.PASS, "latency_as_baseline", text, figures)
    return result(DRIFT, Outcome.INCONCLUSIVE, "drift_undecided", text, figures)


def _normalised(latency_s: Mapping[str, Sequence[float]], medians: Mapping[str, float]) -> np.ndarray:
    return np.array([value / medians[prompt] for prompt, values in sorted(latency_s.items()) for value in values])
