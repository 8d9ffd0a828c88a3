"""Prices from throughput."""

import math

import numpy as np
import pytest

from rollout.errors import ConfigError, EvidenceError
from rollout.stats.cost import costing


def priced(pictures_per_s, *, requests_per_s=None, gpus=2.0, gpu_hour=3.6, alpha=0.05):
    pictures = np.array(pictures_per_s, dtype=np.float64)
    requests = pictures if requests_per_s is None else np.array(requests_per_s, dtype=np.float64)
    return costing(requests_per_s=requests, pictures_per_s=pictures, gpus=gpus, gpu_hour=gpu_hour, alpha=alpha)


def test_a_thousand_pictures_cost_the_gpu_time_they_take():
    # Two GPUs at 3.6 an hour are 0.002 a second; at 10 pictures a second 1000 take 100 s.
    made = priced([10.0] * 8, requests_per_s=[5.0] * 8)
    assert made.cost_per_1000 == pytest.approx(0.2)
    assert made.requests_per_gpu_hour == pytest.approx(9000.0)


def test_the_interval_holds_the_median_as_often_as_promised():
    rng = np.random.default_rng(8)
    truth = 1000 * 2.0 * 3.6 / 3600.0 / 10.0
    inside = 0
    for _ in range(1000):
        made = priced(10.0 * np.exp(0.1 * rng.standard_normal(9)))
        inside += made.cost_bounds.lower <= truth <= made.cost_bounds.upper
    assert inside >= 950 - 4 * math.sqrt(50)


def test_five_windows_are_too_few_for_an_interval_and_six_suffice():
    five, six = priced([10.0] * 5), priced([10.0] * 6)
    assert (five.cost_bounds.lower, five.cost_bounds.upper) == (0.0, math.inf)
    assert six.cost_bounds.upper == pytest.approx(0.2)


def test_windows_that_delivered_nothing_make_pictures_infinitely_dear():
    made = priced([0.0] * 6 + [10.0])
    assert made.cost_per_1000 == math.inf
    assert made.requests_per_gpu_hour == 0.0


@pytest.mark.parametrize("rates", [[], [math.nan], [math.inf], [-1.0]])
def test_a_throughput_that_cannot_be_is_refused(rates):
    with pytest.raises(EvidenceError, match="finite number"):
        priced(rates)


@pytest.mark.parametrize("wrong", [{"gpus": 0.0}, {"gpu_hour": 0.0}, {"gpu_hour": math.nan}, {"alpha": 0.0}])
def test_a_price_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError):
        priced([10.0] * 6, **wrong)
