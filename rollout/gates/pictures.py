"""The picture gate: for one seed the candidate must draw what the incumbent draws."""

from collections.abc import Collection, Sequence

from rollout.gates.names import PICTURES
from rollout.gates.result import result
from rollout.model.evidence import Pair
from rollout.model.policy import PictureGate
from rollout.model.verdict import GateResult, Outcome

REPEAT_NOISE_DB = 3.0
"""A candidate may be this much further from the incumbent than the incumbent from itself: half the power again."""

FLOOR_DB_MIN = 10.0
"""The least that a policy can demand, and so the least that noise can lower it to: two pictures that have nothing in
common differ by about as much."""

REPEAT_NOISE_TOO_LARGE = "repeat_noise_too_large"
"""Code of the result that no further pair can change: the incumbent does not draw the same twice."""


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
    floor = policy.psnr_db_min if repeat_psnr_db is None else min(policy.psnr_db_min, repeat_psnr_db - REPEAT_NOISE_DB)
    flat = [one for one in pairs if one.flat]
    if flat:
        text = f"prompt {flat[0].prompt_id}: the candidate's picture is black or of one colour"
        return result(PICTURES, Outcome.BREACH, "picture_flat", text, {"flat": len(flat)})
    if floor < FLOOR_DB_MIN:
        noise = (
            f"two instances of the incumbent differ by {repeat_psnr_db:.1f} dB for one seed; that leaves a floor of "
            f"{floor:.1f} dB, and below {FLOOR_DB_MIN:g} dB no picture proves anything"
        )
        limits = {"psnr_db_min": floor, "psnr_db_min_least": FLOOR_DB_MIN}
        return result(PICTURES, Outcome.INCONCLUSIVE, REPEAT_NOISE_TOO_LARGE, noise, limits)
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
