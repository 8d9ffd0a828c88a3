"""Reads JSON from a server that may be broken or hostile."""

import json
from typing import Any, NoReturn


def parse_json(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Read UTF-8 JSON as RFC 8259 has it.

    Raises:
        ValueError: Not UTF-8, not JSON, nested too deeply, NaN or Infinity, or a key that comes twice in one object.
            The message quotes nothing of the body.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return found
