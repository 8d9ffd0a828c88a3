"""Drift against a stored baseline, request by request, with a promised time between false alarms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rollout.errors import ConfigError, EvidenceError
from rollout.stats.betting import CAPITAL_MAX
from rollout.stats.margins import Margins
from rollout.stats.quantiles import rank_of
from rollout.stats.series import Array, check_open_unit, checked_latency

BASELINE_MIN = 20
"""The promise holds for any number. With this many, a drift of every request shows after 42 at a promise of 100,000;
with half as many after 120, and one of most requests hardly ever."""

HEADROOM = (0.05, 0.1, 0.2, 0.4, 0.7, 0.9, 0.99)
"""Alternatives q = p0 + headroom (1 - p0), from a rate just too high to "every request"."""

CLUSTER_STAKE = 0.1
"""Share that is staked on the request after one beyond the tail or a failure: these come in clusters, and a cluster
should count about once. A drift of every request shows in the median, which stakes all."""

_LARGEST = float(np.finfo(np.float64).max)
"""Only a failure, +inf, is above it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchState:
    """What one watch knows after the requests so far.

    Attributes:
        exceeded: Requests above the watch's limit.
        last: Whether the newest was one of them.
        evidence: One e-detector for each alternative.
    """

    exceeded: int
    last: bool
    evidence: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorState:
    """Everything a detector knows, as plain values; `watches` is in the order median, tail, failures."""

    requests: int
    watches: tuple[WatchState, ...]


class Watch:
    """One kind of event among the requests, and the evidence that it became more frequent than it may be.

    For each alternative rate q an e-detector M <- (M + 1) e, with e = q / p where the event happened and
    (1 - q) / (1 - p) where it did not. Given the past, e has mean at most 1 while nothing changed, so M_t - t is a
    supermartingale, and the mean time until M, or a weighted mean of several, reaches c is at least c.

    Args:
        name: For people.
        limit: A request above it is an event.
        urn: Events and size of the urn that predicts the next: p = (events + seen so far) / (size + requests so far),
            exact where baseline and today are exchangeable.
        fixed: True where p stays events / size whatever is seen: a limit of the policy.
        stake: Share that is staked on the request after an event; below 1 where a cluster should count about once.
    """

    __slots__ = ("_fixed", "_limit", "_rates", "_stake", "_urn", "evidence", "exceeded", "last", "name")

    def __init__(
        self, name: str, *, limit: float, urn: tuple[float, float], fixed: bool = False, stake: float = 1.0
    ) -> None:
        self.name = name
        self._limit = limit
        self._urn = urn
        self._fixed = fixed
        self._stake = stake
        normal = urn[0] / urn[1]
        self._rates = tuple(normal + headroom * (1.0 - normal) for headroom in HEADROOM)
        self.exceeded, self.last = 0, False
        self.evidence = [0.0] * len(self._rates)

    @property
    def total(self) -> float:
        """Evidence of the watch: the mean over its alternatives, for a drift may be of any size."""
        return math.fsum(self.evidence) / len(self.evidence)

    def hear(self, ratio: float, *, requests: int) -> None:
        """Take in one request; `requests` were heard before it."""
        happened = ratio > self._limit
        events, size = self._urn
        null = events / size if self._fixed else (events + self.exceeded) / (size + requests)
        stake = self._stake if self.last else 1.0
        for place, rate in enumerate(self._rates):
            odds = rate / null if happened else (1.0 - rate) / (1.0 - null)
            grown = (self.evidence[place] + 1.0) * (1.0 + stake * (odds - 1.0))
            # Evidence that is cut promises no less; it is far above every threshold.
            self.evidence[place] = min(grown, CAPITAL_MAX)
        self.exceeded += happened
        self.last = happened


