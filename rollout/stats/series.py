"""The arrays this room takes, the bounds it gives back, and the checks at its door."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rollout.errors import ConfigError, EvidenceError

Array: TypeAlias = NDArray[np.float64]
"""Float64 series of shape (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A closed interval; an end is 0 or +inf where the data says nothing about that side."""

    lower: float
    upper: float


def checked_latency(latency: Any, *, name: str) -> Array:  # noqa: ANN401 - whatever numpy can read
    """Return the series as float64 after checking that each value is a latency.

    Args:
        latency: Shape (n,), n >= 0, any unit of time; a timeout is +inf.
        name: What the series is, for the message.

    Raises:
        EvidenceError: Not one-dimensional, not numeric, or a value is NaN, zero or negative.
    """
    return _checked(latency, name=name, zero_allowed=False)


def checked_ratio(ratio: Any, *, name: str) -> Array:  # noqa: ANN401 - whatever numpy can read
    """Return paired ratios as float64; 0 (the denominator timed out) and +inf (the numerator did) are allowed.

    Args:
        ratio: Shape (n,), n >= 0, each in [0, +inf].
        name: What the series is, for the message.

    Raises:
        EvidenceError: Not one-dimensional, not numeric, or a value is NaN or negative.
    """
    return _checked(ratio, name=name, zero_allowed=True)


def check_open_unit(value: float, *, name: str) -> None:
    """Raise ConfigError unless the value lies in (0, 1)."""
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{name} is {value}; it must lie between 0 and 1, both excluded")


def _checked(values: Any, *, name: str, zero_allowed: bool) -> Array:  # noqa: ANN401 - whatever numpy can read
    try:
        series = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvidenceError(f"{name} cannot be read as numbers: {error}") from error
    if series.ndim != 1:
        raise EvidenceError(f"{name} has shape {series.shape}; one dimension is expected")
    wrong = np.isnan(series) | ((series < 0.0) if zero_allowed else (series <= 0.0))
    if wrong.any():
        place = int(np.argmax(wrong))
        allowed = "0 or more" if zero_allowed else "above 0"
        raise EvidenceError(
            f"{name}[{place}] is {series[place]}; it must be {allowed} (+inf for a timeout), and a missing "
            "measurement must be left out with its reason, not written as a number"
        )
    return series
