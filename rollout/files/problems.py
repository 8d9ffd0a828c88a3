"""How a fault in a person's file is put into words: where it is, what is wrong, what is allowed."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from rollout.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root of a file to one value."""

PROBLEMS_MAX = 20
"""A screenful; who sees twenty faults mends them before reading on."""

SHOWN_CHARACTERS_MAX = 60
"""Enough to recognise a value by; a message must stay one line."""

PRIVATE_KEYS = frozenset({"text", "env"})
"""Prompt texts and environments can hold secrets, and messages end up in logs: their values are not repeated."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """A position in a file, counted from 1 as editors count."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One fault at one place; an empty path means that no key is known or needed."""

    place: Place
    path: KeyPath
    text: str


def refusal(name: str, problems: Iterable[Problem]) -> ConfigError:
    """Return the error that lists faults in file order, one line each, at most `PROBLEMS_MAX` of them."""
    ordered = sorted(problems, key=lambda one: one.place)
    lines = [_line(name, one) for one in ordered[:PROBLEMS_MAX]]
    if len(ordered) > PROBLEMS_MAX:
        lines.append(f"{name}: and {len(ordered) - PROBLEMS_MAX} more")
    return ConfigError("\n".join(lines))


def shown(value: object, path: KeyPath) -> str:
    """Return a value in short form for a message; empty where it is private or has no short form."""
    if PRIVATE_KEYS.intersection(path) or not _is_short_form(value):
        return ""
    text = json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[: SHOWN_CHARACTERS_MAX - 3]}..."


def key_text(path: KeyPath) -> str:
    """Return a path as people write it: `prompts[0].seed`; a key that holds other characters stands in brackets."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        elif key.replace("_", "").replace("-", "").isalnum():
            text += f".{key}" if text else key
        else:
            text += f"[{json.dumps(key)}]"
    return text


def _line(name: str, problem: Problem) -> str:
    key = key_text(problem.path)
    where = f"{name}:{problem.place.line}:{problem.place.column}: "
    return f"{where}{key}: {problem.text}" if key else f"{where}{problem.text}"


def _is_short_form(value: object) -> bool:
    if isinstance(value, list):
        return not any(isinstance(one, list | dict) for one in value)
    return not isinstance(value, dict)
