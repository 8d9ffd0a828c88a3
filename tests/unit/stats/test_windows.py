"""The window test: its error rates by simulation, how many windows it takes, and what it refuses."""

import math

import numpy as np
import pytest

from rollout.errors import ConfigError, EvidenceError, InvariantError
from rollout.model.verdict import Outcome
from rollout.stats.paired import Estimate, Unmeasured
from rollout.stats.windows import WindowTest

ALPHA, BETA = 0.01, 0.05
BUDGET = 60
"""Windows: far more than a policy allows, so that an error rate that creeps up with looking would show."""


def simulate(*, true_ratio, cv, runs=1500, budget=BUDGET, ratio_max=1.25, alpha=ALPHA, beta=BETA):
    """Return outcomes and windows used of many runs of one true ratio with log-normal noise."""
    rng = np.random.default_rng(11)
    outcomes, used = [], []
    for _ in range(runs):
        test = WindowTest(ratio_max=ratio_max, alpha=alpha, beta=beta)
        for noise in rng.standard_normal(budget):
            if test.update(true_ratio * math.exp(cv * noise)) is not Outcome.INCONCLUSIVE:
                break
        outcomes.append(test.outcome)
        used.append(test.judgement().windows_used)
    return outcomes, np.array(used)


def allowed(rate, runs):
    """Return the largest count that a promise of this rate leaves plausible: 4 standard deviations above it."""
    return rate * runs + 4 * math.sqrt(rate * runs)


@pytest.mark.parametrize("cv", [0.05, 0.2])
def test_green_exactly_at_the_margin_is_passed_and_convicted_as_rarely_as_promised(cv):
    outcomes, _ = simulate(true_ratio=1.25, cv=cv)
    assert outcomes.count(Outcome.PASS) <= allowed(BETA, len(outcomes))
    assert outcomes.count(Outcome.BREACH) <= allowed(ALPHA, len(outcomes))


def test_equal_colours_are_never_convicted_and_pass_within_the_windows_of_the_local_policy():
    outcomes, used = simulate(true_ratio=1.0, cv=0.08, budget=12, alpha=ALPHA / 4)
    assert outcomes.count(Outcome.BREACH) == 0
    assert outcomes.count(Outcome.PASS) >= 0.99 * len(outcomes)
    assert np.median(used) <= 8


def test_a_third_less_throughput_is_convicted_within_the_windows_of_the_local_policy():
    outcomes, used = simulate(true_ratio=1.5, cv=0.05, budget=12, alpha=ALPHA / 4, runs=300)
    assert outcomes.count(Outcome.BREACH) >= 0.95 * len(outcomes)
    assert used.max() <= 12


def test_the_interval_holds_the_truth_at_the_window_at_which_one_stops():
    rng = np.random.default_rng(5)
    below = above = 0
    runs = 200
    for _ in range(runs):
        test = WindowTest(ratio_max=1.25, alpha=0.05, beta=0.05)
        for noise in rng.standard_normal(20):
            if test.update(1.1 * math.exp(0.1 * noise)) is not Outcome.INCONCLUSIVE:
                break
        bounds = test.judgement().ratio.bounds
        below += bounds.upper < 1.1
        above += bounds.lower > 1.1
    assert below <= allowed(0.05, runs)
    assert above <= allowed(0.05, runs)


def test_green_that_answers_nothing_is_convicted_and_no_upper_end_is_claimed():
    test = WindowTest(ratio_max=1.25, alpha=ALPHA, beta=BETA)
    while test.outcome is Outcome.INCONCLUSIVE:
        test.update(math.inf)
    judgement = test.judgement()
    assert judgement.outcome is Outcome.BREACH
    assert judgement.windows_used <= 9
    assert isinstance(judgement.ratio, Estimate)
    assert judgement.ratio.bounds.upper == math.inf
    assert judgement.ratio.bounds.lower > 1.25


def test_infinite_and_zero_ratios_in_turn_leave_it_undecided():
    test = WindowTest(ratio_max=1.25, alpha=ALPHA, beta=BETA)
    for ratio in (math.inf, 0.0) * 10:
        assert test.update(ratio) is Outcome.INCONCLUSIVE


def test_blue_that_answers_nothing_is_evidence_for_green():
    test = WindowTest(ratio_max=1.25, alpha=ALPHA, beta=BETA)
    while test.outcome is Outcome.INCONCLUSIVE:
        test.update(0.0)
    assert test.outcome is Outcome.PASS


def test_before_the_first_window_nothing_is_claimed():
    judgement = WindowTest(ratio_max=1.25, alpha=ALPHA, beta=BETA).judgement()
    assert judgement.outcome is Outcome.INCONCLUSIVE
    assert isinstance(judgement.ratio, Unmeasured)


@pytest.mark.parametrize("ratio", [math.nan, -0.1, -math.inf])
def test_a_ratio_that_cannot_be_is_refused(ratio):
    with pytest.raises(EvidenceError, match="0 or more"):
        WindowTest(ratio_max=1.25, alpha=ALPHA, beta=BETA).update(ratio)


def test_a_decided_test_takes_no_more_windows():
    test = WindowTest(ratio_max=1.25, alpha=ALPHA, beta=BETA)
    while test.update(1.0) is Outcome.INCONCLUSIVE:
        pass
    with pytest.raises(InvariantError, match="has decided PASS"):
        test.update(1.0)


@pytest.mark.parametrize(
    ("ratio_max", "alpha", "beta"), [(1.0, 0.01, 0.01), (math.inf, 0.01, 0.01), (1.2, 0.0, 0.01), (1.2, 0.01, 1.0)]
)
def test_margins_and_error_rates_out_of_range_are_refused(ratio_max, alpha, beta):
    with pytest.raises(ConfigError):
        WindowTest(ratio_max=ratio_max, alpha=alpha, beta=beta)
