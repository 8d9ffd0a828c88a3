"""The accuracy gate: what pictures must show when the precision of the arithmetic changes."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import numpy as np

from rollout.gates.names import ACCURACY
from rollout.gates.result import result
from rollout.model.evidence import Pair
from rollout.model.policy import AccuracyGate
from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.verdict import GateResult, Outcome
from rollout.stats.series import Array

PRECISION_KEYS = ("model.precision", "model.*.precision")

CONFIDENCE = 0.99

ACCURACY_UNDECIDED = "accuracy_undecided"
"""Code of the result that no further pair can change: every prompt was compared, and their mean is not proven."""

PROMPT_SET_SMALL = "prompt_set_small"
"""Code of the result that no pair at all can change: the prompt set holds fewer prompts than must be compared."""


def precision_change(incumbent: CapabilitySnapshot, candidate: CapabilitySnapshot) -> str:
    """Return how the precision changes, as `fp32 -> int8`; empty where it does not, or neither snapshot tells.

    Several parts of a model that change are told one after the other: `fp32 -> fp16, fp16 -> int8`.
    """
    before, after = _precisions(incumbent), _precisions(candidate)
    changed = (
        f"{before.get(key, 'unknown')} -> {after.get(key, 'unknown')}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    )
    return ", ".join(dict.fromkeys(changed))


def _precisions(snapshot: CapabilitySnapshot) -> dict[str, str]:
    return {
        key: str(field.value if field.value is not None else field.status)
        for key, field in snapshot.fields.items()
        if any(fnmatchcase(key, pattern) for pattern in PRECISION_KEYS)
    }


def judge_accuracy(  # noqa: PLR0911 - one return for each verdict
    policy: AccuracyGate | None, *, change: str, pairs: Sequence[Pair], prompt_ids: Collection[str]
) -> GateResult:
    """Judge the pictures of a candidate that computes with another precision.

    Args:
        policy: The limits; None where no change of precision is accepted.
        change: As `precision_change` says it.
        pairs: Pairs with the PSNR of their pictures. A prompt counts with its lowest.
        prompt_ids: Every prompt that must have been compared for a PASS; empty for a stage that only adds to one.
    """
    refusal = _refusal(policy, change)
    if policy is None or refusal:
        return result(ACCURACY, Outcome.BREACH, "precision_changed", f"{change}: {refusal}")
    if 0 < len(prompt_ids) < policy.prompts_min:
        text = f"{change}: the prompt set holds {len(prompt_ids)} prompts, {policy.prompts_min} must be compared"
        return result(ACCURACY, Outcome.INCONCLUSIVE, PROMPT_SET_SMALL, text)
    lowest: dict[str, float] = {}
    for one in pairs:
        if one.psnr_db is not None:
            lowest[one.prompt_id] = min(one.psnr_db, lowest.get(one.prompt_id, one.psnr_db))
    if not lowest:
        return result(ACCURACY, Outcome.INCONCLUSIVE, "accuracy_uncompared", "no picture could be compared")
    worst_db, worst_prompt = min((value, prompt) for prompt, value in lowest.items())
    figures = {"prompts": len(lowest), "psnr_db_lowest": worst_db, "psnr_db_min": policy.psnr_db_min}
    text = (
        f"{change}: lowest PSNR {worst_db:.1f} dB (prompt {worst_prompt}), at least {policy.psnr_db_min:g} dB demanded"
    )
    if worst_db < policy.psnr_db_min:
        return result(ACCURACY, Outcome.BREACH, "accuracy_lost", text, figures)
    if not prompt_ids:
        return result(ACCURACY, Outcome.PASS, "accuracy_uncontradicted", text, figures)
    if set(prompt_ids) - set(lowest):
        text = f"{change}: {len(lowest)} of {len(prompt_ids)} prompts compared"
        return result(ACCURACY, Outcome.INCONCLUSIVE, "accuracy_prompts_few", text, figures)
    values = np.array([lowest[prompt] for prompt in sorted(lowest)])
    mean_db, bound_db = float(values.mean()), mean_lower_bound(values, confidence=CONFIDENCE)
    figures |= {"psnr_db_mean": mean_db, "psnr_db_mean_lower": bound_db, "psnr_db_mean_min": policy.psnr_db_mean_min}
    outcome, code = _mean_judged(policy, mean_db=mean_db, bound_db=bound_db)
    text = (
        f"{change}: mean PSNR {mean_db:.1f} dB over {len(values)} prompts, with {CONFIDENCE:.0%} confidence above "
        f"{bound_db:.1f} dB; {policy.psnr_db_mean_min:g} dB demanded"
    )
    return result(ACCURACY, outcome, code, text, figures)


def _refusal(policy: AccuracyGate | None, change: str) -> str:
    """Say why a change is refused whatever the pictures show; empty where it is not."""
    if policy is None:
        return "the policy accepts no change of precision (`accuracy` is null)"
    if {part.rpartition(" -> ")[2] for part in change.split(", ")} <= set(policy.precisions):
        return ""
    return f"the policy accepts {', '.join(policy.precisions)}"


def _mean_judged(policy: AccuracyGate, *, mean_db: float, bound_db: float) -> tuple[Outcome, str]:
    if bound_db >= policy.psnr_db_mean_min:
        return Outcome.PASS, "accuracy_kept"
    if mean_db < policy.psnr_db_mean_min:
        return Outcome.BREACH, "accuracy_lost"
    return Outcome.INCONCLUSIVE, ACCURACY_UNDECIDED


def mean_lower_bound(values: Array, *, confidence: float) -> float:
    """Return the one-sided lower Student bound on the mean over all prompts that might have been drawn.

    It is asked for once, when every prompt was compared: one seed draws one picture, so that a prompt that comes again
    adds nothing, and no later look is a second chance. A bound that holds at any time and whatever the distribution
    in [0, 99] dB would need far more prompts than sets have.

    Args:
        values: Shape (n,), n >= 2, in dB, one per prompt.
        confidence: In (0, 1); exact for a normal law. Simulated at 0.99, 8000 sets: above the true mean in 1% for a
            normal law, in up to 1.9% for a uniform one, in 7% (4 to 8 prompts) and 4% (50) for an exponential tail of
            bad prompts. Against such a tail stands the floor for every single picture.

    Source: Student, The probable error of a mean, Biometrika 6, 1908.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 - 0.16 s, which `rollout status` must not wait for

    count = len(values)
    margin = float(stdtrit(count - 1, confidence)) * float(values.std(ddof=1)) / float(np.sqrt(count))
    return float(values.mean()) - margin
