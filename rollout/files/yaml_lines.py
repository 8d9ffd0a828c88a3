"""YAML and JSON text into plain values, with the line and column of every key.

Only what all YAML readers read alike is accepted: no aliases, no tags, no second document, no duplicate keys, and no
plain word such as `off`, `0777` or `1:30` whose meaning changed between YAML 1.1 and 1.2.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import yaml

from rollout.errors import ConfigError, InvariantError
from rollout.files.problems import KeyPath, Place, Problem, refusal

DEPTH_MAX = 16
"""The deepest file of this product has four levels; what is deeper is a mistake or an attack on the parser."""

# The loader in C reads a file of the largest size in a fraction of a second, the one in Python takes half a minute.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_FORBIDDEN_CHARACTER = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML calls not printable; the byte order mark at the start is removed before."""

_PAIR_OR_ESCAPE = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\.")
"""Two escaped surrogates of JSON, or any other escape, which is passed over whole."""

# The core schema of YAML 1.2, less integers with leading zeros.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

_AMBIGUOUS = {
    "bool": "is a truth value in YAML 1.1 and text in YAML 1.2; quote it, or write true or false",
    "int": "is not the same number in all versions of YAML; write it in plain decimal digits, or quote it",
    "float": "is not the same number in all versions of YAML; write it in plain decimal digits, or quote it",
    "timestamp": "is a date in YAML 1.1 and text in YAML 1.2; quote it",
    "merge": "merges mappings in YAML 1.1 and is text in YAML 1.2; write the keys out",
    "value": "has a meaning of its own in YAML 1.1 and is text in YAML 1.2; quote it",
}
"""By the tag that YAML 1.1 gives a plain word."""


class _Mark(Protocol):
    """What both loaders give, counted from 0."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a file says and where.

    Attributes:
        value: Mappings with text keys, lists, text, numbers, truth values, None.
        places: For each mapping entry the place of its key, for each list entry its own, for () the first value's.
        written: For each unquoted scalar the characters that stand in the file.
    """

    value: object
    places: dict[KeyPath, Place]
    written: dict[KeyPath, str]


def read_yaml(text: str, *, name: str) -> Document:
    """Read one YAML document.

    Args:
        text: The file's characters.
        name: The file as the person called it, for messages.

    Raises:
        ConfigError: No or bad YAML, or YAML that is not read alike everywhere; each line names a place.
    """
    text = text.removeprefix("\ufeff")
    _check_characters(text, name=name)
    try:
        _check_events(text, name=name)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        raise _syntax_refusal(text, error, name=name) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from error
    if root is None:
        raise ConfigError(f"{name}: the file is empty")
    reading = _Reading()
    value = reading.read(root, (), _place(root.start_mark))
    if reading.problems:
        raise refusal(name, reading.problems)
    return Document(value=value, places=reading.places, written=reading.written)


def read_json(text: str, *, name: str) -> Document:
    """Read one JSON value. Its places are found by the YAML reader, of which JSON is a subset.

    Raises:
        ConfigError: No or bad JSON; the line names the place.
    """
    text = text.removeprefix("\ufeff")
    _check_characters(text, name=name)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = Place(line=error.lineno, column=error.colno)
        raise refusal(name, [Problem(place=place, path=(), text=f"not valid JSON: {error.msg}")]) from error
    except RecursionError as error:
        raise ConfigError(f"{name}: nested deeper than {DEPTH_MAX} levels") from error
    except ValueError as error:
        raise ConfigError(f"{name}: not valid JSON: {error}") from error
    # A raw tab can only stand between JSON's tokens; the YAML reader does not take it there.
    document = read_yaml(_PAIR_OR_ESCAPE.sub(_one_escape, text.replace("\t", " ")), name=name)
    return Document(value=value, places=document.places, written=document.written)


def _one_escape(found: re.Match[str]) -> str:
    """Write two escaped surrogates as YAML's escape of one character; places to their right move by two columns."""
    high, low = found.group(1, 2)
    if high is None:
        return found.group()
    return f"\\U{0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00:08x}"


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def _check_characters(text: str, *, name: str) -> None:
    found = _FORBIDDEN_CHARACTER.search(text)
    if found is None:
        return
    before = text[: found.start()]
    place = Place(line=before.count("\n") + 1, column=found.start() - before.rfind("\n"))
    code = f"U+{ord(found.group()):04X}"
    raise refusal(name, [Problem(place=place, path=(), text=f"the character {code} is not allowed: a binary file?")])


