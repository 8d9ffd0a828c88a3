"""Reads what a server declares about its own time."""

import re
from dataclasses import dataclass

from rollout.errors import EvidenceError

_METRIC = re.compile(r"""(?:[^,"]|"(?:[^"\\]|\\.)*")+""")
"""One comma-separated entry; a comma inside quotes separates nothing."""

_PARAMETER = re.compile(r"""(?:[^;"]|"(?:[^"\\]|\\.)*")+""")

_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?")
"""What `float` takes beyond this (nan, inf, 1_0, spaces) is not a duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A server's own times; absent entries are None because the header is free to leave them out."""

    queue_s: float | None
    total_s: float | None


def parse_server_timing(header: str) -> Declared:
    """Read `queue` and `total` from a Server-Timing header.

    Args:
        header: The value, several headers joined by commas; durations in milliseconds. May be empty.

    Returns:
        Seconds. Entries of other names are not looked at: a proxy may add its own.

    Raises:
        EvidenceError: `queue` or `total` comes twice, has no duration, or one that is not a number of 0 or more; or
            the queue is longer than the total, which contains it.
    Source: W3C Server Timing, section 2 (the header's grammar).
    """
    found: dict[str, float] = {}
    for entry in _METRIC.findall(header):
        name, *parameters = (one.strip() for one in _PARAMETER.findall(entry))
        if name not in ("queue", "total"):
            continue
        if name in found:
            raise EvidenceError(f"Server-Timing declares {name} twice")
        found[name] = _duration_s(name, parameters)
    declared = Declared(queue_s=found.get("queue"), total_s=found.get("total"))
    if declared.queue_s is not None and declared.total_s is not None and declared.queue_s > declared.total_s:
        raise EvidenceError(
            f"Server-Timing declares a queue of {1000 * declared.queue_s:g} ms in a total of "
            f"{1000 * declared.total_s:g} ms"
        )
    return declared


def _duration_s(name: str, parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = (part.strip() for part in parameter.partition("="))
        if key.lower() != "dur":
            continue
        number = value.strip('"')
        if not _NUMBER.fullmatch(number):
            raise EvidenceError(f"Server-Timing declares a {name} that is not a number of milliseconds")
        if float(number) < 0.0:
            raise EvidenceError(f"Server-Timing declares a negative {name}, {float(number):g} ms")
        return float(number) / 1000.0
    raise EvidenceError(f"Server-Timing names {name} without a duration")
