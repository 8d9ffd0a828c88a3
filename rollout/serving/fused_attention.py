"""Attention as one operator: what an exporter writes as a chain of steps, replaced in the graph.

ONNX Runtime has fused kernels for `com.microsoft.MultiHeadAttention` on the CPU and on CUDA; it does not find the chain
that torch's exporter writes for diffusers' attention by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from rollout.errors import ConfigError

if TYPE_CHECKING:
    import onnx

DOMAIN = "com.microsoft"
FUSED_OP = "MultiHeadAttention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One place where attention is computed in steps; names of tensors, each of shape (batch, tokens, width)."""

    query: str
    key: str
    value: str
    result: str
    heads: int


def with_fused_attention(graph: bytes) -> bytes:
    """Return the graph with each chain of attention as one operator; weights stay where they are.

    Raises:
        ConfigError: The onnx package is missing, or the graph has no such chain.
    """
    try:
        import onnx  # noqa: PLC0415 - heavy, and only fused graphs need it
    except ImportError as error:
        raise ConfigError(f"--attention sdpa on ort needs the onnx package ({error}): install it") from error
    model = onnx.load_from_string(graph)
    chains = _chains(model.graph)
    if not chains:
        raise ConfigError("the graph computes attention in no way that is known here")
    results = {chain.result for chain in chains}
    kept = [node for node in model.graph.node if not results.intersection(node.output)]
    fused = [
        onnx.helper.make_node(
            FUSED_OP,
            [chain.query, chain.key, chain.value],
            [chain.result],
            name=f"{chain.result}/fused",
            domain=DOMAIN,
            num_heads=chain.heads,
        )
        for chain in chains
    ]
    nodes = _needed([*kept, *fused], {one.name for one in model.graph.output})
    del model.graph.node[:]
    model.graph.node.extend(_sorted(nodes))
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    fused_graph: bytes = model.SerializeToString(deterministic=True)
    return fused_graph


def _chains(graph: "onnx.GraphProto") -> list[Chain]:
    made_by = {name: node for node in graph.node for name in node.output}
    used_by = {name: node for node in graph.node for name in node.input}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    try:
        return [_chain(node, made_by, used_by) for node in softmaxes]
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"the graph computes attention in a chain that is not known here: {error!r}") from error


def _chain(
    softmax: "onnx.NodeProto", made_by: Mapping[str, "onnx.NodeProto"], used_by: Mapping[str, "onnx.NodeProto"]
) -> Chain:
    """Follow the chain from its softmax: products of scaled, split heads before it, joined heads after it."""
    scores = made_by[softmax.input[0]]
    product = used_by[softmax.output[0]]
    query, key = (made_by[made_by[name].input[0]] for name in scores.input)  # Below the scaling.
    split = [made_by[node.input[0]] for node in (query, key, made_by[product.input[1]])]
    joined = used_by[used_by[product.output[0]].output[0]]
    kinds = [one.op_type for one in (scores, product, query, key, *split, joined)]
    if kinds != ["MatMul", "MatMul", "Transpose", "Transpose", "Reshape", "Reshape", "Reshape", "Reshape"]:
        raise ConfigError(f"the attention at {softmax.name} is a chain that is not known here: {', '.join(kinds)}")
    names = [node.input[0] for node in split]
    return Chain(query=names[0], key=names[1], value=names[2], result=joined.output[0], heads=_heads(split[0], made_by))


def _heads(split: "onnx.NodeProto", made_by: Mapping[str, "onnx.NodeProto"]) -> int:
    """Return how many heads a reshape to (batch, tokens, heads, width of a head) makes."""
    from onnx import numpy_helper  # noqa: PLC0415 - see above

    heads = made_by[made_by[split.input[1]].input[2]]
    constant = heads if heads.op_type == "Constant" else made_by[heads.input[0]]
    (value,) = (one.t for one in constant.attribute if one.name == "value")
    return int(numpy_helper.to_array(value).item())


def _needed(nodes: list["onnx.NodeProto"], outputs: set[str]) -> list["onnx.NodeProto"]:
    """Drop what no output depends on any more."""
    made_by = {name: node for node in nodes for name in node.output}
    wanted, needed = [*outputs], set[int]()
    while wanted:
        node = made_by.get(wanted.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            wanted += node.input
    return [node for node in nodes if id(node) in needed]


def _sorted(nodes: list["onnx.NodeProto"]) -> list["onnx.NodeProto"]:
    """Put each node behind those whose outputs it reads, otherwise in the order given."""
    made_by = {name: place for place, node in enumerate(nodes) for name in node.output}
    before = {place: {made_by[name] for name in node.input if name in made_by} for place, node in enumerate(nodes)}
    return [nodes[place] for place in TopologicalSorter(before).static_order()]
