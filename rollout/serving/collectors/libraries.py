"""Which GPU libraries this process has mapped: read after the warm-up, for several are loaded lazily."""

import ctypes
import re
from pathlib import Path

from rollout.model.snapshot import Capability, unavailable
from rollout.serving.collectors.interface import Collector, Fields
from rollout.serving.collectors.mapped import MAPS, mapped_files
from rollout.serving.reading import read

_TOLD = re.compile(
    r"lib(cuda|cudart|cublas|cublasLt|cudnn\w*|cufft|curand|cusparse|cusolver|nvrtc\w*|nvJitLink|nvinfer\w*|nccl|"
    r"nvidia-\w+|onnxruntime\w*|torch_cuda\w*)(-[0-9a-f]+)?\.so[.0-9]*"
)


def read_libraries(maps: Path) -> list[str]:
    """Return the files' names, their links followed, so that full versions show; sorted."""
    return sorted({path.resolve().name for path in mapped_files(maps) if _TOLD.fullmatch(path.name)})


def _read() -> Fields:
    return {"runtime.libraries": read(str(MAPS), lambda: read_libraries(MAPS)), "runtime.cudnn.version": _cudnn()}


def _cudnn() -> Capability:
    """Ask the cuDNN that is mapped: it is loaded lazily, and its file may be named by its major version alone."""
    source = "cudnnGetVersion"
    mapped = [path for path in mapped_files() if path.name.startswith("libcudnn.so")]
    if not mapped:
        return unavailable(source, "no cuDNN is mapped into this process")
    return read(source, lambda: int(ctypes.CDLL(str(mapped[0])).cudnnGetVersion()))


LIBRARIES = Collector(name="libraries", fields=frozenset({"runtime.libraries", "runtime.cudnn.version"}), read=_read)
