"""Load curves of servers whose law is known."""

import math

import pytest

from rollout.errors import EvidenceError
from rollout.stats.load_curve import LoadPoint, Tail, load_curve


def served(throughput, *, concurrencies=(1, 2, 4, 8, 16), spread=1.2, failed_share=0.0):
    """Return points of a fair server with this throughput, whose latency follows from Little's law."""
    points = []
    for one in concurrencies:
        p50_s = one / throughput(one)
        points.append(
            LoadPoint(
                concurrency=one,
                per_s=throughput(one),
                p50_s=p50_s,
                p99_s=spread * p50_s,
                failed_share=failed_share,
            )
        )
    return points


def test_a_server_without_contention_doubles_with_the_load_and_is_not_full():
    curve = load_curve(served(lambda n: 10.0 * n))
    assert curve.slope == pytest.approx(1.0)
    assert (curve.knee, curve.tail) == (16, Tail.RISING)


def test_a_single_worker_is_full_at_once_and_lets_all_wait_alike():
    curve = load_curve(served(lambda _: 10.0))
    assert curve.slope == pytest.approx(0.0)
    assert (curve.knee, curve.tail) == (1, Tail.GRACEFUL)


def test_four_workers_have_their_knee_at_four():
    curve = load_curve(served(lambda n: 10.0 * min(n, 4)))
    assert (curve.knee, curve.tail) == (4, Tail.GRACEFUL)


def test_coherency_cost_is_retrograde():
    # The universal scalability law with alpha = 0.05 and beta = 0.02 peaks at N = 7.
    curve = load_curve(served(lambda n: 10.0 * n / (1 + 0.05 * (n - 1) + 0.02 * n * (n - 1))))
    assert (curve.knee, curve.tail) == (8, Tail.RETROGRADE)


@pytest.mark.parametrize("fault", [{"spread": 4.0}, {"spread": math.inf}, {"failed_share": 0.05}])
def test_waiting_unlike_others_or_failing_is_chaotic(fault):
    assert load_curve(served(lambda n: 10.0 * min(n, 4), **fault)).tail is Tail.CHAOTIC


def test_a_level_without_any_answer_does_not_hide_the_others():
    points = served(lambda n: 10.0 * min(n, 4))
    dead = LoadPoint(concurrency=32, per_s=0.0, p50_s=math.inf, p99_s=math.inf, failed_share=1.0)
    curve = load_curve([*points, dead])
    assert (curve.knee, curve.tail) == (4, Tail.CHAOTIC)


def test_a_single_level_has_no_slope():
    assert load_curve(served(lambda n: n, concurrencies=(8,))).slope == 0.0


@pytest.mark.parametrize("concurrencies", [(), (2, 1), (2, 2)])
def test_levels_that_do_not_rise_are_refused(concurrencies):
    with pytest.raises(EvidenceError, match="rising"):
        load_curve(served(lambda _: 10.0, concurrencies=concurrencies))


def test_nothing_answered_anywhere_is_no_curve():
    dead = LoadPoint(concurrency=1, per_s=0.0, p50_s=math.inf, p99_s=math.inf, failed_share=1.0)
    with pytest.raises(EvidenceError, match="no request was answered"):
        load_curve([dead])
