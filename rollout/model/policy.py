"""The policy: what people demand before traffic moves. No default loosens a gate: every gate is spelled out."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rollout.model.base import Strict
from rollout.model.release import Name
from rollout.model.waiver import Waiver

POLICY_SCHEMA = "rollout.policy/v1"

Ratio = Annotated[float, Field(gt=1.0, le=100.0)]
ErrorRate = Annotated[float, Field(gt=0.0, lt=0.5)]
Seconds = Annotated[float, Field(ge=0.0, le=7 * 86400.0)]
PositiveSeconds = Annotated[float, Field(gt=0.0, le=7 * 86400.0)]


class LatencyMeasure(StrEnum):
    """Which time of a request is compared."""

    WALL = "wall"
    """From the first byte sent to the last byte received."""
    SERVICE = "service"
    """Wall time less the time the server says the request waited in its queue behind live traffic."""


class OnInconclusive(StrEnum):
    """What to do when the budget of pairs is spent without a decision."""

    ROLLBACK = "rollback"
    HOLD = "hold"


class Approval(StrEnum):
    """Where a person must say yes."""

    NONE = "none"
    BEFORE_SHIFT = "before_shift"


class LatencyGate(Strict):
    """The three paired gates: median, tail and slow rate."""

    measure: Annotated[LatencyMeasure, Field(strict=False)]
    p50_ratio_max: Ratio
    tail_quantile: Annotated[float, Field(ge=0.5, le=0.99)]
    tail_ratio_max: Ratio
    slow_factor: Ratio
    slow_rate_rollback: ErrorRate
    slow_rate_promote: ErrorRate
    false_rollback_rate: ErrorRate
    false_promote_rate: ErrorRate
    pairs_max: Annotated[int, Field(ge=2, le=100_000)]

    @model_validator(mode="after")
    def _rates_are_ordered(self) -> Self:
        if self.slow_rate_rollback > self.slow_rate_promote:
            raise ValueError("slow_rate_rollback must not be above slow_rate_promote")
        return self


class HistoryDemand(Strict):
    """The A/A history: the incumbent measured against a second instance of itself."""

    pairs: Annotated[int, Field(ge=100, le=10_000)]
    """Below 100 the history's own tail is too uncertain to be a yardstick."""
    blocks: Annotated[int, Field(ge=1, le=100)]
    """The second instance is started anew for each block, so that the difference between processes is inside."""
    age_s_max: PositiveSeconds

    @model_validator(mode="after")
    def _blocks_are_not_empty(self) -> Self:
        if self.blocks > self.pairs:
            raise ValueError("blocks must not be above pairs")
        return self


class ErrorGate(Strict):
    """Failed canary requests of the candidate."""

    rate_max: ErrorRate


class LiveGate(Strict):
    """Failed live requests of the candidate, as the router counts them."""

    error_rate_max: ErrorRate
    requests_min: Annotated[int, Field(ge=0)]
    """Live requests that the candidate must have answered in a step; 0 where a stack may have no live traffic."""


class PictureGate(Strict):
    """The candidate must draw what the incumbent draws."""

    psnr_db_min: Annotated[float, Field(ge=10.0, le=99.0)]
    """Lowest peak signal-to-noise ratio for one seed; relaxed only down to the incumbent's own repeat noise."""


class CapabilityGate(Strict):
    """The capability snapshots of both colours."""

    required: list[Annotated[str, Field(min_length=1)]]
    """Fields that the candidate must have collected."""
    allowed_differences: list[Annotated[str, Field(min_length=1)]]
    """Fields, or prefixes that end in `.*`, whose difference is reported but does not block."""
    waivers: list[Waiver]
    """Exceptions that end: what blocks is then only reported, with who granted that, why, and until when."""


class ShiftPlan(Strict):
    """The steps by which live traffic moves."""

    weights: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=1, max_length=50)]
    pairs_per_step: Annotated[int, Field(ge=1, le=10_000)]
    dwell_s: Seconds

    @model_validator(mode="after")
    def _weights_rise_to_all(self) -> Self:
        if sorted(set(self.weights)) != self.weights or self.weights[-1] != 100:  # noqa: PLR2004 - per cent
            raise ValueError("weights must rise strictly and end at 100")
        return self


class SoakPlan(Strict):
    """The last look, with all traffic on the candidate."""

    pairs: Annotated[int, Field(ge=1, le=10_000)]
    seconds: Seconds


class ArrivalPattern(StrEnum):
    """How requests arrive when nobody waits for answers."""

    POISSON = "poisson"
    BURSTS = "bursts"


