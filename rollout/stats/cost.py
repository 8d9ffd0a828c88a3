"""What pictures cost: from measured throughput and a price."""

from dataclasses import dataclass

import numpy as np

from rollout.errors import ConfigError, EvidenceError
from rollout.stats.quantiles import quantile_bounds, sample_quantile
from rollout.stats.series import Array, Bounds

SECONDS_PER_HOUR = 3600.0
PICTURES_PRICED = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Costing:
    """What one colour delivers for its GPUs, with intervals at the stated confidence.

    Attributes:
        requests_per_gpu_hour: Median over the windows.
        requests_bounds: Its interval; an end is 0 or +inf where there are too few windows.
        cost_per_1000: Price of 1000 pictures; +inf where half of the windows delivered none.
        cost_bounds: Its interval.
    """

    requests_per_gpu_hour: float
    requests_bounds: Bounds
    cost_per_1000: float
    cost_bounds: Bounds


def costing(*, requests_per_s: Array, pictures_per_s: Array, gpus: float, gpu_hour: float, alpha: float) -> Costing:
    """Price the throughput of one colour.

    Args:
        requests_per_s: Shape (n,), n >= 1: requests answered per second in each window, by all instances together.
        pictures_per_s: Shape (n,): pictures, likewise.
        gpus: GPUs of all instances together, above 0.
        gpu_hour: Price of one GPU for an hour, above 0.
        alpha: Two-sided error rate of each interval, in (0, 1).

    Returns:
        Medians with order-statistic bounds, which assume independent windows and no distribution; they hold for a
        number of windows that was fixed beforehand. Where windows stop early at a decision the interval describes.

    Raises:
        EvidenceError: No window, or a rate that is negative or not finite.
        ConfigError: gpus or gpu_hour is not above 0, or alpha is outside (0, 1).
    """
    if not gpus > 0.0 or not gpu_hour > 0.0:
        raise ConfigError(f"{gpus} GPUs at {gpu_hour} an hour have no price; both must be above 0")
    requests, pictures = (
        _checked(one, name) for one, name in ((requests_per_s, "requests"), (pictures_per_s, "pictures"))
    )
    per_gpu_hour = requests * SECONDS_PER_HOUR / gpus
    with np.errstate(divide="ignore"):
        price = PICTURES_PRICED * gpus * gpu_hour / SECONDS_PER_HOUR / pictures
    return Costing(
        requests_per_gpu_hour=sample_quantile(per_gpu_hour, q=0.5),
        requests_bounds=_bounds(per_gpu_hour, alpha=alpha),
        cost_per_1000=sample_quantile(price, q=0.5),
        cost_bounds=_bounds(price, alpha=alpha),
    )


def _checked(per_s: Array, name: str) -> Array:
    if len(per_s) == 0 or not np.isfinite(per_s).all() or (per_s < 0.0).any():
        raise EvidenceError(f"{name} per second must be one finite number of 0 or more for each window, not {per_s}")
    return per_s


def _bounds(values: Array, *, alpha: float) -> Bounds:
    # A window that delivered nothing is a rate of 0, which the bounds on latencies refuse: the least that is none.
    least = float(np.finfo(np.float64).tiny)
    bounds = quantile_bounds(np.maximum(values, least), q=0.5, alpha=alpha)
    return Bounds(
        lower=0.0 if bounds.lower <= least else bounds.lower, upper=0.0 if bounds.upper <= least else bounds.upper
    )
