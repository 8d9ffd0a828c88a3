"""Opens a session and runs it: `session_probe.py RECIPE MODEL PROVIDERS REPORT`.

Fds 1 and 2 are left to ONNX Runtime.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


def main(recipe: str, model: str, providers: list[str]) -> dict:
    """Return what came of it."""
    options = ort.SessionOptions()
    settings = {}
    if recipe == "SEVERITY_2":
        ort.set_default_logger_severity(2)
        options.log_severity_level = 2
    if recipe == "STRICT":
        settings["enable_fallback"] = 0
    wanted = [(provider, {}) for provider in providers] if recipe == "STRICT" else providers
    try:
        session = ort.InferenceSession(model, sess_options=options, providers=wanted, **settings)
    except Exception as error:  # noqa: BLE001 - its class is the observation.
        kind = type(error)
        return {"raised": [f"{kind.__module__}.{kind.__qualname__}", str(error)]}
    if recipe == "STRICT":
        session.disable_fallback()
    x = np.arange(-8, 8, dtype=np.float32).reshape(4, 4)
    (y,) = session.run(None, {"x": x})
    return {"providers": session.get_providers(), "ran": bool(np.array_equal(y, np.maximum(2 * x, 0)))}


if __name__ == "__main__":
    told, path, asked, report = sys.argv[1:]
    Path(report).write_text(json.dumps(main(told, path, asked.split(","))))
