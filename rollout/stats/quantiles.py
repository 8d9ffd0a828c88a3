"""Quantiles of series that may hold timeouts, and bounds on them that assume no distribution."""

import math

import numpy as np

from rollout.errors import EvidenceError
from rollout.stats.series import Array, Bounds, check_open_unit, checked_latency

RANK_TOLERANCE = 1e-9
"""Keeps q n = 285.00000000000006 from becoming rank 286."""


def rank_of(q: float, count: int) -> int:
    """Return ceil(q count), unharmed by the last bit of the product."""
    return math.ceil(q * count - RANK_TOLERANCE)


def sample_quantile(values: Array, *, q: float) -> float:
    """Return the q-quantile: the mean of the values at ranks ceil(q n) and floor(q n) + 1.

    Args:
        values: Shape (n,), n >= 1; +inf allowed. Where either of the two values is infinite, the larger is returned.
        q: In (0, 1).

    Raises:
        EvidenceError: The series is empty or holds NaN.
        ConfigError: q is outside (0, 1).
    Source: Hyndman & Fan, Sample quantiles in statistical packages, 1996, definition 2.
    """
    check_open_unit(q, name="q")
    if len(values) == 0:
        raise EvidenceError("a quantile of an empty series was asked for; at least one measurement is needed")
    if np.isnan(values).any():
        raise EvidenceError("a quantile of a series that holds NaN was asked for; leave out what was not measured")
    ordered = np.sort(values)
    lower = float(ordered[max(rank_of(q, len(ordered)), 1) - 1])
    upper = float(ordered[min(math.floor(q * len(ordered) + RANK_TOLERANCE), len(ordered) - 1)])
    return (lower + upper) / 2.0 if math.isfinite(lower) and math.isfinite(upper) else max(lower, upper)


def quantile_bounds(latency: Array, *, q: float, alpha: float) -> Bounds:
    """Bound the q-quantile without assuming a distribution.

    Args:
        latency: Shape (n,), n >= 1, any unit of time; a timeout is +inf.
        q: The quantile, in (0, 1).
        alpha: Two-sided error rate, in (0, 1).

    Returns:
        Bounds in the unit of `latency`; lower is 0 and upper is +inf where n is too small for that side.

    Raises:
        EvidenceError: The series is empty, or holds NaN, zero or a negative value.
        ConfigError: q or alpha is outside (0, 1).
    Source: order statistics; David & Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    from scipy.special import bdtr, bdtrc  # noqa: PLC0415 - 0.16 s, which `rollout status` must not wait for

    check_open_unit(q, name="q")
    check_open_unit(alpha, name="alpha")
    ordered = np.sort(checked_latency(latency, name="latency"))
    count = len(ordered)
    if count == 0:
        raise EvidenceError(
            "bounds on a quantile of an empty series were asked for; at least one measurement is needed"
        )
    ranks = np.arange(1, count + 1)
    # X_(i) lies above the quantile with chance P(Bin <= i - 1), and below it with chance P(Bin >= i).
    lower_rank = int(np.count_nonzero(bdtr(ranks - 1, count, q) <= alpha / 2.0))
    upper_valid = bdtrc(ranks - 1, count, q) <= alpha / 2.0
    upper_index = int(np.argmax(upper_valid))
    return Bounds(
        lower=float(ordered[lower_rank - 1]) if lower_rank >= 1 else 0.0,
        upper=float(ordered[upper_index]) if upper_valid.any() else math.inf,
    )


def drift_bounds(*, baseline_s: Array, today_s: Array, q: float, alpha: float) -> Bounds:
    """Bound the ratio of two q-quantiles, today's over the baseline's, in one look.

    Args:
        baseline_s: Shape (n,), n >= 1, seconds; a timeout is +inf.
        today_s: Shape (m,), m >= 1, likewise.
        q: The quantile, in (0, 1).
        alpha: Two-sided error rate, in (0, 1); each series gets half of it.

    Returns:
        Bounds on the ratio; lower is 0 and upper is +inf where a series is too small for that side. A drift is shown
        when 1 lies outside. Valid for one look only; a change common to every color of the environment shows as drift
        too.

    Raises:
        EvidenceError: A series is empty, or holds NaN, zero or a negative value.
        ConfigError: q or alpha is outside (0, 1).
    Source: union bound over two order-statistic intervals.
    """
    baseline = quantile_bounds(checked_latency(baseline_s, name="baseline_s"), q=q, alpha=alpha / 2.0)
    today = quantile_bounds(checked_latency(today_s, name="today_s"), q=q, alpha=alpha / 2.0)
    return Bounds(
        # Timeouts in the baseline's own bound, or a side without bound, leave that side of the ratio open.
        lower=0.0 if math.isinf(baseline.upper) else today.lower / baseline.upper,
        upper=math.inf if baseline.lower == 0.0 or math.isinf(baseline.lower) else today.upper / baseline.lower,
    )
