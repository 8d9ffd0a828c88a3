"""The release options of the reference server: what one release may do differently from the next."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class GraphOptimization(StrEnum):
    """How far ONNX Runtime rewrites the graph."""

    ALL = "all"
    EXTENDED = "extended"
    BASIC = "basic"
    DISABLED = "disabled"


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
    INT8 = "int8"


class Prediction(StrEnum):
    """What the scheduler takes the UNet's output for; the shipped model predicts epsilon."""

    EPSILON = "epsilon"
    V_PREDICTION = "v_prediction"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Everything that decides how a server process behaves; the defaults are the good release.

    `port` is a TCP port, `queue_limit` the number of requests that may wait beside the one computed,
    `self_test_limit_s` the longest one warm self-test picture may take before the server refuses to become ready.
    """

    port: int
    pod_uid: str
    cache: Path
    host: str = "127.0.0.1"
    graph_optimization: GraphOptimization = GraphOptimization.ALL
    arena: bool = True
    guidance: GuidanceMode = GuidanceMode.BATCHED
    threads: int = 1
    spinning: bool = False
    execution: ExecutionMode = ExecutionMode.SEQUENTIAL
    session: SessionLifetime = SessionLifetime.SHARED
    precision: Precision = Precision.FP32
    prediction: Prediction = Prediction.EPSILON
    queue_limit: int = 64
    self_test_limit_s: float = 30.0
