"""The journal on disk: one record per line, chained by hash, each on disk before the next step of the world.

How a line can be wrong, and what it means:
- *torn*: the last line has no newline and its text is no complete JSON value. A write was cut short by a crash; the
  record was never acknowledged. Opening for writing cuts it off.
- *unended*: the last line is a complete, correctly chained record and only its newline is missing. Same crash, one
  byte later. Opening for writing keeps the record and ends the line.
- *damaged*: anything else. No crash of ours does that; the journal is not read any further.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from rollout.disk import is_full, make_folder, read_file, remove_file, unavailable, write_file
from rollout.errors import ConflictError, EvidenceError, InvariantError, UnavailableError
from rollout.evidence.runs import BALLAST_NAME
from rollout.model.canonical import canonical_bytes
from rollout.model.fence import Fence
from rollout.model.journal import GENESIS, Body, BundleSealed, Record, RunRequested, content_hash, seal

# About a hundred records: a whole rollback and its seal fit in what the ballast gives back.
_BALLAST_SIZE = 64 * 1024

_RESTORE = "restore the run's folder from a copy; as it is, it proves nothing and cannot be resumed"
_REOPEN = "open it for writing (`rollout` does so when it resumes the run) to repair it"


def ballast_bytes() -> bytes:
    """Return the ballast's content: always the same, and nothing that a file system could compress away."""
    return hashlib.shake_256(b"rollout ballast").digest(_BALLAST_SIZE)


def read_journal(path: Path, *, tolerate_torn: bool = False) -> tuple[Record, ...]:
    """Read and check every line of a journal; nothing is written.

    Args:
        path: The `journal.jsonl`.
        tolerate_torn: Leave out a torn tail and accept an unended one, as for a journal that is being written.

    Returns:
        At least one record; the first is a RunRequested.

    Raises:
        EvidenceError: A line is damaged; or the tail is torn or unended and that is not tolerated.
        UnavailableError: The disk failed.
    """
    content = _parse(path, read_file(path, missing=_RESTORE))
    if content.tail and not tolerate_torn:
        kind = "complete but for its newline" if content.unended else "torn: it is no complete JSON value"
        line = len(content.records) + (0 if content.unended else 1)
        raise EvidenceError(f"{path}, line {line}: the last line is {kind}, as a crash leaves it; {_REOPEN}")
    return content.records


