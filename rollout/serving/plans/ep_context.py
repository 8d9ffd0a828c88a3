"""EPContext nodes: where ONNX Runtime keeps what a provider compiled, read without that provider."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.serving.plans.faults import PlanError, PlanFault, plan_error
from rollout.serving.plans.names import fault_of_name
from rollout.serving.plans.onnx_file import ONNX_BYTES_MAX, load_onnx, nodes

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto

DOMAIN = "com.microsoft"
OPERATOR = "EPContext"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The compiled bytes stand inside the node."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The compiled bytes lie in a file; the name is relative to the model and stays inside its folder."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The compiled bytes are those of the model's main node from the same source."""


Compiled = Embedded | Beside | Shared


@dataclass(frozen=True, slots=True, kw_only=True)
class EpContext:
    """One EPContext node; a text is empty where the node does not say."""

    compiled: Compiled
    source: str
    sdk_version: str
    hardware_architecture: str
    onnx_model_filename: str
    partition_name: str


def read_ep_contexts(path: Path, *, size_bytes_max: int = ONNX_BYTES_MAX) -> tuple[EpContext, ...]:
    """Read the EPContext nodes of a model file; no other file is opened.

    Raises:
        PlanError: The file is too large, is no ONNX model, has no EPContext node, or one that cannot be trusted.
        ConfigError: The onnx package is missing.
        UnavailableError: The disk failed.
    """
    return ep_contexts(load_onnx(path, size_bytes_max=size_bytes_max), name=str(path))


def ep_contexts(model: "ModelProto", *, name: str) -> tuple[EpContext, ...]:
    """Return the EPContext nodes of a model, in order.

    Raises:
        PlanError: ep_context_missing, ep_context_damaged or onnx_path_unsafe.
    """
    found = tuple(
        _ep_context(node, name=name) for node in nodes(model) if node.op_type == OPERATOR and node.domain == DOMAIN
    )
    if not found:
        raise plan_error(PlanFault.CONTEXT_MISSING, f"{name} is an ONNX model without any EPContext node")
    return found


def _ep_context(node: "NodeProto", *, name: str) -> EpContext:
    where = f"the EPContext node {node.name!r} of {name}"
    attributes: dict[str, AttributeProto] = {}
    for one in node.attribute:
        if one.name in attributes:
            raise _damaged(where, f"has {one.name} twice")
        attributes[one.name] = one
    return EpContext(
        compiled=_compiled(attributes, where=where),
        source=_text(attributes, "source", where=where),
        sdk_version=_text(attributes, "ep_sdk_version", where=where),
        hardware_architecture=_text(attributes, "hardware_architecture", where=where),
        onnx_model_filename=_text(attributes, "onnx_model_filename", where=where),
        partition_name=_text(attributes, "partition_name", where=where),
    )


def _compiled(attributes: "dict[str, AttributeProto]", *, where: str) -> Compiled:
    # The operator's schema says 1 where main_context is left out; TensorRT's provider leaves it out.
    main = _flag(attributes, "main_context", where=where) if "main_context" in attributes else True
    if not main:
        return Shared()
    embedded = _flag(attributes, "embed_mode", where=where)
    if embedded:
        return Embedded(data=_bytes(attributes, "ep_cache_context", where=where))
    name = _required_text(attributes, "ep_cache_context", where=where)
    fault = fault_of_name(name)
    if fault:
        raise plan_error(PlanFault.ONNX_PATH_UNSAFE, f"{where} keeps its engine in {name!r}, which {fault}")
    return Beside(name=name)


def _flag(attributes: "dict[str, AttributeProto]", key: str, *, where: str) -> bool:
    found = attributes.get(key)
    if found is None or found.type != found.INT or found.i not in (0, 1):
        raise _damaged(where, f"has no {key} that is 0 or 1")
    return bool(found.i)


def _text(attributes: "dict[str, AttributeProto]", key: str, *, where: str) -> str:
    return _required_text(attributes, key, where=where) if key in attributes else ""


def _required_text(attributes: "dict[str, AttributeProto]", key: str, *, where: str) -> str:
    try:
        return _bytes(attributes, key, where=where).decode()
    except UnicodeDecodeError as error:
        raise _damaged(where, f"has a {key} that is not UTF-8") from error


def _bytes(attributes: "dict[str, AttributeProto]", key: str, *, where: str) -> bytes:
    found = attributes.get(key)
    if found is None or found.type != found.STRING:
        raise _damaged(where, f"has no {key} of type STRING")
    return found.s


def _damaged(where: str, text: str) -> PlanError:
    return plan_error(PlanFault.CONTEXT_DAMAGED, f"{where} {text}")
