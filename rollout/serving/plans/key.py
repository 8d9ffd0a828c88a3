"""What an engine plan is good for, and nothing else: its key."""

import re
from typing import Annotated

from pydantic import Field

from rollout.errors import ConfigError
from rollout.model.base import Strict
from rollout.model.canonical import digest_json
from rollout.serving.options import Precision

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Size = Annotated[int, Field(gt=0)]

_SM = re.compile(r"(?:sm_?)?([1-9][0-9]?)\.?([0-9]\+?)", re.ASCII)
_TENSORRT = re.compile(r"[1-9][0-9]*(\.[0-9]+){3}", re.ASCII)


class PlanKey(Strict):
    """The key of a plan; every field must be equal for a plan to be used.

    `sm` is the compute capability without its dot, 90 for 9.0. A plan that was built to run on Ampere and newer has the
    key 80+, for it is another, slower plan: who wants it asks for it.
    """

    model: Digest
    width: Size
    height: Size
    batch: Size
    precision: Annotated[Precision, Field(strict=False)]
    tensorrt: Annotated[str, Field(pattern=r"^[1-9][0-9]*(\.[0-9]+){3}$")]
    sm: Annotated[str, Field(pattern=r"^[1-9][0-9]{1,2}\+?$")]

    @property
    def digest(self) -> str:
        """Digest of the key's canonical bytes."""
        return digest_json(self.model_dump(mode="json"))

    def text(self) -> str:
        """Say the key to a person."""
        return (
            f"model {self.model[7:19]}, {self.width}x{self.height}, batch {self.batch}, {self.precision}, "
            f"TensorRT {self.tensorrt}, sm{self.sm}"
        )


def differing(wanted: PlanKey, found: PlanKey) -> tuple[str, ...]:
    """Say what differs, field by field, in the order of the fields."""
    return tuple(
        f"{field} {_value(found, field)} instead of {_value(wanted, field)}"
        for field in PlanKey.model_fields
        if getattr(found, field) != getattr(wanted, field)
    )


def parse_sm(text: str) -> str:
    """Read a compute capability as people and tools write it: 90, 9.0, sm90, sm_90, 80+.

    Raises:
        ConfigError: It is something else.
    """
    match = _SM.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no compute capability: write 90 or 9.0 for Hopper, 80+ for Ampere and newer")
    return match[1] + match[2]


def parse_tensorrt(text: str) -> str:
    """Read a TensorRT version, which has four numbers.

    Raises:
        ConfigError: It is something else.
    """
    if _TENSORRT.fullmatch(text) is None:
        raise ConfigError(f"{text!r} is no full TensorRT version: write all four numbers, as 10.9.0.34")
    return text


def _value(key: PlanKey, field: str) -> str:
    value = str(getattr(key, field))
    return value[7:19] if field == "model" else value
