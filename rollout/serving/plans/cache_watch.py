"""A runtime's engine cache before and after warm-up: one that changes says that the server built an engine at load."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import UnavailableError
from rollout.model.canonical import digest_json
from rollout.serving.plans.disk import digest_file


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheState:
    """Every file of a folder, by its relative name, with size and digest in one text."""

    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Digest of names, sizes and contents."""
        return digest_json(dict(self.files))


def read_cache(folder: Path) -> CacheState:
    """Read a cache folder; one that is not there is empty, for a runtime makes it when it first writes.

    Raises:
        UnavailableError: The folder cannot be read, or changes while it is.
    """
    files: dict[str, str] = {}
    try:
        if not os.path.lexists(folder):
            return CacheState(files={})
        for root, folders, names in os.walk(folder, onerror=_refuse):
            links = [name for name in folders if Path(root, name).is_symlink()]
            for path in (Path(root, name) for name in (*names, *links)):
                files[str(path.relative_to(folder))] = _state(path)
    except OSError as error:
        raise UnavailableError(f"cannot read the engine cache {folder}: {error}; see to its permissions") from error
    return CacheState(files=dict(sorted(files.items())))


def cache_changes(before: CacheState, after: CacheState) -> list[str]:
    """Say which files were added, which changed and which were removed, one text for each kind; empty where equal."""
    changes = {
        "added": [name for name in after.files if name not in before.files],
        "changed": [name for name, state in after.files.items() if before.files.get(name, state) != state],
        "removed": [name for name in before.files if name not in after.files],
    }
    return [f"{what} {', '.join(names)}" for what, names in changes.items() if names]


def _refuse(error: OSError) -> None:
    raise error  # os.walk skips a folder that it cannot read, and an unread folder proves nothing.


def _state(path: Path) -> str:
    if path.is_dir():
        return f"link to {path.readlink()}"
    if not path.is_file():
        return "no regular file"
    return f"{path.stat().st_size} {digest_file(path)}"
