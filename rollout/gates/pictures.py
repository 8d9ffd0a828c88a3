"""The picture gate: for one seed the candidate must draw what the incumbent draws."""

from collections.abc import Collection, Sequence

from rollout.gates.names import PICTURES
from rollout.gates.result import result
from rollout.model.evidence import Pair
from rollout.model.policy import PictureGate
from rollout.model.verdict import GateResult, Outcome

REPEAT_NOISE_DB = 3.0
"""A candidate may be this much further from the incumbent than the incumbent from itself: half the power again."""


def judge_pictures(
    policy: PictureGate,
    pairs: Sequence[Pair],
    *,
    repeat_psnr_db: float | None,
    prompt_ids: Collection[str],
) -> GateResult:
    """Judge the pictures of all pairs.

    Args:
        policy: The floor in dB.
        pairs: Pairs with the PSNR of their pictures.
        repeat_psnr_db: Lowest PSNR of the incumbent against a second instance of itself; None where it is unknown,
            and then the policy's floor stands alone.
        prompt_ids: Every prompt that must have been compared for a PASS; empty for a stage that only adds to one.
    """
    floor = policy.psnr_db_min
    if repeat_psnr_db is not None:
        floor = min(floor, max(repeat_psnr_db - REPEAT_NOISE_DB, 0.0))
    flat = [one for one in pairs if one.flat]
    if flat:
        text = f"prompt {flat[0].prompt_id}: the candidate's picture is black or of one colour"
        return result(PICTURES, Outcome.BREACH, "picture_flat", text, {"flat": len(flat)})
    compared = [(one.psnr_db, one.prompt_id) for one in pairs if one.psnr_db is not None]
    if not compared:
        return result(PICTURES, Outcome.INCONCLUSIVE, "pictures_uncompared", "no picture could be compared")
    worst_db, worst_prompt = min(compared)
    figures = {"psnr_db_lowest": worst_db, "psnr_db_min": floor, "compared": len(compared)}
    text = f"lowest PSNR {worst_db:.1f} dB (prompt {worst_prompt}), at least {floor:.1f} dB demanded"
    if worst_db < floor:
        return result(PICTURES, Outcome.BREACH, "picture_differs", text, figures)
    missing = sorted(set(prompt_ids) - {prompt for _, prompt in compared})
    if missing:
        few = f"{len(missing)} of {len(prompt_ids)} prompts not compared yet, {missing[0]} among them"
        return result(PICTURES, Outcome.INCONCLUSIVE, "pictures_missing", few, figures)
    return result(PICTURES, Outcome.PASS, "pictures_equal", text, figures)
