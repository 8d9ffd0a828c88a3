"""Waivers: an exception to a rule, with who granted it, why, and when it ends."""

from collections.abc import Iterable
from datetime import date
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field

from rollout.model.base import Strict


class Waiver(Strict):
    """One exception; a rule that blocks is then only reported, until the waiver ends."""

    what: Annotated[str, Field(min_length=1, max_length=200)]
    """A reason code, or a field of the snapshot; a final `.*` stands for all fields below."""
    who: Annotated[str, Field(min_length=1, max_length=200)]
    why: Annotated[str, Field(min_length=1, max_length=1000)]
    until: Annotated[date, Field(strict=False)]
    """The last day on which it holds, in UTC."""

    def __str__(self) -> str:
        return f"waived until {self.until} by {self.who}: {self.why}"


def waiver_for(waivers: Iterable[Waiver], *names: str) -> Waiver | None:
    """Return the waiver of a rule that goes by any of these names, the one that ends last; None where nobody gave one.

    It may have ended: ask `ended`.
    """
    matching = [one for one in waivers if any(fnmatchcase(name, one.what) for name in names if name)]
    return max(matching, key=lambda one: one.until, default=None)


def ended(waiver: Waiver, *, today: date) -> bool:
    """Tell whether a waiver no longer holds."""
    return today > waiver.until
