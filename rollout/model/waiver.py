"""Waivers: an exception to a rule, with who granted it, why, and when it ends."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field, field_validator

from rollout.model.base import Strict
from rollout.model.reasons import REASONS
from rollout.model.verdict import Severity


class Waiver(Strict):
    """One exception; a rule that blocks is then only reported, until the waiver ends."""

    what: Annotated[str, Field(max_length=200, pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?$")]
    """A reason code, or a field of the snapshot; a final `.*` stands for all fields below."""
    who: Annotated[str, Field(min_length=1, max_length=200)]
    why: Annotated[str, Field(min_length=1, max_length=1000)]
    until: Annotated[date, Field(strict=False)]
    """The last day on which it holds, in UTC."""

    @field_validator("what")
    @classmethod
    def _code_is_known(cls, what: str) -> str:
        if "." not in what and what not in REASONS:
            raise ValueError("what is neither a code of docs/reasons.md nor a field; fields have dots, as gpu.*")
        return what

    def told(self, *, today: date) -> str:
        """Say what it is worth today."""
        if ended(self, today=today):
            return f"the waiver by {self.who} ended {self.until}"
        return f"waived until {self.until} by {self.who}: {self.why}"


def waiver_for(waivers: Iterable[Waiver], *names: str) -> Waiver | None:
    """Return the waiver of a rule that goes by any of these names, the one that ends last; None where nobody gave one.

    It may have ended: ask `ended`.
    """
    matching = [one for one in waivers if any(fnmatchcase(name, one.what) for name in names if name)]
    return max(matching, key=lambda one: one.until, default=None)


def waived(waivers: Iterable[Waiver], *names: str, today: date) -> tuple[Severity, str]:
    """Return what a rule that blocks weighs today, and what its waiver says; BLOCK and "" where nobody gave one.

    A waiver that has ended is told, and the rule blocks again.
    """
    waiver = waiver_for(waivers, *names)
    if waiver is None:
        return Severity.BLOCK, ""
    return Severity.BLOCK if ended(waiver, today=today) else Severity.INFO, waiver.told(today=today)


def ended(waiver: Waiver, *, today: date) -> bool:
    """Tell whether a waiver no longer holds."""
    return today > waiver.until


def stale(waivers: Sequence[Waiver], *, today: date) -> Mapping[int, str]:
    """Say of each waiver that has ended, by its place in the list, what to do about it."""
    return {
        place: f"the waiver of {one.what} by {one.who} ended {one.until}, today is {today} in UTC: remove it, or have "
        "it renewed by who may"
        for place, one in enumerate(waivers)
        if ended(one, today=today)
    }


def day_of(at: float) -> date:
    """Return the day of a Unix time, in UTC."""
    return datetime.fromtimestamp(at, tz=UTC).date()
