"""What ONNX Runtime does and says in a world, observed in a process of its own."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from driver_builds import overlay, owned
from worlds import Place

PROBE = Path(__file__).resolve().parent / "session_probe.py"

OBSERVATION_S_MAX = 120
"""Loading the CUDA provider from a cold disk takes seconds; a session that takes minutes hangs."""


class Recipe(Enum):
    """How a session is opened."""

    PLAIN = "plain"  # As a tutorial does.
    SEVERITY_2 = "severity 2"  # The same, with the logger's severity set.
    STRICT = "strict"  # With enable_fallback=0 and disable_fallback().


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a session did.

    Attributes:
        recipe: How it was opened.
        returncode: Of the process; below 0 after a signal.
        stdout, stderr: What ONNX Runtime wrote to fds 1 and 2, without this machine's names.
        providers: What the session says it runs on; empty where none was opened.
        raised: Class and text of the exception; empty where none was raised.
        ran: Whether a run gave the right numbers.
    """

    recipe: Recipe
    returncode: int
    stdout: str
    stderr: str
    providers: tuple[str, ...]
    raised: tuple[str, ...]
    ran: bool


def observe(place: Place, recipe: Recipe) -> Observation:
    """Open a session in a world and run it."""
    report = place.folder / f"{recipe.name.lower()}.json"
    report.unlink(missing_ok=True)
    asked = [recipe.name, str(place.model), ",".join(place.world.providers), str(report)]
    command = [sys.executable, str(PROBE), *asked]
    done = subprocess.run(command, env=place.environment, capture_output=True, check=False, timeout=OBSERVATION_S_MAX)
    said = json.loads(report.read_text()) if report.exists() else {}
    return Observation(
        recipe=recipe,
        returncode=done.returncode,
        stdout=_nameless(done.stdout.decode(), place),
        stderr=_nameless(done.stderr.decode(), place),
        providers=tuple(said.get("providers", ())),
        raised=tuple(_nameless(part, place) for part in said.get("raised", ())),
        ran=said.get("ran", False),
    )


def sections(observations: Iterable[Observation]) -> dict[str, str]:
    """Return observations as the sections of a recording."""
    said = {}
    for one in observations:
        said[f"{one.recipe.value}: fd 1"] = one.stdout
        said[f"{one.recipe.value}: fd 2"] = one.stderr
        said[f"{one.recipe.value}: providers"] = ", ".join(one.providers)
        said[f"{one.recipe.value}: raised"] = "\n".join(one.raised)
    return {heading: body for heading, body in said.items() if body}


def _nameless(text: str, place: Place) -> str:
    """Replace what names this machine or moment by a text of the same shape."""
    names = {str(owned("onnxruntime-gpu", "onnxruntime_validation.py").parents[2]): "/site-packages"}
    if place.world.overlaid:
        names[str(overlay(place.parts))] = "/site-packages"
    for name, replacement in names.items():
        text = text.replace(name, replacement)
    text = re.sub(r"hostname=\S+", "hostname=host", text)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+", "2026-01-01 00:00:00.000000000", text)
