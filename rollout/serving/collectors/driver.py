"""The driver as CUDA programs meet it: device nodes, and the libcuda that is found first."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

from rollout.model.cuda import CudaResult, unpacked
from rollout.model.snapshot import Capability, failed, ok, unavailable
from rollout.serving.collectors.interface import Collector, Fields
from rollout.serving.collectors.mapped import MAPS, mapped_files

DEVICES = Path("/dev")
LIBRARY = "libcuda.so.1"

_NODES = "gpu.devices"
_PATH, _STUB, _VERSION, _INIT, _COUNT, _MEMORY = (
    "gpu.libcuda.path",
    "gpu.libcuda.stub",
    "gpu.libcuda.cuda_version",
    "gpu.libcuda.init",
    "gpu.libcuda.device_count",
    "gpu.libcuda.memory_bytes",
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
        return {name: unavailable("dlopen", str(error)) for name in (_PATH, _STUB, _VERSION, _INIT, _COUNT, _MEMORY)}
    path = next((str(one) for one in mapped_files() if "libcuda.so" in one.name), LIBRARY)
    init = int(library.cuInit(0))
    return {
        _PATH: ok(path, str(MAPS)),
        _STUB: ok(init == CudaResult.STUB_LIBRARY or "/stubs/" in path, "cuInit and the path"),
        _VERSION: _version(library),
        _INIT: ok(init, "cuInit"),
        _COUNT: (count := _count(library, init=init)),
        _MEMORY: _memory(library, count),
    }


def _version(library: ctypes.CDLL) -> Capability:
    found, code = _integer(library.cuDriverGetVersion)
    if code != CudaResult.SUCCESS or found <= 0:
        return failed("cuDriverGetVersion", f"the driver answered {code}, version {found}")
    major, minor = unpacked(found)
    return ok(f"{major}.{minor}", "cuDriverGetVersion")


def _count(library: ctypes.CDLL, *, init: int) -> Capability:
    source = "cuDeviceGetCount"
    if init != CudaResult.SUCCESS:
        return unavailable(source, f"cuInit answered {init}")
    found, code = _integer(library.cuDeviceGetCount)
    return ok(found, source) if code == CudaResult.SUCCESS else failed(source, f"the driver answered {code}")


def _memory(library: ctypes.CDLL, count: Capability) -> Capability:
    """Return the memory of the smallest device that CUDA programs see; of a slice, the slice's."""
    source = "cuDeviceTotalMem, smallest device"
    if not isinstance(count.value, int) or count.value < 1:
        return unavailable(source, count.reason or "there is no device")
    sizes = []
    for ordinal in range(count.value):
        device, size = ctypes.c_int(0), ctypes.c_size_t(0)
        for code in (
            library.cuDeviceGet(ctypes.byref(device), ordinal),
            library.cuDeviceTotalMem_v2(ctypes.byref(size), device),
        ):
            if code != CudaResult.SUCCESS:
                return failed(source, f"the driver answered {code}")
        sizes.append(size.value)
    return ok(min(sizes), source)


def _integer(call: Callable[..., int]) -> tuple[int, int]:
    """Return what a call writes through its one pointer, and its result code."""
    slot = ctypes.c_int(0)
    code = int(call(ctypes.byref(slot)))
    return slot.value, code


DRIVER = Collector(
    name="driver",
    fields=frozenset({_NODES, _STUB, _VERSION, _INIT, _COUNT, _MEMORY}),
    measurements=frozenset({_PATH}),
    read=_read,
    isolated=True,
)
