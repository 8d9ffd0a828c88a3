"""Writes one of the worlds' models: `models.py KIND PATH`."""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 4
IR_VERSION = 9
OPSET = 17


def plain() -> onnx.GraphProto:
    """Return y = relu(2 x)."""
    return helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIDE, SIDE])],
        [numpy_helper.from_array(2 * np.eye(SIDE, dtype=np.float32), "w")],
    )


def ep_context() -> onnx.GraphProto:
    """Return what TensorRT leaves of a graph that it compiled: one node that holds its engine."""
    node = helper.make_node(
        "EPContext",
        ["x"],
        ["y"],
        domain="com.microsoft",
        main_context=1,
        embed_mode=1,
        ep_cache_context=b"ftrt",
        ep_sdk_version="10.13.3.9",
        hardware_architecture="89",
        onnx_model_filename="plain.onnx",
        partition_name="TRTKernel_graph_plain_0",
        source="TensorrtExecutionProvider",
    )
    return helper.make_graph(
        [node],
        "ep_context",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIDE, SIDE])],
    )


if __name__ == "__main__":
    kind, path = sys.argv[1:]
    graph = {"PLAIN": plain, "EP_CONTEXT": ep_context}[kind]()
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), path)
