"""Schedules of arrivals: their rate, their spread, and what they refuse."""

import math

import numpy as np
import pytest

from rollout.errors import ConfigError
from rollout.stats.arrivals import bursts, poisson

RATE_PER_S, SECONDS, RUNS = 20.0, 10.0, 2000


def counts(draw, seed=3):
    rng = np.random.default_rng(seed)
    return np.array([len(draw(RATE_PER_S, SECONDS, rng)) for _ in range(RUNS)])


@pytest.mark.parametrize(("draw", "dispersion"), [(poisson, 1.0), (bursts, 7.0)])
def test_the_mean_rate_is_kept_and_the_spread_is_the_stated_one(draw, dispersion):
    seen = counts(draw)
    mean = RATE_PER_S * SECONDS
    assert seen.mean() == pytest.approx(mean, abs=5 * math.sqrt(dispersion * mean / RUNS))
    assert seen.var() / seen.mean() == pytest.approx(dispersion, rel=0.2)


@pytest.mark.parametrize("draw", [poisson, bursts])
def test_arrivals_are_in_order_inside_the_schedule_and_fixed_by_the_seed(draw):
    due_s = draw(RATE_PER_S, SECONDS, np.random.default_rng(1))
    assert (np.diff(due_s) >= 0.0).all()
    assert due_s.min() >= 0.0
    assert due_s.max() < SECONDS
    assert np.array_equal(due_s, draw(RATE_PER_S, SECONDS, np.random.default_rng(1)))


def test_poisson_gaps_are_exponential():
    gaps = np.diff(poisson(1000.0, 20.0, np.random.default_rng(2)))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps.std() == pytest.approx(1e-3, rel=0.05)


def test_requests_of_a_burst_come_at_once():
    due_s = bursts(RATE_PER_S, 1000.0, np.random.default_rng(4))
    _, sizes = np.unique(due_s, return_counts=True)
    assert sizes.mean() == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("draw", [poisson, bursts])
@pytest.mark.parametrize(
    ("rate_per_s", "seconds"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, math.nan)]
)
def test_a_rate_or_a_length_that_is_none_is_refused(draw, rate_per_s, seconds):
    with pytest.raises(ConfigError, match="must be above 0"):
        draw(rate_per_s, seconds, np.random.default_rng(1))
