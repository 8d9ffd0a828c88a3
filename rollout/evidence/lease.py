"""The lease: one controller at a time, and a generation that every write carries.

Safety rests on two things, neither of them a clock: every write happens while `lease.lock` is locked by the kernel,
and under that lock `lease.json` must name the very acquisition that this object made. Expiry only says when another
controller may help itself.
"""

import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError

from rollout.disk import is_full, make_folder, read_file, unavailable, write_file
from rollout.errors import ConfigError, ConflictError, EvidenceError, UnavailableError
from rollout.evidence.runs import highest_generation
from rollout.model.base import Strict
from rollout.model.canonical import canonical_bytes

LEASE_SCHEMA: Final = "rollout.lease/v1"

# A write under the lock takes milliseconds; whoever keeps it longer is stopped or its disk hangs.
_LOCK_WAIT_S = 5.0
_LOCK_POLL_S = 0.05
# The file is padded to whole sectors, so that a later lease fits into the place of the one before.
_SECTOR_SIZE = 512


class _Lease(Strict):
    """The file `lease.json`."""

    schema_: Literal["rollout.lease/v1"] = Field(alias="schema")
    generation: Annotated[int, Field(ge=1)]
    holder: str
    token: str
    """Random for each acquisition: one process that acquires twice is two holders."""
    host: str
    pid: Annotated[int, Field(ge=1)]
    process_started: str
    boot_id: str
    pid_namespace: str
    since: float
    expires_at: float
    released: bool

    def __str__(self) -> str:
        return (
            f"{self.holder} (pid {self.pid} on {self.host}, generation {self.generation}, "
            f"since {_time_text(self.since)}, until {_time_text(self.expires_at)})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMark:
    """Tells one process from every other one, before or after it, with the same id.

    Attributes:
        pid: Process id, as its own namespace counts.
        started: Start time in the kernel's ticks since boot; empty where /proc does not tell.
        boot_id: Changes with every boot; empty where /proc does not tell.
        pid_namespace: Containers on one machine count their processes apart; empty where /proc does not tell.
    """

    pid: int
    started: str
    boot_id: str
    pid_namespace: str

    @classmethod
    def current(cls) -> Self:
        """Return the mark of this process."""
        return cls(
            pid=os.getpid(),
            started=_start_time(os.getpid()),
            boot_id=_proc_text(Path("/proc/sys/kernel/random/boot_id")).strip(),
            pid_namespace=_pid_namespace(),
        )


class FileLease:
    """A lease in a folder that every controller of one stack shares.

    Args:
        folder: The state folder; made at the first acquire.
        holder: Who holds it, for people.
        ttl_s: After this time without a sign of life another controller may take over.
        clock: Unix time in seconds.
        sleep: Waits between two tries for the lock.

    Raises:
        ConfigError: The time to live is not positive.
    """

    def __init__(
        self,
        folder: Path,
        *,
        holder: str,
        ttl_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not ttl_s > 0.0:
            raise ConfigError(f"the lease's time to live must be above 0 s, not {ttl_s}")
        self._folder = folder
        self._path = folder / "lease.json"
        self._lock_path = folder / "lease.lock"
        self._holder = holder
        self._ttl_s = ttl_s
        self._clock = clock
        self._sleep = sleep
        self._token = ""
        self._mutex = threading.RLock()
        self._depth = 0
        self._generation = 0

    def acquire(self) -> int:
        """Take the lease and return its generation, higher than any before.

        A lease is free when it was released, has expired, or its holder is a process of this machine that is gone.

        Raises:
            ConflictError: A live holder has it.
            EvidenceError: `lease.json` is damaged.
            UnavailableError: The lock was not free in time, or the disk is full or failed.
        """
        make_folder(self._folder)
        with self._locked():
            stored = self._free()
            highest = highest_generation(self._folder, journals=stored is None)
            generation = max(highest, 0 if stored is None else stored.generation) + 1
            token = secrets.token_hex(16)
            self._write(self._claim(generation=generation, token=token))
            self._token = token
        return generation

    def check_free(self) -> None:
        """Refuse as `acquire` would, and take nothing: no generation is spent on a command that will be refused.

        Raises:
            ConflictError, EvidenceError, UnavailableError: See `acquire`.
        """
        make_folder(self._folder)
        with self._locked():
            self._free()

    def _free(self) -> _Lease | None:
        """Return what is stored of a lease that nobody holds."""
        stored = self._read()
        if stored is not None and not self._is_free(stored):
            raise ConflictError(
                f"the lease of {self._folder} is held by {stored}; wait for it to end or to expire, or end that process"
            )
        return stored

    def renew(self) -> None:
        """Give a sign of life: the lease expires a whole time to live from now.

        Raises:
            ConflictError: The lease was taken, released or never acquired.
            EvidenceError: `lease.json` is damaged.
            UnavailableError: The lock was not free in time, or the disk is full or failed.
        """
        with self._locked():
            self._write(self._renewed(self._ours()))

    def release(self) -> None:
        """Free the lease. One that was taken meanwhile, or never ours, is left alone.

        Raises:
            EvidenceError: `lease.json` is damaged.
            UnavailableError: The lock was not free in time, or the disk is full or failed.
        """
        if not self._token:
            return
        with self._locked():
            stored = self._read()
            if stored is not None and stored.token == self._token:
                self._write(stored.model_copy(update={"released": True}))
            self._token = ""

    @contextmanager
    def hold(self) -> Iterator[int]:
        """Keep the lease from changing hands while the block runs, and yield its generation.

        May be nested. An expired lease that nobody took is still ours. The sign of life is renewed when less than half
        of its time is left; a failing disk does not hinder the block, because the lock and the token guard it.

        Raises:
            ConflictError: The lease was taken, released or never acquired; nothing may be written.
            EvidenceError: `lease.json` is damaged.
            UnavailableError: The lock was not free in time; its holder may be stopped.
        """
        with self._locked():
            if self._depth == 1:
                self._generation = self._check_in()
            yield self._generation

    def _check_in(self) -> int:
        """Check that the lease is ours, renew it if need be and return its generation."""
        stored = self._ours()
        if stored.expires_at - self._clock() < self._ttl_s / 2:
            try:
                self._write(self._renewed(stored))
            except UnavailableError:
                # Moving traffic back must stay possible on a failing disk. Without the renewal another controller may
                # take the lease earlier, but only after this block, and the next block would notice.
                return stored.generation
        return stored.generation

    def _ours(self) -> _Lease:
        """Return the stored lease if it is the one that we acquired."""
        stored = self._read()
        lost = "nothing was written; start again to take the lease anew"
        if not self._token:
            raise ConflictError(
                f"the lease of {self._folder} was not acquired by this process, or was released; {lost}"
            )
        if stored is None:
            raise ConflictError(f"{self._path} was removed while {self._holder} held the lease; {lost}")
        if stored.token != self._token or stored.released:
            raise ConflictError(f"the lease of {self._folder} was taken from {self._holder} by {stored}; {lost}")
        return stored

    def _is_free(self, stored: _Lease) -> bool:
        """Tell whether a stored lease may be taken."""
        return stored.released or stored.expires_at <= self._clock() or _is_gone(stored)

    def _claim(self, *, generation: int, token: str) -> _Lease:
        """Return a new lease in our name."""
        mark = ProcessMark.current()
        now = float(self._clock())
        return _Lease(
            schema=LEASE_SCHEMA,
            generation=generation,
            holder=self._holder,
            token=token,
            host=socket.gethostname(),
            pid=mark.pid,
            process_started=mark.started,
            boot_id=mark.boot_id,
            pid_namespace=mark.pid_namespace,
            since=now,
            expires_at=now + self._ttl_s,
            released=False,
        )

    def _renewed(self, stored: _Lease) -> _Lease:
        """Return the lease with its expiry moved."""
        return stored.model_copy(update={"expires_at": float(self._clock()) + self._ttl_s})

    def _read(self) -> _Lease | None:
        """Return the stored lease; None where there is none yet."""
        if not self._path.exists():
            return None
        data = read_file(self._path, missing="run again")
        try:
            return _Lease.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
            raise EvidenceError(
                f"{self._path}, key {key}: {first['msg']}; make sure that no controller runs on this state folder, "
                "then remove the file: the next generation is read from the runs"
            ) from error

    def _write(self, lease: _Lease) -> None:
        """Store a lease, on disk when this returns; on a full disk over the one before, which needs no room."""
        data = canonical_bytes(lease.model_dump(mode="json", by_alias=True))
        data = data.ljust(-(-len(data) // _SECTOR_SIZE) * _SECTOR_SIZE)
        try:
            write_file(self._path, data)
        except UnavailableError as error:
            full = isinstance(error.__cause__, OSError) and is_full(error.__cause__)
            if not full or not _overwrite(self._path, data):
                raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold `lease.lock`; nested in one process it is taken once."""
        if not self._mutex.acquire(timeout=_LOCK_WAIT_S):
            raise UnavailableError(f"{self._lock_path} is kept by another thread of this process for {_LOCK_WAIT_S} s")
        try:
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            fd = self._take_lock()
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0
                os.close(fd)
        finally:
            self._mutex.release()

    def _take_lock(self) -> int:
        """Return a locked descriptor of `lease.lock`; closing it unlocks."""
        for _ in range(round(_LOCK_WAIT_S / _LOCK_POLL_S)):
            fd = self._try_lock()
            if fd is not None:
                return fd
            self._sleep(_LOCK_POLL_S)
        holder = self._read()
        raise UnavailableError(
            f"{self._lock_path} was not free for {_LOCK_WAIT_S} s; whoever writes under it may be stopped: last seen "
            f"{holder or 'nobody'}; continue (kill -CONT) or end that process, then run again"
        )

    def _try_lock(self) -> int | None:
        """Return a locked descriptor, or None when the lock is taken or its file was replaced this moment."""
        try:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise unavailable(error, action="open", path=self._lock_path) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(fd, self._lock_path):
                return fd
        except BlockingIOError:
            pass  # Taken: not an error, the caller polls.
        except OSError as error:
            os.close(fd)
            raise unavailable(error, action="lock", path=self._lock_path) from error
        os.close(fd)
        return None


def _overwrite(path: Path, data: bytes) -> bool:
    """Replace a file's content in place; False, and nothing done, where the file has another size or is not there.

    A kill cannot cut one write of a few sectors short. A power cut could, which the reader would notice.
    """
    try:
        with path.open("r+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != len(data):
                return False
            file.write(data)
            os.fsync(file.fileno())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unavailable(error, action="overwrite", path=path) from error
    return True


def _same_file(fd: int, path: Path) -> bool:
    """Tell whether the path still names the open file: a lock on a removed file guards nothing."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _is_gone(lease: _Lease) -> bool:
    """Tell whether the holder is a process of this machine that certainly has ended."""
    here = ProcessMark.current()
    known = here.boot_id and here.pid_namespace and lease.process_started
    if not known or (lease.boot_id, lease.pid_namespace) != (here.boot_id, here.pid_namespace):
        return False
    try:
        os.kill(lease.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # It runs under another user; its start time may be readable all the same.
    started = _start_time(lease.pid)
    return bool(started) and started != lease.process_started


def _start_time(pid: int) -> str:
    """Return a process's start time in ticks since boot, "ended" for a zombie, empty where it cannot be read."""
    # The name in parentheses may hold spaces and parentheses; the fields after it are plain. proc(5): state is field 3,
    # start time field 22.
    fields = _proc_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    if not fields:
        return ""
    return "ended" if fields[0] in {"Z", "X"} else fields[19]


def _pid_namespace() -> str:
    """Return the name of this process's pid namespace; empty where it cannot be read."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _proc_text(path: Path) -> str:
    """Return a file of /proc; empty where it cannot be read, which always counts as "not known to be gone"."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _time_text(at: float) -> str:
    """Return a time for people."""
    try:
        return datetime.fromtimestamp(at, tz=UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{at} s"
