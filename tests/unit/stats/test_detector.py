"""The drift detector: its promise between false alarms, its delay, and its state."""

import dataclasses
import json
import math

import numpy as np
import pytest

from rollout.errors import ConfigError, EvidenceError
from rollout.stats.detector import DetectorState, DriftDetector, WatchState, relative
from rollout.stats.margins import STANDARD

PROMISE = 200.0
RUNS = 150
CAP = 1200
"""A run is followed for six times the promise; what lasts longer counts as that, so the mean is an underestimate."""


def noise(luck, count):
    """CV 8%, and one request in a hundred takes three times as long."""
    usual = np.exp(luck.normal(0.0, 0.08, count))
    return np.where(luck.random(count) < 0.01, 3.0 * usual, usual)


def detector(baseline, *, promise=PROMISE, state=None):
    return DriftDetector(
        baseline=baseline, margins=STANDARD, failure_rate_max=0.01, false_alarm_requests=promise, state=state
    )


def run_length(luck, ratio, *, promise=PROMISE, history=100, cap=CAP):
    found = detector(noise(luck, history), promise=promise)
    for number, value in enumerate(noise(luck, cap) * ratio, start=1):
        found.hear(float(value))
        if found.alarm:
            return number
    return cap


@pytest.mark.parametrize("ratio", [1.0, 1.05])
def test_mean_time_between_false_alarms_keeps_the_promise_also_at_the_margin(ratio):
    luck = np.random.default_rng(20)
    lengths = [run_length(luck, ratio) for _ in range(RUNS)]
    assert np.mean(lengths) >= PROMISE


@pytest.mark.parametrize(("ratio", "most"), [(1.3, 25), (2.0, 20), (math.inf, 5)])
def test_drift_is_found_within_a_few_requests_at_a_promise_of_ten_thousand(ratio, most):
    luck = np.random.default_rng(21)
    lengths = [run_length(luck, ratio, promise=10_000.0) for _ in range(40)]
    assert np.median(lengths) <= most


def test_drift_after_a_long_quiet_time_is_found_as_quickly():
    luck = np.random.default_rng(22)
    found = detector(noise(luck, 100), promise=1e6)
    for value in noise(luck, 3000):
        found.hear(float(value))
    assert not found.alarm
    before = found.requests
    for value in noise(luck, 60) * 1.3:
        found.hear(float(value))
        if found.alarm:
            break
    assert found.alarm
    assert found.requests - before <= 40


def test_failures_alone_raise_an_alarm_of_their_own():
    luck = np.random.default_rng(23)
    found = detector(noise(luck, 100), promise=10_000.0)
    for number in range(400):
        found.hear(math.inf if number % 8 == 0 else 1.0)
        if found.alarm:
            break
    assert found.alarm == "failures"


def test_tail_that_grew_alone_is_found():
    luck = np.random.default_rng(24)
    found = detector(noise(luck, 300), promise=10_000.0)
    for number, value in enumerate(np.exp(luck.normal(0.0, 0.08, 500))):
        found.hear(float(value) * (1.6 if number % 3 == 0 else 0.95))
        if found.alarm:
            break
    assert found.alarm == "tail"


def test_detector_resumed_from_its_state_goes_on_bit_for_bit():
    luck = np.random.default_rng(25)
    baseline = noise(luck, 50)
    whole, cut = detector(baseline), detector(baseline)
    for value in noise(luck, 200) * 1.02:
        whole.hear(float(value))
        cut.hear(float(value))
        stored = json.loads(json.dumps(dataclasses.asdict(cut.state)))
        watches = tuple(WatchState(**one | {"evidence": tuple(one["evidence"])}) for one in stored["watches"])
        cut = detector(baseline, state=DetectorState(requests=stored["requests"], watches=watches))
    assert cut.state == whole.state


def test_evidence_stays_finite_however_long_a_drift_is_ignored():
    found = detector(np.full(40, 1.0))
    for _ in range(3000):
        found.hear(math.inf)
    assert math.isfinite(found.total)


def test_value_is_compared_without_itself_as_a_later_request_will_be():
    assert sorted(relative({"a": [1.0, 2.0, 4.0], "b": [5.0]})) == pytest.approx(sorted([1 / 3, 2 / 2.5, 4 / 1.5]))


def test_shortest_baseline_shows_a_drift_of_every_request_within_fifty():
    found = detector(noise(np.random.default_rng(26), 20), promise=100_000.0)
    while not found.alarm and found.requests < 50:
        found.hear(3.5)
    assert found.alarm


def test_short_baseline_is_refused_with_the_number_that_is_missing():
    with pytest.raises(EvidenceError, match=r"holds 19 latencies.*20 are needed"):
        detector(np.ones(19))


@pytest.mark.parametrize("bad", [math.nan, -1.0, 0.0])
def test_latency_that_is_none_is_refused(bad):
    with pytest.raises(EvidenceError):
        detector(np.array([bad] + [1.0] * 30))
    with pytest.raises(EvidenceError):
        detector(np.ones(30)).hear(bad)


@pytest.mark.parametrize("promise", [1.0, math.inf, math.nan])
def test_promise_that_means_nothing_is_refused(promise):
    with pytest.raises(ConfigError):
        detector(np.ones(30), promise=promise)


def test_state_of_another_shape_is_refused():
    found = detector(np.ones(30))
    fewer = dataclasses.replace(found.state, watches=found.state.watches[:2])
    more = dataclasses.replace(found.state.watches[0], exceeded=3)
    for state in (fewer, dataclasses.replace(found.state, watches=(more, *found.state.watches[1:]))):
        with pytest.raises(EvidenceError, match="not one of this detector"):
            detector(np.ones(30), state=state)
