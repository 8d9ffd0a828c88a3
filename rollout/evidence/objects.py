"""Objects: what records refer to, each in a file named by its own digest."""

import json
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rollout.disk import make_folder, read_file, sync_folder, unavailable, write_file
from rollout.errors import EvidenceError, InvariantError
from rollout.model.canonical import canonical_bytes, digest_bytes
from rollout.model.fence import Fence

SUFFIXES = (".json", ".png")

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_RESTORE = "restore it from a copy of the run's folder"


class ObjectStore:
    """The objects of one run.

    Args:
        folder: Usually `runs/<run_id>/objects`; made at the first put.
        fence: Held around every put, so that a controller that lost its lease leaves a sealed bundle alone. None for
            a store that is only read, and where the caller holds the fence itself.
    """

    def __init__(self, folder: Path, *, fence: Fence | None = None) -> None:
        self._folder = folder
        self._fence = fence
        self._durable: set[str] = set()

    def put_json(self, value: Any) -> str:  # noqa: ANN401 - any JSON value
        """Store a JSON value in canonical bytes and return its digest, on disk when this returns.

        Raises:
            ConflictError: The lease was lost.
            EvidenceError: An object of that name is there with other bytes.
            UnavailableError: The disk is full or failed.
        """
        return self.put_bytes(canonical_bytes(value), ".json")

    def put_bytes(self, data: bytes, suffix: str) -> str:
        """Store bytes and return their digest, on disk when this returns; a second put of the same bytes is free.

        Args:
            data: The whole object.
            suffix: One of SUFFIXES.

        Raises:
            ConflictError: The lease was lost.
            EvidenceError: An object of that name is there with other bytes.
            UnavailableError: The disk is full or failed.
            InvariantError: The suffix is not known.
        """
        if suffix not in SUFFIXES:
            raise InvariantError(f"an object's suffix is one of {', '.join(SUFFIXES)}, not {suffix!r}")
        digest = digest_bytes(data)
        if digest in self._durable:
            return digest
        with self._hold():
            found = object_path(self._folder, digest)
            if found is None:
                make_folder(self._folder)
                write_file(self._folder / f"{_hex(digest)}{suffix}", data)
            else:
                _read_checked(found, digest)
                self._sync()
        self._durable.add(digest)
        return digest

    def get_json(self, digest: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return a stored JSON value.

        Raises:
            EvidenceError: The object is missing, is not JSON, or its bytes do not give its digest.
            UnavailableError: The disk failed.
        """
        data = self.get_bytes(digest)
        try:
            return json.loads(data)
        except ValueError as error:
            raise EvidenceError(f"object {digest} in {self._folder} is not JSON: {error}") from error

    def get_bytes(self, digest: str) -> bytes:
        """Return a stored object's bytes.

        Raises:
            EvidenceError: The object is missing, or its bytes do not give its digest.
            UnavailableError: The disk failed.
        """
        path = object_path(self._folder, digest)
        if path is None:
            raise EvidenceError(f"object {digest} is not in {self._folder}; {_RESTORE}")
        return _read_checked(path, digest)

    def _hold(self) -> AbstractContextManager[int]:
        """Hold the fence where there is one."""
        return nullcontext(0) if self._fence is None else self._fence.hold()

    def _sync(self) -> None:
        """Make names durable that a process before us may have left in memory only."""
        try:
            sync_folder(self._folder)
        except OSError as error:
            raise unavailable(error, action="sync", path=self._folder) from error


def object_path(folder: Path, digest: str) -> Path | None:
    """Return where an object lies, or None where it does not.

    Raises:
        EvidenceError: This is no digest.
    """
    candidates = (folder / f"{_hex(digest)}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _hex(digest: str) -> str:
    """Return the 64 hex digits; anything else could name a file outside the folder."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise EvidenceError(f"{digest!r} is no digest: it must be sha256: and 64 hex digits")
    return match[1]


def _read_checked(path: Path, digest: str) -> bytes:
    """Return the file's bytes if they give the digest."""
    data = read_file(path, missing=_RESTORE)
    if digest_bytes(data) != digest:
        raise EvidenceError(f"{path} was changed: its bytes give {digest_bytes(data)}; {_RESTORE}")
    return data
