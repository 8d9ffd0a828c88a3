"""The forecast: what it says must be what rollouts on the same noise then take."""

import math

import numpy as np
import pytest

from rollout.errors import ConfigError, EvidenceError
from rollout.model.verdict import Outcome
from rollout.stats.forecast import PAIRS_AHEAD_MAX, RUNS_MIN, Question, calibration_of, noise_by_shape
from rollout.stats.margins import STANDARD
from rollout.stats.paired import GateName, PairedTest

QUESTION = Question(margins=STANDARD, alpha=0.01, beta=0.01, budget=400)
RUNS = 60


def _ratios(count, *, cv, starts, between, rng):
    located = np.repeat(rng.normal(0.0, between, starts), -(-count // starts))[:count]
    return np.exp(located + rng.normal(0.0, cv * math.sqrt(2.0), count))


def _rollouts(effect, *, cv, between, history, seed):
    """Pairs that rollouts of fresh candidates take; +inf for none."""
    rng = np.random.default_rng(seed)
    taken = []
    for _ in range(RUNS):
        test = PairedTest(aa_ratio=history, margins=STANDARD)
        for ratio in effect * _ratios(400, cv=cv, starts=1, between=between, rng=rng):
            if test.update(blue_s=1.0, green_s=float(ratio)) is not Outcome.INCONCLUSIVE:
                break
        taken.append(test.pairs_used if test.outcome is not Outcome.INCONCLUSIVE else math.inf)
    return np.array(taken)


@pytest.mark.parametrize(("cv", "between"), [(0.03, 0.0), (0.08, 0.0), (0.05, 0.01)])
def test_the_forecast_is_within_a_factor_of_one_and_a_half_of_what_rollouts_take(cv, between):
    rng = np.random.default_rng(11)
    history = _ratios(300, cv=cv, starts=4, between=between, rng=rng)
    told = calibration_of(history, starts=4, question=QUESTION).own
    for one in told.effects:
        took = float(np.median(_rollouts(one.effect, cv=cv, between=between, history=history, seed=12)))
        # Two pairs more or less are no factor where three decide.
        assert took / 1.5 - 2 <= one.pairs_median <= took * 1.5 + 2, one.effect


def test_quiet_noise_lets_the_budget_suffice_and_more_noise_takes_more_pairs():
    told = [
        calibration_of(
            _ratios(300, cv=cv, starts=1, between=0.0, rng=np.random.default_rng(3)), starts=1, question=QUESTION
        )
        for cv in (0.02, 0.08)
    ]
    assert told[0].own.suffices
    assert told[0].own.equal.pairs_median < told[1].own.equal.pairs_median
    assert told[0].own.equal.convicted <= 0.02


def test_a_margin_that_the_noise_can_never_decide_is_known_with_its_gate():
    history = _ratios(300, cv=0.15, starts=1, between=0.0, rng=np.random.default_rng(4))
    question = Question(margins=STANDARD, alpha=0.01, beta=0.01, budget=60)
    told = calibration_of(history, starts=1, question=question, p50_ratios_max=[1.02])
    hopeless = told.margins[1]
    assert hopeless.p50_ratio_max == 1.02
    assert hopeless.hopeless
    assert not hopeless.suffices
    assert hopeless.open_gate in set(GateName)
    assert math.isinf(hopeless.equal.pairs_median)


def test_starts_that_differ_cost_promotions_that_no_number_of_pairs_brings_back():
    rng = np.random.default_rng(5)
    located = np.repeat(np.log([1.0, 1.06, 0.94, 1.06]), 75)
    history = np.exp(located + rng.normal(0.0, 0.02, 300))
    apart = calibration_of(history, starts=4, question=QUESTION).own
    mixed = calibration_of(rng.permutation(history), starts=4, question=QUESTION).own
    assert apart.equal.promoted < 0.7 < mixed.equal.promoted


def test_autocorrelated_histories_are_judged_in_blocks():
    rng = np.random.default_rng(6)
    log = np.zeros(400)
    for place in range(1, 400):
        log[place] = 0.7 * log[place - 1] + rng.normal(0.0, 0.02)
    told = calibration_of(np.exp(log), starts=1, question=QUESTION)
    assert told.block_pairs > 1
    assert told.noise.autocorrelation_lag1 > 0.5


def test_the_same_history_gives_the_same_forecast():
    history = _ratios(120, cv=0.05, starts=2, between=0.0, rng=np.random.default_rng(8))
    assert calibration_of(history, starts=2, question=QUESTION) == calibration_of(history, starts=2, question=QUESTION)


def test_work_is_bounded_however_large_the_budget():
    history = _ratios(120, cv=0.3, starts=1, between=0.0, rng=np.random.default_rng(9))
    question = Question(margins=STANDARD, alpha=0.01, beta=0.01, budget=100_000)
    told = calibration_of(history, starts=1, question=question, effects=(1.0,)).own.equal
    assert told.runs >= RUNS_MIN
    assert told.pairs_median in {math.inf, *range(PAIRS_AHEAD_MAX + 1)}


def test_timeouts_in_the_history_are_drawn_as_timeouts():
    history = _ratios(300, cv=0.03, starts=1, between=0.0, rng=np.random.default_rng(10))
    history[50], history[200] = math.inf, 0.0
    assert calibration_of(history, starts=1, question=QUESTION).own.equal.promoted > 0.5


def test_a_history_that_is_too_short_says_how_many_pairs_are_missing():
    with pytest.raises(EvidenceError, match="60 are missing"):
        calibration_of(np.ones(40), starts=1, question=QUESTION)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"starts": 0}, "starts is 0"),
        ({"starts": 400}, "starts is 400"),
        ({"starts": 1, "effects": (1.2,)}, "first must be 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, says):
    with pytest.raises(ConfigError, match=says):
        calibration_of(np.ones(120), question=QUESTION, **arguments)


def test_noise_is_told_for_each_shape():
    ratio = np.exp(np.concatenate([np.random.default_rng(1).normal(0, s, 100) for s in (0.01, 0.1)]))
    seconds = {"small": np.array([0.1, 0.2, 0.3]), "large": np.array([1.0]), "unseen": np.array([2.0])}
    small, large, unseen = sorted(
        noise_by_shape(ratio, shape_of_pair=["small"] * 100 + ["large"] * 100, blue_s=seconds, slow_factor=2.0),
        key=lambda one: one.blue_s,
    )
    assert (small.shape, small.blue_s) == ("small", 0.2)
    assert small.noise.pairs == large.noise.pairs == 100
    assert 5 < large.noise.sigma_log / small.noise.sigma_log < 20
    assert unseen.noise is None
    assert noise_by_shape(ratio, shape_of_pair=[], blue_s={"a": np.array([1.0])}, slow_factor=2.0)[0].noise is None


def test_names_of_shapes_must_be_as_many_as_ratios():
    with pytest.raises(EvidenceError, match="200 pairs and names the shapes of 3"):
        noise_by_shape(np.ones(200), shape_of_pair=["a"] * 3, blue_s={}, slow_factor=2.0)
