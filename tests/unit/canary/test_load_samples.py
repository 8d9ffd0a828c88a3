"""Windows made by hand: what throughput and latency mean."""

import json
import math

import pytest

from rollout.canary.load_samples import LoadSample, window_of
from rollout.model.canonical import canonical_bytes, digest_bytes
from rollout.model.load import Level, LevelKind
from rollout.model.policy import ArrivalPattern

CLOSED = Level(name="concurrency-8", kind=LevelKind.CONCURRENCY, concurrency=8, batch=0, pattern=None)
OPEN = Level(name="arrivals-poisson", kind=LevelKind.ARRIVALS, concurrency=0, batch=0, pattern=ArrivalPattern.POISSON)


def sample(sent_s, done_s, *, due_s=None, pictures=1, detail=""):
    return LoadSample(
        due_s=sent_s if due_s is None else due_s,
        sent_s=sent_s,
        done_s=done_s,
        pictures=0 if detail else pictures,
        pod_uid="pod-0",
        detail=detail,
    )


def made(samples, *, level=CLOSED, ended_s=2.0, rate_per_s=0.0):
    return window_of(samples, level=level, rate_per_s=rate_per_s, ended_s=ended_s, seed="seed")


def serial(service_s, *, ended_s=2.0, concurrency=8):
    """A server that draws one picture at a time, behind a fair queue that is kept full until the end."""
    sent, samples, now = [0.0] * concurrency, [], 0.0
    while sent:
        now += service_s
        begun = sent.pop(0)
        samples.append(sample(begun, now))
        if now < ended_s:
            sent.append(now)
    return samples


def parallel(service_s, *, ended_s=2.0, concurrency=8):
    """A server that answers everybody after the same time."""
    rounds = math.ceil(ended_s / service_s - 1e-9)
    return [sample(turn * service_s, (turn + 1) * service_s) for turn in range(rounds) for _ in range(concurrency)]


@pytest.mark.parametrize("service_s", [0.1, 0.13, 0.37, 1.7, 5.0])
def test_throughput_is_exact_whatever_fraction_of_a_picture_the_window_ends_in(service_s):
    assert made(serial(service_s))[0].pictures_per_s == pytest.approx(1 / service_s)
    assert made(parallel(service_s))[0].pictures_per_s == pytest.approx(8 / service_s)


def test_one_long_last_request_costs_its_picture_and_does_not_stretch_the_window():
    plain = made(serial(0.1))[0]
    stuck = made([*serial(0.1), sample(1.9, 15.0)])[0]
    assert stuck.pictures_per_s == plain.pictures_per_s
    assert stuck.completed == plain.completed + 1
    assert stuck.p99_s > plain.p99_s


def test_a_server_that_stops_in_the_window_has_the_stop_in_its_throughput():
    before = [one for one in serial(0.1) if one.done_s <= 1.0]
    stopped = [sample(1.0, 9.0) for _ in range(8)]
    assert made([*before, *stopped])[0].pictures_per_s == pytest.approx(10 / 2.0)


def test_failures_count_as_offered_and_as_infinite_latency():
    window, _ = made([*(sample(0.0, 0.1) for _ in range(9)), sample(0.0, 0.001, detail="status 429")])
    assert (window.offered, window.completed, window.failed, window.pictures) == (10, 9, 1, 9)
    assert window.p50_s == pytest.approx(0.1)
    assert window.p95_s is None
    assert window.p99_s is None
    assert window.detail == "status 429"


def test_arrivals_count_from_when_they_were_due_and_closed_loops_from_when_they_were_sent():
    late = [sample(0.5, 0.6, due_s=0.1)]
    assert made(late, level=OPEN)[0].p50_s == pytest.approx(0.5)
    assert made(late)[0].p50_s == pytest.approx(0.1)


def test_a_window_in_which_nothing_was_due_has_no_latency():
    window, stored = made([], level=OPEN)
    assert (window.offered, window.pictures, window.p50_s, window.seconds) == (0, 0, None, 2.0)
    assert json.loads(stored)["due_s"] == []


def test_the_window_cites_the_bytes_of_its_samples_which_hold_every_request():
    window, stored = made([sample(0.2, 0.4), sample(0.0, 0.3, detail="no")])
    assert window.samples == digest_bytes(stored)
    held = json.loads(stored)
    assert canonical_bytes(held) == stored
    assert held["sent_s"] == [0.0, 0.2]
    assert held["failures"] == {"0": "no"}
    assert held["pictures"] == [0, 1]


def test_the_order_in_which_answers_came_changes_nothing():
    samples = serial(0.13)
    assert made(samples) == made(samples[::-1])
