"""The plan store: a folder of engine plans by key, every byte pinned by digest.

Layout: `manifests/<digest of the key>.json` names files, `objects/<digest>` holds them. Objects are written before the
manifest that names them, each in one step, so that a crash leaves at worst an object that nobody names. Who writes
holds `lock`; readers do not wait for writers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rollout.disk import is_temp, make_folder, sync_folder
from rollout.errors import ConfigError, EvidenceError, UnavailableError
from rollout.model.canonical import digest_bytes
from rollout.model.verdict import Reason
from rollout.serving.plans.contents import contradictions, examine
from rollout.serving.plans.disk import chunks_of, digest_file, locked, put_file
from rollout.serving.plans.faults import PlanError, PlanFault, plan_error, reason
from rollout.serving.plans.key import PlanKey, differing
from rollout.serving.plans.manifest import MANIFEST_BYTES_MAX, MANIFEST_SCHEMA, PlanFile, PlanManifest, parse_manifest
from rollout.serving.plans.names import locate_inside

OBJECTS = "objects"
MANIFESTS = "manifests"
LOCK = "lock"

_AGAIN = "add the plan again"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """One plan of the store.

    `digest` is that of the manifest: it pins key, names and every byte. The first file is the one to open.
    """

    key: PlanKey
    digest: str
    files: tuple[PlanFile, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All plans by the text of their key, and why other manifests cannot be read."""

    plans: tuple[StoredPlan, ...]
    faults: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What `prune` removed, or would remove."""

    keys: tuple[PlanKey, ...]
    objects: tuple[str, ...]
    bytes_freed: int


class PlanStore:
    """A folder of engine plans.

    Args:
        folder: Made by the first `add`; every other verb needs it to be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects = folder / OBJECTS
        self._manifests = folder / MANIFESTS

    def add(self, key: PlanKey, entry: Path, *, replace: bool = False) -> StoredPlan:
        """Store a plan under its key, on disk when this returns; adding the same bytes again mends what is damaged.

        Args:
            key: What the plan is good for.
            entry: The plan, or an EPContext model (.onnx) whose engines lie beside it.
            replace: Let the plan take the place of another one with this key.

        Raises:
            PlanError: The files are no plan, contradict the key, or the key has other bytes.
            ConfigError: The onnx package is missing.
            UnavailableError: The disk is full or failed; what was stored is as it was.
        """
        locate = partial(locate_inside, entry.parent)
        contents = examine(entry.name, locate=locate)
        wrong = contradictions(contents, key)
        if wrong:
            raise PlanError(*wrong)
        with locked(self._folder / LOCK, exclusive=True):
            make_folder(self._manifests)  # Before any object, so that a first add cut short leaves a store.
            if not replace:
                self._refuse_other_bytes(key, {name: locate(name) for name in contents.names})
            files = tuple(self._put_object(name, locate(name)) for name in contents.names)
            manifest = PlanManifest(schema=MANIFEST_SCHEMA, key=key, files=files)
            put_file([manifest.to_bytes()], self._manifests, name_of=lambda _: _manifest_name(key))
        return _stored(manifest)

    def list_plans(self) -> Listing:
        """Read every manifest; objects are not opened.

        Raises:
            ConfigError: The folder is no plan store.
            UnavailableError: The disk failed.
        """
        plans: list[StoredPlan] = []
        faults: list[Reason] = []
        for path in self._entries(self._manifests):
            if is_temp(path.name):
                continue
            try:
                plans.append(_stored(_read_manifest(path)))
            except FileNotFoundError:  # Removed by a prune since the folder was read.
                continue
            except PlanError as error:
                faults.extend(error.reasons)
        return Listing(plans=tuple(sorted(plans, key=lambda plan: plan.key.text())), faults=tuple(faults))

    def find(self, key: PlanKey) -> StoredPlan | Reason:
        """Return the plan of a key after checking every byte of it, or the reason plan_missing.

        The reason names the key that was wanted, and the nearest key present with what differs.

        Raises:
            PlanError: The plan is there and must not be loaded.
            ConfigError: The folder is no plan store, or the onnx package is missing.
            UnavailableError: The disk failed.
        """
        try:
            plan = _stored(_read_manifest(self._manifests / _manifest_name(key)))
        except FileNotFoundError:
            return self._missing(key)
        faults = self._faults_of(plan)
        if faults:
            raise PlanError(*faults)
        return plan

    def place(self, plan: StoredPlan, folder: Path) -> Path:
        """Copy a plan's files under their names into a folder for a runtime to load, and return the one to open.

        Raises:
            PlanError: An object is missing, or its bytes do not give their digest; it is not written.
            UnavailableError: The disk is full or failed.
        """
        for file in reversed(plan.files):  # The one to open comes last, when all that it names is there.
            path = self._object(file)
            if not path.is_file():
                raise plan_error(PlanFault.OBJECT_MISSING, f"{path} ({file.name}) is not there; {_AGAIN}")
            put_file(chunks_of(path), folder, name_of=partial(_name_if_unchanged, file, path))
        return folder / plan.files[0].name

    def verify(self) -> tuple[Reason, ...]:
        """Check every manifest and every byte, and return all that is wrong.

        Raises:
            ConfigError: The folder is no plan store, or the onnx package is missing.
            UnavailableError: The disk failed, or somebody writes for minutes.
        """
        with locked(self._folder / LOCK, exclusive=False):
            listing = self.list_plans()
            found = [*listing.faults, *(fault for plan in listing.plans for fault in self._faults_of(plan))]
            loose = self._loose(listing.plans)
        orphans = (reason(PlanFault.ORPHAN, f"{path} is named by no manifest that can be read") for path in loose)
        return (*found, *orphans)

    def prune(self, *, keep_tensorrt: Sequence[str] = (), dry_run: bool = False) -> Pruned:
        """Remove what no manifest names, and on demand the keys of other TensorRT versions.

        Args:
            keep_tensorrt: Where given, keys of all other versions are removed.
            dry_run: Say what would be removed, and remove nothing.

        Raises:
            ConfigError: The folder is no plan store, or every key would go.
            EvidenceError: A manifest cannot be read, so nobody knows what it names; nothing was removed.
            UnavailableError: The disk failed, or somebody writes for minutes.
        """
        self._entries(self._manifests)  # A folder that is no store gets no lock file either.
        with locked(self._folder / LOCK, exclusive=not dry_run):
            listing = self.list_plans()
            if listing.faults:
                told = "; ".join(f"{one.code}: {one.text}" for one in listing.faults)
                raise EvidenceError(f"nothing was pruned, for what these manifests name is unknown: {told}")
            gone = [plan for plan in listing.plans if keep_tensorrt and plan.key.tensorrt not in keep_tensorrt]
            if gone and len(gone) == len(listing.plans):
                raise ConfigError(f"no key is of TensorRT {', '.join(keep_tensorrt)}: this would remove every plan")
            manifests = [self._manifests / _manifest_name(plan.key) for plan in gone]
            loose = [path for path in self._loose([p for p in listing.plans if p not in gone]) if path.is_file()]
            freed = _size([*manifests, *loose])
            if not dry_run:
                _remove(manifests, self._manifests)  # First, so that a crash leaves no manifest without its objects.
                _remove(loose, self._objects)
        keys, names = tuple(plan.key for plan in gone), tuple(path.name for path in loose)
        return Pruned(keys=keys, objects=names, bytes_freed=freed)

    def _refuse_other_bytes(self, key: PlanKey, paths: dict[str, Path]) -> None:
        try:
            manifest = _read_manifest(self._manifests / _manifest_name(key))
        except FileNotFoundError:
            return
        present = {file.name: file.digest for file in manifest.files}
        if present != {name: digest_file(path) for name, path in paths.items()}:
            raise plan_error(PlanFault.EXISTS, f"{self._folder} holds other bytes for {key.text()}")

    def _put_object(self, name: str, source: Path) -> PlanFile:
        digest, size = put_file(chunks_of(source), self._objects, name_of=_hex)
        return PlanFile(name=name, digest=digest, size_bytes=size)

    def _object(self, file: PlanFile) -> Path:
        return self._objects / _hex(file.digest)

    def _entries(self, folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError) as error:
            text = f"{self._folder} is no plan store, for it has no folder {folder.name}: check --store"
            raise ConfigError(text) from error
        except OSError as error:
            raise UnavailableError(f"cannot list {folder}: {error.strerror or error}; see to the disk") from error

    def _faults_of(self, plan: StoredPlan) -> tuple[Reason, ...]:
        """Check the bytes of a plan, then what they say; what is not its own bytes is not read further."""
        damaged = tuple(fault for file in plan.files for fault in self._faults_of_file(file))
        if damaged:
            return damaged
        paths = {file.name: self._object(file) for file in plan.files}
        try:
            return contradictions(examine(plan.files[0].name, locate=partial(_listed, paths)), plan.key)
        except PlanError as error:
            return error.reasons

    def _faults_of_file(self, file: PlanFile) -> tuple[Reason, ...]:
        path = self._object(file)
        try:
            size = path.stat().st_size
        except OSError as error:
            text = f"{path} ({file.name}) cannot be opened: {error.strerror}; {_AGAIN}"
            return (reason(PlanFault.OBJECT_MISSING, text),)
        if size < file.size_bytes:
            text = f"{path} ({file.name}) has {size} of {file.size_bytes} bytes; {_AGAIN}"
            return (reason(PlanFault.TRUNCATED, text),)
        found = digest_file(path)
        if found != file.digest:
            return (reason(PlanFault.CHANGED, f"{path} ({file.name}) was changed: its bytes give {found}"),)
        return ()

    def _loose(self, plans: Iterable[StoredPlan]) -> list[Path]:
        """Return what these plans do not name, and what writes that a crash cut short left."""
        named = {_hex(file.digest) for plan in plans for file in plan.files}
        objects = self._entries(self._objects) if self._objects.exists() else []
        cut_short = [path for path in self._entries(self._manifests) if is_temp(path.name)]
        return [path for path in objects if path.name not in named] + cut_short

    def _missing(self, key: PlanKey) -> Reason:
        listing = self.list_plans()
        unread = f"; {len(listing.faults)} manifests there cannot be read" if listing.faults else ""
        ranked = sorted(
            (plan.key.model != key.model, len(differing(key, plan.key)), plan.key.text(), differing(key, plan.key))
            for plan in listing.plans
        )
        nearest = f"the nearest has {', '.join(ranked[0][-1])}" if ranked else "the store is empty"
        return reason(PlanFault.MISSING, f"no plan for {key.text()} in {self._folder}: {nearest}{unread}")


