"""What ONNX Runtime really said in the worlds: `messages/<world>.txt`, each a capture with its sections.

What names the machine or the moment was replaced by a text of the same shape. All else, colour codes too, is untouched.
"""

import re
from collections.abc import Mapping
from pathlib import Path

MESSAGES = Path(__file__).resolve().parent / "messages"

RECORDED_WITH = "1.31.1"
"""The onnxruntime-gpu that said it."""

_HEADING = re.compile(r"^=== (.+) ===\n", re.MULTILINE)


def recorded_worlds() -> list[str]:
    """Return the names of the worlds whose messages were recorded."""
    return sorted(path.stem for path in MESSAGES.glob("*.txt"))


def recorded(world: str) -> dict[str, str]:
    """Return a world's messages by section.

    Sections are a recipe ("plain", "severity 2", "strict") with ": fd 1", ": fd 2", ": providers" or ": raised". What
    was raised is the class on one line and the text below. A section is there only where something was said.
    """
    _, *parts = _HEADING.split((MESSAGES / f"{world}.txt").read_bytes().decode())
    return {heading: body.removesuffix("\n") for heading, body in zip(parts[::2], parts[1::2], strict=True)}


def record(world: str, sections: Mapping[str, str]) -> None:
    """Write a world's messages."""
    text = "".join(f"=== {heading} ===\n{body}\n" for heading, body in sections.items())
    (MESSAGES / f"{world}.txt").write_bytes(text.encode())