class Journal:
    """A journal open for writing by the holder of the lease.

    Attributes:
        path: The `journal.jsonl`.
        fence: Held around every write.
        cut: The torn tail that opening cut off, as text; empty when there was none.
        strained: True once the disk was found full. The ballast is then spent: there is room to roll back, no more.
    """

    def __init__(self, path: Path, *, fence: Fence, records: tuple[Record, ...], size: int, tail: bytes) -> None:
        self.path = path
        self.fence = fence
        self.cut = ""
        self.strained = False
        self._records = list(records)
        self._size = size
        self._tail = tail

    @classmethod
    def create(cls, path: Path, *, fence: Fence, first: Body, at: float) -> Self:
        """Start a journal: folder, ballast, then the first record, all on disk when this returns.

        Args:
            path: Where; the folder is made if need be.
            fence: The lease.
            first: Must be a RunRequested.
            at: Unix time in seconds.

        Raises:
            ConflictError: The lease was lost, or there is a journal already.
            UnavailableError: No room for journal and ballast; no journal was made.
            InvariantError: `first` is not a RunRequested.
        """
        if not isinstance(first, RunRequested):
            raise InvariantError(f"the first record of {path} must be run_requested, not {first.type}")
        with fence.hold() as generation:
            if path.exists():
                raise ConflictError(f"{path} exists already; resume that run or start one under another name")
            make_folder(path.parent)
            record = seal(seq=0, at=float(at), generation=generation, prev=GENESIS, body=first)
            line = _line(record)
            write_file(path.parent / BALLAST_NAME, ballast_bytes())
            try:
                write_file(path, line)
            except UnavailableError:
                remove_file(path.parent / BALLAST_NAME)
                raise
        return cls(path, fence=fence, records=(record,), size=len(line), tail=line)

    @classmethod
    def open(cls, path: Path, *, fence: Fence) -> Self:
        """Open a journal to resume its run; repair what a crash left at its end, replace a spent ballast.

        A disk without room for the ballast does not keep the run from being rolled back: `strained` is then True.

        Raises:
            ConflictError: The lease was lost.
            EvidenceError: A line is damaged.
            UnavailableError: The disk failed.
        """
        with fence.hold():
            content = _parse(path, read_file(path, missing=_RESTORE))
            size = content.size + (1 if content.unended else 0)
            if content.tail:
                _repair(path, content)
            last = _line(content.records[-1])
            journal = cls(path, fence=fence, records=content.records, size=size, tail=last)
            journal.cut = "" if content.unended else content.tail.decode("utf-8", "backslashreplace")
            if not journal.sealed and not (path.parent / BALLAST_NAME).exists():
                journal._restore_ballast()
        return journal

    @property
    def records(self) -> tuple[Record, ...]:
        """Every acknowledged record, oldest first."""
        return tuple(self._records)

    @property
    def sealed(self) -> bool:
        """True when the last record is the seal; nothing may follow it."""
        return isinstance(self._records[-1].body, BundleSealed)

    def append(self, body: Body, *, at: float) -> Record:
        """Write one record; it is on disk when this returns, and the file is as before when this raises.

        On a full disk the ballast is given back and the write is tried once more.

        Args:
            body: What happened.
            at: Unix time in seconds.

        Raises:
            ConflictError: The lease was lost, its generation is older than the journal's, or somebody else wrote.
            EvidenceError: The file was cut or replaced behind our back.
            UnavailableError: The disk is full even without the ballast, or failed.
            InvariantError: The journal is sealed.
        """
        with self.fence.hold() as generation:
            last = self._records[-1]
            if self.sealed:
                raise InvariantError(f"{self.path} is sealed; {body.type} cannot be appended")
            if generation < last.generation:
                raise ConflictError(
                    f"{self.path} was last written under generation {last.generation}, ours is {generation}; "
                    "another controller took over: start again to take the lease anew"
                )
            record = seal(seq=last.seq + 1, at=float(at), generation=generation, prev=last.hash, body=body)
            self._write(record)
        return record

    def give_back_ballast(self) -> bool:
        """Remove the ballast; False when it was gone already.

        Raises:
            UnavailableError: The disk failed.
        """
        ballast = self.path.parent / BALLAST_NAME
        there = ballast.exists()
        remove_file(ballast)
        return there

    def _restore_ballast(self) -> None:
        """Write the ballast again, or note that there is no room for it."""
        try:
            write_file(self.path.parent / BALLAST_NAME, ballast_bytes())
        except UnavailableError:
            self.strained = True

    def _write(self, record: Record) -> None:
        """Append the record's line, at the second try without the ballast."""
        line = _line(record)
        try:
            self._write_line(line)
        except OSError as error:
            self.strained = self.strained or is_full(error)
            if not is_full(error) or not self.give_back_ballast():
                raise unavailable(error, action="append to", path=self.path) from error
            try:
                self._write_line(line)
            except OSError as again:
                raise unavailable(again, action="append, even without the ballast, to", path=self.path) from again
        self._records.append(record)
        self._size += len(line)
        self._tail = line

    def _write_line(self, line: bytes) -> None:
        """Append and fsync; whatever goes wrong, the file ends where it ended before."""
        with _opened(self.path) as fd:
            self._check_untouched(fd)
            try:
                _write_all(fd, line)
                os.fsync(fd)
            except BaseException:
                os.ftruncate(fd, self._size)
                os.fsync(fd)
                raise

    def _check_untouched(self, fd: int) -> None:
        """Refuse to write to a file that is not as we left it."""
        size = os.fstat(fd).st_size
        if size > self._size:
            raise ConflictError(
                f"{self.path} has {size} bytes where this process left {self._size}: another controller wrote to it; "
                "nothing was written, start again to read it anew"
            )
        if size < self._size or os.pread(fd, len(self._tail), size - len(self._tail)) != self._tail:
            raise EvidenceError(f"{self.path} no longer ends with the last record that was written to it; {_RESTORE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What stands in a journal file.

    Attributes:
        records: Every complete record.
        size: Bytes up to the end of the last complete record, in the file.
        tail: The last line where it has no newline; empty when the file ends well.
        unended: True when `tail` is itself the last of `records`.
    """

    records: tuple[Record, ...]
    size: int
    tail: bytes
    unended: bool


def _parse(path: Path, data: bytes) -> _Content:
    """Check every line and classify the tail."""
    *lines, tail = data.split(b"\n")
    size = len(data) - len(tail)
    unended = _starts_with_json(tail)
    if unended:
        lines.append(tail)
        size = len(data)
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        record = _read_line(f"{path}, line {number}", line)
        _check_chain(f"{path}, line {number}", record, before=records[-1] if records else None)
        records.append(record)
    if not records:
        raise EvidenceError(
            f"{path}, line 1: there is no complete record, though a journal is created with one; {_RESTORE}"
        )
    return _Content(records=tuple(records), size=size, tail=tail, unended=unended)


def _starts_with_json(tail: bytes) -> bool:
    """Tell whether the text begins with a complete JSON value, whatever follows it."""
    try:
        json.JSONDecoder().raw_decode(tail.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    return True


def _read_line(where: str, line: bytes) -> Record:
    """Return the record of one line whose bytes are exactly the ones we would write."""
    try:
        record = Record.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole line)"
        raise EvidenceError(f"{where}, key {key}: {first['msg']}; {_RESTORE}") from error
    if _line(record) != line + b"\n":
        raise EvidenceError(f"{where}: the bytes are not the canonical form of their record; {_RESTORE}")
    if content_hash(record) != record.hash:
        raise EvidenceError(
            f"{where}, key hash: the content gives {content_hash(record)}, not {record.hash}; {_RESTORE}"
        )
    return record


def _check_chain(where: str, record: Record, *, before: Record | None) -> None:
    """Check that the record follows the one before it."""
    if before is None:
        if not isinstance(record.body, RunRequested):
            raise EvidenceError(f"{where}, key body.type: must be run_requested, is {record.body.type}; {_RESTORE}")
        expected_seq, expected_prev = 0, GENESIS
    else:
        expected_seq, expected_prev = before.seq + 1, before.hash
        if isinstance(before.body, BundleSealed):
            raise EvidenceError(f"{where}: a record follows the seal, which is the last; {_RESTORE}")
        if record.generation < before.generation:
            raise EvidenceError(
                f"{where}, key generation: falls from {before.generation} to {record.generation}; {_RESTORE}"
            )
    if record.prev != expected_prev:
        raise EvidenceError(f"{where}, key prev: is not the hash of the line before; {_RESTORE}")
    if record.seq != expected_seq:
        raise EvidenceError(f"{where}, key seq: must be {expected_seq}, is {record.seq}; {_RESTORE}")


def _repair(path: Path, content: _Content) -> None:
    """Cut a torn tail off; end an unended line."""
    try:
        with _opened(path) as fd:
            if content.unended:
                _write_all(fd, b"\n")
            else:
                os.ftruncate(fd, content.size)
            os.fsync(fd)
    except OSError as error:
        raise unavailable(error, action="repair the last line of", path=path) from error


def _line(record: Record) -> bytes:
    """Return the bytes that stand for a record, newline included."""
    return canonical_bytes(record.model_dump(mode="json")) + b"\n"


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open an existing file for reading and appending."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    """Write everything; after a short write the next one says why."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
