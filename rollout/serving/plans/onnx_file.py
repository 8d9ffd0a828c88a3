"""ONNX files read without their weights: the graph, the files it names, and one digest of all."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import ConfigError, UnavailableError
from rollout.model.canonical import digest_json
from rollout.serving.plans.disk import digest_file
from rollout.serving.plans.faults import PlanFault, plan_error
from rollout.serving.plans.names import locate_inside

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

ONNX_BYTES_MAX = 2**31 - 1
"""Protobuf holds no larger message."""


def load_onnx(path: Path, *, size_bytes_max: int = ONNX_BYTES_MAX) -> "ModelProto":
    """Read a model's graph; files beside it are not opened.

    Raises:
        PlanError: onnx_too_large, found before a byte is read, or onnx_foreign.
        ConfigError: The onnx package is missing.
        UnavailableError: The disk failed.
    """
    try:
        size = path.stat().st_size
        if size > size_bytes_max:
            raise plan_error(PlanFault.ONNX_TOO_LARGE, f"{path} has {size} bytes, at most {size_bytes_max} are read")
        data = path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}; see to the disk") from error
    return parse_onnx(data, name=str(path))


def parse_onnx(data: bytes, *, name: str) -> "ModelProto":
    """Read a model's graph from bytes.

    Raises:
        PlanError: onnx_foreign.
        ConfigError: The onnx package is missing.
    """
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # noqa: PLC0415 - of onnx
        from onnx import load_model_from_string  # noqa: PLC0415 - heavy, and only who works with models needs it
    except ImportError as error:
        raise ConfigError(f"ONNX models are read with the onnx package ({error}): install 'rollout[local]'") from error
    try:
        model = load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise plan_error(PlanFault.ONNX_FOREIGN, f"{name} is no ONNX model: {error}") from error
    if not (model.HasField("ir_version") and model.HasField("graph")):
        raise plan_error(PlanFault.ONNX_FOREIGN, f"{name} is no ONNX model: it has no graph or no ir_version")
    return model


def digest_model(path: Path) -> str:
    """Return the digest that stands for a model: graph and weights, wherever the weights lie.

    A model in one file has that file's digest. Where weights lie beside it, the digest is that of all files by name:
    plans have the weights inside, so two sets of weights for one graph must never share a plan.

    Raises:
        PlanError: The file is no ONNX model, or names a file that is missing or outside its folder.
        ConfigError: The onnx package is missing.
        UnavailableError: The disk failed.
    """
    beside = external_names(load_onnx(path), name=str(path))
    if not beside:
        return digest_file(path)
    files = {name: digest_file(locate_inside(path.parent, name)) for name in beside}
    return digest_json({"graph": digest_file(path), "external": files})


def external_names(model: "ModelProto", *, name: str) -> tuple[str, ...]:
    """Return the names of the files that hold tensors of this model, sorted.

    Raises:
        PlanError: onnx_foreign: a tensor lies outside and does not say where.
    """
    found: set[str] = set()
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            # Protobuf hands out bytes, whatever the type says, where a text is not UTF-8.
            location: object = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            if not isinstance(location, str) or not location:
                raise plan_error(PlanFault.ONNX_FOREIGN, f"{name} holds a tensor that lies outside, and not where")
            found.add(location)
    return tuple(sorted(found))


def nodes(model: "ModelProto") -> Iterator["NodeProto"]:
    """Yield every node: of the graph, of the graphs inside its nodes, and of the model's functions."""
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting.extend(graph.node for graph in _graphs(attribute))


def _tensors(model: "ModelProto") -> Iterator["TensorProto"]:
    graphs = [model.graph]
    for node in nodes(model):
        for attribute in node.attribute:
            graphs.extend(_graphs(attribute))
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


def _graphs(attribute: "AttributeProto") -> Iterator["GraphProto"]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs
