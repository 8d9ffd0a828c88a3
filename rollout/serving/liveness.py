"""Liveness: are the devices still those that were admitted? Devices vanish from running containers."""

import threading
from collections.abc import Callable

from rollout.model.admission import Finding, finding
from rollout.model.snapshot import Capability, CapabilitySnapshot, CapabilityStatus
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

PERIOD_S = 30.0
"""Between two looks; also the agent's. Each look starts two Python processes, which take some tenths of a second of CPU
beside the requests, and a request that meets a lost device fails by itself. With kubelet's three probes of ten seconds
such a device is replaced within a minute and a half."""

UNREAD_LOOKS = 4
"""So many looks in a row that read nothing are a lost device: a hung driver answers none of two minutes' worth, and a
busy host one of them."""

DEVICE_CHANGED = "device_changed"


class Liveness:
    """Whether this process is worth keeping. What failed stays failed: a lost device comes back to a new process."""

    def __init__(self) -> None:
        self._failure = ""

    @property
    def failure(self) -> str:
        """Why it is not; empty while it is."""
        return self._failure

    def fail(self, reason: str) -> None:
        """Nothing but a new process helps."""
        self._failure = reason


class DeviceProbe:
    """Looks at the devices now and then, in a thread of its own, until they change or it is stopped."""

    def __init__(self, *, read: Callable[[], Fields], changed: Callable[[str], None], period_s: float) -> None:
        """Prepare; nothing is read yet.

        Args:
            read: Reads the devices; may take its time.
            changed: Called once, from the thread, with what changed.
            period_s: Seconds between two looks.
        """
        self._read = read
        self._changed = changed
        self._period_s = period_s
        self._stopped = threading.Event()

    def start(self, admitted: CapabilitySnapshot) -> None:
        """Compare with this snapshot from now on."""
        threading.Thread(target=self._watch, args=(admitted,), name="device-probe", daemon=True).start()

    def stop(self) -> None:
        """Look no more; a look that is under way is not waited for, and changes nothing."""
        self._stopped.set()

    def _watch(self, admitted: CapabilitySnapshot) -> None:
        try:
            changes = changes_seen(admitted, read=self._read, stopped=self._stopped, period_s=self._period_s)
            told = "; ".join(one.text for one in changes)
        except Exception as error:  # noqa: BLE001 - a probe that cannot look must not pass for one that finds all well
            told = f"the devices cannot be looked at: {type(error).__name__}: {error}"
        if told and not self._stopped.is_set():
            self._changed(f"{DEVICE_CHANGED}: {told}")


def changes_seen(
    admitted: CapabilitySnapshot, *, read: Callable[[], Fields], stopped: threading.Event, period_s: float
) -> tuple[Finding, ...]:
    """Look every so often until the devices have changed, or cannot be read; empty where it was stopped first."""
    looks = DeviceLooks(admitted, read=read)
    while not stopped.wait(period_s):
        if changes := looks.changes():
            return changes
    return ()


class DeviceLooks:
    """One look after the other at the devices.

    A change must be seen twice in a row: the price of a mistake is a server and everything in its queue. A look that
    reads nothing is no change, but many in a row are.
    """

    def __init__(self, admitted: CapabilitySnapshot, *, read: Callable[[], Fields]) -> None:
        self._admitted = admitted
        self._read = read
        self._unread = 0

    def changes(self) -> tuple[Finding, ...]:
        """Look, and where something changed look again; return what differs from what was admitted."""
        now = self._read()
        changes = device_changes(self._admitted, now)
        if changes and all(_is_unread(now, one.field) for one in changes):
            self._unread += 1
            return changes if self._unread >= UNREAD_LOOKS else ()
        self._unread = 0
        return changes and device_changes(self._admitted, self._read())


def _is_unread(now: Fields, field: str) -> bool:
    """Tell whether a probe failed, so that nothing is known: it hung, died, or could not be started."""
    read = now.get(field)
    return read is None or read.status is CapabilityStatus.ERROR


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
        finding(DEVICE_CHANGED, f"{name} was {_shown(before.get(name))} and is {_shown(now.get(name))}", field=name)
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
