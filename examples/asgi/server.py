"""A server that is not ours: Starlette and an inference session of its own, proven before it serves.

uvicorn --app-dir examples/asgi server:app
"""

import os

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from rollout.model.canonical import digest_bytes
from rollout.serving.admission import admit, open_strict_session, with_capabilities

PROVIDERS = os.environ.get("PROVIDERS", "CPUExecutionProvider").split(",")
POLICY = os.environ.get("POLICY", "development-cpu")


def model() -> bytes:
    """Return y = relu(2 x) for rows of four numbers."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [numpy_helper.from_array(2 * np.eye(4, dtype=np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def opened() -> ort.InferenceSession:
    """Open the session that will serve; its profile tells where the warm-up ran, which the policy `gpu` asks for."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = os.environ.get("PROFILE_PREFIX", "/tmp/doubling")  # noqa: S108 - an example
    return open_strict_session(MODEL, providers=PROVIDERS, options=options)


MODEL = model()
ADMITTED = admit(POLICY, session=opened, dimensions={"rows": 8}, requested=PROVIDERS, model_digest=digest_bytes(MODEL))


async def double(request: Request) -> JSONResponse:
    """Answer with the session that was admitted, and look at it again."""
    rows = np.asarray(await request.json(), dtype=np.float32)
    (doubled,) = ADMITTED.session.run(None, {"x": rows})
    ADMITTED.recheck()
    return JSONResponse(doubled.tolist())


app = with_capabilities(Starlette(routes=[Route("/double", double, methods=["POST"])]), ADMITTED)
