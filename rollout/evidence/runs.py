"""Where runs lie in the state folder, and which generations they used."""

import re
from dataclasses import dataclass
from pathlib import Path

from rollout.disk import is_temp, list_folder, read_file
from rollout.errors import InvariantError
from rollout.model.inventory import Absent

JOURNAL_NAME = "journal.jsonl"
OBJECTS_NAME = "objects"
BALLAST_NAME = "ballast"

_RUN_ID = re.compile(r"r(\d{6,})-([a-z0-9][a-z0-9-]*)")
# Keys are sorted and quotes inside strings are escaped, so these bytes stand nowhere but in a record's own fields.
_RECORD_GENERATION = re.compile(rb'"generation":(\d+),"hash":"sha256:')


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """The folder of one run: its bundle."""

    path: Path

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """Where the records are."""
        return self.path / JOURNAL_NAME

    @property
    def objects(self) -> Path:
        """Where the objects are."""
        return self.path / OBJECTS_NAME

    @property
    def ballast(self) -> Path:
        """The reserve for a full disk; gone when spent or sealed."""
        return self.path / BALLAST_NAME


def name_run(*, generation: int, name: str) -> str:
    """Return the run id; ids sort by generation, so by age.

    Args:
        generation: The lease generation under which the run starts.
        name: Lower-case letters, digits and hyphens.

    Raises:
        InvariantError: These make no run id.
    """
    run_id = f"r{generation:06d}-{name}"
    if generation < 1 or _RUN_ID.fullmatch(run_id) is None:
        raise InvariantError(f"{run_id!r} is no run id: generation from 1; name of a-z, 0-9 and hyphens")
    return run_id


def run_folder(state: Path, run_id: str) -> RunFolder:
    """Return the folder of a run, whether or not it exists.

    Raises:
        InvariantError: This is no run id.
    """
    if _RUN_ID.fullmatch(run_id) is None:
        raise InvariantError(f"{run_id!r} is no run id")
    return RunFolder(path=state / "runs" / run_id)


def run_ids(state: Path) -> tuple[str, ...]:
    """Return the ids of all runs, newest first.

    A folder that holds nothing but objects and ballast is what a crash before the first record leaves: no run. A
    folder that lost its journal but has a summary is listed, so that reading it says what is missing.

    Raises:
        UnavailableError: The state folder could not be read.
    """
    begun = [path.name for path in _folders(state) if _began(path)]
    return tuple(sorted(begun, key=lambda name: (_generation(name), name), reverse=True))


def last_run(state: Path) -> RunFolder | Absent:
    """Return the newest run.

    Raises:
        UnavailableError: The state folder could not be read.
    """
    ids = run_ids(state)
    return run_folder(state, ids[0]) if ids else Absent(reason=f"there is no run in {state / 'runs'}")


def highest_generation(state: Path, *, journals: bool) -> int:
    """Return the highest generation that a run used; 0 without runs.

    Args:
        state: The state folder.
        journals: Look into the journals too: a resumed run goes on under a later generation than its name says.

    Raises:
        UnavailableError: The state folder could not be read.
    """
    found = [0, *(_generation(path.name) for path in _folders(state))]
    if journals:
        files = [RunFolder(path=path).journal for path in _folders(state)]
        texts = [read_file(path, missing="run again") for path in files if path.is_file()]
        found += [int(match[1]) for text in texts for match in _RECORD_GENERATION.finditer(text)]
    return max(found)


def _folders(state: Path) -> tuple[Path, ...]:
    """Return every folder that is named like a run."""
    return tuple(path for path in list_folder(state / "runs") if _RUN_ID.fullmatch(path.name) and path.is_dir())


def _generation(run_id: str) -> int:
    """Return the generation that a run's name carries."""
    match = _RUN_ID.fullmatch(run_id)
    if match is None:
        raise InvariantError(f"{run_id!r} is no run id")
    return int(match[1])


def _began(folder: Path) -> bool:
    """Tell whether a run's first record was ever acknowledged."""
    before_start = {OBJECTS_NAME, BALLAST_NAME}
    return any(path.name not in before_start and not is_temp(path.name) for path in list_folder(folder))
