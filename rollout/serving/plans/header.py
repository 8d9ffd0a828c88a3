"""The header of a TensorRT plan, read without TensorRT."""

import struct
from dataclasses import dataclass

from rollout.serving.plans.faults import PlanFault, plan_error

MAGIC = b"ftrt"
HEADER_BYTES = 28

_LAYOUT = struct.Struct("<4sI16x4B")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanHeader:
    """What a plan says about itself; its compute capability is not in it."""

    serialization: int
    tensorrt: str
    """Major, minor, patch and build with dots between, as 10.9.0.34."""


def parse_header(data: bytes, *, name: str) -> PlanHeader:
    """Read the first 28 bytes of a plan; what follows is not looked at.

    Args:
        data: The beginning of the file, or all of it.
        name: What to call the file in messages.

    Raises:
        PlanError: plan_truncated, or plan_foreign: this is something else, or names no TensorRT version.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise plan_error(
            PlanFault.FOREIGN,
            f"{name} is no TensorRT plan: it begins with {data[: len(MAGIC)]!r}, a plan with {MAGIC!r}",
        )
    if len(data) < HEADER_BYTES:
        raise plan_error(
            PlanFault.TRUNCATED,
            f"{name} is {len(data)} bytes long, the header of a plan alone is {HEADER_BYTES}",
        )
    _, serialization, *version = _LAYOUT.unpack_from(data)
    if version[0] == 0:
        raise plan_error(PlanFault.FOREIGN, f"{name} begins like a TensorRT plan and names no TensorRT version")
    return PlanHeader(serialization=serialization, tensorrt=".".join(map(str, version)))
