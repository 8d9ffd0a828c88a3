"""Error rates: evidence against a fixed rate at any number of looks, and exact bounds on a share."""

import math

from rollout.errors import EvidenceError
from rollout.stats.processes import SLOW_ROLLBACK_WEIGHTS, alternatives
from rollout.stats.series import Bounds, check_open_unit

_LOG_MAX = 700.0
"""Beyond this exp overflows a float."""


def rate_bounds(*, failures: int, trials: int, alpha: float) -> Bounds:
    """Bound a failure rate from one look at independent trials.

    Args:
        failures: Number of failures, 0 <= failures <= trials.
        trials: Number of trials; 0 gives the bounds 0 and 1.
        alpha: Two-sided error rate, in (0, 1).

    Raises:
        EvidenceError: The counts cannot be.
        ConfigError: alpha is outside (0, 1).
    Source: Clopper & Pearson, Biometrika 26, 1934.
    """
    check_open_unit(alpha, name="alpha")
    if failures < 0 or trials < failures:
        raise EvidenceError(f"{failures} failures in {trials} trials cannot be; 0 <= failures <= trials is expected")
    from scipy.special import betaincinv  # noqa: PLC0415 - 0.16 s, which `rollout status` must not wait for

    sound = trials - failures
    return Bounds(
        lower=float(betaincinv(failures, sound + 1, alpha / 2.0)) if failures else 0.0,
        upper=float(betaincinv(failures + 1, sound, 1.0 - alpha / 2.0)) if sound else 1.0,
    )


def rate_e_value(*, failures: int, trials: int, rate_max: float) -> float:
    """Return the evidence that a failure rate is above a margin, from counts alone.

    The mixture of bets of the slow gate. Its evidence does not depend on the order of the trials, so that counters can
    be judged however many trials lie between two looks.

    Args:
        failures: 0 <= failures <= trials.
        trials: 0 or more; 0 gives 1, no evidence.
        rate_max: The margin, in (0, 1).

    Returns:
        An e-value against "the rate is at most rate_max"; +inf where it is beyond all measure.

    Raises:
        EvidenceError: The counts cannot be.
        ConfigError: rate_max is outside (0, 1).
    """
    check_open_unit(rate_max, name="rate_max")
    if failures < 0 or trials < failures:
        raise EvidenceError(f"{failures} failures in {trials} trials cannot be; 0 <= failures <= trials is expected")
    rates, _ = alternatives(rate_max)
    scale = math.fsum(SLOW_ROLLBACK_WEIGHTS)
    logs = [
        math.log(weight / scale)
        + failures * math.log(rate / rate_max)
        + (trials - failures) * (math.log1p(-rate) - math.log1p(-rate_max))
        for rate, weight in zip(rates, SLOW_ROLLBACK_WEIGHTS, strict=True)
    ]
    most = max(logs)
    return math.inf if most > _LOG_MAX else math.fsum(math.exp(one) for one in logs)
