"""The log of the standing monitor: one line per look, the newest of which holds all that it knows."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from rollout.disk import make_folder, read_file, sync_folder, unavailable
from rollout.errors import ConflictError, EvidenceError
from rollout.model.base import Strict
from rollout.model.canonical import canonical_bytes, digest_json
from rollout.model.evidence import Digest
from rollout.stats.detector import DetectorState

LOOK_SCHEMA: Final = "rollout.look/v1"

LOG_BYTES_MAX = 1_000_000
"""Some thousand looks. The file before this one is kept, older ones are not."""

_ADVICE = "move it away; without it the monitor begins anew"


class Look(Strict):
    """One line of the log: what one look found, and the detector's state after it."""

    schema_: Literal["rollout.look/v1"] = Field(alias="schema")
    number: Annotated[int, Field(ge=1)]
    at: float
    yardstick: Digest
    """Of everything that the requests are measured by: release, prompts, latencies of the baseline, limits."""
    requests: Annotated[int, Field(ge=0)]
    """Of this look; 0 where it was skipped."""
    failed: Annotated[int, Field(ge=0)]
    p50_ratio: Annotated[float, Field(gt=0.0)] | None
    """Median of this look's latencies over the baseline's; None where none was answered."""
    evidence: Annotated[float, Field(ge=0.0)]
    """Of the detector, over all looks; an alarm is raised at `evidence_needed`."""
    evidence_needed: float
    alarm: str
    """What raised it; empty while nothing did."""
    note: str
    """Why the look was skipped, or what else there is to say."""
    run: str
    """The run that answered the alarm before; empty for looks."""
    confirmed: str
    """The run that confirmed an alarm which still stands; empty where none does."""
    warmed: Annotated[tuple[str, ...], Field(strict=False)]
    """Instances that had their warm-up."""
    detector: DetectorState


class _Line(Strict):
    """A look, and the digest that shows whether it was changed since."""

    look: Look
    digest: Digest


class MonitorLog:
    """`monitor.jsonl` of a state folder: appended to, whole lines only, and bounded."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._path = state / "monitor.jsonl"
        self._earlier = state / "monitor.1.jsonl"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other monitors of this stack out.

        Raises:
            ConflictError: Another one runs.
            UnavailableError: The disk failed.
        """
        make_folder(self._state)
        lock = self._state / "monitor.lock"
        try:
            file = lock.open("ab")
        except OSError as error:
            raise unavailable(error, action="open", path=lock) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError(f"another monitor of this stack holds {lock}; end it first") from error
            yield

    def last(self) -> Look | None:
        """Return the newest look; a line that a crash cut short is left out. None where there is none.

        Raises:
            EvidenceError: The newest line is damaged.
            UnavailableError: The disk failed.
        """
        for path in (self._path, self._earlier):
            lines = self._whole(path).splitlines()
            if lines:
                return _read(f"{path}, line {len(lines)}", lines[-1])
        return None

    def append(self, look: Look) -> None:
        """Write one line, on disk when this returns.

        Raises:
            UnavailableError: The disk is full or failed; at worst the line is cut short.
        """
        value = look.model_dump(mode="json", by_alias=True)
        line = canonical_bytes({"look": value, "digest": digest_json(value)}) + b"\n"
        whole = self._whole(self._path)
        try:
            if len(whole) + len(line) > LOG_BYTES_MAX:
                self._path.replace(self._earlier)
                whole = b""
            with self._path.open("ab") as file:
                file.truncate(len(whole))
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._state)
        except OSError as error:
            raise unavailable(error, action="append to", path=self._path) from error

    def _whole(self, path: Path) -> bytes:
        """Return the bytes up to the last newline; what follows was never acknowledged."""
        if not path.exists():
            return b""
        data = read_file(path, missing="run again")
        return data[: data.rfind(b"\n") + 1]


def _read(where: str, line: bytes) -> Look:
    try:
        stored = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole line)"
        raise EvidenceError(f"{where}, key {key}: {first['msg']}; {_ADVICE}") from error
    if digest_json(stored.look.model_dump(mode="json", by_alias=True)) != stored.digest:
        raise EvidenceError(f"{where} was changed: it does not give its own digest; {_ADVICE}")
    return stored.look
