"""The capability snapshot: what a serving container proves about itself."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rollout.model.canonical import digest_json

SNAPSHOT_SCHEMA = "rollout.snapshot/v1"

CapabilityValue = bool | int | float | str | list[str] | None
"""Scalars compare by equality; a list of strings is ordered (provider order matters)."""


class CapabilityStatus(StrEnum):
    """How a field came to be. "Not collected" never equals "fine"."""

    OK = "ok"
    UNAVAILABLE = "unavailable"
    ERROR = "error"


class Capability(BaseModel):
    """One fact about the stack: its value, where it was read, and whether reading it worked."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    value: CapabilityValue
    source: Annotated[str, Field(min_length=1, max_length=500)]
    status: Annotated[CapabilityStatus, Field(strict=False)]
    reason: Annotated[str, Field(max_length=2000)] = ""

    @model_validator(mode="after")
    def _value_matches_status(self) -> Self:
        if (self.status is CapabilityStatus.OK) == (self.value is None):
            raise ValueError("a value is present exactly when status is ok")
        if self.status is not CapabilityStatus.OK and not self.reason:
            raise ValueError("a field that is not ok needs a reason")
        return self


class CapabilitySnapshot(BaseModel):
    """Everything one serving process proves about itself, in one flat, sorted table.

    `fields` holds what identifies the capability of the stack and is the same for two instances of one release;
    `measurements` holds what varies between instances (self-test time, load time) and is left out of the digest.
    Keys are dotted, lower case, most significant word first: `runtime.ort.providers.actual`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    schema_: Literal["rollout.snapshot/v1"] = Field(alias="schema")
    fields: dict[str, Capability]
    measurements: dict[str, Capability] = {}

    @property
    def digest(self) -> str:
        """The digest over schema and `fields` only; equal for two instances of one release on like hardware."""
        return digest_json({"schema": self.schema_, "fields": _plain(self.fields)})

    def to_json(self) -> dict[str, Any]:
        """Return the wire form, digest included."""
        return {
            "schema": self.schema_,
            "digest": self.digest,
            "fields": _plain(self.fields),
            "measurements": _plain(self.measurements),
        }


def parse_snapshot(data: Mapping[str, Any]) -> CapabilitySnapshot:
    """Read the wire form and check the digest it claims.

    Args:
        data: The JSON object that `CapabilitySnapshot.to_json` made.

    Raises:
        ValueError: Unknown schema, unknown or missing key, wrong type, or a digest that does not match the fields.
    """
    body = dict(data)
    claimed = body.pop("digest", None)
    snapshot = CapabilitySnapshot.model_validate(body)
    if claimed != snapshot.digest:
        raise ValueError(f"the snapshot claims digest {claimed!r}, its fields give {snapshot.digest!r}")
    return snapshot


def ok(value: bool | float | str | list[str], source: str) -> Capability:  # noqa: FBT001 - a JSON value
    """Return a field that was read."""
    if isinstance(value, float) and not math.isfinite(value):
        return failed(source, f"the value read is {value}")
    return Capability(value=value, source=source, status=CapabilityStatus.OK)


def unavailable(source: str, reason: str) -> Capability:
    """Return a field that this machine or build cannot have."""
    return Capability(value=None, source=source, status=CapabilityStatus.UNAVAILABLE, reason=reason)


def failed(source: str, reason: str) -> Capability:
    """Return a field whose collector failed."""
    return Capability(value=None, source=source, status=CapabilityStatus.ERROR, reason=reason)


def _plain(fields: Mapping[str, Capability]) -> dict[str, Any]:
    return {key: fields[key].model_dump(mode="json") for key in sorted(fields)}
