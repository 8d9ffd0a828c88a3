"""Reading people's files: policies, prompts, releases, stacks, matrices, snapshots, labels."""

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ValidationError

from rollout.errors import ConfigError
from rollout.files.json_schemas import MODELS, json_schema, model_schema
from rollout.files.problems import KeyPath, Problem, refusal
from rollout.files.validation import Complaint, Model, check_kind, refuse_unplaced, validated
from rollout.files.yaml_lines import Document, read_json, read_yaml
from rollout.model.admission import AdmissionPolicy
from rollout.model.matrix import Matrix
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.release import Release
from rollout.model.snapshot import CapabilitySnapshot, parse_snapshot
from rollout.model.stack import Stack
from rollout.model.waiver import Waiver, stale

__all__ = [
    "FILE_BYTES_MAX",
    "MODELS",
    "LoadedAdmission",
    "LoadedStack",
    "json_schema",
    "load_admission",
    "load_any",
    "load_labels",
    "load_lines",
    "load_matrix",
    "load_policy",
    "load_prompts",
    "load_release",
    "load_snapshot_file",
    "load_stack",
]

FILE_BYTES_MAX = 1 << 20
"""Five hundred prompts of the greatest length; what is larger is not a file that a person wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedStack:
    """A stack file and the absolute paths that it names.

    Whether they exist is asked by whoever opens them: a rollback needs no policy file.
    """

    stack: Stack
    path: Path
    policy: Path
    prompts: Path
    state: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAdmission:
    """An admission policy and what it names."""

    policy: AdmissionPolicy
    model: Path | None
    matrix: Matrix | None
    engine_cache: Path | None


def load_admission(name: str) -> LoadedAdmission:
    """Read an admission policy.

    Args:
        name: A file, or one of the policies that the product ships with: gpu, tensorrt, development-cpu.

    Raises:
        ConfigError: As for `load_policy`.
    """
    shipped = resources.files("rollout.serving").joinpath("policies", f"{name}.yaml")
    path = Path(str(shipped)) if "/" not in name and shipped.is_file() else Path(name)
    policy = _load(AdmissionPolicy, path)
    folder = _expanded(path).parent.resolve()
    return LoadedAdmission(
        policy=policy,
        model=None if policy.model is None else (folder / policy.model.path).resolve(),
        matrix=None if policy.matrix is None else load_matrix(folder / policy.matrix),
        engine_cache=None if policy.engine_cache is None else (folder / policy.engine_cache).resolve(),
    )


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        ConfigError: The file cannot be used; one line `file:line:column: key: what is wrong` for each fault.
    """
    return _load(Policy, path)


def load_prompts(path: Path) -> PromptSet:
    """Read a set of prompts.

    Raises:
        ConfigError: As for `load_policy`; values of prompts are not repeated.
    """
    return _load(PromptSet, path)


def load_release(path: Path) -> Release:
    """Read a release.

    Raises:
        ConfigError: As for `load_policy`; values of the environment are not repeated.
    """
    return _load(Release, path)


def load_stack(path: Path) -> LoadedStack:
    """Read a stack file and resolve the paths in it against its own folder.

    Raises:
        ConfigError: As for `load_policy`, or a home folder in a path is unknown.
    """
    stack = _load(Stack, path)
    folder = _expanded(path).parent.resolve()
    return LoadedStack(
        stack=stack,
        path=folder / _expanded(path).name,
        policy=(folder / _expanded(Path(stack.policy))).resolve(),
        prompts=(folder / _expanded(Path(stack.prompts))).resolve(),
        state=(folder / _expanded(Path(stack.state))).resolve(),
    )


def load_matrix(path: Path) -> Matrix:
    """Read a version matrix.

    Raises:
        ConfigError: As for `load_policy`.
    """
    return _load(Matrix, path)


