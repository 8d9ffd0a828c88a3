"""Schedules of arrivals: when requests are due, whoever has answered by then."""

import numpy as np

from rollout.errors import ConfigError
from rollout.stats.series import Array

BURST_SIZE_MEAN = 4.0
"""Requests in a burst, in the mean: a page with a few pictures, or a few users after one announcement."""


def poisson(rate_per_s: float, seconds: float, rng: np.random.Generator) -> Array:
    """Draw the arrivals of a Poisson process: many independent users.

    Args:
        rate_per_s: Arrivals per second in the mean, above 0.
        seconds: Length of the schedule, above 0.
        rng: Source of the draw.

    Returns:
        Shape (n,), rising, in [0, seconds); n is random and may be 0.

    Raises:
        ConfigError: The rate or the length is not above 0, or not finite.
    Source: given their number, Poisson arrivals are independent and uniform (Kingman, Poisson Processes, section 2.4).
    """
    _check(rate_per_s, seconds)
    count = rng.poisson(rate_per_s * seconds)
    return np.sort(rng.uniform(0.0, seconds, count))


def bursts(rate_per_s: float, seconds: float, rng: np.random.Generator) -> Array:
    """Draw the arrivals of a compound Poisson process: bursts come independently, the requests of one all at once.

    Burst sizes are geometric from 1 on, with mean 4. The mean rate is that of `poisson`; the variance of the number in
    any interval is 7 times the mean, where a Poisson process has 1 (the index of dispersion E[X^2] / E[X] = 2 x 4 - 1).

    Args:
        rate_per_s: Requests, not bursts, per second in the mean, above 0.
        seconds: Length of the schedule, above 0.
        rng: Source of the draw.

    Returns:
        Shape (n,), in [0, seconds), not falling; n is random and may be 0.

    Raises:
        ConfigError: The rate or the length is not above 0, or not finite.
    Source: batch arrivals M^[X] (Cox & Isham, Point Processes, section 3.2).
    """
    begun = poisson(rate_per_s / BURST_SIZE_MEAN, seconds, rng)
    return np.repeat(begun, rng.geometric(1.0 / BURST_SIZE_MEAN, len(begun)))


def _check(rate_per_s: float, seconds: float) -> None:
    for name, value in (("rate of arrivals", rate_per_s), ("length of a schedule", seconds)):
        if not 0.0 < value < np.inf:
            raise ConfigError(f"the {name} is {value}; it must be above 0 and finite")
