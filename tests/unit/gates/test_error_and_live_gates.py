"""The gates that count failures: canary requests, requests of the drift check, live requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.gates.errors import judge_errors, judge_requests
from rollout.gates.live import judge_live
from rollout.model.evidence import LiveWindow
from rollout.model.policy import ErrorGate, LiveGate
from rollout.model.verdict import Outcome

ALPHA = 0.01


def said(result):
    return result.outcome, result.reasons[0].code


@pytest.fixture
def judged(policy, pair):
    def judge(*statuses):
        pairs = [pair(number, old=old, new=new) for number, (old, new) in enumerate(statuses)]
        return judge_errors(policy.errors, pairs, alpha=ALPHA)

    return judge


GOOD, BAD, SHARED, OLD = ("ok", "ok"), ("ok", "error"), ("error", "error"), ("error", "ok")


def test_no_pair_is_inconclusive(judged):
    assert said(judged()) == (Outcome.INCONCLUSIVE, "errors_unmeasured")


def test_no_failure_passes(judged):
    assert said(judged(*[GOOD] * 20)) == (Outcome.PASS, "error_rate_within_margin")


def test_failures_within_the_margin_pass(judged):
    assert said(judged(*[GOOD] * 39, BAD)) == (Outcome.PASS, "error_rate_within_margin")


def test_one_failure_of_few_is_undecided(judged):
    assert said(judged(*[GOOD] * 5, BAD)) == (Outcome.INCONCLUSIVE, "error_rate_undecided")


@pytest.mark.parametrize("status", ["error", "timeout"])
def test_failures_above_the_margin_breach(judged, status):
    result = judged(*[GOOD] * 5, *[("ok", status)] * 5)
    assert said(result) == (Outcome.BREACH, "error_rate_over_margin")
    assert "the candidate said no" in result.reasons[0].text


def test_request_that_was_stopped_is_no_failure(judged):
    result = judged(*[("ok", "stopped")] * 30)
    assert said(result) == (Outcome.PASS, "error_rate_within_margin")
    assert result.figures["requests_failed"] == 0


def test_incumbent_that_fails_makes_a_pass_impossible(judged):
    assert said(judged(*[OLD] * 5)) == (Outcome.INCONCLUSIVE, "incumbent_fails")


def test_order_of_failures_does_not_matter(judged):
    assert judged(GOOD, GOOD, BAD, GOOD) == judged(BAD, GOOD, GOOD, GOOD)


def test_failing_requests_of_the_drift_check_are_judged_alike(policy, sample):
    def judge(good, bad):
        samples = [*[sample()] * good, *[sample(status="error", detail="500")] * bad]
        return said(judge_requests(policy.errors, samples, alpha=ALPHA))

    assert judge(0, 0) == (Outcome.INCONCLUSIVE, "errors_unmeasured")
    assert judge(60, 0) == (Outcome.PASS, "error_rate_within_margin")
    assert judge(10, 1) == (Outcome.INCONCLUSIVE, "error_rate_undecided")
    assert judge(36, 24) == (Outcome.BREACH, "error_rate_over_margin")


def live(policy, completed, failed, **changed):
    gate = policy.live.model_copy(update=changed)
    return said(judge_live(gate, LiveWindow(completed=completed, failed=failed)))


def test_live_requests_that_were_not_read_are_inconclusive(policy):
    assert said(judge_live(policy.live, None)) == (Outcome.INCONCLUSIVE, "live_unread")


@pytest.mark.parametrize("completed", [0, 1, 49])
def test_too_few_live_requests_are_inconclusive(policy, completed):
    assert live(policy, completed, 0) == (Outcome.INCONCLUSIVE, "live_requests_few")


def test_enough_good_live_requests_pass(policy):
    assert live(policy, 50, 0) == (Outcome.PASS, "live_within_margin")
    assert live(policy, 100, 2) == (Outcome.PASS, "live_within_margin")


def test_live_failures_above_the_margin_without_proof_are_inconclusive(policy):
    assert live(policy, 50, 2) == (Outcome.INCONCLUSIVE, "live_errors_undecided")


@pytest.mark.parametrize("completed", [20, 50, 1_000_000])
def test_proven_live_failures_breach_however_few_requests_there_were(policy, completed):
    assert live(policy, completed, completed // 2) == (Outcome.BREACH, "live_errors")


def test_no_live_traffic_passes_only_where_the_policy_demands_none(policy):
    assert live(policy, 0, 0, requests_min=0) == (Outcome.PASS, "live_within_margin")
    assert live(policy, 1, 1, requests_min=0)[0] is not Outcome.PASS


@given(
    completed=st.integers(0, 10_000),
    share=st.floats(0.0, 1.0),
    rate_max=st.floats(0.001, 0.49),
    requests_min=st.integers(0, 500),
)
def test_live_gate_never_passes_too_few_requests_or_a_share_above_the_margin(completed, share, rate_max, requests_min):
    failed = int(share * completed)
    outcome = judge_live(
        LiveGate(error_rate_max=rate_max, requests_min=requests_min), LiveWindow(completed=completed, failed=failed)
    ).outcome
    if outcome is Outcome.PASS:
        assert completed >= requests_min
        assert failed <= rate_max * completed
    if outcome is Outcome.BREACH:
        assert failed > rate_max * completed


@given(failures=st.integers(0, 50), good=st.integers(0, 50), rate_max=st.floats(0.001, 0.49))
def test_error_gate_never_passes_a_share_above_the_margin(pair, failures, good, rate_max):
    pairs = [*[pair(new="error")] * failures, *[pair()] * good]
    outcome = judge_errors(ErrorGate(rate_max=rate_max), pairs, alpha=ALPHA).outcome
    if outcome is Outcome.PASS:
        assert pairs
        assert failures <= rate_max * len(pairs)
    if outcome is Outcome.BREACH:
        assert failures > rate_max * len(pairs)
