"""JSON Schemas of the files that people write, for editors and for messages."""

import ast
import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from rollout.errors import ConfigError
from rollout.files.problems import KeyPath
from rollout.model.admission import AdmissionPolicy
from rollout.model.matrix import Matrix
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.release import Release
from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.stack import Stack

Schema = dict[str, Any]
"""A JSON Schema is JSON; its shape is checked by whoever reads it."""

MODELS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "policy": Policy,
        "admission": AdmissionPolicy,
        "release": Release,
        "prompts": PromptSet,
        "stack": Stack,
        "matrix": Matrix,
        "snapshot": CapabilitySnapshot,
    }
)
"""The kinds of files that people write."""

_MODEL_ROOM = "rollout.model."

DIALECT = "https://json-schema.org/draft/2020-12/schema"

PATTERN_WORDS = MappingProxyType(
    {
        r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$": "a name of 1 to 63 lower-case letters, digits and inner hyphens",
        r"^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$": 'text "WIDTHxHEIGHT" in pixels, such as "512x512"',
        r"^[0-9a-fA-F.:]+$": "a numeric IP address",
        r"^[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?(\.(post|dev)[0-9]+)*$": 'a full version without "+...", such as '
        '"1.31.1"',
        r"^[1-9][0-9]{2,3}(\.[0-9]{2,3}){1,2}$": 'a full driver version, such as "580.65.06"',
        r"^[a-z0-9]+(-[a-z0-9]+)*$": "a distribution's name in lower case, with hyphens",
        r"^[1-9][0-9]?\.[0-9]$": 'a compute capability, such as "8.9"',
        r"^[1-9][0-9]*\.[0-9]+$": 'a CUDA version, such as "13.0"',
        r"^[1-9][0-9]*(\.[0-9]+\.[0-9]+)?$": 'a major or a full version in quotes, such as "9" or "9.12.0"',
        r"^[1-9][0-9]*(\.[0-9]+){2,3}$": 'a full version, such as "10.13.3"',
        r"^[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?$": "a reason code, or a field of the snapshot, such as "
        '"gpu.driver.version" or "gpu.*"',
        r"^[^\s@]+@sha256:[0-9a-f]{64}$": 'an image by digest, "REPOSITORY@sha256:" and 64 hexadecimal digits',
    }
)
"""Patterns of the model in words; a pattern that is not here is quoted as it is."""


def json_schema(kind: str) -> Schema:
    """Return the JSON Schema of one kind of file, with the docstrings of classes and fields as descriptions.

    What lies between two fields (weights that rise, rates that are ordered) is beyond JSON Schema; the reader checks
    it.

    Args:
        kind: One of `MODELS`.

    Raises:
        ConfigError: No file of this product is of that kind.
    """
    if kind not in MODELS:
        raise ConfigError(f"there is no schema of {kind!r}; there are {', '.join(MODELS)}")
    model = MODELS[kind]
    body = model_schema(model)
    if model is CapabilitySnapshot:
        # The wire form carries the digest of `schema` and `fields`; it is no field of the model, which computes it.
        body["properties"]["digest"] = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
        body["required"].append("digest")
    definitions = body.get("$defs", {})
    for name, docstrings in _docstrings(model, definitions).items():
        holder = body if name == model.__name__ else definitions.get(name, {})
        for field, text in docstrings.items():
            properties = holder.get("properties", {})
            if field in properties:
                # What stands beside a $ref is read together with it since draft 2019-09.
                properties[field]["description"] = text
    return {"$schema": DIALECT, "$id": f"urn:rollout:{kind}:v1", **body, "title": f"rollout {kind}"}


def model_schema(model: type[BaseModel]) -> Schema:
    """Return the bare schema of a model, by the names that stand in files."""
    return model.model_json_schema(by_alias=True)


