"""Detached processes that outlive the controller, and how the next controller finds them again. Linux only.

A process is named by its pid, the kernel's start tick and the boot. A creation time in seconds since 1970 would not do:
it moves when the clock is set, and a controller started later would take a serving process for a stranger.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from rollout.errors import RefusedError
from rollout.model.base import Strict

_PROC = Path("/proc")

_START_TICK_FIELD = 18
"""Index of `starttime` among the fields behind the process state; proc(5) counts it as field 22, the state as 3."""

_THREADS_FIELD = 16
"""Index of `num_threads` in the same list; field 20 in proc(5)."""

_RESIDENT_FIELD = 1
"""Index of `resident`, in pages, in /proc/PID/statm; proc(5) counts it as field 2."""

_POLL_S = 0.005
"""Reading one line of /proc costs about 20 microseconds, so two hundred looks a second are cheap."""

_TAIL_BYTES = 64 * 1024
"""How much of a log's end is read; a line longer than this is cut."""


class ProcessIdentity(Strict):
    """One process and no other, also after its pid was given to somebody else."""

    pid: Annotated[int, Field(gt=1)]
    start_ticks: Annotated[int, Field(ge=0)]
    """Clock ticks from boot to the process's start."""
    boot_id: str


def identify(pid: int) -> ProcessIdentity | None:
    """Name the process that has this pid now; None when there is none or only a zombie is left of it."""
    found = _look(pid)
    return found[1] if found is not None and found[0] else None


def identify_child(child: subprocess.Popen[bytes]) -> ProcessIdentity | None:
    """Name a process that this one started and has not reaped, also when it has ended already."""
    found = _look(child.pid)
    return None if found is None else found[1]


def is_alive(identity: ProcessIdentity) -> bool:
    """Tell whether exactly this process still runs; a zombie does not."""
    return identify(identity.pid) == identity


def find_carriers(variable: str, value: str) -> tuple[ProcessIdentity, ...]:
    """Find the running processes that were started with `variable=value` in their environment, oldest first.

    The caller itself and processes of other users, whose environment cannot be read, are left out.
    """
    wanted = f"{variable}={value}".encode()
    found = []
    for pid in _pids():
        try:
            environ = (_PROC / str(pid) / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if pid != os.getpid() and wanted in environ.split(b"\0"):
            found.append(identify(pid))
    return tuple(sorted((one for one in found if one is not None), key=lambda one: (one.start_ticks, one.pid)))


def find_session(leader: ProcessIdentity) -> tuple[ProcessIdentity, ...]:
    """Find the processes of the session that this process leads, itself included; none when it has ended."""
    # The leader's pid may be a stranger's once it has ended; only while it lives does the session prove anything.
    if not is_alive(leader):
        return ()
    found = [identify(pid) for pid in _pids() if _session_of(pid) == leader.pid]
    return tuple(one for one in found if one is not None)


def resident_bytes(identities: Iterable[ProcessIdentity]) -> int | None:
    """Sum the memory that processes hold in RAM; a page that two of them share counts twice.

    Returns:
        Bytes; None where all of them have ended.
    """
    pages = 0
    for one in identities:
        try:
            text = (_PROC / str(one.pid) / "statm").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            # A helper that ended a moment ago holds nothing any more.
            continue
        pages += int(text.split()[_RESIDENT_FIELD])
    return pages * os.sysconf("SC_PAGE_SIZE") or None


def leads_session(identity: ProcessIdentity) -> bool:
    """Tell whether the process was started by `spawn`, not by one of the processes it started."""
    return _session_of(identity.pid) == identity.pid


def send(identity: ProcessIdentity, which: signal.Signals) -> None:
    """Signal exactly this process; nothing happens when it has ended.

    Raises:
        RefusedError: The process belongs to another user.
    """
    try:
        # The descriptor pins the process, so that the pid cannot change hands between the check and the signal.
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(identity):
            signal.pidfd_send_signal(descriptor, which)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise RefusedError(
            f"{which.name} to process {identity.pid} was refused: it runs as another user; end it by hand"
        ) from error
    finally:
        os.close(descriptor)


def wait_gone(identities: Iterable[ProcessIdentity], *, limit_s: float) -> tuple[ProcessIdentity, ...]:
    """Wait until the processes have ended, at most this long, and return those that have not."""
    deadline = time.monotonic() + limit_s
    left = tuple(one for one in identities if is_alive(one))
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = tuple(one for one in left if is_alive(one))
    return left


def spawn(command: Sequence[str], *, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its output appended to the log.

    Raises:
        OSError: The command could not be started.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or whoever comes after a crash, sees the old or the new content, never a part.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def tail(log: Path, lines: int) -> list[str]:
    """Return the last lines of a log that are not blank; none when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:] if lines > 0 else []


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]


def _look(pid: int) -> tuple[bool, ProcessIdentity] | None:
    """Read whether a process runs, and its identity; None where there is none."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command stands in parentheses and may itself hold spaces and parentheses.
    state, *fields = stat[stat.rindex(b")") + 1 :].split()
    # The first thread of a killed process may be a zombie while others still hold its port and its GPU memory.
    runs = state not in (b"Z", b"X", b"x") or int(fields[_THREADS_FIELD]) > 1
    return runs, ProcessIdentity(pid=pid, start_ticks=int(fields[_START_TICK_FIELD]), boot_id=_boot_id())


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


@cache
def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
