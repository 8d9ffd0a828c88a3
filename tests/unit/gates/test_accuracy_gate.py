"""The accuracy gate: what another precision of the arithmetic must show."""

from datetime import date

import numpy as np
import pytest

from rollout.gates.accuracy import judge_accuracy, mean_lower_bound, precision_change
from rollout.gates.capabilities import judge_capabilities
from rollout.model.policy import AccuracyGate
from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.verdict import Outcome

POLICY = AccuracyGate(precisions=["int8", "fp16"], psnr_db_mean_min=32.0, psnr_db_min=28.0, prompts_min=3)
CHANGE = "fp32 -> int8"
ALL = ("p0", "p1", "p2")


@pytest.fixture
def judged(pair):
    def judge(*psnr_db, policy=POLICY, change=CHANGE, prompts=ALL):
        pairs = [pair(number, psnr_db=value) for number, value in enumerate(psnr_db)]
        return judge_accuracy(policy, change=change, pairs=pairs, prompt_ids=prompts)

    return judge


@pytest.fixture
def said(judged):
    def say(*psnr_db, **asked):
        result = judged(*psnr_db, **asked)
        return result.outcome, result.reasons[0].code

    return say


def snapshot(**fields):
    told = {key.replace("_", "."): {"status": "ok", "value": value, "source": "test"} for key, value in fields.items()}
    return CapabilitySnapshot.model_validate({"schema": "rollout.snapshot/v1", "fields": told, "measurements": {}})


def test_equal_precision_is_no_change():
    assert precision_change(snapshot(model_precision="fp32"), snapshot(model_precision="fp32")) == ""
    assert precision_change(snapshot(server_threads=1), snapshot(server_threads=2)) == ""


def test_change_of_the_model_and_of_a_part_of_it_are_both_told():
    assert precision_change(snapshot(model_precision="fp32"), snapshot(model_precision="int8")) == "fp32 -> int8"
    before = snapshot(model_unet_precision="fp16", model_vae_precision="fp32")
    after = snapshot(model_unet_precision="int8", model_vae_precision="fp16")
    assert precision_change(before, after) == "fp16 -> int8, fp32 -> fp16"


def test_precision_that_one_side_does_not_tell_is_a_change():
    assert precision_change(snapshot(model_precision="fp32"), snapshot()) == "fp32 -> unknown"
    assert precision_change(snapshot(), snapshot(model_precision="int8")) == "unknown -> int8"


def test_other_precision_is_refused_where_the_policy_accepts_none(said):
    assert said(60.0, 60.0, 60.0, policy=None) == (Outcome.BREACH, "precision_changed")


@pytest.mark.parametrize("change", ["fp32 -> int4", "fp32 -> unknown", "fp32 -> int8, fp32 -> int4"])
def test_precision_that_is_not_listed_is_refused_before_a_picture_is_drawn(said, change):
    assert said(change=change) == (Outcome.BREACH, "precision_changed")
    assert said(60.0, 60.0, 60.0, change=change) == (Outcome.BREACH, "precision_changed")


def test_close_pictures_of_every_prompt_pass(judged):
    result = judged(36.0, 37.0, 38.0)
    assert (result.outcome, result.reasons[0].code) == (Outcome.PASS, "accuracy_kept")
    assert result.figures["psnr_db_mean"] == 37.0
    assert result.figures["psnr_db_mean_lower"] == pytest.approx(37.0 - 6.965 / np.sqrt(3.0), abs=1e-3)
    assert result.reasons[0].text.startswith("fp32 -> int8: mean PSNR 37.0 dB over 3 prompts")


def test_no_picture_is_inconclusive(said, pair):
    assert said() == (Outcome.INCONCLUSIVE, "accuracy_uncompared")
    failed = [pair(number, new="error") for number in range(9)]
    assert judge_accuracy(POLICY, change=CHANGE, pairs=failed, prompt_ids=ALL).outcome is Outcome.INCONCLUSIVE


def test_prompt_that_was_never_compared_makes_a_pass_impossible(said):
    assert said(40.0, 40.0) == (Outcome.INCONCLUSIVE, "accuracy_prompts_few")


def test_prompt_set_that_is_too_small_is_told_before_any_pair(said):
    assert said(prompts=ALL[:2]) == (Outcome.INCONCLUSIVE, "prompt_set_small")
    assert said(40.0, 40.0, prompts=ALL[:2]) == (Outcome.INCONCLUSIVE, "prompt_set_small")


def test_single_bad_picture_breaches_whatever_the_mean(said):
    assert said(27.9) == (Outcome.BREACH, "accuracy_lost")
    assert said(60.0, 60.0, 60.0, 27.9) == (Outcome.BREACH, "accuracy_lost")


def test_mean_below_the_limit_breaches_although_every_picture_is_above_its_own(said):
    assert said(31.0, 31.5, 31.9) == (Outcome.BREACH, "accuracy_lost")


def test_mean_that_is_not_proven_is_inconclusive(said):
    assert said(29.0, 33.0, 37.0) == (Outcome.INCONCLUSIVE, "accuracy_undecided")


def test_prompt_that_comes_again_counts_once_with_its_lowest(judged):
    again = judged(36.0, 37.0, 38.0, 36.0, 37.0, 38.0)
    assert again == judged(36.0, 37.0, 38.0)
    assert judged(36.0, 37.0, 38.0, 50.0) == judged(36.0, 37.0, 38.0)
    assert judged(36.0, 37.0, 38.0, 35.0).figures["psnr_db_lowest"] == 35.0


def test_later_stage_needs_no_prompt_in_particular_but_some_picture(said):
    assert said(29.0, prompts=()) == (Outcome.PASS, "accuracy_uncontradicted")
    assert said(27.0, prompts=()) == (Outcome.BREACH, "accuracy_lost")
    assert said(prompts=()) == (Outcome.INCONCLUSIVE, "accuracy_uncompared")


@pytest.mark.parametrize("count", [2, 6, 30])
def test_bound_on_the_mean_is_above_it_once_in_a_hundred_sets(count):
    luck = np.random.default_rng(5)
    missed = np.mean([mean_lower_bound(luck.normal(33.0, 2.0, count), confidence=0.99) > 33.0 for _ in range(4000)])
    assert 0.004 < missed < 0.017


def test_another_precision_alone_does_not_block_admission(policy):
    told = {"runtime_ort_providers_actual": ["CPUExecutionProvider"]}
    gate = judge_capabilities(
        policy.capabilities,
        incumbent=snapshot(model_precision="fp32", **told),
        candidate=snapshot(model_precision="int8", **told),
        problems={},
        compared=True,
        today=date(2026, 11, 1),
    )
    assert (gate.outcome, gate.reasons[0].code) == (Outcome.PASS, "capability_changed")