def load_labels(path: Path) -> Mapping[str, str]:
    """Read a node's labels: a mapping, or the Kubernetes Node itself.

    Raises:
        ConfigError: As for `load_policy`, or the file holds neither.
    """
    document = _document(path)
    inside: KeyPath = ()
    labels = document.value
    if isinstance(labels, dict) and labels.get("kind") == "Node":
        inside, labels = ("metadata", "labels"), labels.get("metadata")
        labels = labels.get("labels") if isinstance(labels, dict) else None
    if not isinstance(labels, dict) or not labels:
        text = "the file must hold a mapping of labels, or one Kubernetes Node that has labels"
        raise refusal(str(path), [Problem(place=document.places[()], path=(), text=text)])
    wrong = [(*inside, key) for key, value in labels.items() if not isinstance(value, str)]
    text = "the value of a label is text; quote it"
    if wrong:
        raise refusal(str(path), [Problem(place=document.places[key], path=key, text=text) for key in wrong])
    return labels


def load_lines(path: Path) -> list[str]:
    """Read the lines of a text file, or of stdin where the path is `-`.

    Raises:
        ConfigError: The file cannot be read, is too large or is not UTF-8.
    """
    is_stdin = path == Path("-")
    return _decoded(sys.stdin.buffer.read(FILE_BYTES_MAX + 1) if is_stdin else _bytes(path), path).splitlines()


def load_any(path: Path, *, today: date) -> str:
    """Check a file of whatever kind its key `schema` says and return the kind, one of `MODELS`.

    Raises:
        ConfigError: As for `load_policy`, the file does not say a known kind, or a waiver in it has ended.
    """
    document = _document(path)
    said = document.value.get("schema") if isinstance(document.value, dict) else None
    for kind, model in MODELS.items():
        if said == f"rollout.{kind}/v1":
            if model is CapabilitySnapshot:
                load_snapshot_file(path)
            else:
                _refuse_stale_waivers(validated(model, document, name=str(path)), document, path, today=today)
            return kind
    known = ", ".join(f"rollout.{kind}/v1" for kind in MODELS)
    place = document.places.get(("schema",), document.places[()])
    raise refusal(str(path), [Problem(place=place, path=("schema",), text=f"must be one of {known}")])


def load_snapshot_file(path: Path) -> CapabilitySnapshot:
    """Read a capability snapshot that `rollout snapshot` wrote, and check its digest.

    Raises:
        ConfigError: As for `load_policy`, or the digest does not match the fields.
    """
    document = _document(path)
    complaint = Complaint(document=document, schema=model_schema(CapabilitySnapshot))
    check_kind(complaint, name=str(path))
    if not isinstance(document.value, dict) or "digest" not in document.value:
        text = "missing; a snapshot without its digest proves nothing"
        raise refusal(str(path), [Problem(place=document.places[()], path=("digest",), text=text)])
    try:
        return parse_snapshot(document.value)
    except ValidationError as error:
        raise refusal(str(path), complaint.problems(error)) from error
    except ValueError as error:
        raise refuse_unplaced(complaint, error, name=str(path)) from error


def _refuse_stale_waivers(model: BaseModel, document: Document, path: Path, *, today: date) -> None:
    inside: KeyPath = ()
    waivers: list[Waiver] = []
    if isinstance(model, Policy):
        inside, waivers = ("capabilities", "waivers"), model.capabilities.waivers
    elif isinstance(model, AdmissionPolicy):
        inside, waivers = ("waivers",), model.waivers
    found = {(*inside, place): text for place, text in stale(waivers, today=today).items()}
    if found:
        raise refusal(str(path), [Problem(place=document.places[key], path=key, text=found[key]) for key in found])


def _load(model: type[Model], path: Path) -> Model:
    return validated(model, _document(path), name=str(path))


def _document(path: Path) -> Document:
    text = _text(path)
    return read_json(text, name=str(path)) if path.suffix == ".json" else read_yaml(text, name=str(path))


def _text(path: Path) -> str:
    return _decoded(_bytes(path), path)


def _decoded(data: bytes, path: Path) -> str:
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {FILE_BYTES_MAX} bytes; is it the right file?")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8")) + 1
        text = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8 text"
        raise ConfigError(f"{path}:{line}:{column}: {text}") from error


def _bytes(path: Path) -> bytes:
    """Return the file's bytes, one more than allowed where it is too large."""
    try:
        with open(_expanded(path), "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: not a regular file; write the contents to one")
            return file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file (looked in {Path.cwd()})") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: a folder, not a file") from error
    except PermissionError as error:
        raise ConfigError(f"{path}: no permission to read it") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe would wait for its writer for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: the home folder it names is unknown") from error
