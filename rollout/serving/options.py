"""The release options of the reference server: what one release may do differently from the next."""

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from rollout.model.admission import AdmissionPolicy, Profile
from rollout.model.matrix import Matrix


class EngineKind(StrEnum):
    """The runtime that draws."""

    ORT = "ort"
    DIFFUSERS = "diffusers"


class Attention(StrEnum):
    """How the UNet computes attention: in one fused kernel, in steps, or in slices of one head."""

    SDPA = "sdpa"
    EAGER = "eager"
    SLICED = "sliced"


class GraphOptimization(StrEnum):
    """How far ONNX Runtime rewrites the graph."""

    ALL = "all"
    EXTENDED = "extended"
    BASIC = "basic"
    DISABLED = "disabled"


class ArenaStrategy(StrEnum):
    """How the CUDA provider's memory arena grows."""

    NEXT_POWER_OF_TWO = "next-power-of-two"
    SAME_AS_REQUESTED = "same-as-requested"


class GuidanceMode(StrEnum):
    """How classifier-free guidance evaluates the UNet with and without the prompt."""

    BATCHED = "batched"
    TWO_CALLS = "two-calls"


class ExecutionMode(StrEnum):
    """Whether independent nodes of a graph run one after the other."""

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"


class SessionLifetime(StrEnum):
    """Whether inference sessions outlive a request."""

    SHARED = "shared"
    PER_REQUEST = "per-request"


class Precision(StrEnum):
    """Arithmetic of the UNet."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Prediction(StrEnum):
    """What the scheduler takes the UNet's output for; the shipped model predicts epsilon."""

    EPSILON = "epsilon"
    V_PREDICTION = "v_prediction"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Everything that decides how a server process behaves; the defaults are the good release.

    `port` is a TCP port, `side_max` the largest side of a picture in pixels, `queue_limit` the number of requests that
    may wait beside the one computed, `gpu_memory_limit` bytes of the CUDA provider's arena or 0 for none.
    """

    port: int
    pod_uid: str
    cache: Path
    admission: AdmissionPolicy
    """What the server must prove; it also orders the providers, and so the device."""
    matrix: Matrix | None = None
    """The version matrix that the admission policy names."""
    plans: Path | None = None
    """The store of engine plans; only where the policy orders TensorRT."""
    engine_cache: Path | None = None
    """The folder of engine plans that the admission policy names."""
    host: str = "127.0.0.1"
    engine: EngineKind = EngineKind.ORT
    attention: Attention | None = None
    """None: fused, but for ONNX Runtime on the CPU, which computes the graph as it was exported, in steps."""
    graph_optimization: GraphOptimization = GraphOptimization.ALL
    arena: bool = True
    guidance: GuidanceMode = GuidanceMode.BATCHED
    threads: int = 1
    spinning: bool = False
    execution: ExecutionMode = ExecutionMode.SEQUENTIAL
    session: SessionLifetime = SessionLifetime.SHARED
    precision: Precision = Precision.FP32
    prediction: Prediction = Prediction.EPSILON
    side_max: int = 256
    queue_limit: int = 64
    gpu_memory_limit: int = 0
    arena_strategy: ArenaStrategy = ArenaStrategy.NEXT_POWER_OF_TWO
    tf32: bool = True


ENGINE_OPTIONS: dict[EngineKind, frozenset[str]] = {
    EngineKind.ORT: frozenset(
        {
            "graph_optimization",
            "arena",
            "spinning",
            "execution",
            "session",
            "gpu_memory_limit",
            "arena_strategy",
            "tf32",
            "plans",
        }
    ),
    EngineKind.DIFFUSERS: frozenset(),
}
"""Options that one engine alone knows."""

GPU_OPTIONS = frozenset({"gpu_memory_limit", "arena_strategy", "tf32", "plans"})
"""Options that mean something on a GPU alone."""

ENGINE_PRECISIONS: dict[EngineKind, frozenset[Precision]] = {
    EngineKind.ORT: frozenset(Precision),
    EngineKind.DIFFUSERS: frozenset({Precision.FP32, Precision.FP16}),
}


ENGINE_ATTENTIONS: dict[EngineKind, frozenset[Attention]] = {
    EngineKind.ORT: frozenset({Attention.SDPA, Attention.EAGER}),
    EngineKind.DIFFUSERS: frozenset(Attention),
}


def attention_of(options: ServeOptions) -> Attention:
    """Return how a release computes attention."""
    if options.attention is not None:
        return options.attention
    on_cpu = options.admission.profile is Profile.DEVELOPMENT_CPU
    return Attention.EAGER if options.engine is EngineKind.ORT and on_cpu else Attention.SDPA


def default_precision(profile: Profile) -> Precision:
    """Return what a release computes in where it does not say: the fast path of a GPU is in 16 bits."""
    match profile:
        case Profile.GPU:
            return Precision.FP16
        case Profile.DEVELOPMENT_CPU:
            return Precision.FP32
        case _ as unknown:
            assert_never(unknown)


def misfits(options: ServeOptions) -> list[str]:
    """Name the options that the engine would ignore, by their flags; a release must not promise what is not."""
    foreign = frozenset[str]().union(*(known for engine, known in ENGINE_OPTIONS.items() if engine != options.engine))
    if options.admission.profile is Profile.DEVELOPMENT_CPU:
        foreign |= GPU_OPTIONS
    changed = [one.name for one in fields(options) if one.name in foreign and getattr(options, one.name) != one.default]
    wrong = [f"--{name.replace('_', '-')}" for name in sorted(changed)]
    if options.precision not in ENGINE_PRECISIONS[options.engine]:
        wrong.append(f"--precision {options.precision}")
    if attention_of(options) not in ENGINE_ATTENTIONS[options.engine]:
        wrong.append(f"--attention {options.attention}")
    return wrong
