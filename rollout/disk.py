"""Writes that survive a crash: a file is there whole or not at all."""

import errno
import os
import secrets
from pathlib import Path

from rollout.errors import EvidenceError, UnavailableError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TEMP_SUFFIX = ".part"
"""Of what a crash inside a write leaves behind; such names begin with a dot."""


def write_file(path: Path, data: bytes) -> None:
    """Put the bytes at `path` in one step, on disk when this returns.

    Args:
        path: Its folder must exist. A file of that name is replaced.
        data: The whole content.

    Raises:
        UnavailableError: The disk is full or failed; `path` is as it was.
    """
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
    try:
        with temp.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise unavailable(error, action="write", path=path) from error
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def is_temp(name: str) -> bool:
    """Tell whether a file is what a crash inside `write_file` leaves behind."""
    return name.startswith(".") and name.endswith(TEMP_SUFFIX)


def read_file(path: Path, *, missing: str) -> bytes:
    """Return the bytes of a file that must be there.

    Args:
        path: The file; a link is followed.
        missing: What to do where it does not exist; ends the message.

    Raises:
        EvidenceError: The file does not exist.
        UnavailableError: The disk failed.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise EvidenceError(f"{path} does not exist; {missing}") from error
    except OSError as error:
        raise unavailable(error, action="read", path=path) from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents so that they outlive a power cut; an existing folder is left alone.

    Raises:
        UnavailableError: The folder could not be made.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise unavailable(error, action="create folder", path=folder) from error


def remove_file(path: Path) -> None:
    """Remove a file for good; a file that is not there stays away.

    Raises:
        UnavailableError: The disk failed.
    """
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileNotFoundError:
        return  # The folder itself is not there.
    except OSError as error:
        raise unavailable(error, action="remove", path=path) from error


def list_folder(folder: Path) -> tuple[Path, ...]:
    """Return everything in a folder, sorted by name; nothing where there is no folder.

    Raises:
        UnavailableError: The folder could not be read.
    """
    try:
        return tuple(sorted(folder.iterdir()))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise unavailable(error, action="list", path=folder) from error


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable.

    Raises:
        OSError: The disk failed.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_full(error: OSError) -> bool:
    """Tell whether a write failed for want of room: disk, quota or file size limit."""
    return error.errno in _FULL


def unavailable(error: OSError, *, action: str, path: Path) -> UnavailableError:
    """Say what was tried, where, what happened and what helps."""
    advice = (
        f"make room ({_free_text(path.parent)}) and run again" if is_full(error) else "see to the disk and run again"
    )
    return UnavailableError(f"cannot {action} {path}: {error.strerror or error}; {advice}")


def _free_text(folder: Path) -> str:
    """Name the free space that this process may use."""
    try:
        seen = os.statvfs(folder)
    except OSError as error:
        return f"free space unknown: {error.strerror}"
    return f"{seen.f_bavail * seen.f_frsize} bytes are free"
