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
            question=Question(must_prove=must_prove, looks=looks, pods=1),
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
    test = LatencyTest(
        policy=policy.latency, aa_ratio=history.ratio, question=Question(must_prove=True, looks=1, pods=1)
    )
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


FOUR = 4
EQUAL_PAIRS_MAX = 300
"""Budget within which four equal instances are promoted at the noise of these draws."""


@pytest.fixture
def fleet(measured):
    """Draw pairs of a candidate with four instances, asked in turn; `slow` maps the place of one to its ratio."""

    def draw(count, *, seed=1, slow=None):
        factors = slow or {}
        return [
            one.model_copy(
                update={
                    "candidate_uid": f"green-{number % FOUR}",
                    "candidate": one.candidate.model_copy(
                        update={"wall_s": one.candidate.wall_s * factors.get(number % FOUR, 1.0)}
                    ),
                }
            )
            for number, one in enumerate(measured(count, seed=seed))
        ]

    return draw


@pytest.fixture
def jury_of_four(policy, history):
    def make(*, must_prove=True, looks=1):
        question = Question(must_prove=must_prove, looks=looks, pods=FOUR)
        return LatencyTest(policy=policy.latency, aa_ratio=history.ratio, question=question)

    return make


def told(test, pairs):
    """Return what a test says after the pair that decides, and after how many that was."""
    for number, one in enumerate(pairs, start=1):
        test.hear(one)
        result = test.result()
        if result.outcome is not Outcome.INCONCLUSIVE:
            return result, number
    return result, len(pairs)


@pytest.mark.parametrize("place", range(FOUR))
def test_one_slow_instance_of_four_is_convicted_and_named(jury_of_four, fleet, place):
    for seed in range(5):
        result, pairs = told(jury_of_four(), fleet(100, seed=seed, slow={place: 1.5}))
        assert said(result) == (Outcome.BREACH, "latency_over_margin")
        assert f"green-{place} " in result.reasons[0].text
        assert pairs <= 60


def test_one_slow_instance_of_four_is_heard_in_a_later_stage_too(jury_of_four, fleet):
    result, _ = told(jury_of_four(must_prove=False), fleet(1, slow={2: 3.0}))
    assert result.outcome is Outcome.PASS
    test = jury_of_four(must_prove=False)
    for one in fleet(60, slow={2: 3.0}):
        test.hear(one)
    assert said(test.result()) == (Outcome.BREACH, "latency_over_margin")


def test_four_equal_instances_are_promoted_within_the_budget(jury_of_four, fleet):
    outcomes = [told(jury_of_four(), fleet(EQUAL_PAIRS_MAX, seed=seed))[0].outcome for seed in range(10)]
    assert outcomes == [Outcome.PASS] * 10


def test_candidate_slow_in_every_instance_is_convicted_in_few_pairs(jury_of_four, fleet):
    for seed in range(10):
        result, pairs = told(jury_of_four(), fleet(20, seed=seed, slow=dict.fromkeys(range(FOUR), 10.0)))
        assert (result.outcome, pairs <= 5) == (Outcome.BREACH, True)


def test_instance_without_a_pair_keeps_the_proof_open(jury_of_four, fleet):
    test = jury_of_four()
    for one in fleet(600):
        if one.candidate_uid != "green-3":
            test.hear(one)
    assert said(test.result()) == (Outcome.INCONCLUSIVE, "latency_undecided")
    assert "not yet for 1 without a pair:" in test.result().reasons[0].text


def test_instance_that_is_not_proven_by_its_own_pairs_keeps_the_proof_open_and_is_named(jury_of_four, fleet):
    test, pairs = jury_of_four(), fleet(600)
    for one in [pairs[3], *(one for one in pairs if one.candidate_uid != "green-3")]:
        test.hear(one)
    assert said(test.result()) == (Outcome.INCONCLUSIVE, "latency_undecided")
    assert "not yet for green-3:" in test.result().reasons[0].text


def test_one_instance_is_judged_as_if_instances_did_not_exist(heard, measured, policy, history):
    pairs = measured(200)
    question = Question(must_prove=True, looks=1, pods=1)
    test = LatencyTest(policy=policy.latency, aa_ratio=history.ratio, question=question)
    for number, one in enumerate(pairs):
        test.hear(one.model_copy(update={"candidate_uid": f"green-{number}"}))
    assert test.result() == heard(pairs)
    assert not any(key.startswith("pod ") for key in test.result().figures)


def test_pooled_pairs_and_instances_share_the_false_rollback_rate(jury_of_four, fleet):
    assert jury_of_four().result().figures["e_rollback_needed"] == pytest.approx(200.0)
    result, _ = told(jury_of_four(), fleet(100, slow={1: 1.5}))
    assert result.figures["e_rollback_needed"] == pytest.approx(800.0)


def test_instances_have_figures_that_json_holds(jury_of_four, fleet):
    result, _ = told(jury_of_four(), fleet(40))
    assert [result.figures[f"pod green-{place} pairs"] for place in range(FOUR)] == [10] * FOUR
    canonical_bytes(result.model_dump(mode="json"))


def test_stopping_an_instance_at_the_stop_ratio_changes_no_bit(jury_of_four, fleet, pair):
    waited, stopped = jury_of_four(), jury_of_four()
    for number, one in enumerate(fleet(30)):
        # Each instance is asked for the first time only after those before it were heard for a while.
        uid = {"candidate_uid": f"green-{min(number // 8, 3)}"}
        slow = number % 5 == 0
        beyond = pair(number, ratio=1.0001 * waited.stop_ratio) if slow else one
        waited.hear(beyond.model_copy(update=uid))
        stopped.hear((pair(number, new="stopped") if slow else one).model_copy(update=uid))
        assert evidence(waited) == evidence(stopped)


def evidence(test):
    """Every e-value that a test told, instances included."""
    return {key: value for key, value in test.result().figures.items() if "e_" in key or key.startswith("pod ")}


def test_stopping_an_instance_that_was_never_asked_changes_no_bit(policy, history, fleet, pair):
    # Where tail and slow rate look no further than the median does, the median's reach is the stop ratio.
    near = policy.latency.model_copy(update={"tail_quantile": 0.5, "tail_ratio_max": 1.15, "slow_factor": 1.2})
    question = Question(must_prove=True, looks=1, pods=FOUR)
    waited, stopped = (LatencyTest(policy=near, aa_ratio=history.ratio, question=question) for _ in range(2))
    for one in fleet(60):
        steady = one.model_copy(update={"candidate_uid": "green-0", "candidate": one.incumbent})
        waited.hear(steady)
        stopped.hear(steady)
    new = {"candidate_uid": "green-1"}
    waited.hear(pair(ratio=1.0001 * waited.stop_ratio).model_copy(update=new))
    stopped.hear(pair(new="stopped").model_copy(update=new))
    for one in fleet(1):
        waited.hear(one.model_copy(update=new))
        stopped.hear(one.model_copy(update=new))
    assert evidence(waited) == evidence(stopped)
