"""Making gate results: the few lines every gate shares."""

import math
from collections.abc import Mapping

from rollout.model.verdict import GateResult, Outcome, Reason


def result(
    gate: str, outcome: Outcome, code: str, text: str, figures: Mapping[str, float | int | str] | None = None
) -> GateResult:
    """Make a gate's result with one reason; figures that are not finite become "inf" or "-inf"."""
    return GateResult(
        gate=gate,
        outcome=outcome,
        reasons=(Reason(code=code, text=text),),
        figures={key: storable(value) for key, value in (figures or {}).items()},
    )


def storable(value: float | str) -> float | int | str:
    """Return the value in a form that canonical JSON holds: NaN and infinities become words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