def _check_events(text: str, *, name: str) -> None:
    """Refuse, before anything is built, what makes a small file large or a value something else than it looks."""
    for event, depth, documents in _counted(yaml.parse(text, Loader=_LOADER)):
        found = ""
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            found = "anchors and aliases are not accepted; write the value out"
        elif getattr(event, "tag", None) is not None:
            found = f"the tag {getattr(event, 'tag', '')} is not accepted; quote text, and write numbers plainly"
        elif depth > DEPTH_MAX:
            found = f"nested deeper than {DEPTH_MAX} levels"
        elif documents > 1:
            found = "a second document starts; one file holds one document"
        if found:
            raise refusal(name, [Problem(place=_place(event.start_mark), path=(), text=found)])


def _counted(events: Iterator[yaml.Event]) -> Iterator[tuple[yaml.Event, int, int]]:
    """Yield each event with the open collections and the documents so far."""
    depth = documents = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        yield event, depth, documents


def _syntax_refusal(text: str, error: yaml.MarkedYAMLError, *, name: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return ConfigError(f"{name}: not valid YAML: {error}")
    said = "; ".join(word for word in (error.problem, error.context) if word)
    if "nesting depth" in said:
        # Newer parsers have a limit of their own, and read so far ahead that they meet it before ours is.
        return refusal(name, [Problem(place=_place(mark), path=(), text=f"nested deeper than {DEPTH_MAX} levels")])
    line = text.splitlines()[mark.line : mark.line + 1]
    if line and line[0][mark.column : mark.column + 1] == "\t":
        said = "a tab stands where YAML wants spaces"
    return refusal(name, [Problem(place=_place(mark), path=(), text=f"not valid YAML: {said}")])


def _place(mark: _Mark | None) -> Place:
    if mark is None:
        raise InvariantError("the YAML parser gave no mark, though it always does when it reads text")
    return Place(line=mark.line + 1, column=mark.column + 1)


@dataclass(slots=True, kw_only=True)
class _Reading:
    """A walk over the node tree that collects values, places and faults."""

    places: dict[KeyPath, Place] = field(default_factory=dict)
    written: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def read(self, node: yaml.Node, path: KeyPath, place: Place) -> object:
        self.places[path] = place
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(one, (*path, at), _place(one.start_mark)) for at, one in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            if _is_plain(node):
                self.written[path] = node.value
            return self._meaning(node, path, place)
        raise InvariantError(f"YAML has three kinds of nodes, and {type(node).__name__} is none of them")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        made: dict[str, object] = {}
        for key_node, value_node in node.value:
            place = _place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(place, path, "a key must be one word of text")
                continue
            faults = len(self.problems)
            key = self._meaning(key_node, (*path, key_node.value), place)
            if len(self.problems) > faults:
                continue
            if not isinstance(key, str):
                self._complain(place, (*path, key_node.value), "a key must be text; quote it")
                continue
            if key in made:
                first = self.places[*path, key].line
                self._complain(place, (*path, key), f"this key stands twice; first on line {first}")
                continue
            made[key] = self.read(value_node, (*path, key), place)
        return made

    def _meaning(self, node: yaml.ScalarNode, path: KeyPath, place: Place) -> object:
        try:
            return _plain_value(node) if _is_plain(node) else node.value
        except ValueError as error:
            self._complain(place, path, str(error))
            return None

    def _complain(self, place: Place, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(place=place, path=path, text=text))


def _is_plain(node: yaml.ScalarNode) -> bool:
    # The loader in C marks a scalar without quotes by "", the one in Python by None.
    return not node.style


def _plain_value(node: yaml.ScalarNode) -> object:
    """Return what an unquoted word means in YAML 1.2.

    Raises:
        ValueError: In YAML 1.1 it means something else, or the number has too many digits for Python.
    """
    word = node.value
    tag = node.tag.rpartition(":")[2]
    if tag == "null":
        return None
    if word in _TRUTH:
        return _TRUTH[word]
    if _INTEGER.fullmatch(word):
        return int(word, 0)
    if _FLOAT.fullmatch(word):
        return float(word)
    if _INFINITE.fullmatch(word):
        return float(word.replace(".", ""))
    if tag in _AMBIGUOUS:
        raise ValueError(f"{word} {_AMBIGUOUS[tag]}")
    return word
