"""Installed Python packages: their versions, and those that overwrite each other's files."""

import importlib.metadata
import re
from collections.abc import Iterable

from rollout.model.matrix_facts import ORT_DISTRIBUTIONS
from rollout.model.packages import package_name
from rollout.model.snapshot import Capability, ok, unavailable
from rollout.serving.collectors.interface import Collector, Fields

SOURCE = "importlib.metadata"

RIVALS: tuple[frozenset[str], ...] = (
    ORT_DISTRIBUTIONS,
    frozenset({"tensorrt-cu11", "tensorrt-cu12", "tensorrt-cu13"}),  # `tensorrt` itself only names one of them.
    frozenset({"cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"}),
)
"""Distributions that install the same modules; the last one installed wins, and `pip check` says nothing."""

_TOLD = re.compile(
    r"onnxruntime.*|tensorrt.*|torch|torchvision|triton|xformers|diffusers|transformers|accelerate|safetensors|numpy|"
    r"nvidia-.*|cupy.*|flash-attn"
)
"""Packages whose version can change speed or pictures."""


def _read() -> Fields:
    installed = dict(sorted(_installed()))
    return {
        "packages.versions": ok([f"{name} {version}" for name, version in installed.items()], SOURCE),
        "packages.rivals": ok(_rivals(installed), SOURCE),
        "runtime.ort.package": _ort(installed),
    }


def _installed() -> Iterable[tuple[str, str]]:
    for one in importlib.metadata.distributions():
        name = package_name(one.metadata["Name"] or "")
        if _TOLD.fullmatch(name) or any(name in rivals for rivals in RIVALS):
            yield name, one.version


def _rivals(installed: Iterable[str]) -> list[str]:
    """Return each set of rivals that are installed together, as one text."""
    found = [sorted(rivals.intersection(installed)) for rivals in RIVALS]
    return [" and ".join(names) for names in found if len(names) > 1]


def _ort(installed: dict[str, str]) -> Capability:
    found = [f"{name} {version}" for name, version in installed.items() if name in ORT_DISTRIBUTIONS]
    return ok(found, SOURCE) if found else unavailable(SOURCE, "no distribution of ONNX Runtime is installed")


PACKAGES = Collector(
    name="packages",
    fields=frozenset({"packages.versions", "packages.rivals", "runtime.ort.package"}),
    read=_read,
)
