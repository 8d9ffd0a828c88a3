"""Quantiles, order-statistic bounds and drift."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import ConfigError, EvidenceError
from rollout.stats.quantiles import drift_bounds, quantile_bounds, rank_of, sample_quantile


@pytest.mark.parametrize(("q", "needed"), [(0.99, 459), (0.95, 90), (0.90, 44), (0.50, 7)])
def test_an_upper_bound_at_one_percent_exists_from_the_known_sample_sizes_on(q, needed):
    series = np.arange(1.0, needed + 1.0)
    assert quantile_bounds(series, q=q, alpha=0.02).upper == needed
    assert quantile_bounds(series[:-1], q=q, alpha=0.02).upper == math.inf


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_bounds_cover_the_quantile_as_often_as_promised(q):
    rng = np.random.default_rng(11)
    truth = -math.log(1.0 - q)
    bounds = [quantile_bounds(rng.exponential(size=60), q=q, alpha=0.1) for _ in range(1000)]
    assert np.mean([b.lower <= truth <= b.upper for b in bounds]) >= 0.9


def test_drift_covers_an_unchanged_quantile_as_often_as_promised_and_finds_a_change():
    rng = np.random.default_rng(12)
    same, slower = [], []
    for _ in range(500):
        base, today = np.exp(0.08 * rng.standard_normal((2, 100)))
        same.append(drift_bounds(baseline_s=base, today_s=today, q=0.5, alpha=0.05))
        slower.append(drift_bounds(baseline_s=base, today_s=1.2 * today, q=0.5, alpha=0.05))
    assert np.mean([b.lower <= 1.0 <= b.upper for b in same]) >= 0.95
    assert np.mean([b.lower > 1.0 for b in slower]) >= 0.99


def test_too_few_samples_leave_the_ratio_open_and_timeouts_show():
    few = np.ones(3)
    open_bounds = drift_bounds(baseline_s=few, today_s=few, q=0.95, alpha=0.05)
    assert (open_bounds.lower, open_bounds.upper) == (0.0, math.inf)
    dead = drift_bounds(baseline_s=np.ones(100), today_s=np.full(100, math.inf), q=0.5, alpha=0.05)
    assert dead.lower == math.inf
    blind = drift_bounds(baseline_s=np.full(100, math.inf), today_s=np.full(100, math.inf), q=0.5, alpha=0.05)
    assert (blind.lower, blind.upper) == (0.0, math.inf)


@given(
    st.lists(st.one_of(st.floats(1e-3, 1e3), st.just(math.inf)), min_size=1, max_size=50),
    st.floats(0.01, 0.99),
    st.integers(0, 49),
)
def test_quantile_lies_in_the_series_and_grows_when_a_value_grows(values, q, place):
    series = np.array(values)
    quantile = sample_quantile(series, q=q)
    assert series.min() <= quantile <= series.max()
    series[place % len(series)] = math.inf
    assert sample_quantile(series, q=q) >= quantile


def test_rank_is_not_moved_by_rounding():
    assert [rank_of(0.07, 100), rank_of(0.95, 301), rank_of(0.95, 300)] == [7, 286, 285]


@pytest.mark.parametrize("bad", [[], [math.nan], [0.0], [-1.0], [[1.0]], ["fast"]])
def test_series_that_hold_no_latency_are_refused(bad):
    with pytest.raises(EvidenceError):
        quantile_bounds(bad, q=0.5, alpha=0.05)


def test_quantiles_outside_the_unit_interval_are_refused():
    with pytest.raises(ConfigError):
        sample_quantile(np.ones(3), q=1.0)
    with pytest.raises(EvidenceError):
        sample_quantile(np.array([]), q=0.5)
