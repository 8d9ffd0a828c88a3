"""The jury: all gates of a stage together, and the same verdicts from the same journal."""

# ruff: noqa: S311 - draws of a simulation, with seeds, not secrets

import math
import random

import pytest

from rollout.errors import EvidenceError
from rollout.gates.jury import Jury
from rollout.gates.result import result, storable
from rollout.model.canonical import canonical_bytes
from rollout.model.evidence import InstanceReading, LiveWindow, Pair
from rollout.model.journal import InstancesRead
from rollout.model.roles import Role
from rollout.model.verdict import Outcome, Verdict, combine

GOOD_LIVE = LiveWindow(completed=100, failed=0)


def readings(stage):
    """What a steady candidate shows up to the end of a stage."""
    return [
        InstancesRead(
            stage=when,
            role=Role.CANDIDATE,
            readings=(InstanceReading(uid="green-1", restarts=0, memory_bytes=10**9, cold_start_s=start),),
        )
        for when, start in (("start", 1.0), ("warm", None), (stage, None))
    ]


@pytest.fixture
def seat(policy, prompts, history):
    def make(*, history=history):
        return Jury(policy=policy, prompts=prompts, history=history, proving_stage="canary", later_stages=3, pods=1)

    return make


def heard(jury, pairs):
    verdict = None
    for one in pairs:
        verdict = jury.hear(one)
    return verdict


def mixed(pair, count, seed):
    """Pairs of everything that can happen."""
    luck = random.Random(seed)
    return [
        pair(
            number,
            ratio=luck.lognormvariate(0.0, 0.1),
            old=luck.choices(["ok", "error", "timeout"], [30, 1, 1])[0],
            new=luck.choices(["ok", "error", "timeout", "stopped"], [30, 1, 1, 1])[0],
            psnr_db=luck.uniform(46.0, 99.0),
        )
        for number in range(count)
    ]


def test_sound_canary_passes_every_gate(seat, measured):
    jury = seat()
    heard(jury, measured(200))
    verdict = jury.conclude("canary", live=None, readings=readings("canary"))
    assert verdict.outcome is Outcome.PASS
    assert [one.gate for one in verdict.gates] == ["latency", "errors", "pictures", "instances"]


def test_proving_stage_has_no_live_traffic_and_every_other_has(seat, measured):
    jury = seat()
    heard(jury, measured(3, stage="soak"))
    assert jury.conclude("soak", live=None, readings=readings("soak")).outcome is Outcome.INCONCLUSIVE
    assert jury.conclude("soak", live=GOOD_LIVE, readings=readings("soak")).outcome is Outcome.PASS
    assert (
        jury.conclude("soak", live=LiveWindow(completed=100, failed=50), readings=readings("soak")).outcome
        is Outcome.BREACH
    )


@pytest.mark.parametrize("stage", ["canary", "soak"])
def test_stage_without_any_pair_is_never_a_pass(seat, stage):
    assert seat().conclude(stage, live=GOOD_LIVE, readings=readings(stage)).outcome is Outcome.INCONCLUSIVE


def test_live_breach_before_the_first_pair_is_a_breach(seat):
    verdict = seat().conclude("shift-10", live=LiveWindow(completed=100, failed=50), readings=readings("shift-10"))
    assert verdict.outcome is Outcome.BREACH
    assert [one.code for one in verdict.reasons()] == ["live_errors"]


def test_one_breach_outweighs_every_pass(seat, measured, pair):
    jury = seat()
    heard(jury, measured(200))
    assert jury.hear(pair(200, psnr_db=20.0)).outcome is Outcome.BREACH


def test_canary_must_have_compared_every_prompt(seat, pair):
    jury = seat()
    verdict = heard(jury, [pair(3 * number) for number in range(200)])
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert [one.code for one in verdict.reasons()] == ["pictures_missing"]


def test_stages_are_judged_apart(seat, measured):
    jury = seat()
    heard(jury, measured(60, ratio=2.0, stage="shift-10"))
    assert jury.conclude("shift-10", live=GOOD_LIVE, readings=readings("shift-10")).outcome is Outcome.BREACH
    assert heard(jury, measured(3, stage="soak")).outcome is Outcome.PASS


@pytest.mark.parametrize("seed", range(6))
def test_same_pairs_give_the_same_verdicts_bit_for_bit(seat, pair, seed):
    pairs = mixed(pair, 80, seed)
    stored = [Pair.model_validate_json(one.model_dump_json()) for one in pairs]
    one, other = seat(), seat()
    for original, read in zip(pairs, stored, strict=True):
        first, second = one.hear(original), other.hear(read)
        assert canonical_bytes(first.model_dump(mode="json")) == canonical_bytes(second.model_dump(mode="json"))
    assert one.conclude("canary", live=None, readings=readings("canary")) == other.conclude(
        "canary", live=None, readings=readings("canary")
    )


@pytest.mark.parametrize("seed", range(6))
def test_order_inside_a_pair_does_not_matter(seat, pair, seed):
    given, turned = seat(), seat()
    for one in mixed(pair, 80, seed):
        assert given.hear(one) == turned.hear(one.model_copy(update={"first": one.first.other}))


@pytest.mark.parametrize("seed", range(6))
def test_verdict_read_back_from_json_is_the_verdict_that_was_given(seat, pair, seed):
    jury = seat()
    for one in mixed(pair, 40, seed):
        verdict = jury.hear(one)
        assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_interleaved_stages_give_what_each_gives_alone(seat, measured):
    canary, soak = measured(30), measured(30, stage="soak", ratio=1.05)
    together, apart = seat(), seat()
    for one, other in zip(canary, soak, strict=True):
        together.hear(one)
        together.hear(other)
    heard(apart, canary)
    heard(apart, soak)
    assert together.conclude("soak", live=GOOD_LIVE, readings=readings("soak")) == apart.conclude(
        "soak", live=GOOD_LIVE, readings=readings("soak")
    )


def test_nothing_is_judged_without_a_history(seat, pair):
    jury = seat(history=None)
    with pytest.raises(EvidenceError, match="without an A/A history"):
        jury.hear(pair())


def test_history_that_comes_later_is_used(seat, measured, history):
    jury = seat(history=None)
    jury.use_history(history)
    assert heard(jury, measured(200)).outcome is Outcome.PASS


def test_no_gate_at_all_is_inconclusive():
    assert combine("x", ()).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figures_that_are_no_numbers_become_words(value):
    assert isinstance(storable(value), str)
    made = result("latency", Outcome.PASS, "code", "text", {"figure": value})
    canonical_bytes(made.model_dump(mode="json"))


def test_figures_that_are_numbers_stay_what_they_are():
    assert [storable(one) for one in (1, 2.5, "inf")] == [1, 2.5, "inf"]
