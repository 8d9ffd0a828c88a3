"""What a model refuses, said in terms of the file: place, key, what is wrong, what is allowed."""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rollout.errors import ConfigError
from rollout.files.json_schemas import Schema, allowed, model_schema, schema_at
from rollout.files.problems import PRIVATE_KEYS, KeyPath, Problem, refusal, shown
from rollout.files.yaml_lines import Document

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """Turns what pydantic says about one document into faults with places."""

    document: Document
    schema: Schema

    def problems(self, error: ValidationError) -> list[Problem]:
        """Return one fault for each thing that must be mended.

        The branches of a union that all failed make one fault, and a misspelt key is not reported as missing as well.
        """
        details = error.errors(include_url=False, include_input=False)
        suggested = {(*one["loc"][:-1], self._nearest(one["loc"])) for one in details if _is_unknown(one)}
        found: dict[tuple[KeyPath, str], Problem] = {}
        for one in details:
            if one["type"] == "missing" and one["loc"] in suggested:
                continue
            made = self._problem(one)
            found.setdefault((made.path, made.text), made)
        return list(found.values())

    def said(self, text: str, path: KeyPath = ()) -> Problem:
        """Return a fault that a validator described itself; it names the keys that are at odds."""
        here = _value_at(self.document.value, path)
        keys = dict.fromkeys(word for word in re.findall(r"\w+", text) if isinstance(here, dict) and word in here)
        values = {key: shown(here[key], (*path, key)) for key in keys} if isinstance(here, dict) else {}
        if not keys:
            return self._at(path, text)
        first = next(iter(keys))
        if len(keys) == 1:
            return self._at((*path, first), f"{text}{_got(values[first])}")
        pairs = ", ".join(f"{key} {value}" for key, value in values.items() if value)
        return self._at((*path, first), f"{text}{_got(pairs)}")

    def _problem(self, detail: ErrorDetails) -> Problem:
        loc = detail["loc"]
        if detail["type"] == "missing":
            # The place is that of the mapping that lacks the key.
            place = self.document.places[self._known(loc)]
            text = f"missing; it must be {allowed(self.schema, schema_at(self.schema, loc))}"
            return Problem(place=place, path=loc, text=text)
        path = self._known(loc)
        if _is_unknown(detail):
            return self._at(path, f"unknown key; {self._known_keys(loc)}")
        if detail["type"] == "value_error":
            return self.said(str(detail["ctx"]["error"]), path)
        return self._at(path, self._wrong_value(path))

    def _wrong_value(self, path: KeyPath) -> str:
        value = _value_at(self.document.value, path)
        part = schema_at(self.schema, path)
        text = f"must be {allowed(self.schema, part)}{_got(shown(value, path))}"
        if part.get("type") == "string" and isinstance(value, bool | int | float):
            written = self.document.written.get(path, "")
            return f"{text}; quote it" + ("" if PRIVATE_KEYS.intersection(path) else f": {json.dumps(written)}")
        if part.get("type") in {"integer", "number"} and isinstance(value, str) and path not in self.document.written:
            return f"{text}; write it without quotes"
        return text

    def _known_keys(self, loc: KeyPath) -> str:
        nearest = self._nearest(loc)
        if nearest:
            return f"did you mean {nearest}?"
        return f"known here: {', '.join(self._keys_beside(loc))}"

    def _nearest(self, loc: KeyPath) -> str:
        return next(iter(difflib.get_close_matches(str(loc[-1]), self._keys_beside(loc), n=1)), "")

    def _keys_beside(self, loc: KeyPath) -> list[str]:
        return list(schema_at(self.schema, loc[:-1]).get("properties", {}))

    def _known(self, loc: KeyPath) -> KeyPath:
        """Return the longest part of a location that stands in the file; pydantic adds the branches of unions."""
        return next(path for path in _shortening(loc) if path in self.document.places)

    def _at(self, path: KeyPath, text: str) -> Problem:
        return Problem(place=self.document.places[path], path=path, text=text)


def validated(model: type[Model], document: Document, *, name: str) -> Model:
    """Return the model that a document describes.

    Raises:
        ConfigError: One line for each fault. A file of another kind gets one line only.
    """
    complaint = Complaint(document=document, schema=model_schema(model))
    check_kind(complaint, name=name)
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        raise refusal(name, complaint.problems(error)) from error


def check_kind(complaint: Complaint, *, name: str) -> None:
    """Check what a file says it is, before anything else in it is judged.

    Raises:
        ConfigError: It is no mapping, or its key `schema` is missing or names another kind or version.
    """
    expected = schema_at(complaint.schema, ("schema",))["const"]
    value, places = complaint.document.value, complaint.document.places
    if not isinstance(value, dict):
        text = f"the file must hold a mapping that begins with `schema: {expected}`"
        raise refusal(name, [Problem(place=places[()], path=(), text=text)])
    if "schema" not in value:
        text = f"missing; begin the file with `schema: {expected}`"
        raise refusal(name, [Problem(place=places[()], path=("schema",), text=text)])
    if value["schema"] != expected:
        text = f"must be {expected} here{_got(shown(value['schema'], ('schema',)))}: another kind of file?"
        raise refusal(name, [Problem(place=places["schema",], path=("schema",), text=text)])


def refuse_unplaced(complaint: Complaint, error: ValueError, *, name: str) -> ConfigError:
    """Return the refusal for an error that a model's reader raised outside pydantic."""
    return refusal(name, [complaint.said(str(error))])


def _is_unknown(detail: ErrorDetails) -> bool:
    return detail["type"] == "extra_forbidden"


def _got(value: str) -> str:
    return f" (got {value})" if value else ""


def _shortening(path: KeyPath) -> Iterator[KeyPath]:
    for length in range(len(path), -1, -1):
        yield path[:length]


def _value_at(value: object, path: KeyPath) -> object:
    for key in path:
        match value, key:
            case list(), int():
                value = value[key]
            case dict(), _:
                value = value[key]
    return value
