"""The summary as JSON, for `--output json`. Keys are stable within one schema; new ones may be added."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from rollout.errors import InvariantError
from rollout.model.base import Strict
from rollout.model.inventory import Absent
from rollout.report.headline import is_wanted
from rollout.report.summary import Summary

SUMMARY_SCHEMA = "rollout.summary/v1"


def to_json(summary: Summary) -> dict[str, Any]:
    """Return the summary as a JSON object.

    A value that is missing is `{"absent": "why"}`; a number that is not finite is the string "inf", "-inf" or "nan".
    `wanted` tells whether the run did what was asked of it.
    """
    told: dict[str, Any] = plain(summary)
    return {"schema": SUMMARY_SCHEMA, "wanted": is_wanted(summary.ending, summary.kind), **told}


def plain(value: object) -> Any:  # noqa: ANN401, PLR0911 - any JSON value; one case for each kind
    """Return a frozen value as JSON holds it.

    Raises:
        InvariantError: The value is of a kind that has no JSON form here.
    """
    match value:
        case Enum():
            return value.value
        case Absent():
            return {"absent": value.reason}
        case bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Strict():
            return plain(value.model_dump(mode="json", by_alias=True))
        case Mapping():
            return {str(plain(key)): plain(one) for key, one in value.items()}
        case tuple() | list():
            return [plain(one) for one in value]
        case _ if is_dataclass(value):
            return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
        case _:
            raise InvariantError(f"{type(value).__name__} has no JSON form in a summary")
