"""Liveness: are the devices still those that were admitted? Devices vanish from running containers."""

from rollout.model.admission import Finding
from rollout.model.reasons import REASONS
from rollout.model.snapshot import Capability, CapabilitySnapshot
from rollout.serving.collectors.interface import Fields
from rollout.serving.collectors.running import RunningCollectors
from rollout.serving.collectors.table import DEVICE_COLLECTORS

STEADY = (
    "gpu.nvml.init",
    "gpu.libcuda.init",
    "gpu.libcuda.device_count",
    "gpu.devices",
    "gpu.count",
    "gpu.uuid",
    "gpu.product",
    "gpu.mig",
)
"""What must not change while a server runs."""

_CODE = "device_changed"


def read_devices(*, limit_s: float) -> Fields:
    """Read the devices as they are now.

    Args:
        limit_s: Seconds that one collector may take.
    """
    read: dict[str, Capability] = {}
    for _, found in RunningCollectors(DEVICE_COLLECTORS, limit_s=limit_s).results():
        read |= found
    return read


def device_changes(admitted: CapabilitySnapshot, now: Fields) -> tuple[Finding, ...]:
    """Compare the devices with those that were admitted; a fact that is now unreadable has changed."""
    before = {**admitted.measurements, **admitted.fields}
    return tuple(
        Finding(
            code=_CODE,
            severity=REASONS[_CODE].severity,
            text=f"{name} was {_shown(before.get(name))} and is {_shown(now.get(name))}",
            field=name,
        )
        for name in STEADY
        if _plain(before.get(name)) != _plain(now.get(name))
    )


def _plain(read: Capability | None) -> object:
    return None if read is None else (read.status, read.value)


def _shown(read: Capability | None) -> str:
    if read is None:
        return "not read"
    if read.value is None:
        return f"{read.status} ({read.reason})"
    return ", ".join(read.value) if isinstance(read.value, list) else str(read.value)
