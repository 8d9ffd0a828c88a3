"""Which GPU libraries this process has mapped: read after the warm-up, for several are loaded lazily."""

import ctypes
import re
from pathlib import Path

from rollout.model.snapshot import Capability, unavailable
from rollout.serving.collectors.interface import Collector, Fields
from rollout.serving.reading import read

MAPS = Path("/proc/self/maps")

_TOLD = re.compile(
    r"lib(cuda|cudart|cublas|cublasLt|cudnn\w*|cufft|curand|cusparse|cusolver|nvrtc\w*|nvJitLink|nvinfer\w*|nccl|"
    r"nvidia-\w+|onnxruntime\w*|torch_cuda\w*)(-[0-9a-f]+)?\.so[.0-9]*"
)


def read_libraries(maps: Path) -> list[str]:
    """Return the files' names, their links followed, so that full versions show; sorted."""
    mapped = {Path(line.split(maxsplit=5)[5]) for line in maps.read_text().splitlines() if line.count(" /") == 1}
    return sorted({path.resolve().name for path in mapped if _TOLD.fullmatch(path.name)})


def _read() -> Fields:
    return {"runtime.libraries": read(str(MAPS), lambda: read_libraries(MAPS)), "runtime.cudnn.version": _cudnn()}


def _cudnn() -> Capability:
    """Ask the cuDNN that is mapped: it is loaded lazily, and its file may be named by its major version alone."""
    source = "cudnnGetVersion"
    mapped = [line.split(maxsplit=5)[5] for line in MAPS.read_text().splitlines() if "/libcudnn.so" in line]
    if not mapped:
        return unavailable(source, "no cuDNN is mapped into this process")
    return read(source, lambda: int(ctypes.CDLL(mapped[0]).cudnnGetVersion()))


LIBRARIES = Collector(name="libraries", fields=frozenset({"runtime.libraries", "runtime.cudnn.version"}), read=_read)
