"""What a window of load was: every request, and the figures that follow from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rollout.model.canonical import canonical_bytes, digest_bytes
from rollout.model.load import Level, LoadWindow
from rollout.stats.quantiles import sample_quantile

SAMPLES_SCHEMA = "rollout.load-samples/v1"

STRAGGLER_FACTOR = 2.0
"""Answers to requests that were still out when the window ended count for throughput when they come within this many
median latencies after it; in a fair queue all of them do."""

_DIGITS = 6
"""Microseconds: finer is noise of the event loop, and a hundred thousand samples are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSample:
    """One request of a window; times in seconds from the window's start.

    Attributes:
        due_s: When it should have been sent: by the schedule, or when the request before it was over.
        sent_s: When its first byte was sent, or connecting was tried in vain.
        done_s: When the last byte of the answer came, or it was given up.
        pictures: In the answer; 0 where it failed.
        pod_uid: The instance that was asked.
        detail: What went wrong; empty when nothing did.
    """

    due_s: float
    sent_s: float
    done_s: float
    pictures: int
    pod_uid: str
    detail: str


def window_of(
    samples: Sequence[LoadSample], *, level: Level, rate_per_s: float, ended_s: float, seed: str
) -> tuple[LoadWindow, bytes]:
    """Return the window's figures and the canonical bytes of its samples.

    Latency is counted from `sent_s`, for arrivals on a schedule from `due_s`. Throughput is pictures over time from the
    window's start to the last answer that belongs to it. Counting up to an answer, and not up to the window's end,
    keeps the one picture more or less out of short windows. Answers that come later than two median latencies after
    the end belong to the latencies and not to the throughput: one long last request would otherwise stretch the window
    with nobody at work.

    Args:
        samples: In any order.
        level: What was driven.
        rate_per_s: Rate of arrivals; 0 where the next request is sent when one is answered.
        ended_s: When the last request could have been sent, above 0.
        seed: What fixed prompts and arrivals.
    """
    ordered = sorted(samples, key=lambda one: (one.sent_s, one.due_s, one.done_s))
    latency = np.array([_latency_s(one, level) for one in ordered], dtype=np.float64)
    good = [one for one in ordered if not one.detail]
    belonging = _belonging(good, ended_s=ended_s, median_s=_quantile(latency[np.isfinite(latency)], 0.5))
    stored = canonical_bytes(
        {
            "schema": SAMPLES_SCHEMA,
            "level": level.name,
            "rate_per_s": rate_per_s,
            "seed": seed,
            "ended_s": round(ended_s, _DIGITS),
            "due_s": [round(one.due_s, _DIGITS) for one in ordered],
            "sent_s": [round(one.sent_s, _DIGITS) for one in ordered],
            "done_s": [round(one.done_s, _DIGITS) for one in ordered],
            "pictures": [one.pictures for one in ordered],
            "pod_uid": [one.pod_uid for one in ordered],
            "failures": {str(place): one.detail for place, one in enumerate(ordered) if one.detail},
        }
    )
    window = LoadWindow(
        seconds=max([ended_s, *(one.done_s for one in belonging)]),
        offered=len(ordered),
        completed=len(good),
        failed=len(ordered) - len(good),
        answered=len(belonging),
        pictures=sum(one.pictures for one in belonging),
        busy_s=max([ended_s, *(one.done_s for one in ordered)]),
        p50_s=_quantile(latency, 0.5),
        p95_s=_quantile(latency, 0.95),
        p99_s=_quantile(latency, 0.99),
        samples=digest_bytes(stored),
        detail=next((one.detail for one in ordered if one.detail), ""),
    )
    return window, stored


def _latency_s(sample: LoadSample, level: Level) -> float:
    if sample.detail:
        return math.inf
    return max(sample.done_s - (sample.sent_s if level.pattern is None else sample.due_s), 1e-6)


def _quantile(latency: "np.ndarray[tuple[int], np.dtype[np.float64]]", q: float) -> float | None:
    value = sample_quantile(latency, q=q) if len(latency) else math.inf
    return value if math.isfinite(value) else None


def _belonging(good: Sequence[LoadSample], *, ended_s: float, median_s: float | None) -> list[LoadSample]:
    """Return the answers that the throughput is counted over."""
    latest_s = ended_s + STRAGGLER_FACTOR * (median_s or 0.0)
    return [one for one in good if one.done_s <= latest_s]