class LoadDemand(Strict):
    """The load phase: both colours under concurrency, batches and open-loop arrivals, in pairs of windows."""

    concurrencies: Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=1, max_length=10)]
    """Requests in flight at a time, one level each; throughput is compared."""
    batches: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(max_length=10)]
    """Pictures per request, one level each, at the lowest concurrency; pictures per second are compared."""
    arrivals: Annotated[list[Annotated[ArrivalPattern, Field(strict=False)]], Field(max_length=2)]
    """Patterns of arrivals on a schedule, one level each; P95 from the intended send time is compared."""
    arrival_share: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Rate of those arrivals, as a share of the incumbent's highest throughput in the concurrency levels."""
    window_s: Annotated[float, Field(gt=0.0, le=300.0)]
    windows_max: Annotated[int, Field(ge=2, le=1000)]
    """Pairs of windows per level; then the level is undecided."""
    throughput_ratio_min: Annotated[float, Field(gt=0.0, lt=1.0)]
    p95_ratio_max: Ratio
    error_rate_max: ErrorRate
    false_rollback_rate: ErrorRate
    false_promote_rate: ErrorRate
    seconds_max: PositiveSeconds
    requests_max: Annotated[int, Field(ge=1, le=10_000_000)]
    cost_max: Annotated[float, Field(gt=0.0)] | None
    """In the currency of `cost`; null where only time and requests bound the phase."""

    @model_validator(mode="after")
    def _levels_are_distinct(self) -> Self:
        for name in ("concurrencies", "batches"):
            values = getattr(self, name)
            if sorted(set(values)) != values:
                raise ValueError(f"{name} must rise strictly")
        if len(set(self.arrivals)) != len(self.arrivals):
            raise ValueError("arrivals must name each pattern once")
        return self


class InstanceGate(Strict):
    """What each instance of the candidate must not do."""

    cold_start_s_max: PositiveSeconds
    """Longest time from the deployment until every instance is ready."""
    cold_start_ratio_max: Ratio
    """The same, as a multiple of the slowest start of the incumbent that is known."""
    restarts_max: Annotated[int, Field(ge=0, le=100)]
    memory_growth_ratio_max: Ratio | None
    """Largest memory after a stage over memory after the warm-up, of any instance; null where the platform cannot tell
    memory, and then nobody looks at it."""


class AccuracyGate(Strict):
    """What pictures must show when the precision of the arithmetic changes, instead of `pictures`."""

    precisions: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """Precisions that may be accepted at all."""
    psnr_db_mean_min: Annotated[float, Field(ge=10.0, le=99.0)]
    """Lowest mean over prompts, proven with 99% confidence."""
    psnr_db_min: Annotated[float, Field(ge=10.0, le=99.0)]
    """Lowest of any single picture."""
    prompts_min: Annotated[int, Field(ge=2, le=1000)]
    """Distinct prompts that must have been compared."""


class CostModel(Strict):
    """What a GPU costs."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    """ISO 4217."""
    gpu_hour: Annotated[float, Field(gt=0.0)]
    gpus_per_instance: Annotated[float, Field(gt=0.0, le=64.0)]


class DriftDemand(Strict):
    """How `verify` and `monitor` look at the incumbent."""

    requests: Annotated[int, Field(ge=20, le=100_000)]
    recheck_pairs_max: Annotated[int, Field(ge=2, le=100_000)]
    """Budget of pairs of the incumbent against the earlier stack, after an alarm."""
    false_alarm_requests: Annotated[float, Field(ge=100.0, le=1e9)]
    """The standing monitor: requests between two false alarms, on average at least."""


class Deadlines(Strict):
    """Every loop has an end."""

    request_s: PositiveSeconds
    ready_s: PositiveSeconds
    hold_s: PositiveSeconds
    rollback_s: PositiveSeconds
    run_s: PositiveSeconds


class Policy(Strict):
    """Everything a rollout must show, and what happens when it does not."""

    schema_: Literal["rollout.policy/v1"] = Field(alias="schema")
    name: Name
    latency: LatencyGate
    history: HistoryDemand
    warmup_requests: Annotated[int, Field(ge=0, le=1000)]
    """Requests per tensor shape and instance that are sent before anything is measured, and never counted."""
    errors: ErrorGate
    live: LiveGate
    pictures: PictureGate
    capabilities: CapabilityGate
    shift: ShiftPlan
    soak: SoakPlan
    load: LoadDemand | None
    """null: candidates are not compared under load."""
    instances: InstanceGate
    accuracy: AccuracyGate | None
    """null: a candidate of another precision is refused."""
    cost: CostModel | None
    """null: reports name no price."""
    drift: DriftDemand
    standby_s: Seconds
    """How long the old incumbent stays hot, and untouched, after promotion."""
    on_inconclusive: Annotated[OnInconclusive, Field(strict=False)]
    approval: Annotated[Approval, Field(strict=False)]
    deadlines: Deadlines

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.load is not None and self.load.cost_max is not None and self.cost is None:
            raise ValueError("load.cost_max needs the section cost: nobody could tell what the phase costs")
        if self.deadlines.rollback_s < self.deadlines.ready_s:
            raise ValueError(
                "deadlines.rollback_s must not be below deadlines.ready_s: a rollback may have to start the incumbent"
            )
        return self
