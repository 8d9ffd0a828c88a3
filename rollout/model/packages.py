"""Lists of Python packages: wheel file names, requirements with exact versions, the output of `pip freeze`."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from rollout.errors import ConfigError

# Name, extras and the rest of a requirement, as PEP 508 writes them.
_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[^\]]*\])?\s*(?=$|[=<>!~@;(])(.*)")
_WHEEL = re.compile(r"([^/\s@]+)\.whl(?=$|[#?;\s])")
_EGG = re.compile(r"#(?:.*&)?egg=([A-Za-z0-9._-]+)")
# What `pip freeze` writes above an editable install that no URL names.
_EDITABLE_COMMENT = re.compile(r"# Editable .*\(([A-Za-z0-9._-]+)==.*\)")
# These bring in packages that the list does not show.
_INCLUDES = re.compile(r"(?:-r|-c|--requirement|--constraint)(?:[ =]|$)")
_EDITABLE = re.compile(r"(?:-e|--editable)(?:[ =]|$)")
_WHEEL_PARTS = (5, 6)
"""Name, version, an optional build number, and three tags."""


def package_name(text: str) -> str:
    """Return a distribution's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", text).lower()


def parse_packages(lines: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Return the versions of each package that a list names, in the list's order.

    A requirement that pins no version gives the words that it has instead, such as ">=1.20".

    Raises:
        ConfigError: A line that is no package, or that brings in packages unseen; the message names the line only,
            for URLs can hold passwords.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, (above, line) in enumerate(zip(["", *lines], lines, strict=False), start=1):
        text = re.sub(r"(?:^|\s)#.*", "", line).strip().removesuffix("\\").strip()
        if _INCLUDES.match(text):
            raise ConfigError(f"line {number}: included files are not read; give the output of `pip freeze`")
        if not text or (text.startswith("-") and not _EDITABLE.match(text)):
            # Options choose where packages come from and what their hashes are, not which they are.
            continue
        name, version = _package(text, above=above.strip(), number=number)
        if version not in found.get(name, ()):
            found[name] = (*found.get(name, ()), version)
    return found


def _package(text: str, *, above: str, number: int) -> tuple[str, str]:
    if _EDITABLE.match(text):
        named = _EGG.search(text) or _EDITABLE_COMMENT.fullmatch(above)
        if named:
            return package_name(named.group(1)), "an editable install"
    elif wheel := _WHEEL.search(text):
        parts = unquote(wheel.group(1)).split("-")
        if len(parts) in _WHEEL_PARTS:
            return package_name(parts[0]), parts[1]
    elif requirement := _REQUIREMENT.fullmatch(text):
        name, rest = requirement.groups()
        return package_name(name), _version(rest.partition(";")[0].partition(" --")[0].strip())
    raise ConfigError(f"line {number}: neither the file name of a wheel nor `name==version`")


def _version(rest: str) -> str:
    if rest.startswith("@"):
        return "from a URL"
    exact = re.fullmatch(r"\(?={2,3}\s*([^\s,()]+)\)?", rest)
    return exact.group(1) if exact else rest or "no version"