def schema_at(root: Schema, path: KeyPath) -> Schema:
    """Return the part of a schema that governs one key; empty where nothing does."""
    here = _resolved(root, root)
    for key in path:
        here = next(filter(None, (_below(root, one, key) for one in _alternatives(root, here))), {})
    return here


def allowed(root: Schema, part: Schema) -> str:
    """Say in words what a part of a schema allows.

    Args:
        root: The schema that holds the definitions.
        part: What `schema_at` returned.
    """
    here = _resolved(root, part)
    if "anyOf" in here:
        return " or ".join(allowed(root, one) for one in here["anyOf"])
    choices = here.get("enum", [here["const"]] if "const" in here else [])
    if choices:
        return " or ".join(repr(one) for one in choices)
    kind = here["type"]
    if kind in {"integer", "number"}:
        noun = "a whole number" if kind == "integer" else "a number"
        return " ".join([noun, *_bounds(here)])
    if kind == "string":
        return _allowed_text(here)
    keys = ", ".join(here.get("properties", {}))
    return {
        "array": " ".join(["a list", *_count(here, least="minItems", most="maxItems", noun="entries")]),
        "object": f"a mapping with the keys {keys}" if keys else "a mapping",
        "boolean": "true or false",
        "null": "null",
    }[kind]


def _alternatives(root: Schema, here: Schema) -> Iterator[Schema]:
    """Yield what a part may be: a section that may be null is its mapping, or null."""
    for one in here.get("anyOf", [here]):
        yield _resolved(root, one)


def _below(root: Schema, here: Schema, key: str | int) -> Schema:
    if isinstance(key, int):
        return _resolved(root, here.get("items", {}))
    return _resolved(root, here.get("properties", {}).get(key) or here.get("additionalProperties") or {})


def _resolved(root: Schema, part: object) -> Schema:
    if not isinstance(part, dict):
        return {}
    reference = part.get("$ref", "")
    return root["$defs"][reference.rpartition("/")[2]] if reference else part


def _bounds(here: Schema) -> Iterator[str]:
    words = [
        f"{text} {here[keyword]:g}" if isinstance(here[keyword], float) else f"{text} {here[keyword]}"
        for keyword, text in (
            ("exclusiveMinimum", "above"),
            ("minimum", "of at least"),
            ("exclusiveMaximum", "below"),
            ("maximum", "at most"),
        )
        if keyword in here
    ]
    yield from [" and ".join(words)] if words else []


def _allowed_text(here: Schema) -> str:
    if here.get("format") == "date":
        return 'a day in quotes, such as "2026-12-31"'
    pattern = here.get("pattern")
    if pattern is not None:
        return PATTERN_WORDS.get(pattern, f"text that matches {pattern}")
    return " ".join(["text", *_count(here, least="minLength", most="maxLength", noun="characters")])


def _count(here: Schema, *, least: str, most: str, noun: str) -> Iterator[str]:
    if least in here and most in here:
        yield f"of {here[least]} to {here[most]} {noun}"
    elif here.get(least) == 1:
        yield "that is not empty"
    elif least in here:
        yield f"of at least {here[least]} {noun}"
    elif most in here:
        yield f"of at most {here[most]} {noun}"


def _docstrings(model: type[BaseModel], definitions: Collection[str]) -> dict[str, dict[str, str]]:
    """Return class name to field name to docstring, for the model and the classes that its schema defines.

    Read from the source on demand: pydantic's own way does it for every class at import, which every command would
    wait for.
    """
    modules = {name for name in sys.modules if name.startswith(_MODEL_ROOM)}
    sources = (ast.parse(inspect.getsource(sys.modules[name])) for name in sorted(modules))
    classes = [one for source in sources for one in source.body if isinstance(one, ast.ClassDef)]
    return {one.name: dict(_field_docstrings(one)) for one in classes if one.name in {model.__name__, *definitions}}


def _field_docstrings(class_def: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for before, after in zip(class_def.body, class_def.body[1:], strict=False):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, inspect.cleandoc(text)
