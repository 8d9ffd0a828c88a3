"""The latency gate: what a stage must prove, and what it must only not contradict."""

import math

import pytest

from rollout.gates.latency import LatencyTest, Question, history_problem
from rollout.model.canonical import canonical_bytes
from rollout.model.verdict import Outcome


@pytest.fixture
def heard(policy, history):
    def hear(pairs, *, must_prove=True, looks=1, aa_ratio=None):
        test = LatencyTest(
            policy=policy.latency,
            aa_ratio=history.ratio if aa_ratio is None else aa_ratio,
            question=Question(must_prove=must_prove, looks=looks),
        )
        for one in pairs:
            test.hear(one)
        return test.result()

    return hear


def said(result):
    return result.outcome, result.reasons[0].code


def test_canary_proves_a_sound_candidate(heard, measured):
    assert said(heard(measured(200))) == (Outcome.PASS, "latency_within_margins")


@pytest.mark.parametrize("must_prove", [True, False])
def test_slow_candidate_breaches_in_every_stage(heard, measured, must_prove):
    assert said(heard(measured(60, ratio=1.5), must_prove=must_prove)) == (Outcome.BREACH, "latency_over_margin")


def test_canary_with_few_pairs_is_undecided(heard, measured):
    assert said(heard(measured(5))) == (Outcome.INCONCLUSIVE, "latency_undecided")


def test_later_stage_with_few_good_pairs_contradicts_nothing(heard, measured):
    assert said(heard(measured(3), must_prove=False)) == (Outcome.PASS, "latency_uncontradicted")


@pytest.mark.parametrize("must_prove", [True, False])
def test_no_pair_is_inconclusive(heard, must_prove):
    result = heard([], must_prove=must_prove)
    assert result.outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("must_prove", [True, False])
def test_pairs_that_both_failed_are_no_measurement(heard, pair, must_prove):
    result = heard([pair(number, old="error", new="timeout") for number in range(20)], must_prove=must_prove)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert (result.figures["pairs_used"], result.figures["pairs_void"]) == (0, 20)


def test_candidate_that_becomes_slow_late_in_a_long_stage_is_heard(heard, measured):
    good, late = measured(150), measured(150, ratio=2.0, seed=2)
    assert heard([*good, *late], must_prove=False).outcome is Outcome.BREACH


def test_breach_is_final(heard, measured):
    slow, good = measured(60, ratio=2.0), measured(200)
    before = heard(slow)
    assert heard([*slow, *good]) == before


def test_stages_share_the_false_rollback_rate(heard, measured):
    assert heard(measured(3), looks=1).figures["e_rollback_needed"] == pytest.approx(100.0)
    assert heard(measured(3), looks=4).figures["e_rollback_needed"] == pytest.approx(400.0)


def test_candidate_that_fails_alone_counts_as_slow(heard, pair):
    assert heard([pair(number, new="timeout") for number in range(10)]).outcome is Outcome.BREACH


def test_incumbent_that_fails_alone_convicts_nobody(heard, pair):
    assert heard([pair(number, old="timeout") for number in range(50)]).outcome is not Outcome.BREACH


def test_request_that_was_stopped_gives_the_same_outcome_as_one_that_was_waited_for(heard, pair, policy, history):
    test = LatencyTest(policy=policy.latency, aa_ratio=history.ratio, question=Question(must_prove=True, looks=1))
    beyond = [pair(number, ratio=1.01 * test.stop_ratio) for number in range(10)]
    stopped = [pair(number, new="stopped") for number in range(10)]
    one, other = heard(beyond), heard(stopped)
    assert one.outcome is other.outcome
    assert one.figures["e_rollback"] == other.figures["e_rollback"]


def test_figures_are_json_whatever_was_measured(heard, pair, measured):
    for pairs in ([], [pair(new="timeout")] * 5, [pair(old="timeout")] * 5, measured(5)):
        for must_prove in (True, False):
            result = heard(pairs, must_prove=must_prove)
            canonical_bytes(result.model_dump(mode="json"))
            assert not any(isinstance(one, float) and not math.isfinite(one) for one in result.figures.values())


UNFIT = {"short": (1.0,) * 20, "slow": (1.0,) * 90 + (9.0,) * 30, "timeouts": (1.0,) * 100 + (math.inf,) * 20, "": ()}


@pytest.mark.parametrize("aa_ratio", UNFIT.values(), ids=UNFIT.keys())
def test_history_that_cannot_be_a_yardstick_is_told_and_decides_nothing(policy, heard, measured, aa_ratio):
    assert history_problem(policy.latency, aa_ratio)
    for pairs in (measured(5), measured(50, ratio=3.0)):
        assert said(heard(pairs, aa_ratio=aa_ratio)) == (Outcome.INCONCLUSIVE, "history_unfit")
        assert said(heard(pairs, aa_ratio=aa_ratio, must_prove=False)) == (Outcome.INCONCLUSIVE, "history_unfit")


def test_sound_history_has_no_problem(policy, history):
    assert history_problem(policy.latency, history.ratio) == ""
