"""The picture gate."""

import pytest

from rollout.gates.pictures import FLOOR_DB_MIN, REPEAT_NOISE_DB, judge_pictures
from rollout.model.policy import PictureGate
from rollout.model.verdict import Outcome

POLICY = PictureGate(psnr_db_min=45.0)
ALL = ("p0", "p1", "p2")


def judge(pairs, *, repeat=None, prompts=ALL):
    result = judge_pictures(POLICY, pairs, repeat_psnr_db=repeat, prompt_ids=prompts)
    return result.outcome, result.reasons[0].code


def test_equal_pictures_of_every_prompt_pass(pair):
    assert judge([pair(number) for number in range(3)]) == (Outcome.PASS, "pictures_equal")


def test_no_pair_and_no_picture_are_inconclusive(pair):
    assert judge([]) == (Outcome.INCONCLUSIVE, "pictures_uncompared")
    assert judge([pair(number, new="error") for number in range(9)]) == (Outcome.INCONCLUSIVE, "pictures_uncompared")


def test_prompt_that_was_never_compared_makes_a_pass_impossible(pair):
    pairs = [pair(0), pair(1), pair(2, new="timeout")]
    assert judge(pairs) == (Outcome.INCONCLUSIVE, "pictures_missing")
    assert judge([*pairs, pair(5)]) == (Outcome.PASS, "pictures_equal")


def test_later_stage_needs_no_prompt_in_particular_but_some_picture(pair):
    assert judge([pair(0)], prompts=()) == (Outcome.PASS, "pictures_equal")
    assert judge([], prompts=()) == (Outcome.INCONCLUSIVE, "pictures_uncompared")


def test_one_different_picture_breaches_before_all_were_compared(pair):
    assert judge([pair(0), pair(1, psnr_db=44.9)]) == (Outcome.BREACH, "picture_differs")


def test_picture_exactly_at_the_floor_passes(pair):
    assert judge([pair(number, psnr_db=45.0) for number in range(3)]) == (Outcome.PASS, "pictures_equal")


def test_flat_picture_breaches_whatever_its_difference(pair):
    assert judge([pair(0, flat=True, psnr_db=99.0)]) == (Outcome.BREACH, "picture_flat")


@pytest.mark.parametrize(("repeat", "floor"), [(None, 45.0), (99.0, 45.0), (48.0, 45.0), (40.0, 37.0), (13.0, 10.0)])
def test_floor_is_lowered_only_by_the_incumbents_own_noise(pair, repeat, floor):
    def outcome(psnr_db):
        return judge([pair(number, psnr_db=psnr_db) for number in range(3)], repeat=repeat)[0]

    assert outcome(floor) is Outcome.PASS
    assert outcome(floor - 0.01) is Outcome.BREACH
    assert floor == min(45.0, (99.0 if repeat is None else repeat) - REPEAT_NOISE_DB)


@pytest.mark.parametrize("psnr_db", [0.0, 9.0, 60.0])
@pytest.mark.parametrize("repeat", [0.0, 12.9])
def test_incumbent_that_never_draws_the_same_twice_proves_nothing(pair, repeat, psnr_db):
    assert repeat - REPEAT_NOISE_DB < FLOOR_DB_MIN
    pairs = [pair(number, psnr_db=psnr_db) for number in range(3)]
    assert judge(pairs, repeat=repeat) == (Outcome.INCONCLUSIVE, "repeat_noise_too_large")
    assert judge([*pairs, pair(3, flat=True)], repeat=repeat) == (Outcome.BREACH, "picture_flat")