class DriftDetector:
    """Watches the requests of one release against its baseline: median, tail and failures.

    Args:
        baseline: Shape (n,), n >= 20: latencies of the baseline, each over the typical one of its prompt (`relative`).
        margins: The median may grow by `p50_ratio_max`, the `tail_quantile` by `tail_ratio_max`.
        failure_rate_max: Share of requests that may fail, in (0, 1).
        false_alarm_requests: Mean number of requests until an alarm while nothing changed, at least; above 1.
        state: Where an earlier detector over the same baseline left off; None to begin.

    Raises:
        EvidenceError: The baseline is too short or holds something that is no latency; or the state is not one of this
            detector.
        ConfigError: A limit is outside its range.

    Source: Shin, Ramdas & Rinaldo, E-detectors: a nonparametric framework for sequential change detection, NEJSDS 2023
        (Shiryaev-Roberts e-detector, Theorem 2.4); Vovk & Wang for the mean of e-processes.
    """

    def __init__(
        self,
        *,
        baseline: Array,
        margins: Margins,
        failure_rate_max: float,
        false_alarm_requests: float,
        state: DetectorState | None = None,
    ) -> None:
        check_open_unit(failure_rate_max, name="failure_rate_max")
        if not (math.isfinite(false_alarm_requests) and false_alarm_requests > 1.0):
            raise ConfigError(f"false_alarm_requests is {false_alarm_requests}; it must be finite and above 1")
        ordered = np.sort(checked_latency(baseline, name="baseline"))
        if len(ordered) < BASELINE_MIN:
            raise EvidenceError(
                f"the baseline holds {len(ordered)} latencies that can be compared; {BASELINE_MIN} are needed: "
                "`rollout calibrate` measures more"
            )
        self.needed = false_alarm_requests
        self.requests = 0
        self.watches = (
            _quantile_watch("median", ordered, q=0.5, margin=margins.p50_ratio_max, stake=1.0),
            _quantile_watch(
                "tail", ordered, q=margins.tail_quantile, margin=margins.tail_ratio_max, stake=CLUSTER_STAKE
            ),
            Watch("failures", limit=_LARGEST, urn=(failure_rate_max, 1.0), fixed=True, stake=CLUSTER_STAKE),
        )
        if state is not None:
            self._resume(state)

    @property
    def total(self) -> float:
        """Evidence of all watches together: their mean."""
        return math.fsum(one.total for one in self.watches) / len(self.watches)

    @property
    def alarm(self) -> str:
        """Name of the watch with most evidence, once all together suffice; empty until then."""
        return max(self.watches, key=lambda one: one.total).name if self.total >= self.needed else ""

    @property
    def state(self) -> DetectorState:
        """What a later detector needs to go on from here, bit for bit."""
        return DetectorState(
            requests=self.requests,
            watches=tuple(
                WatchState(exceeded=one.exceeded, last=one.last, evidence=tuple(one.evidence)) for one in self.watches
            ),
        )

    def hear(self, ratio: float) -> None:
        """Take in the next request.

        Args:
            ratio: Its latency over the typical one of its prompt in the baseline; +inf for a request that failed.

        Raises:
            EvidenceError: NaN, zero or negative.
        """
        if math.isnan(ratio) or ratio <= 0.0:
            raise EvidenceError(f"a relative latency is {ratio}; it must be above 0, and +inf for a failure")
        for one in self.watches:
            one.hear(ratio, requests=self.requests)
        self.requests += 1

    def _resume(self, state: DetectorState) -> None:
        shape = [len(one.evidence) for one in self.watches]
        sane = (
            [len(one.evidence) for one in state.watches] == shape
            and all(0 <= one.exceeded <= state.requests for one in state.watches)
            and all(math.isfinite(value) and value >= 0.0 for one in state.watches for value in one.evidence)
        )
        if not sane:
            raise EvidenceError("the stored state is not one of this detector")
        self.requests = state.requests
        for one, stored in zip(self.watches, state.watches, strict=True):
            one.exceeded, one.last, one.evidence = stored.exceeded, stored.last, list(stored.evidence)


def relative(latency_s: Mapping[str, Sequence[float]]) -> Array:
    """Return each latency over the median of the others of its prompt, as a later request will be compared.

    The value itself is left out of its median: kept in, a prompt with few values would look steadier than it is. A
    prompt with one value gives none.

    Args:
        latency_s: Prompt to latencies in seconds, each above 0; +inf for a failure.
    """
    found = [
        value / float(np.median(others))
        for _, values in sorted(latency_s.items())
        for place, value in enumerate(values)
        if (others := [*values[:place], *values[place + 1 :]])
    ]
    return np.array(found, dtype=np.float64)


def _quantile_watch(name: str, ordered: Array, *, q: float, margin: float, stake: float) -> Watch:
    count = len(ordered)
    rank = min(rank_of(q, count + 1), count)
    return Watch(name, limit=margin * float(ordered[rank - 1]), urn=(count + 1 - rank, count + 1), stake=stake)
