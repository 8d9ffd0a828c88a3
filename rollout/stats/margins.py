"""How much slower a candidate may be: the margins of the paired gates and the two stock profiles."""

import math
from dataclasses import dataclass, replace
from types import MappingProxyType

from rollout.errors import ConfigError
from rollout.stats.series import check_open_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """Limits on the paired ratio r = green / blue.

    Args:
        p50_ratio_max: Largest allowed location of r; above 0. Below 1 demands a speed-up.
        tail_quantile: The quantile that the tail gate compares with the A/A history, in [0.5, 1).
        tail_ratio_max: Largest allowed quotient of that quantile of r and of the A/A ratios; above 0.
        slow_factor: A pair is slow when r is above it; above 1.
        slow_rate_rollback: Share of slow pairs above which the candidate is rolled back.
        slow_rate_promote: Share of slow pairs that must be excluded before promotion; at least the former.

    Raises:
        ConfigError: A value is outside its range.
    """

    p50_ratio_max: float
    tail_quantile: float
    tail_ratio_max: float
    slow_factor: float = 2.0
    slow_rate_rollback: float = 0.02
    slow_rate_promote: float

    def __post_init__(self) -> None:
        for name in ("p50_ratio_max", "tail_ratio_max"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ConfigError(f"{name} is {value}; a ratio must be finite and above 0")
        if not (math.isfinite(self.slow_factor) and self.slow_factor > 1.0):
            raise ConfigError(f"slow_factor is {self.slow_factor}; it must be finite and above 1")
        if not 0.5 <= self.tail_quantile < 1.0:  # noqa: PLR2004 - the median is where the upper tail starts
            raise ConfigError(f"tail_quantile is {self.tail_quantile}; it must lie in [0.5, 1)")
        check_open_unit(self.slow_rate_rollback, name="slow_rate_rollback")
        check_open_unit(self.slow_rate_promote, name="slow_rate_promote")
        if self.slow_rate_promote < self.slow_rate_rollback:
            raise ConfigError(
                f"slow_rate_promote is {self.slow_rate_promote}, below slow_rate_rollback {self.slow_rate_rollback}; "
                "a rate that may be promoted must not be one that is rolled back"
            )


def instance_margins(margins: Margins) -> Margins:
    """Return what one of several instances must prove by its own pairs: a median below the square of the margin.

    Twice the margin in logs, for an instance has only its share of the pairs: at the margin itself, four equal
    instances needed more than 400 pairs in most of 200 simulated rollouts at 8% noise. What lies between the two is the
    business of all pairs together.
    """
    return replace(margins, p50_ratio_max=margins.p50_ratio_max**2)


STRICT = Margins(p50_ratio_max=1.05, tail_quantile=0.95, tail_ratio_max=1.10, slow_rate_promote=0.05)
STANDARD = Margins(p50_ratio_max=1.05, tail_quantile=0.90, tail_ratio_max=1.10, slow_rate_promote=0.10)

PROFILES = MappingProxyType({"strict": STRICT, "standard": STANDARD})


def margins_of(profile: str | Margins) -> Margins:
    """Return the margins that a profile's name stands for; margins stand for themselves.

    Raises:
        ConfigError: No profile has that name.
    """
    if isinstance(profile, Margins):
        return profile
    try:
        return PROFILES[profile]
    except KeyError:
        known = ", ".join(sorted(PROFILES))
        raise ConfigError(f"profile {profile!r} is unknown; use one of {known}, or give Margins") from None
