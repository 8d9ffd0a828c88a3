"""TensorRT as the container holds it: the library that ONNX Runtime's provider loads."""

import ctypes
import re

from rollout.model.snapshot import ok, unavailable
from rollout.serving.collectors.interface import Collector, Fields
from rollout.serving.collectors.mapped import MAPS, mapped_files

_VERSION, _LIBRARY = "runtime.tensorrt.version", "runtime.tensorrt.library"
_SONAMES = ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.9", "libnvinfer.so.8")
"""Newest first. ONNX Runtime's provider is linked to one of them."""


def _read() -> Fields:
    reasons = []
    for soname in _SONAMES:
        try:
            library = ctypes.CDLL(soname)
        except OSError as error:
            reasons.append(str(error))
            continue
        number = int(library.getInferLibVersion())
        return {
            _VERSION: ok(_dotted(number, major=int(re.findall(r"[0-9]+", soname)[-1])), "getInferLibVersion"),
            _LIBRARY: ok(_mapped(), str(MAPS)),
        }
    told = f"none of {', '.join(_SONAMES)} loads: {reasons[-1]}"
    return {name: unavailable("dlopen", told) for name in (_VERSION, _LIBRARY)}


def _dotted(number: int, *, major: int) -> str:
    """Return 10.13.2 for 101302, which TensorRT 10 and later answer, and 8.6.1 for 8601."""
    unit = 10_000 if number >= major * 10_000 else 1_000
    return f"{number // unit}.{number % unit // 100}.{number % 100}"


def _mapped() -> str:
    return next((path.name for path in mapped_files() if "libnvinfer.so" in path.name), "libnvinfer")


TENSORRT = Collector(name="tensorrt", fields=frozenset({_VERSION, _LIBRARY}), read=_read, isolated=True)
