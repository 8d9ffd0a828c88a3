"""NVIDIA's management library: what the devices are, and how they are right now."""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rollout.model.cuda import unpacked
from rollout.model.snapshot import Capability, failed, ok, unavailable
from rollout.serving.collectors.interface import Collector, Fields

INIT = "gpu.nvml.init"
"""The result code of nvmlInit; 0 is success."""

_SYSTEM = ("gpu.count", "gpu.driver.version", "gpu.driver.cuda_version")

_MIG_PROFILE = re.compile(r"[0-9]+g\.[0-9]+gb(\+me)?")

_CLOCK_EVENTS = MappingProxyType(
    {
        0x004: "power cap",
        0x008: "hardware slowdown",
        0x020: "thermal slowdown (software)",
        0x040: "thermal slowdown (hardware)",
        0x080: "power brake",
    }
)
"""Of nvml.h, those that slow a busy GPU down; idle, application clocks and display settings do not."""

_COMPUTE_MODES = ("default", "exclusive thread", "prohibited", "exclusive process")

Reader = Callable[[Any, Any], str]
"""Reads one fact of a device, given the module pynvml and a handle."""


def _memory_bytes(nvml: Any, device: Any) -> int:  # noqa: ANN401 - pynvml ships no types
    return int(nvml.nvmlDeviceGetMemoryInfo(device).total)


def _capability(nvml: Any, device: Any) -> str:  # noqa: ANN401 - as above
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(device)
    return f"{major}.{minor}"


def _mig(nvml: Any, device: Any) -> str:  # noqa: ANN401 - as above
    """Return "off", or the profiles of the instances that the container sees."""
    try:
        mode = nvml.nvmlDeviceGetMigMode(device)[0]
    except nvml.NVMLError_NotSupported:
        return "off"  # A product that cannot be partitioned.
    if not mode:
        return "off"
    profiles = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        try:
            name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index))
        except nvml.NVMLError_NotFound:
            continue
        profiles += [matched.group() for matched in [_MIG_PROFILE.search(name)] if matched]
    return " ".join(profiles) or "on, and no instance is visible"


def _clock_events(nvml: Any, device: Any) -> str:  # noqa: ANN401 - as above
    bits = int(nvml.nvmlDeviceGetCurrentClocksEventReasons(device))
    return ", ".join(name for bit, name in _CLOCK_EVENTS.items() if bits & bit) or "none"


def _remapped_rows(nvml: Any, device: Any) -> str:  # noqa: ANN401 - as above
    _correctable, _uncorrectable, pending, failure = nvml.nvmlDeviceGetRemappedRows(device)
    return "failure" if failure else "pending" if pending else "none"


_FIXED: Mapping[str, Reader] = MappingProxyType(
    {
        "gpu.product": lambda nvml, device: str(nvml.nvmlDeviceGetName(device)),
        "gpu.compute_capability": _capability,
        "gpu.mig": _mig,
        "gpu.ecc": lambda nvml, device: "on" if nvml.nvmlDeviceGetEccMode(device)[0] else "off",
        "gpu.persistence": lambda nvml, device: "on" if nvml.nvmlDeviceGetPersistenceMode(device) else "off",
        "gpu.compute_mode": lambda nvml, device: _COMPUTE_MODES[nvml.nvmlDeviceGetComputeMode(device)],
        "gpu.power_limit_w": lambda nvml, device: str(nvml.nvmlDeviceGetEnforcedPowerLimit(device) // 1000),
        "gpu.pcie.generation_max": lambda nvml, device: str(nvml.nvmlDeviceGetMaxPcieLinkGeneration(device)),
        "gpu.pcie.width_max": lambda nvml, device: str(nvml.nvmlDeviceGetMaxPcieLinkWidth(device)),
    }
)
"""One text per device, in NVML's order."""

_NOW: Mapping[str, Reader] = MappingProxyType(
    {
        "gpu.uuid": lambda nvml, device: str(nvml.nvmlDeviceGetUUID(device)),
        "gpu.pcie.generation": lambda nvml, device: str(nvml.nvmlDeviceGetCurrPcieLinkGeneration(device)),
        "gpu.pcie.width": lambda nvml, device: str(nvml.nvmlDeviceGetCurrPcieLinkWidth(device)),
        "gpu.clock_events": _clock_events,
        "gpu.remapped_rows": _remapped_rows,
        "gpu.temperature_c": lambda nvml, device: str(nvml.nvmlDeviceGetTemperature(device, 0)),
    }
)
"""The same, of what changes from minute to minute."""

_MEMORY = "gpu.memory_bytes"


def _read() -> Fields:
    try:
        import pynvml  # noqa: PLC0415 - a process without a GPU need not have it
    except ImportError as error:
        return _all(unavailable("pynvml", f"{error}: pip install nvidia-ml-py"))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        told = _all(unavailable("nvmlInit", f"NVML answered {error.value}: {error}"))
        return {**told, INIT: ok(int(error.value), "nvmlInit")}
    count = _asked(pynvml, "nvmlDeviceGetCount", pynvml.nvmlDeviceGetCount)
    started = ok(0, "nvmlInit")
    try:
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(int(str(count.value or 0)))]
    except pynvml.NVMLError as error:
        refused = failed("nvmlDeviceGetHandleByIndex", f"NVML answered {error.value}: {error}")
        return {**_all(refused), INIT: started, "gpu.count": count}
    return {
        INIT: started,
        "gpu.count": count,
        "gpu.driver.version": _asked(pynvml, "nvmlSystemGetDriverVersion", pynvml.nvmlSystemGetDriverVersion),
        "gpu.driver.cuda_version": _asked(pynvml, "nvmlSystemGetCudaDriverVersion", lambda: _cuda_version(pynvml)),
        _MEMORY: _asked(
            pynvml,
            "nvmlDeviceGetMemoryInfo, smallest device",
            lambda: min(_memory_bytes(pynvml, device) for device in devices),
        ),
        **{name: _of_each(pynvml, devices, reader) for name, reader in {**_FIXED, **_NOW}.items()},
    }


def _cuda_version(nvml: Any) -> str:  # noqa: ANN401 - as above
    major, minor = unpacked(int(nvml.nvmlSystemGetCudaDriverVersion_v2()))
    return f"{major}.{minor}"


def _of_each(nvml: Any, devices: Sequence[Any], reader: Reader) -> Capability:  # noqa: ANN401 - as above
    return _asked(nvml, "NVML, one for each device", lambda: [reader(nvml, device) for device in devices])


def _asked(nvml: Any, source: str, reader: Callable[[], int | str | list[str]]) -> Capability:  # noqa: ANN401 - as above
    """Return an answer of NVML, its refusal, or why there is none."""
    try:
        found = reader()
    except nvml.NVMLError_NotSupported:
        return unavailable(source, "this device does not support it")
    except (nvml.NVMLError, AttributeError, ValueError, IndexError) as error:
        return failed(source, f"{type(error).__name__}: {error}")
    return unavailable(source, "there is no device") if found == [] else ok(found, source)


def _all(told: Capability) -> Fields:
    return dict.fromkeys([INIT, *_SYSTEM, _MEMORY, *_FIXED, *_NOW], told)


NVML = Collector(
    name="nvml",
    fields=frozenset({INIT, *_SYSTEM, _MEMORY, *_FIXED}),
    measurements=frozenset(_NOW),
    read=_read,
    isolated=True,
)
