"""What the installed runtimes were built for, read from their files: what does not load can still be named."""

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from rollout.model.snapshot import Capability, failed, ok, unavailable
from rollout.serving.collectors.interface import Collector, Fields

_FIELDS: Mapping[str, tuple[str, str, str]] = {
    "runtime.ort.version": ("onnxruntime", "capi/build_and_package_info.py", "__version__"),
    "runtime.ort.cuda_version": ("onnxruntime", "capi/build_and_package_info.py", "cuda_version"),
    "runtime.torch.version": ("torch", "version.py", "__version__"),
    "runtime.torch.cuda.version": ("torch", "version.py", "cuda"),
}
"""Field to package, file and the name that is bound there."""


def _read() -> Fields:
    return {field: _bound(*where) for field, where in _FIELDS.items()}


def _bound(package: str, file: str, name: str) -> Capability:
    """Return the constant that a package's file binds to a name; nothing is imported."""
    source = f"{package}/{file}"
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return unavailable(source, f"{package} is not installed")
    try:
        values = constants(Path(found.submodule_search_locations[0], file).read_text())
    except (OSError, SyntaxError, ValueError) as error:
        return failed(source, f"{type(error).__name__}: {error}")
    value = values.get(name)
    return ok(str(value), source) if value else unavailable(source, f"{name} is not set: a build without it")


def constants(text: str) -> dict[str, object]:
    """Return the constants that a Python file binds at its top.

    Raises:
        SyntaxError: The text is no Python.
    """
    values: dict[str, object] = {}
    for statement in ast.parse(text).body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value))
            ):
                values[name] = value
    return values


BUILDS = Collector(name="builds", fields=frozenset(_FIELDS), read=_read)
