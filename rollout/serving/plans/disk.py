"""Large files that survive a crash: named by their digest, which is known only once they are written; and a lock."""

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout.disk import TEMP_SUFFIX, make_folder, sync_folder, unavailable
from rollout.errors import UnavailableError

_CHUNK_BYTES = 2**20
# A plan of ten gigabytes is copied within two minutes; who holds the lock longer is stuck.
_LOCK_WAIT_S = 120.0
_LOCK_POLL_S = 0.05


def put_file(chunks: Iterable[bytes], folder: Path, *, name_of: Callable[[str], str]) -> tuple[str, int]:
    """Write a file in one step, on disk when this returns.

    Args:
        chunks: The content.
        folder: Where; made where it does not exist.
        name_of: Gives the name when the digest is known; what it raises leaves the folder as it was.

    Returns:
        Digest and size in bytes.

    Raises:
        UnavailableError: The disk is full or failed; the folder is as it was.
    """
    temp = folder / f".{secrets.token_hex(8)}{TEMP_SUFFIX}"
    hashed, size = hashlib.sha256(), 0
    try:
        make_folder(folder)
        with temp.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
                hashed.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        digest = f"sha256:{hashed.hexdigest()}"
        target = folder / name_of(digest)
        make_folder(target.parent)
        temp.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise unavailable(error, action="write into", path=folder) from error
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    return digest, size


def chunks_of(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes.

    Raises:
        OSError: The disk failed.
    """
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def digest_file(path: Path) -> str:
    """Return the digest of a file's bytes.

    Raises:
        UnavailableError: The disk failed, or there is no such file.
    """
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise unavailable(error, action="read", path=path) from error


@contextmanager
def locked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold a lock file, which ends with the process: alone to write, with others to read.

    A writer makes file and folder. A reader needs no permission to write: where nobody ever wrote there is no file, and
    nothing to wait for.

    Raises:
        UnavailableError: Another process held the lock for two minutes, or the file cannot be opened.
    """
    try:
        if exclusive:
            make_folder(path.parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT if exclusive else os.O_RDONLY, 0o666)
    except OSError as error:
        if exclusive or error.errno != errno.ENOENT:
            raise UnavailableError(f"cannot lock {path}: {error.strerror or error}") from error
        yield
        return
    try:
        _acquire(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, path)
        yield
    finally:
        os.close(fd)


def _acquire(fd: int, kind: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise UnavailableError(f"cannot lock {path}: {error.strerror}; is this a network disk?") from error
            if time.monotonic() > deadline:
                raise UnavailableError(f"another process held {path} for {_LOCK_WAIT_S:.0f} s; run again") from error
            time.sleep(_LOCK_POLL_S)
        else:
            return
