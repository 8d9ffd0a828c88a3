"""Baselines: what each release was measured to do, kept beyond its run."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rollout.disk import list_folder, make_folder, read_file, write_file
from rollout.errors import EvidenceError
from rollout.model.base import Strict
from rollout.model.canonical import canonical_bytes, digest_json
from rollout.model.evidence import Baseline, Digest
from rollout.model.inventory import Absent

_HEX = re.compile(r"sha256:([0-9a-f]{64})")
_ADVICE = "move it away; without it the next rollout measures the history anew"
_ADVICE_FILE = "take it from where it was made again, or measure a new one"


class _Stored(Strict):
    """The file: a baseline, and the digest that shows whether it was changed since."""

    baseline: Baseline
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One baseline of a release; versions count from 1, and the highest is in use.

    Attributes:
        digest: Of the baseline's content, as runs cite it.
    """

    number: int
    baseline: Baseline
    digest: str


def read_baseline(path: Path) -> Version:
    """Read one baseline that stands outside a store, in the form of a store's files.

    Raises:
        EvidenceError: The file does not exist, or is damaged.
        UnavailableError: The disk failed.
    """
    baseline = _decode(path, read_file(path, missing="give the path of one"), advice=_ADVICE_FILE)
    return Version(number=1, baseline=baseline, digest=digest_json(_plain(baseline)))


def write_baseline(path: Path, baseline: Baseline) -> str:
    """Write one baseline outside a store, for `read_baseline`, and return its digest.

    Raises:
        UnavailableError: The disk is full or failed.
    """
    write_file(path, _encode(baseline))
    return digest_json(_plain(baseline))


class BaselineStore:
    """Baselines by release digest. Written by the holder of the lease only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, release_digest: str) -> Baseline | Absent:
        """Return the newest baseline of a release.

        Raises:
            EvidenceError: The stored file is damaged or is another release's; or this is no digest.
            UnavailableError: The disk failed.
        """
        path = self._folder / f"{_hex(release_digest)}.json"
        if not path.exists():
            return Absent(reason=f"no baseline of release {release_digest} is stored in {self._folder}")
        return self._read(path, release_digest)

    def releases(self) -> tuple[str, ...]:
        """Return the digests of all releases that have a baseline, sorted.

        Raises:
            UnavailableError: The folder could not be read.
        """
        names = (re.fullmatch(r"([0-9a-f]{64})\.json", path.name) for path in list_folder(self._folder))
        return tuple(f"sha256:{match[1]}" for match in names if match is not None)

    def versions(self, release_digest: str) -> tuple[Version, ...]:
        """Return every baseline of a release, oldest first; the last one is in use.

        Raises:
            EvidenceError: A stored file is damaged or is another release's; or this is no digest.
            UnavailableError: The disk failed.
        """
        name = _hex(release_digest)
        kept = sorted((path for path in list_folder(self._folder) if _is_version(name, path.name)), key=_number)
        newest = self._folder / f"{name}.json"
        found = [self._read(path, release_digest) for path in kept]
        if newest.exists():
            last = self._read(newest, release_digest)
            # A crash between keeping a baseline and replacing it leaves it twice.
            found = [*(found[:-1] if found and found[-1] == last else found), last]
        return tuple(
            Version(number=number, baseline=one, digest=digest_json(_plain(one)))
            for number, one in enumerate(found, start=1)
        )

    def _read(self, path: Path, release_digest: str) -> Baseline:
        baseline = _decode(path, read_file(path, missing="run again"), advice=_ADVICE)
        if baseline.release_digest != release_digest:
            raise EvidenceError(f"{path} is the baseline of {baseline.release_digest}; {_ADVICE}")
        return baseline

    def put(self, baseline: Baseline) -> None:
        """Store a baseline as the newest of its release; the one before is kept under the next number.

        Storing what is stored already changes nothing.

        Raises:
            UnavailableError: The disk is full or failed; the newest is as it was.
        """
        make_folder(self._folder)
        name = _hex(baseline.release_digest)
        path = self._folder / f"{name}.json"
        data = _encode(baseline)
        if path.exists():
            before = read_file(path, missing="run again")
            if before == data:
                return
            self._keep(name, before)
        write_file(path, data)

    def _keep(self, name: str, data: bytes) -> None:
        """Write an earlier version under the next number, unless a crash let us do so already."""
        numbers = [_number(path) for path in list_folder(self._folder) if _is_version(name, path.name)]
        last = max(numbers, default=0)
        if last and read_file(self._folder / f"{name}.{last}.json", missing="run again") == data:
            return
        write_file(self._folder / f"{name}.{last + 1}.json", data)


def _is_version(name: str, file_name: str) -> bool:
    """Tell whether a file is an earlier version of this release's baseline."""
    return re.fullmatch(rf"{name}\.\d+\.json", file_name) is not None


def _number(path: Path) -> int:
    """Return the number of an earlier version."""
    return int(path.name.split(".")[1])


def _plain(baseline: Baseline) -> Any:  # noqa: ANN401 - a JSON value
    return baseline.model_dump(mode="json", by_alias=True)


def _encode(baseline: Baseline) -> bytes:
    """Return the bytes of the file."""
    value = _plain(baseline)
    return canonical_bytes({"baseline": value, "digest": digest_json(value)})


def _decode(path: Path, data: bytes, *, advice: str) -> Baseline:
    """Read the bytes of the file and check the digest in them."""
    try:
        stored = _Stored.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
        raise EvidenceError(f"{path}, key {key}: {first['msg']}; {advice}") from error
    if _encode(stored.baseline) != data:
        raise EvidenceError(f"{path} was changed: it does not give its own digest; {advice}")
    return stored.baseline


def _hex(release_digest: str) -> str:
    """Return the 64 hex digits; anything else could name a file outside the folder."""
    match = _HEX.fullmatch(release_digest)
    if match is None:
        raise EvidenceError(f"{release_digest!r} is no digest: it must be sha256: and 64 hex digits")
    return match[1]
