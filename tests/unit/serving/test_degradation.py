"""The pace of a server: what counts as slower than admitted, and what does not."""

import math
from itertools import cycle, islice

import numpy as np
import pytest

from rollout.errors import InvariantError
from rollout.model.snapshot import ok
from rollout.serving.degradation import SHAPES_MAX, WINDOW, Pace, Shape, admitted_pace, shape_of
from rollout.serving.snapshot import DEVICE_TIME_FIELD
from rollout.serving.subject import SELF_TEST_REQUEST

ADMITTED = shape_of(SELF_TEST_REQUEST)
SMALL = Shape(width=64, height=64, steps=2, count=1)
LARGE = Shape(width=256, height=256, steps=30, count=4)


@pytest.fixture
def pace():
    return Pace(degraded_ratio=3.0, admitted={ADMITTED: 0.02})


def drawn(pace, *requests):
    for shape, device_s in requests:
        pace.note(shape, device_s)
    return pace


def test_requests_at_the_admitted_pace_are_not_degraded(pace):
    assert not drawn(pace, *[(ADMITTED, 0.02)] * 2 * WINDOW).slow
    assert pace.ratio == 1.0


def test_nothing_is_said_before_the_window_is_full(pace):
    drawn(pace, *[(ADMITTED, 1.0)] * (WINDOW - 1))
    assert math.isnan(pace.ratio)
    assert not pace.slow
    assert drawn(pace, (ADMITTED, 1.0)).slow


def test_a_server_that_is_slow_from_its_first_request_is_degraded_by_what_the_self_test_took(pace):
    assert drawn(pace, *[(ADMITTED, 0.08)] * WINDOW).ratio == pytest.approx(4.0)
    assert pace.slow


def test_requests_that_are_fast_again_end_it(pace):
    drawn(pace, *[(ADMITTED, 0.08)] * WINDOW, *[(ADMITTED, 0.02)] * (WINDOW // 2 + 1))
    assert not pace.slow


def test_the_ratio_of_the_policy_itself_is_still_admitted(pace):
    assert not drawn(pace, *[(ADMITTED, 0.06)] * WINDOW).slow


def test_fewer_stalls_than_half_of_the_window_are_not_degraded(pace):
    mostly = [(ADMITTED, 0.02)] * (WINDOW // 2 + 1) + [(ADMITTED, 60.0)] * (WINDOW // 2 - 1)
    assert not drawn(pace, *mostly).slow


def test_shapes_that_cost_differently_for_each_pixel_are_not_degraded(pace):
    mixed = islice(cycle([(SMALL, 0.01), (LARGE, 9.0), (ADMITTED, 0.02)]), 6 * WINDOW)
    assert drawn(pace, *mixed).ratio == 1.0


def test_a_shape_that_slows_down_is_compared_with_its_own_best(pace):
    drawn(pace, (LARGE, 60.0), (LARGE, 9.0))  # Kernels are chosen in the first request of a shape.
    assert drawn(pace, *[(LARGE, 36.0)] * WINDOW).ratio == pytest.approx(4.0)


def test_the_first_request_of_a_shape_is_not_judged(pace):
    shapes = [(Shape(width=64, height=64, steps=steps, count=1), 1.0) for steps in range(1, 2 * WINDOW)]
    assert math.isnan(drawn(pace, *shapes).ratio)


def test_a_shape_beyond_the_bound_is_neither_kept_nor_judged(pace):
    many = [Shape(width=64, height=64, steps=steps, count=1) for steps in range(SHAPES_MAX)]
    drawn(pace, *[(one, 1.0) for one in many])
    late = many[-1]
    assert math.isnan(drawn(pace, *[(late, 100.0)] * 2 * WINDOW).ratio)
    assert drawn(pace, *[(many[0], 4.0)] * WINDOW).slow


def test_a_device_time_of_zero_is_no_division_by_it(pace):
    assert drawn(pace, (SMALL, 0.0), *[(SMALL, 0.0)] * WINDOW).ratio == 1.0


def test_noise_of_half_the_time_never_degrades_in_100_000_requests(pace):
    rng = np.random.default_rng(1)
    for noise in rng.lognormal(sigma=0.4, size=100_000):
        pace.note(ADMITTED, 0.02 * max(noise, 0.9))
        assert not pace.slow


def test_a_server_is_admitted_with_the_pace_of_its_self_test(snapshot):
    device_s = snapshot.measurements[DEVICE_TIME_FIELD].value
    pace = drawn(
        admitted_pace(snapshot, request=SELF_TEST_REQUEST, degraded_ratio=3.0), *[(ADMITTED, 4 * device_s)] * WINDOW
    )
    assert pace.ratio == pytest.approx(4.0)


def test_an_admission_without_the_measure_is_a_bug(snapshot):
    broken = snapshot.model_copy(update={"measurements": {DEVICE_TIME_FIELD: ok("fast", "a broken self-test")}})
    with pytest.raises(InvariantError, match=r"self_test\.device_s"):
        admitted_pace(broken, request=SELF_TEST_REQUEST, degraded_ratio=3.0)
