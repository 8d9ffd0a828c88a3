"""The driver as CUDA programs meet it: device nodes, and the libcuda that is found first."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

from rollout.model.snapshot import Capability, failed, ok, unavailable
from rollout.serving.collectors.interface import Collector, Fields

DEVICES = Path("/dev")
LIBRARY = "libcuda.so.1"

STUB = 34
"""CUDA_ERROR_STUB_LIBRARY."""

_NODES = "gpu.devices"
_PATH, _STUB, _VERSION, _INIT, _COUNT = (
    "gpu.libcuda.path",
    "gpu.libcuda.stub",
    "gpu.libcuda.cuda_version",
    "gpu.libcuda.init",
    "gpu.libcuda.device_count",
)


def _read() -> Fields:
    return {_NODES: read_nodes(DEVICES), **_read_library()}


def read_nodes(devices: Path) -> Capability:
    """Name the device nodes of GPUs and of MIG capabilities that the container was given."""
    source = f"{devices}/nvidia*"
    nodes = sorted(node.name for node in devices.glob("nvidia*") if re.fullmatch(r"nvidia([0-9]+|ctl|-uvm)", node.name))
    return ok(nodes, source) if nodes else unavailable(source, "no NVIDIA device node exists in this container")


def _read_library() -> Fields:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        return {name: unavailable("dlopen", str(error)) for name in (_PATH, _STUB, _VERSION, _INIT, _COUNT)}
    path = _mapped_from()
    init = int(library.cuInit(0))
    return {
        _PATH: ok(path, "/proc/self/maps"),
        _STUB: ok(init == STUB or "/stubs/" in path, "cuInit and the path"),
        _VERSION: _version(library),
        _INIT: ok(init, "cuInit"),
        _COUNT: _count(library) if init == 0 else unavailable("cuDeviceGetCount", f"cuInit answered {init}"),
    }


def _version(library: ctypes.CDLL) -> Capability:
    found, code = _integer(library.cuDriverGetVersion)
    if code != 0 or found <= 0:
        return failed("cuDriverGetVersion", f"the driver answered {code}, version {found}")
    return ok(f"{found // 1000}.{found % 1000 // 10}", "cuDriverGetVersion")


def _count(library: ctypes.CDLL) -> Capability:
    found, code = _integer(library.cuDeviceGetCount)
    return ok(found, "cuDeviceGetCount") if code == 0 else failed("cuDeviceGetCount", f"the driver answered {code}")


def _integer(call: Callable[..., int]) -> tuple[int, int]:
    """Return what a call writes through its one pointer, and its result code."""
    slot = ctypes.c_int(0)
    code = int(call(ctypes.byref(slot)))
    return slot.value, code


def _mapped_from() -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libcuda.so" in line:
            return line.split(maxsplit=5)[5]
    return LIBRARY


DRIVER = Collector(
    name="driver",
    fields=frozenset({_NODES, _STUB, _VERSION, _INIT, _COUNT}),
    measurements=frozenset({_PATH}),
    read=_read,
    isolated=True,
)
