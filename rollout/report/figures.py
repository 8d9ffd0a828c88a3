"""Reading a gate's figures back: numbers that may be stored as words, and estimates that may be missing."""

from collections.abc import Mapping
from dataclasses import dataclass

from rollout.model.inventory import Absent
from rollout.model.verdict import GateResult, Verdict

Figures = Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A ratio with its interval and the margin that it is judged by; an end may be infinite."""

    value: float
    lower: float
    upper: float
    allowed: float | Absent


def gate_of(verdict: Verdict, name: str) -> GateResult | Absent:
    """Return what one gate said."""
    found = next((one for one in verdict.gates if one.gate == name), None)
    return found or Absent(reason=f"the {name} gate was not asked")


def number(figures: Figures, key: str) -> float | Absent:
    """Return one figure; "inf" and "-inf" are numbers, "nan" and other words are not."""
    try:
        value = float(figures[key])
    except KeyError:
        return Absent(reason=f"{key} was not measured")
    except ValueError:
        return Absent(reason=f"{key} is {figures[key]!r}")
    return Absent(reason=f"{key} is not a number") if value != value else value  # noqa: PLR0124 - NaN alone differs


def estimate(figures: Figures, name: str) -> Estimate | Absent:
    """Return a ratio that a gate estimated, `p50_ratio` or `tail_ratio`."""
    found = [number(figures, key) for key in (name, f"{name}_lower", f"{name}_upper")]
    numbers = [one for one in found if not isinstance(one, Absent)]
    if len(numbers) < len(found):
        return next(one for one in found if isinstance(one, Absent))
    value, lower, upper = numbers
    return Estimate(value=value, lower=lower, upper=upper, allowed=number(figures, f"{name}_max"))


def estimated(verdict: Verdict, name: str) -> Estimate | Absent:
    """Return a ratio from whichever gate of a verdict estimated it."""
    for gate in verdict.gates:
        if name in gate.figures:
            return estimate(gate.figures, name)
    return Absent(reason=f"no gate estimated {name}")
