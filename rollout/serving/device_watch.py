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
from tempfile import TemporaryFile
from typing import IO

from rollout.serving.isolation import how_ended

PERIOD_S = 0.2
"""NVML averages utilisation over a sixth of a second to a second, depending on the product: little falls between."""

KEPT = 3000
"""Ten minutes of samples: a policy lets the self-test take no longer."""

STALE_S = 5.0
"""A sample older than this says nothing about now. On a busy host a child may miss its turn for a second or two."""

RESTARTS_MAX = 5
"""In a row, without a sample in between: what lasts longer, such as a missing pynvml, no restart repairs."""

RESTART_PAUSE_S = 5.0
"""A restart of the driver takes seconds; a child that dies at once costs some tenths of a second of CPU."""

_KILL_S = 1.0
"""A killed child is gone in milliseconds, or the driver holds it for as long as it likes."""

_CHILD = (sys.executable, "-m", "rollout.serving.device_watch")


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
    """Samples in the background until it is stopped; a child that ends is started again, unless it never works."""

    def __init__(self) -> None:
        self._samples: deque[DeviceSample] = deque(maxlen=KEPT)
        self._trouble = ""
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._said: IO[bytes]
        self._child: subprocess.Popen[bytes]
        self._start()
        threading.Thread(target=self._watch, name="device-watch", daemon=True).start()

    @property
    def trouble(self) -> str:
        """How a child ended last, and its last words; empty where none has."""
        return self._trouble

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
        with self._starting:
            self._stopped.set()
            self._child.kill()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=_KILL_S)

    def _start(self) -> None:
        """Start a child, and keep what it says on stderr in a file: nobody need read that for the child to go on."""
        self._said = TemporaryFile()  # noqa: SIM115 - closed when the child has ended
        self._child = subprocess.Popen(
            _CHILD,
            stdin=subprocess.PIPE,  # Closed when this process ends, however it ends; the child then ends too.
            stdout=subprocess.PIPE,
            stderr=self._said,
        )

    def _watch(self) -> None:
        """Listen to one child after the other."""
        failures = 0
        while True:
            failures = 1 if self._listen() else failures + 1
            if failures > RESTARTS_MAX or self._stopped.wait(RESTART_PAUSE_S):
                return
            with self._starting:
                if self._stopped.is_set():
                    return
                try:
                    self._start()
                except OSError as error:
                    self._trouble = f"the sampling process could not be started: {error}"
                    return

    def _listen(self) -> bool:
        """Take samples until the child has ended, and say whether it gave any."""
        sampled = False
        with self._child, self._said:
            for line in self._child.stdout or ():
                if line.endswith(b"\n"):  # A child that is killed may leave half a line.
                    self._samples.append(_understood(line))
                    sampled = True
            self._trouble = f"the sampling process {how_ended(self._child.wait(), self._said)}"
        return sampled


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
