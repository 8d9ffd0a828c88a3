"""The bundle: a run's folder, in which every byte is accounted for by the journal."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from rollout.disk import is_temp, list_folder, read_file, remove_file, write_file
from rollout.errors import EvidenceError, InvariantError
from rollout.evidence.journal import Journal, ballast_bytes, read_journal
from rollout.evidence.objects import SUFFIXES, ObjectStore, object_path
from rollout.evidence.runs import BALLAST_NAME, JOURNAL_NAME, OBJECTS_NAME
from rollout.model.canonical import canonical_bytes, digest_bytes
from rollout.model.journal import BundleSealed, Record, referenced

_DERIVED = re.compile(r"[a-z0-9][a-z0-9_-]*\.(csv|html|json|md|prom|txt|xml)")
_OBJECT = re.compile(r"([0-9a-f]{64})\.(json|png)")
_RESTORE = "restore the run's folder from a copy; as it is, it proves nothing"


def seal_bundle(journal: Journal, derived: Mapping[str, bytes], *, at: float) -> Record:
    """End a run: sweep what a crash left, write the derived files, give the ballast back, append the seal.

    The seal's record is the last thing written, so a bundle is sealed whole or not at all; killed before it, this may
    be called again.

    Args:
        journal: The run's journal, in its folder.
        derived: File name to content, such as `summary.md`; lower case, with a suffix that reports have.
        at: Unix time in seconds.

    Raises:
        ConflictError: The lease was lost.
        EvidenceError: The folder holds a file that is not the run's, or a referenced object is missing or damaged.
        UnavailableError: The disk is full or failed; the run can be sealed later.
        InvariantError: The bundle is sealed already, or a derived file has a name that no report has.
    """
    folder = journal.path.parent
    wrong = sorted(name for name in derived if not _is_derived(name))
    if wrong or journal.sealed:
        raise InvariantError(
            f"{folder} cannot be sealed: {f'no report is named {wrong[0]}' if wrong else 'it is already'}"
        )
    with journal.fence.hold():
        _check_top(folder, known={JOURNAL_NAME, BALLAST_NAME, *derived}, allow_temps=True)
        _sweep(folder, journal.records)
        _check_objects(folder / OBJECTS_NAME, _referenced(journal.records), unfinished=False)
        for name, data in derived.items():
            write_file(folder / name, data)
        journal.give_back_ballast()
        digests = {name: digest_bytes(data) for name, data in sorted(derived.items())}
        return journal.append(BundleSealed(files=digests), at=at)


def check_bundle(folder: Path, *, unfinished_ok: bool = False) -> tuple[Record, ...]:
    """Account for every byte of every file of a bundle, and return its records.

    Args:
        folder: The run's folder.
        unfinished_ok: Accept a bundle without seal. It may then hold what a crash leaves: a torn last line, objects
            that no record names yet, partial files, and files named like a report, which nothing vouches for.

    Raises:
        EvidenceError: Something was changed, removed, added or reordered, or the bundle is not sealed.
        UnavailableError: The disk failed.
    """
    records = read_journal(folder / JOURNAL_NAME, tolerate_torn=unfinished_ok)
    last = records[-1].body
    if isinstance(last, BundleSealed):
        # A torn or unended tail after, or as, the seal is damage: the seal is acknowledged when its line is whole.
        read_journal(folder / JOURNAL_NAME)
        _check_top(folder, known={JOURNAL_NAME, *last.files}, allow_temps=False)
        _check_derived(folder, last.files)
        _check_objects(folder / OBJECTS_NAME, _referenced(records), unfinished=False)
        return records
    if not unfinished_ok:
        raise EvidenceError(
            f"{folder} is not sealed: its journal ends with {last.type} at line {len(records)}, so the run is "
            "unfinished or its end was cut off; resume the run, or ask to accept an unfinished one"
        )
    derived = {path.name for path in list_folder(folder) if _is_derived(path.name)}
    _check_top(folder, known={JOURNAL_NAME, BALLAST_NAME, *derived}, allow_temps=True)
    _check_ballast(folder / BALLAST_NAME)
    _check_objects(folder / OBJECTS_NAME, _referenced(records), unfinished=True)
    return records


def _is_derived(name: str) -> bool:
    """Tell whether a file is named like a report."""
    return _DERIVED.fullmatch(name) is not None and name not in {JOURNAL_NAME, BALLAST_NAME, OBJECTS_NAME}


def _referenced(records: Iterable[Record]) -> frozenset[str]:
    """Return the digests of every object that a record names."""
    return frozenset().union(*(referenced(record.body) for record in records))


def _check_top(folder: Path, *, known: set[str], allow_temps: bool) -> None:
    """Refuse everything in the folder that is not a known plain file, a partial file where allowed, or `objects`."""
    for path in list_folder(folder):
        if path.name == OBJECTS_NAME:
            plain = path.is_dir() and not path.is_symlink()
        else:
            named = path.name in known or (allow_temps and is_temp(path.name))
            plain = named and _is_plain(path)
        if not plain:
            raise EvidenceError(
                f"{path} is not part of the bundle, or not what it must be; move it away, then check again"
            )


def _check_derived(folder: Path, files: Mapping[str, str]) -> None:
    """Check the derived files against the seal."""
    for name, digest in files.items():
        path = folder / name
        if path.name != name or name in {JOURNAL_NAME, OBJECTS_NAME}:
            raise EvidenceError(
                f"{folder / JOURNAL_NAME}: the seal names {name!r}, which is no derived file; {_RESTORE}"
            )
        found = digest_bytes(read_file(path, missing=_RESTORE))
        if found != digest:
            raise EvidenceError(f"{path} was changed since the seal: its bytes give {found}, not {digest}; {_RESTORE}")


def _check_objects(folder: Path, digests: frozenset[str], *, unfinished: bool) -> None:
    """Check that every referenced object is there and intact, and that there is nothing else."""
    store = ObjectStore(folder)
    found: set[str] = set()
    for path in list_folder(folder):
        if unfinished and is_temp(path.name) and _is_plain(path):
            continue
        match = _OBJECT.fullmatch(path.name)
        if match is None or not _is_plain(path):
            raise EvidenceError(f"{path} is no object; move it away, then check again")
        digest = f"sha256:{match[1]}"
        if digest in found:
            raise EvidenceError(
                f"{path} is there twice, under {' and '.join(SUFFIXES)}; move one away, then check again"
            )
        if digest not in digests and not unfinished:
            raise EvidenceError(f"{path} is named by no record; move it away, then check again")
        if path.suffix == ".json" and canonical_bytes(store.get_json(digest)) != store.get_bytes(digest):
            raise EvidenceError(f"{path} is not canonical JSON; {_RESTORE}")
        store.get_bytes(digest)
        found.add(digest)
    missing = sorted(digests - found)
    if missing:
        raise EvidenceError(
            f"{folder} lacks {len(missing)} object(s) that records name, first {missing[0]}; {_RESTORE}"
        )


def _check_ballast(path: Path) -> None:
    """Check the ballast where there is one; while the run lives it may go at any moment."""
    if path.exists() and read_file(path, missing="it was given back this moment; check again") != ballast_bytes():
        raise EvidenceError(f"{path} is not the ballast that was written; remove it, the run goes on without")


def _sweep(folder: Path, records: Iterable[Record]) -> None:
    """Remove partial files, and objects that were written but, because of a crash, never named by a record."""
    named = {object_path(folder / OBJECTS_NAME, digest) for digest in _referenced(records)}
    for path in list_folder(folder):
        if is_temp(path.name):
            remove_file(path)
    for path in list_folder(folder / OBJECTS_NAME):
        stray = _OBJECT.fullmatch(path.name) is not None and path not in named
        if is_temp(path.name) or stray:
            remove_file(path)


def _is_plain(path: Path) -> bool:
    """Tell whether this is a regular file itself, not a link to one elsewhere."""
    return path.is_file() and not path.is_symlink()
