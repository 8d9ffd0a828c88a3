"""How busy and how full the GPUs are, now and again: NVML, asked in a process of its own that may hang or die."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile

PERIOD_S = 0.2
"""NVML averages utilisation over a sixth of a second to a second, depending on the product."""

KEPT = 3000
"""Ten minutes of samples."""

STALE_S = 5.0
"""A sample older than this says nothing about now."""


_KILL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One look at all visible GPUs, in NVML's order."""

    at: float
    """By the monotonic clock of this machine."""
    utilisation: tuple[float | None, ...]
    """Share of the sampling period in which a kernel ran, 0 to 1; None for a GPU split by MIG, which has none."""
    memory_used_bytes: tuple[int, ...]
    """By anybody, not by this process alone."""


class DeviceWatch:
    """Samples in the background until it is stopped."""

    def __init__(self) -> None:
        self._samples: deque[DeviceSample] = deque(maxlen=KEPT)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "rollout.serving.device_watch"],
            stdin=subprocess.PIPE,  # Closed when this process ends, however it ends; the child then ends too.
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        threading.Thread(target=self._listen, name="device-watch", daemon=True).start()

    def latest(self) -> DeviceSample | None:
        """Return the newest sample; None where there is none, or it is stale."""
        newest = self._samples[-1] if self._samples else None
        return newest if newest is not None and time.monotonic() - newest.at < STALE_S else None

    def busiest_since(self, begun: float) -> float | None:
        """Return the highest utilisation of any GPU since then; None where nothing was sampled."""
        since = list(takewhile(lambda one: one.at >= begun, reversed(self._samples.copy())))
        return max((share for one in since for share in one.utilisation if share is not None), default=None)

    def stop(self) -> None:
        """End the child; one that hangs in a broken driver cannot be ended and is not waited for."""
        self._child.kill()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=_KILL_S)

    def _listen(self) -> None:
        assert self._child.stdout is not None  # noqa: S101 - opened above
        for line in self._child.stdout:
            self._samples.append(_understood(line))


def _understood(line: bytes) -> DeviceSample:
    said = json.loads(line)
    return DeviceSample(
        at=float(said["at"]), utilisation=tuple(said["utilisation"]), memory_used_bytes=tuple(said["memory_used_bytes"])
    )


def _looks() -> Iterator[dict[str, object]]:
    """Ask NVML for ever."""
    import pynvml  # noqa: PLC0415 - only the child has it loaded

    pynvml.nvmlInit()
    devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    while True:
        utilisation: list[float | None] = []
        for device in devices:
            try:
                utilisation.append(pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)
            except pynvml.NVMLError_NotSupported:
                utilisation.append(None)
        memory = [int(pynvml.nvmlDeviceGetMemoryInfo(device).used) for device in devices]
        yield {"at": time.monotonic(), "utilisation": utilisation, "memory_used_bytes": memory}
        time.sleep(PERIOD_S)


def main() -> None:
    """Print samples, one JSON object in a line, until the parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for look in _looks():
        sys.stdout.write(json.dumps(look) + "\n")
        sys.stdout.flush()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
