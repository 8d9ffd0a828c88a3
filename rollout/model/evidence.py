"""Evidence: what was measured, as it is stored."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from rollout.model.base import Strict
from rollout.model.roles import Role

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
    incumbent: Sample
    candidate: Sample
    psnr_db: Annotated[float, Field(ge=0.0, le=99.0)] | None = None
    """Lowest over the pictures of the pair; None when one side has no picture."""
    flat: bool = False
    """True when a picture of the candidate is black or of one colour."""


class LiveWindow(Strict):
    """Live requests of the candidate between two looks at one router process."""

    completed: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]


class Baseline(Strict):
    """What one release was measured to do, stored for later rollouts and for drift checks."""

    schema_: Annotated[Literal["rollout.baseline/v1"], Field(alias="schema")]
    release_digest: Digest
    snapshot_digest: Digest
    prompts_digest: Digest
    protocol: dict[str, str | int | float]
    """What else must be equal for two measurements to be comparable: latency measure, warm-up."""
    made_at: float
    made_by_run: str
    aa_ratio: list[Annotated[float, Field(gt=0.0)]]
    """Latency ratios of two instances of this release, one per pair; empty until a history was measured."""
    repeat_psnr_db: Annotated[float, Field(ge=0.0, le=99.0)] | None = None
    """Lowest PSNR between two instances of this release for one seed."""
    latency_s: dict[str, list[Annotated[float, Field(gt=0.0)]]] = {}
    """Latencies per prompt, measured when the release was promoted; empty until then."""
