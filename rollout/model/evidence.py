"""Evidence: what was measured, as it is stored."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from rollout.model.base import Strict
from rollout.model.inventory import Absent, Instance
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.roles import Role
from rollout.model.snapshot import CapabilitySnapshot

BASELINE_SCHEMA = "rollout.baseline/v1"

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class SampleStatus(StrEnum):
    """How one canary request ended."""

    OK = "ok"
    TIMEOUT = "timeout"
    ERROR = "error"
    STOPPED = "stopped"
    """The driver hung up: the answer was already too late to change the verdict."""


class Sample(Strict):
    """One canary request."""

    status: Annotated[SampleStatus, Field(strict=False)]
    wall_s: Annotated[float, Field(ge=0.0)]
    """Send of the first byte to receipt of the last; for a request without an answer, how long it was waited for."""
    queue_s: Annotated[float, Field(ge=0.0)] = 0.0
    """Waiting time that the server declares; 0 where the policy compares wall time."""
    server_s: Annotated[float, Field(ge=0.0)] = 0.0
    """Total time that the server declares; 0 where it declares none."""
    pod_uid: str = ""
    snapshot_digest: str = ""
    pictures: Annotated[tuple[Digest, ...], Field(strict=False)] = ()
    detail: str = ""
    """What went wrong, for people; empty when nothing did."""

    @property
    def failed(self) -> bool:
        """True for a failure of the server; STOPPED is none: the driver hung up."""
        return self.status in {SampleStatus.ERROR, SampleStatus.TIMEOUT}

    @property
    def latency_s(self) -> float:
        """Latency that is compared: service time, or +inf for a request that did not end well."""
        return max(self.wall_s - self.queue_s, 1e-6) if self.status is SampleStatus.OK else float("inf")


class Pair(Strict):
    """One prompt sent to both roles."""

    stage: str
    number: Annotated[int, Field(ge=0)]
    """Position in the stage, from 0."""
    prompt_id: str
    first: Annotated[Role, Field(strict=False)]
    incumbent_uid: str
    """The instance that was asked; it may not have answered."""
    candidate_uid: str
    incumbent: Sample
    candidate: Sample
    psnr_db: Annotated[float, Field(ge=0.0, le=99.0)] | None = None
    """Lowest over the pictures of the pair; None when one side has no picture."""
    flat: bool = False
    """True when a picture of the candidate is black or of one colour."""

    @property
    def sound(self) -> bool:
        """True when both requests were answered well."""
        return {self.incumbent.status, self.candidate.status} == {SampleStatus.OK}


@dataclass(frozen=True, slots=True, kw_only=True)
class AaHistory:
    """What two instances of one release are to each other: the yardstick of the gates.

    Attributes:
        ratio: Latency ratios, one per pair, in the order measured.
        repeat_psnr_db: Lowest PSNR of their pictures for one seed; None where none was compared.
        cold_start_s: Starts of that release that were watched, in seconds from deployment to readiness.
    """

    ratio: tuple[float, ...]
    repeat_psnr_db: float | None
    cold_start_s: tuple[float, ...] = ()


def history_of(pairs: Iterable[Pair]) -> AaHistory:
    """Return the history that pairs of one release against itself make; pairs that failed are left out."""
    sound = [one for one in pairs if one.sound]
    compared = [one.psnr_db for one in sound if one.psnr_db is not None]
    return AaHistory(
        ratio=tuple(one.candidate.latency_s / one.incumbent.latency_s for one in sound),
        repeat_psnr_db=min(compared) if compared else None,
    )


class InstanceReading(Strict):
    """What the platform knows of one instance at one moment."""

    uid: str
    restarts: Annotated[int, Field(ge=0)]
    memory_bytes: Annotated[int, Field(ge=0)] | None = None
    """Resident memory; None where the platform cannot tell."""
    cold_start_s: Annotated[float, Field(ge=0.0)] | None = None
    """From the deployment until it was seen ready; None where that was not watched."""


def reading_of(instance: Instance, *, cold_start_s: float | None) -> InstanceReading:
    """Return what a look at an instance found, as it is written down."""
    return InstanceReading(
        uid=instance.uid,
        restarts=instance.restarts,
        memory_bytes=None if isinstance(instance.memory_bytes, Absent) else instance.memory_bytes,
        cold_start_s=cold_start_s,
    )


class LiveWindow(Strict):
    """Live requests of the candidate between two looks at one router process."""

    completed: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]


class Baseline(Strict):
    """What one release was measured to do, stored for later rollouts and for drift checks."""

    schema_: Literal["rollout.baseline/v1"] = Field(alias="schema")
    release_digest: Digest
    snapshot: CapabilitySnapshot
    """What the release proved about itself when it was measured."""
    prompts_digest: Digest
    protocol: dict[str, str | int | float]
    """What else must be equal for two measurements to be comparable: latency measure, warm-up."""
    made_at: float
    made_by_run: str
    aa_ratio: list[Annotated[float, Field(gt=0.0)]]
    """Latency ratios of two instances of this release, one per pair; empty until a history was measured."""
    aa_prompt_ids: list[str] = []
    """The prompt of each of those pairs; empty in baselines that were made before it was kept."""
    yardstick_ratio: list[Annotated[float, Field(gt=0.0)]] = []
    """The A/A history of the incumbent that this release was promoted by; empty where it was not promoted."""
    repeat_psnr_db: Annotated[float, Field(ge=0.0, le=99.0)] | None = None
    """Lowest PSNR between two instances of this release for one seed."""
    latency_s: dict[str, list[Annotated[float, Field(gt=0.0)]]] = {}
    """Latencies per prompt, measured when the release was promoted or calibrated; empty until then."""
    cold_start_s: list[Annotated[float, Field(ge=0.0)]] = []
    """Seconds from deployment to readiness, one per start of an instance that was watched."""

    @property
    def history(self) -> AaHistory:
        """The part that the gates judge by."""
        return AaHistory(
            ratio=tuple(self.aa_ratio), repeat_psnr_db=self.repeat_psnr_db, cold_start_s=tuple(self.cold_start_s)
        )

    @property
    def yardstick(self) -> tuple[float, ...]:
        """Ratios of two instances of one release on this stack: of this release, else of the one before it."""
        return tuple(self.aa_ratio or self.yardstick_ratio)

    def comparable(self, other: "Baseline") -> bool:
        """True when both were measured on the same release, capabilities and prompts, in the same way."""
        return self.measured_like(other) and self.snapshot.digest == other.snapshot.digest

    def measured_like(self, other: "Baseline") -> bool:
        """True when both were measured on the same release and prompts, in the same way; capabilities may differ."""
        return (self.release_digest, self.prompts_digest, self.protocol) == (
            other.release_digest,
            other.prompts_digest,
            other.protocol,
        )

    def measured_as(self, policy: Policy, prompts: PromptSet) -> bool:
        """True when it was measured as this policy would measure it."""
        return self.prompts_digest == prompts.digest and self.protocol == protocol_of(policy)

    def usable(self, policy: Policy, prompts: PromptSet, *, now: float) -> bool:
        """True when it holds a whole and young A/A history that was measured as this policy would measure it."""
        young = now - self.made_at <= policy.history.age_s_max
        return young and len(self.aa_ratio) >= policy.history.pairs and self.measured_as(policy, prompts)


def protocol_of(policy: Policy) -> dict[str, str | int | float]:
    """Return what must be equal for two measurements to be comparable, beside release and prompts."""
    return {"measure": policy.latency.measure.value, "warmup_requests": policy.warmup_requests}