def _manifest_name(key: PlanKey) -> str:
    return f"{_hex(key.digest)}.json"


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _stored(manifest: PlanManifest) -> StoredPlan:
    return StoredPlan(key=manifest.key, digest=digest_bytes(manifest.to_bytes()), files=manifest.files)


def _read_manifest(path: Path) -> PlanManifest:
    """Read a manifest and check that it is the one which its name promises.

    Raises:
        PlanError: It is damaged, unknown, or another key's.
        FileNotFoundError: It is not there.
        UnavailableError: The disk failed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except IsADirectoryError as error:
        raise plan_error(PlanFault.MANIFEST_DAMAGED, f"{path} is a folder") from error
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}; see to the disk") from error
    manifest = parse_manifest(data, name=str(path))
    if path.name != _manifest_name(manifest.key):
        raise plan_error(PlanFault.MANIFEST_DAMAGED, f"{path} holds the manifest of another key, {manifest.key.text()}")
    return manifest


def _listed(paths: dict[str, Path], name: str) -> Path:
    """Find a file that a stored model names among those that its manifest pins."""
    if name not in paths:
        raise plan_error(PlanFault.OBJECT_MISSING, f"the model names {name}, and its manifest does not")
    return paths[name]


def _name_if_unchanged(file: PlanFile, path: Path, digest: str) -> str:
    if digest != file.digest:
        raise plan_error(PlanFault.CHANGED, f"{path} ({file.name}) was changed: its bytes give {digest}")
    return file.name


def _size(paths: Iterable[Path]) -> int:
    try:
        return sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise UnavailableError(f"cannot read sizes: {error}; see to the disk") from error


def _remove(paths: Iterable[Path], folder: Path) -> None:
    try:
        for path in paths:
            path.unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise UnavailableError(f"cannot remove from {folder}: {error}; see to the disk") from error
