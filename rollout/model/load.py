"""The load phase as data: its levels, how a window is driven, and what a window was measured to be."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from rollout.model.base import Strict
from rollout.model.evidence import Digest
from rollout.model.policy import ArrivalPattern, LoadDemand
from rollout.model.roles import Role


class LevelKind(StrEnum):
    """What a level varies."""

    CONCURRENCY = "concurrency"
    BATCH = "batch"
    ARRIVALS = "arrivals"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One setting of load at which both colours are compared.

    Attributes:
        name: `concurrency-16`, `batch-4`, `arrivals-poisson`.
        concurrency: Requests in flight, at least 1; 0 for arrivals on a schedule, which wait for nobody.
        batch: Pictures per request; 0 where each prompt keeps its own.
        pattern: How requests arrive; None where the next is sent when one is answered.
    """

    name: str
    kind: LevelKind
    concurrency: int
    batch: int
    pattern: ArrivalPattern | None


def levels(demand: LoadDemand) -> tuple[Level, ...]:
    """Return the levels in the order in which they are measured; arrivals last, for their rate rests on the others."""
    lowest = demand.concurrencies[0]
    swept = [
        Level(name=f"concurrency-{one}", kind=LevelKind.CONCURRENCY, concurrency=one, batch=0, pattern=None)
        for one in demand.concurrencies
    ]
    batched = [
        Level(name=f"batch-{one}", kind=LevelKind.BATCH, concurrency=lowest, batch=one, pattern=None)
        for one in demand.batches
    ]
    scheduled = [
        Level(name=f"arrivals-{one.value}", kind=LevelKind.ARRIVALS, concurrency=0, batch=0, pattern=one)
        for one in demand.arrivals
    ]
    return (*swept, *batched, *scheduled)


class LoadWindow(Strict):
    """What one colour did in one window."""

    seconds: Annotated[float, Field(gt=0.0)]
    """From the start of the window to the last answer that belongs to it, or to its end where that is later."""
    offered: Annotated[int, Field(ge=0)]
    """Requests that were sent, or were due and could not be."""
    completed: Annotated[int, Field(ge=0)]
    """Answered well."""
    failed: Annotated[int, Field(ge=0)]
    """Refused, in error, timed out, or never sent."""
    answered: Annotated[int, Field(ge=0)]
    """Those of them that count for the throughput: all but answers that came long after the window's end."""
    pictures: Annotated[int, Field(ge=0)]
    """In the answers that count for the throughput."""
    busy_s: Annotated[float, Field(gt=0.0)]
    """From the start of the window until its last request was answered or given up."""
    p50_s: Annotated[float, Field(gt=0.0)] | None
    """Latency quantiles over all offered requests, a failure counted as +inf; for arrivals from the intended send
    time. None where the quantile is infinite, or nothing was offered."""
    p95_s: Annotated[float, Field(gt=0.0)] | None
    p99_s: Annotated[float, Field(gt=0.0)] | None
    samples: Digest
    """Object with every request: intended and real send time, latency, failure."""
    detail: str = ""
    """The first failure, for people."""

    @property
    def pictures_per_s(self) -> float:
        """Throughput."""
        return self.pictures / self.seconds

    @property
    def requests_per_s(self) -> float:
        """Throughput in requests."""
        return self.answered / self.seconds


class WindowPair(Strict):
    """One window of each colour at one level, one after the other."""

    level: str
    number: Annotated[int, Field(ge=0)]
    """Position in the level, from 0."""
    first: Annotated[Role, Field(strict=False)]
    rate_per_s: Annotated[float, Field(ge=0.0)]
    """Rate of arrivals; 0 where the next request is sent when one is answered."""
    incumbent: LoadWindow
    candidate: LoadWindow
