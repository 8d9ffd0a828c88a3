"""Plans and EPContext models as ONNX Runtime's TensorRT provider writes them; the engine itself is noise."""

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from rollout.serving.options import Precision
from rollout.serving.plans.key import PlanKey
from rollout.serving.plans.store import PlanStore

TENSORRT = "10.9.0.34"
ENGINE_NAME = "TensorrtExecutionProvider_TRTKernel_graph_unet_1234_0_0_fp16_sm90.engine"


def plan_bytes(tensorrt: str = TENSORRT, *, size: int = 500, magic: bytes = b"ftrt", seed: int = 0) -> bytes:
    version = [int(part) for part in tensorrt.split(".")]
    header = magic + struct.pack("<I", 239) + bytes(16) + bytes(version)
    return header + random.Random(seed).randbytes(size - len(header))  # noqa: S311 - noise, not a secret


def context_bytes(*nodes: dict[str, Any], external: str = "") -> bytes:
    """A model with one EPContext node for each set of attributes; an attribute given as None is left out."""
    usual = {
        "embed_mode": 0,
        "ep_cache_context": ENGINE_NAME,
        "source": "TensorrtExecutionProvider",
        "hardware_architecture": "90",
        "onnx_model_filename": "unet.onnx",
    }
    made = []
    for number, attributes in enumerate(nodes or ({},)):
        given = {key: value for key, value in {**usual, **attributes}.items() if value is not None}
        name = f"TRTKernel_{number}"
        made.append(
            helper.make_node("EPContext", [f"x{number}"], [f"x{number + 1}"], name, domain="com.microsoft", **given)
        )
    ends = [helper.make_tensor_value_info(f"x{at}", TensorProto.FLOAT, [1]) for at in (0, len(made))]
    graph = helper.make_graph(made, "context", ends[:1], ends[1:])
    if external:
        tensor = graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[1])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=external)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def key_of(**changes: Any) -> PlanKey:
    usual = {
        "model": "sha256:" + "a" * 64,
        "width": 512,
        "height": 512,
        "batch": 1,
        "precision": Precision.FP16,
        "tensorrt": TENSORRT,
        "sm": "90",
    }
    return PlanKey(**{**usual, **changes})


@pytest.fixture(name="plan_bytes", scope="session")
def _plan_bytes() -> Callable[..., bytes]:
    return plan_bytes


@pytest.fixture(name="context_bytes", scope="session")
def _context_bytes() -> Callable[..., bytes]:
    return context_bytes


@pytest.fixture(name="key_of", scope="session")
def _key_of() -> Callable[..., PlanKey]:
    return key_of


@pytest.fixture(name="engine_name", scope="session")
def _engine_name() -> str:
    return ENGINE_NAME


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(tmp_path / "store")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A bare plan outside the store."""
    folder = tmp_path / "built"
    folder.mkdir()
    path = folder / ENGINE_NAME
    path.write_bytes(plan_bytes())
    return path


@pytest.fixture
def context(built: Path) -> Path:
    """An EPContext model beside its plan."""
    path = built.with_name("model_ctx.onnx")
    path.write_bytes(context_bytes())
    return path
