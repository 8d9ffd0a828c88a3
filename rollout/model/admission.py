"""Admission: what a serving container must prove about itself before it may take traffic, and what came of it."""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from rollout.model.base import Strict
from rollout.model.reasons import REASONS
from rollout.model.release import Name
from rollout.model.snapshot import CapabilitySnapshot, parse_snapshot
from rollout.model.verdict import Severity
from rollout.model.waiver import Waiver

REPORT_SCHEMA: Final = "rollout.admission-report/v1"

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveSeconds = Annotated[float, Field(gt=0.0, le=3600.0)]


class Profile(StrEnum):
    """What a stack is for."""

    GPU = "gpu"
    """Production: the fast path or nothing."""
    DEVELOPMENT_CPU = "development-cpu"
    """A machine without a GPU; the snapshot says so, and no stack of the other profile is like it."""


class Provider(StrEnum):
    """ONNX Runtime's name of an execution provider."""

    TENSORRT = "TensorrtExecutionProvider"
    CUDA = "CUDAExecutionProvider"
    CPU = "CPUExecutionProvider"


class DeviceDemand(Strict):
    """The GPUs that the container must see."""

    count_min: Annotated[int, Field(ge=1, le=64)]
    memory_bytes_min: Annotated[int, Field(ge=1)] | None
    """Of the smallest device; null: any."""
    mig_profile: Annotated[str, Field(min_length=1)] | None
    """Such as 1g.5gb; null: whole devices, not partitioned."""


class PlacementDemand(Strict):
    """Where nodes of the graphs may run. ONNX Runtime puts small shape nodes on the CPU on purpose."""

    cpu_node_share_max: Share
    cpu_time_share_max: Share
    """Of the time inside nodes during the warm-up."""
    heavy_ops: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """Operators none of which may run on the CPU."""


class ModelUnderTest(Strict):
    """The ONNX model of a server that is not ours; the self-test runs it on inputs drawn with a fixed seed."""

    path: Annotated[str, Field(min_length=1)]
    """Relative to this file."""
    dimensions: dict[str, Annotated[int, Field(ge=1, le=1 << 20)]]
    """What the free dimensions of its inputs are, by their names in the model."""


class SelfTestDemand(Strict):
    """The warm self-test: deterministic pictures, again and again."""

    seconds: Annotated[float, Field(ge=0.0, le=600.0)]
    """How long to go on drawing after the warm-up; at least one picture is timed."""
    latency_s_min: Annotated[float, Field(ge=0.0, le=3600.0)]
    """Faster than this is not the work that was asked for."""
    latency_s_max: PositiveSeconds
    utilisation_min: Share | None
    """Highest share of time that the GPU was busy, as NVML samples it; null: not looked at."""

    @model_validator(mode="after")
    def _window_is_open(self) -> Self:
        if self.latency_s_min >= self.latency_s_max:
            raise ValueError("latency_s_min must be below latency_s_max")
        if self.utilisation_min is not None and self.seconds < 1.0:
            raise ValueError("seconds must be at least 1 where utilisation_min is set: NVML samples over a second")
        return self


class AdmissionPolicy(Strict):
    """What a container must prove before it may serve."""

    schema_: Literal["rollout.admission/v1"] = Field(alias="schema")
    name: Name
    profile: Annotated[Profile, Field(strict=False)]
    providers: Annotated[list[Annotated[Provider, Field(strict=False)]], Field(min_length=1)]
    """The execution providers of ONNX Runtime's sessions, best first. All must be there, in this order."""
    device: DeviceDemand | None
    """null: only for the development profile."""
    placement: PlacementDemand | None
    """null: only for the development profile."""
    attention_fused: bool
    """true: the UNet's attention must run in fused kernels."""
    outputs_on_device: bool
    """true: outputs must lie in device memory until they are asked for."""
    model: ModelUnderTest | None
    """null: the reference model."""
    engine_cache: Annotated[str, Field(min_length=1)] | None
    """A folder of engine plans, relative to this file, that may not change while the server warms up; null: none."""
    matrix: Annotated[str, Field(min_length=1)] | None
    """A version matrix, relative to this file, that the snapshot must fit; null: none."""
    self_test: SelfTestDemand
    degraded_ratio: Annotated[float, Field(gt=1.0, le=1000.0)]
    """While it serves: device time of requests beside the best of their kind above which the server says that it is
    degraded. A signal for alerts; it takes no server down."""
    required: list[Annotated[str, Field(min_length=1)]]
    """Fields of the snapshot that must have been collected."""
    probe_s: PositiveSeconds
    """Longest time that one probe in a process of its own may take."""
    proof_s: PositiveSeconds
    """Longest time of the whole proof, loading included; then the stack is refused."""
    waivers: list[Waiver]

    @model_validator(mode="after")
    def _profile_is_kept(self) -> Self:
        if self.self_test.seconds >= self.proof_s:
            raise ValueError("proof_s must be above self_test.seconds")
        if len(set(self.providers)) != len(self.providers):
            raise ValueError("providers must name each provider once")
        match self.profile:
            case Profile.GPU:
                if Provider.CPU in self.providers:
                    raise ValueError("providers must not name the CPU under profile gpu: ONNX Runtime adds it itself")
                if self.device is None or self.placement is None:
                    raise ValueError("device and placement must be demanded under profile gpu")
                if self.device.mig_profile is not None and self.self_test.utilisation_min is not None:
                    raise ValueError("utilisation_min must be null with mig_profile: NVML does not tell it of a slice")
            case Profile.DEVELOPMENT_CPU:
                if self.providers != [Provider.CPU]:
                    raise ValueError("providers must be [CPUExecutionProvider] under profile development-cpu")
                if self.device is not None or self.self_test.utilisation_min is not None:
                    raise ValueError("device and utilisation_min must be null under profile development-cpu")
        return self


class Finding(Strict):
    """One thing that an admission found: a code of `rollout.model.reasons`, how much it weighs, and what was seen."""

    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    severity: Annotated[Severity, Field(strict=False)]
    text: str
    field: str = ""
    """The field of the snapshot that it was read from."""


class AdmissionReport(Strict):
    """What came of an admission; written for people, for Kubernetes' termination message and for the later probes."""

    schema_: Literal["rollout.admission-report/v1"] = Field(alias="schema")
    policy: str
    admitted: bool
    snapshot: CapabilitySnapshot | None
    """null: the prover died."""
    findings: Annotated[tuple[Finding, ...], Field(strict=False)]
    """What blocks first, causes before consequences."""

    @field_validator("snapshot", mode="before")
    @classmethod
    def _digest_is_checked(cls, value: object) -> object:
        return parse_snapshot(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _admitted_means_proven(self) -> Self:
        if self.admitted and (self.snapshot is None or blocking(self.findings)):
            raise ValueError("what is admitted has a snapshot, and nothing that blocks")
        return self

    @field_serializer("snapshot")
    def _wire_form(self, snapshot: CapabilitySnapshot | None) -> dict[str, Any] | None:
        return None if snapshot is None else snapshot.to_json()


def finding(code: str, text: str, *, field: str = "") -> Finding:
    """Return a finding that weighs what `rollout.model.reasons` says of its code."""
    return Finding(code=code, severity=REASONS[code].severity, text=text, field=field)


def blocking(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return the findings that forbid to serve."""
    return tuple(one for one in findings if one.severity is Severity.BLOCK)
