"""Throughput over concurrency: how far a server scales, where it is full, and how it behaves beyond."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rollout.errors import EvidenceError

LINEAR_SHARE = 0.9
"""Throughput of at least this share of the peak counts as the peak: windows of one level differ by a few percent."""

TAIL_SPREAD_MAX = 3.0
"""P99 over P50 beyond which a tail is chaotic. In a fair queue with a fixed number of requests in flight all wait
alike, so the two stay close; a lock convoy or starvation pulls them apart."""

FAILED_SHARE_MAX = 0.01
"""More failures than that are no graceful answer to load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """One colour at one concurrency, medians over its windows.

    Attributes:
        concurrency: Requests in flight, at least 1.
        per_s: Throughput in pictures or requests per second, 0 or more.
        p50_s: Median latency, above 0; +inf where most requests failed.
        p99_s: P99 of the latency, likewise.
        failed_share: Share of requests that failed, in [0, 1].
    """

    concurrency: int
    per_s: float
    p50_s: float
    p99_s: float
    failed_share: float


class Tail(StrEnum):
    """What a server does as requests in flight grow to the most that was measured."""

    RISING = "rising"
    """Its throughput still rises: where it is full was not measured."""
    GRACEFUL = "graceful"
    """Full: throughput holds, waiting grows in proportion, for all alike."""
    RETROGRADE = "retrograde"
    """More load, less throughput: the coherency term of the universal scalability law."""
    CHAOTIC = "chaotic"
    """It fails requests, or lets some wait several times as long as others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCurve:
    """How one colour scales over a sweep.

    Attributes:
        slope: Elasticity of throughput over the whole sweep, d log X / d log N by least squares: 1 where doubling the
            concurrency doubles the throughput, 0 where it changes nothing, below 0 where it costs. NaN-free: 0 with a
            single level.
        knee: Lowest measured concurrency with at least 90% of the highest throughput; more requests in flight only
            wait.
        tail: What happens at the highest concurrency.
    """

    slope: float
    knee: int
    tail: Tail


def load_curve(points: Sequence[LoadPoint]) -> LoadCurve:
    """Describe throughput over concurrency.

    Args:
        points: At least one, of rising concurrency.

    Raises:
        EvidenceError: No point, concurrencies that do not rise, or no throughput at any of them.
    Source: Little, A proof for the queuing formula L = lambda W, Operations Research 9, 1961 (beyond the knee latency
        must grow as N / X); Denning & Buzen, The operational analysis of queueing network models, ACM Computing
        Surveys 10, 1978 (the knee of the asymptotic bounds); Gunther, Guerrilla Capacity Planning, 2007, chapter 4
        (retrograde throughput).
    """
    concurrencies = [one.concurrency for one in points]
    if not points or sorted(set(concurrencies)) != concurrencies:
        raise EvidenceError(f"a load curve needs rising concurrencies, not {concurrencies}")
    peak = max(one.per_s for one in points)
    if not peak > 0.0:
        raise EvidenceError("no request was answered at any concurrency, so there is no load curve")
    knee = next(one.concurrency for one in points if one.per_s >= LINEAR_SHARE * peak)
    return LoadCurve(slope=_slope(points), knee=knee, tail=_tail(points[-1], knee=knee, peak=peak))


def _slope(points: Sequence[LoadPoint]) -> float:
    answered = [(math.log(one.concurrency), math.log(one.per_s)) for one in points if one.per_s > 0.0]
    mean_x = math.fsum(x for x, _ in answered) / len(answered)
    mean_y = math.fsum(y for _, y in answered) / len(answered)
    spread = math.fsum((x - mean_x) ** 2 for x, _ in answered)
    return math.fsum((x - mean_x) * (y - mean_y) for x, y in answered) / spread if spread > 0.0 else 0.0


def _tail(last: LoadPoint, *, knee: int, peak: float) -> Tail:
    if last.failed_share > FAILED_SHARE_MAX or not last.p99_s <= TAIL_SPREAD_MAX * last.p50_s < math.inf:
        return Tail.CHAOTIC
    if last.per_s < LINEAR_SHARE * peak:
        return Tail.RETROGRADE
    return Tail.RISING if knee == last.concurrency else Tail.GRACEFUL
