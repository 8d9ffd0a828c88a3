"""Error rates."""

import numpy as np
import pytest

from rollout.errors import ConfigError, EvidenceError, InvariantError
from rollout.model.verdict import Outcome
from rollout.stats.rates import RateTest, rate_bounds


def run_until_decided(rate, *, rate_max, trials, seed):
    rng = np.random.default_rng((3, seed))
    test = RateTest(rate_max=rate_max)
    for failed in rng.random(trials) < rate:
        if test.update(failures=int(failed), trials=1).outcome is not Outcome.INCONCLUSIVE:
            break
    return test.judgement()


def test_rate_at_the_margin_breaches_and_passes_at_most_as_often_as_promised():
    outcomes = [run_until_decided(0.02, rate_max=0.02, trials=500, seed=seed).outcome for seed in range(400)]
    assert outcomes.count(Outcome.BREACH) <= 10
    assert outcomes.count(Outcome.PASS) <= 10


def test_rate_far_above_the_margin_breaches_soon():
    trials = [run_until_decided(0.5, rate_max=0.02, trials=500, seed=seed).trials for seed in range(100)]
    assert max(trials) <= 30


def test_no_failure_at_all_passes_only_after_enough_trials():
    test = RateTest(rate_max=0.05)
    assert test.update(failures=0, trials=60).outcome is Outcome.INCONCLUSIVE
    assert test.update(failures=0, trials=60).outcome is Outcome.PASS
    with pytest.raises(InvariantError):
        test.update(failures=0, trials=1)


def test_no_trials_are_inconclusive():
    assert RateTest(rate_max=0.05).update(failures=0, trials=0).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(("failures", "trials"), [(-1, 3), (4, 3)])
def test_counts_that_cannot_be_are_refused(failures, trials):
    with pytest.raises(EvidenceError):
        RateTest(rate_max=0.05).update(failures=failures, trials=trials)
    with pytest.raises(EvidenceError):
        rate_bounds(failures=failures, trials=trials, alpha=0.05)


@pytest.mark.parametrize("rate_max", [0.0, 1.0, float("nan")])
def test_margin_outside_the_unit_interval_is_refused(rate_max):
    with pytest.raises(ConfigError):
        RateTest(rate_max=rate_max)


def test_bounds_are_those_of_clopper_and_pearson():
    bounds = rate_bounds(failures=5, trials=50, alpha=0.05)
    assert bounds.lower == pytest.approx(0.033275, abs=1e-6)
    assert bounds.upper == pytest.approx(0.218135, abs=1e-6)
    assert rate_bounds(failures=0, trials=300, alpha=0.1).upper == pytest.approx(1 - 0.05 ** (1 / 300))
    nothing = rate_bounds(failures=0, trials=0, alpha=0.05)
    assert (nothing.lower, nothing.upper) == (0.0, 1.0)
