"""Somebody else's server: a small ASGI app with a session of its own, as people write it. It knows nothing of rollout.

GET / answers the providers that its session really runs on, and the product of its model.
"""

import json
import os

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CUDAExecutionProvider", "CPUExecutionProvider"])


async def app(scope, receive, send):  # noqa: ARG001 - ASGI's signature
    """Answer every request alike."""
    if scope["type"] != "http":
        return
    feeds = {one.name: np.ones([int(size) for size in one.shape], np.float32) for one in session.get_inputs()}
    total = float(session.run(None, feeds)[0].sum())
    body = json.dumps({"providers": session.get_providers(), "total": total}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
