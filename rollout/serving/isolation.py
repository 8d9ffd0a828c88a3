"""Running a module in a process of its own: one that hangs, dies or prints for ever costs its answer, nothing else."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO

from rollout.errors import PlatformError

SMALL_FILES_BYTES = 1 << 20
"""For a child that answers with a few facts; it cannot write more into any file, not even by printing for ever."""

_SAID_CHARACTERS_MAX = 300

_DEATH_S = 1.0
"""SIGKILL works at once, or not before a driver answers."""


class IsolatedError(PlatformError):
    """The child gave no answer; the text says how it ended, and its last words."""


def run_isolated(
    module: str, *arguments: str, request: bytes = b"", limit_s: float, file_bytes_max: int = SMALL_FILES_BYTES
) -> bytes:
    """Run a module of this package in a child and return what it wrote to the descriptor that its last argument names.

    Args:
        module: Run as `python -m`.
        arguments: Before the two that this function adds: its own process id, for `end_with`, and the descriptor.
        request: The child's standard input.
        limit_s: Seconds after which the child is killed, with all that it started.
        file_bytes_max: The largest file that it may write.

    Raises:
        IsolatedError: It could not be started, did not end in time, or ended with another status than 0.
    """
    # Files, not pipes: a full pipe stops the child, and one that a grandchild holds open stops us. In memory: a
    # container may have no folder that can be written.
    with _memory_file() as asked, _memory_file() as answer, _memory_file() as said:
        asked.write(request)
        asked.seek(0)
        try:
            child = subprocess.Popen(
                # -P: a module of the server's that lies in its working folder is none of ours.
                [sys.executable, "-P", "-m", module, *arguments, str(os.getpid()), str(answer.fileno())],
                stdin=asked,
                stdout=said,
                stderr=said,
                pass_fds=[answer.fileno()],
                start_new_session=True,  # What the child starts itself is ended with it.
            )
        except OSError as error:
            raise IsolatedError(f"{module} could not be started: {error}") from error
        try:
            _limit_files(child.pid, file_bytes_max)
            code = child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            text = f"{module} did not end within {limit_s:g} s and was killed{_last_words(_content(said))}"
            raise IsolatedError(text) from error
        finally:
            _kill(child)
        if code != 0:
            raise IsolatedError(f"{module} {how_ended(code, said)}")
        return _content(answer)


def end_with(parent: int) -> None:
    """End this process when its parent does, however that ends: nobody is left to wait for its answer.

    Args:
        parent: The parent's process id, as it was when the parent started this process.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def how_ended(code: int, said: IO[bytes]) -> str:
    """Say how a child ended, by what `wait` returned, and its last words."""
    return f"{_end(code)}{_last_words(_content(said))}"


_PR_SET_PDEATHSIG = 1


def _memory_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("rollout"), "w+b")


def _limit_files(child: int, file_bytes_max: int) -> None:
    """Limit what the child may write, to less where less is allowed already."""
    _, hard = resource.prlimit(child, resource.RLIMIT_FSIZE)
    most = file_bytes_max if hard == resource.RLIM_INFINITY else min(file_bytes_max, hard)
    resource.prlimit(child, resource.RLIMIT_FSIZE, (most, most))


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(SMALL_FILES_BYTES)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # It may have ended, and with it everything it started.
        os.killpg(child.pid, signal.SIGKILL)
    # A child inside a hung driver does not even die of SIGKILL: it is left to the kernel.
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=_DEATH_S)


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _last_words(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return f": {lines[-1][:_SAID_CHARACTERS_MAX]}" if lines else ""
