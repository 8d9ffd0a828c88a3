"""What capability differences are known to cost: the table that suspects are ranked by.

Every row names its source: a measurement or a document, both listed in docs/causes.md.
"""

from dataclasses import dataclass
from enum import StrEnum

MEASURED = "measured"
ORT_GRAPH = "ONNX Runtime, graph optimizations"
ORT_THREADS = "ONNX Runtime, thread management"
ORT_MEMORY = "ONNX Runtime, issue 11627"
ORT_PROVIDERS = "ONNX Runtime, execution providers"
ORT_CUDA = "ONNX Runtime, CUDA execution provider"


class Effect(StrEnum):
    """What a change can touch."""

    MEDIAN = "median latency"
    TAIL = "tail latency"
    LOAD = "behaviour under load"
    COLD_START = "cold start"
    MEMORY = "memory and restarts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """A range of slowdowns: latency after the change over latency before it, both above 0."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What one change is known to cost.

    Attributes:
        key: Capability, or a pattern of several.
        before, after: Patterns of the values as `rollout diff` shows them; the change back costs the inverse.
        factor: Of the median latency; None where only the direction is known.
        effects: What it touches when it goes this way.
        source: Where that stands.
        settles: What to do to know; `{before}` and `{after}` stand for the values.
        other_stack: True for a field that the reference server does not collect: GPU stacks do.
    """

    key: str
    before: str
    after: str
    factor: Factor | None
    effects: frozenset[Effect]
    source: str
    settles: str
    other_stack: bool = False


_SLOWER = frozenset({Effect.MEDIAN, Effect.TAIL, Effect.LOAD})
_COMPARE = "start the release a second time {change} and `rollout compare` the two"


def _with_option(option: str, before: str = "{before}") -> str:
    return _COMPARE.replace("{change}", f"with `{option} {before}`")


KNOWN: tuple[Known, ...] = (
    Known(
        key="runtime.ort.graph_optimization",
        before="all",
        after="disabled",
        factor=Factor(low=1.22, high=1.40),
        effects=_SLOWER,
        source=MEASURED,
        settles=_with_option("--graph-optimization"),
    ),
    Known(
        key="runtime.ort.graph_optimization",
        before="all",
        after="extended",
        factor=Factor(low=1.13, high=1.20),
        effects=_SLOWER,
        source=MEASURED,
        settles=_with_option("--graph-optimization"),
    ),
    Known(
        key="runtime.ort.graph_optimization",
        before="*",
        after="basic",
        factor=None,
        effects=_SLOWER,
        source=ORT_GRAPH,
        settles=_with_option("--graph-optimization"),
    ),
    Known(
        key="runtime.ort.graph_optimization",
        before="disabled",
        after="*",
        factor=None,
        effects=frozenset({Effect.COLD_START}),
        source=ORT_GRAPH,
        settles="compare load.duration_s in `rollout snapshot` of both",
    ),
    Known(
        key="runtime.ort.arena",
        before="true",
        after="false",
        factor=Factor(low=1.08, high=2.33),
        effects=_SLOWER,
        source=MEASURED,
        settles=_with_option("--arena", "on"),
    ),
    Known(
        key="runtime.ort.arena",
        before="false",
        after="true",
        factor=None,
        effects=frozenset({Effect.MEMORY}),
        source=ORT_MEMORY,
        settles=_with_option("--arena", "off") + "; look at the memory of each",
    ),
    Known(
        key="runtime.ort.memory_pattern",
        before="true",
        after="false",
        factor=Factor(low=1.08, high=2.33),
        effects=_SLOWER,
        source=f"{MEASURED} (together with the arena)",
        settles=_with_option("--arena", "on"),
    ),
    Known(
        key="pipeline.guidance",
        before="batched",
        after="two-calls",
        factor=Factor(low=1.00, high=1.64),
        effects=_SLOWER,
        source=f"{MEASURED} (x1.64 on a GPU that small kernels leave waiting)",
        settles=_with_option("--guidance"),
    ),
    Known(
        key="runtime.ort.threads.spinning",
        before="false",
        after="true",
        factor=Factor(low=1.21, high=1.44),
        effects=_SLOWER,
        source=f"{MEASURED} (with two threads)",
        settles=_with_option("--spinning", "off"),
    ),
    Known(
        key="runtime.ort.threads.*",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER,
        source=ORT_THREADS,
        settles=_with_option("--threads"),
    ),
    Known(
        key="runtime.ort.execution_mode",
        before="sequential",
        after="parallel",
        factor=Factor(low=1.54, high=1.91),
        effects=_SLOWER,
        source=MEASURED,
        settles=_with_option("--execution"),
    ),
    Known(
        key="runtime.ort.session_lifetime",
        before="shared",
        after="per-request",
        factor=Factor(low=1.84, high=3.50),
        effects=_SLOWER | {Effect.MEMORY},
        source=MEASURED,
        settles=_with_option("--session"),
    ),
    Known(
        key="model.precision",
        before="fp32",
        after="int8",
        factor=Factor(low=0.96, high=1.22),
        effects=_SLOWER | {Effect.COLD_START},
        source=f"{MEASURED} (on a CPU; the first start quantises)",
        settles=_with_option("--precision"),
    ),
    Known(
        key="model.precision",
        before="fp32",
        after="fp16",
        factor=Factor(low=1.11, high=1.23),
        effects=_SLOWER,
        source=f"{MEASURED} (on a CPU; GPUs gain)",
        settles="start the release a second time with the graph of before and `rollout compare` the two",
    ),
    Known(
        key="model.unet.attention.fused",
        before="true",
        after="false",
        factor=Factor(low=1.00, high=1.23),
        effects=_SLOWER,
        source=f"{MEASURED} (on a CPU; GPUs lose more)",
        settles="start the release a second time with the graph of before and `rollout compare` the two",
    ),
    Known(
        key="model.unet.attention.processors",
        before="AttnProcessor2_0",
        after="AttnProcessor",
        factor=Factor(low=1.06, high=1.12),
        effects=_SLOWER,
        source=f"{MEASURED} (on a GPU, docs/gpu.md)",
        settles=_with_option("--attention", "sdpa"),
        other_stack=True,
    ),
    Known(
        key="model.unet.attention.processors",
        before="AttnProcessor2_0",
        after="SlicedAttnProcessor",
        factor=Factor(low=1.57, high=1.64),
        effects=_SLOWER,
        source=f"{MEASURED} (on a GPU, docs/gpu.md)",
        settles=_with_option("--attention", "sdpa"),
        other_stack=True,
    ),
    Known(
        key="model.unet.attention.softmax_count",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER,
        source=ORT_GRAPH,
        settles="start the release a second time with the graph of before and `rollout compare` the two",
    ),
    Known(
        key="model.*.digest",
        before="*",
        after="*",
        factor=Factor(low=1.00, high=41.0),
        effects=_SLOWER | {Effect.COLD_START, Effect.MEMORY},
        source=f"{MEASURED} (one export of the same weights took 41 times as long)",
        settles="start the release a second time with the model of before and `rollout compare` the two",
    ),
    Known(
        key="server.queue_limit",
        before="*",
        after="*",
        factor=None,
        effects=frozenset({Effect.LOAD}),
        source="rollout serve --help",
        settles="start the release a second time with `--queue-limit {before}` and repeat the load phase",
    ),
    Known(
        key="runtime.ort.version",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.COLD_START, Effect.MEMORY},
        source=ORT_GRAPH,
        settles="start the release a second time with version {before} and `rollout compare` the two",
    ),
    Known(
        key="runtime.ort.providers.actual",
        before="*,*",
        after="CPUExecutionProvider",
        factor=None,
        effects=_SLOWER,
        source=ORT_PROVIDERS,
        settles="read the server's log for the provider that failed to load; it says which library is missing",
    ),
    Known(
        key="runtime.ort.placement.cpu_share",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER,
        source=ORT_PROVIDERS,
        settles="compare the nodes on the CPU in an ONNX Runtime profile of both",
    ),
    Known(
        key="container.cpu.*",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.COLD_START},
        source=ORT_THREADS,
        settles="start the release a second time on the processor of before and `rollout compare` the two",
    ),
    Known(
        key="container.memory.limit_bytes",
        before="*",
        after="*",
        factor=None,
        effects=frozenset({Effect.TAIL, Effect.LOAD, Effect.MEMORY}),
        source=ORT_MEMORY,
        settles="start the release a second time with the limit {before} and repeat the stage",
    ),
    Known(
        key="gpu.driver.version",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.COLD_START},
        source=ORT_CUDA,
        settles="run the release on a node with driver {before} and `rollout compare` the two",
    ),
    Known(
        key="gpu.devices",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER,
        source=ORT_CUDA,
        settles="run the release with the devices {before} and `rollout compare` the two",
    ),
    Known(
        key="runtime.cuda.*",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.COLD_START},
        source=ORT_CUDA,
        settles="run the release with {before} and `rollout compare` the two",
        other_stack=True,
    ),
    Known(
        key="runtime.ort.cuda.*",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.MEMORY},
        source=ORT_CUDA,
        settles="run the release with the option at {before} and `rollout compare` the two",
        other_stack=True,
    ),
)
"""First match wins, in this direction or back: specific rows stand above general ones."""
