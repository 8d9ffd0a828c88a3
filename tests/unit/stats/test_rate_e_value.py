"""Evidence on a failure rate from counts alone."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import ConfigError, EvidenceError
from rollout.stats.betting import EventBets
from rollout.stats.processes import SLOW_ROLLBACK_WEIGHTS, alternatives
from rollout.stats.rates import rate_e_value


@given(failures=st.integers(0, 40), sound=st.integers(0, 200), rate_max=st.floats(0.005, 0.9))
def test_it_is_the_evidence_of_bets_on_one_trial_after_the_other(failures, sound, rate_max):
    bets = EventBets(rates=alternatives(rate_max)[0], weights=SLOW_ROLLBACK_WEIGHTS)
    for happened in [True] * failures + [False] * sound:
        bets.bet(happened=happened, null_rate=rate_max)
    expected = bets.total
    found = rate_e_value(failures=failures, trials=failures + sound, rate_max=rate_max)
    # Bets stop at 1e200, far above any threshold.
    assert found == pytest.approx(expected, rel=1e-9) or min(found, expected) >= 1e150


def test_no_trials_are_no_evidence():
    assert rate_e_value(failures=0, trials=0, rate_max=0.02) == pytest.approx(1.0)


@pytest.mark.parametrize("rate_max", [0.01, 0.05, 0.3])
def test_its_mean_under_the_margin_is_one(rate_max):
    trials = 60
    chances = [
        math.comb(trials, count) * rate_max**count * (1 - rate_max) ** (trials - count) for count in range(trials + 1)
    ]
    values = [rate_e_value(failures=count, trials=trials, rate_max=rate_max) for count in range(trials + 1)]
    assert math.fsum(chance * value for chance, value in zip(chances, values, strict=True)) == pytest.approx(1.0)


def test_rate_at_the_margin_is_convicted_at_most_as_often_as_promised():
    rng = np.random.default_rng(5)
    ever = 0
    for _ in range(400):
        failures = np.cumsum(rng.random(400) < 0.02)
        ever += any(rate_e_value(failures=int(n), trials=t + 1, rate_max=0.02) >= 100.0 for t, n in enumerate(failures))
    assert ever <= 10


def test_more_failures_are_more_evidence_and_more_good_answers_are_less():
    by_failures = [rate_e_value(failures=count, trials=100, rate_max=0.05) for count in range(5, 101)]
    assert by_failures == sorted(by_failures)
    by_trials = [rate_e_value(failures=3, trials=count, rate_max=0.05) for count in range(3, 100)]
    assert by_trials == sorted(by_trials, reverse=True)


def test_no_failure_is_never_evidence():
    assert all(rate_e_value(failures=0, trials=count, rate_max=0.02) <= 1.0 for count in (1, 10, 1000, 10**9))


def test_a_billion_requests_cost_no_more_than_ten():
    started = time.perf_counter()
    assert rate_e_value(failures=10**9, trials=10**9, rate_max=0.01) == math.inf
    assert rate_e_value(failures=10**7, trials=10**9, rate_max=0.01) < 1.0
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(("failures", "trials"), [(-1, 3), (4, 3), (0, -1)])
def test_counts_that_cannot_be_are_refused(failures, trials):
    with pytest.raises(EvidenceError):
        rate_e_value(failures=failures, trials=trials, rate_max=0.05)


@pytest.mark.parametrize("rate_max", [0.0, 1.0, float("nan")])
def test_margin_outside_the_unit_interval_is_refused(rate_max):
    with pytest.raises(ConfigError):
        rate_e_value(failures=0, trials=1, rate_max=rate_max)
