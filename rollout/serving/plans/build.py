"""Builds an engine plan with ONNX Runtime's TensorRT provider, on the GPU that it shall serve."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from rollout.errors import ConfigError
from rollout.model.admission import Provider
from rollout.serving.failures import AdmissionError
from rollout.serving.options import Precision
from rollout.serving.plans.contents import examine
from rollout.serving.plans.faults import PlanBuildError, PlanFault, reason
from rollout.serving.plans.key import PlanKey
from rollout.serving.plans.names import locate_inside
from rollout.serving.plans.onnx_file import digest_model, load_onnx
from rollout.serving.plans.store import PlanStore, StoredPlan

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

CONTEXT_NAME = "model_ctx.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOrder:
    """What to build.

    Args:
        model: The ONNX model, weights inside or beside it.
        width, height: Size of the picture in pixels.
        batch: Pictures at a time.
        precision: What TensorRT may compute in.
        sm: Compute capability of the GPU; the built plan must agree.
        dims: Size of each dimension that the model leaves open, by its name or as input:axis. How a picture's size
            becomes a dimension is the model's business (a latent is an eighth of it), so nothing is guessed.
        embedded: Put the engine inside the EPContext model; protobuf ends at 2 GiB.
    """

    model: Path
    width: int
    height: int
    batch: int
    precision: Precision
    sm: str
    dims: Mapping[str, int] = field(default_factory=dict)
    embedded: bool = False


def build_plan(order: BuildOrder, *, store: PlanStore, replace: bool = False) -> StoredPlan:
    """Build a plan and store it; this takes minutes, and a GPU.

    Raises:
        PlanBuildError: plan_build_impossible, with what is missing on this machine.
        PlanError: The model cannot be read, what was built is for another GPU, or the key has other bytes.
        ConfigError: A dimension of the model is left open, or one is given that it does not have.
        UnavailableError: The disk is full or failed.
    """
    shapes = profile_shapes(load_onnx(order.model), order.dims)
    with tempfile.TemporaryDirectory(prefix="rollout-plan-") as scratch:
        context = Path(scratch, CONTEXT_NAME)
        _compile(order, shapes=shapes, context=context)
        if not context.is_file():
            raise _impossible(f"{Provider.TENSORRT} wrote no EPContext model: it took no part of {order.model}")
        contents = examine(context.name, locate=lambda name: locate_inside(context.parent, name))
        key = PlanKey(
            model=digest_model(order.model),
            width=order.width,
            height=order.height,
            batch=order.batch,
            precision=order.precision,
            tensorrt=contents.tensorrt[0].value,
            sm=order.sm,
        )
        return store.add(key, context, replace=replace)


def profile_shapes(model: "ModelProto", dims: Mapping[str, int]) -> str:
    """Return the shapes of all inputs with open dimensions, as TensorRT's provider reads them; empty where none are.

    Smallest, best and largest shape of the profile are this one: a plan for one shape is the fastest, and a request of
    another shape fails instead of building an engine.

    Raises:
        ConfigError: A dimension is left open, or one is given that the model does not have.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    used: set[str] = set()
    left: list[str] = []
    shapes = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        sizes = []
        open_dims = 0
        for names, size in _dimensions(value):
            known = next((name for name in names if name in dims), "")
            open_dims += bool(names)
            if known:
                used.add(known)
            elif names:
                left.append(" or ".join(names))
            sizes.append(dims[known] if known else size)
        if open_dims:
            shapes.append(f"{value.name}:{'x'.join(map(str, sizes))}")
    if left:
        raise ConfigError(f"the model leaves dimensions open; give each with --dim: {', '.join(dict.fromkeys(left))}")
    unknown = sorted(set(dims) - used)
    if unknown:
        raise ConfigError(f"the model has no open dimension {', '.join(unknown)}")
    return ",".join(shapes)


def provider_options(precision: Precision, *, shapes: str) -> dict[str, str]:
    """Return the options of TensorRT's provider.

    The cache's path is left out: with an EPContext model, engines lie beside it, and only there are they found again.
    """
    options = {"trt_engine_cache_enable": "1", **_precision_options(precision)}
    if shapes:
        options |= {f"trt_profile_{which}_shapes": shapes for which in ("min", "opt", "max")}
    return options


def _precision_options(precision: Precision) -> dict[str, str]:
    match precision:
        case Precision.FP32:
            return {}
        case Precision.FP16:
            return {"trt_fp16_enable": "1"}
        case Precision.INT8:  # What the model does not quantise runs in half precision.
            return {"trt_int8_enable": "1", "trt_fp16_enable": "1"}
        case _ as unknown:
            assert_never(unknown)


def _dimensions(value: "ValueInfoProto") -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield for each dimension the names under which it can be given, none where it is fixed, and its size."""
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            yield (), dim.dim_value
        else:
            yield tuple(name for name in (dim.dim_param, f"{value.name}:{axis}") if name), 0


def _compile(order: BuildOrder, *, shapes: str, context: Path) -> None:
    """Open a strict session, which compiles the model and writes the EPContext model."""
    try:
        from rollout.serving.strict_session import open_strict_session  # noqa: PLC0415 - it imports ONNX Runtime
    except ImportError as error:
        raise _impossible(f"ONNX Runtime is missing ({error}): install onnxruntime-gpu") from error
    try:
        open_strict_session(
            order.model,
            providers=(Provider.TENSORRT.value, Provider.CUDA.value),  # CUDA takes the nodes that TensorRT leaves.
            provider_options={Provider.TENSORRT.value: provider_options(order.precision, shapes=shapes)},
            config={
                "session.disable_model_compile": "0",
                "ep.context_enable": "1",
                "ep.context_file_path": str(context),
                "ep.context_embed_mode": "1" if order.embedded else "0",
            },
        )
    except AdmissionError as error:
        raise _impossible(f"{error.code}: {error}") from error


def _impossible(text: str) -> PlanBuildError:
    return PlanBuildError(reason(PlanFault.BUILD_IMPOSSIBLE, text))
