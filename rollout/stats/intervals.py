"""Intervals valid at any stopping time: the margins that the bets of the median and tail gates would reject.

Computed on request from the stored pairs; no verdict depends on them.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rollout.stats.processes import (
    CLIP_SCALES,
    PROMOTE_WEIGHTS,
    STAKE_WEIGHTS,
    STAKES,
    TAIL_ROLLBACK_WEIGHTS,
    Events,
    Exceedances,
    alternatives,
)
from rollout.stats.series import Array, Bounds

_BISECTIONS = 30
"""Halves a bracket of a few units of log ratio to below 1e-8."""

_LOOKS_MAX = 4096
"""Up to this many pairs every look counts."""

_HALVINGS_MAX = 4
"""Beyond it at most every sixteenth look counts, and the last: fewer looks keep the error rate, and products of sixteen
factors between 1e-9 and 1e9 neither overflow nor vanish."""

_STAKES = np.array(STAKES)
_STAKE_WEIGHTS = np.array(STAKE_WEIGHTS) / sum(STAKE_WEIGHTS)
_ROLLBACK_WEIGHTS = np.array(TAIL_ROLLBACK_WEIGHTS) / sum(TAIL_ROLLBACK_WEIGHTS)
_PROMOTE_WEIGHTS = np.array(PROMOTE_WEIGHTS) / sum(PROMOTE_WEIGHTS)


def median_bounds(*, log_least: Array, log_most: Array, scale: Array, alpha: float, beta: float) -> Bounds:
    """Bound the location of the ratio at every stopping time, each end with its own error rate.

    Args:
        log_least: Shape (n,), below +inf: what each log ratio is at least, where timing was stopped early; -inf where
            blue timed out.
        log_most: Shape (n,): what each log ratio is at most, +inf where unknown.
        scale: Shape (n,), above 0: the scale that the gate used on that pair.
        alpha: Error rate of the lower end; it is above a margin m once the median gate alone rejects m to roll back.
        beta: Error rate of the upper end.

    Returns:
        Bounds on the ratio (not its log). Beyond 4096 pairs some looks are left out, which can only widen them.
    """
    if len(scale) == 0:
        return Bounds(lower=0.0, upper=math.inf)
    known = np.concatenate([log_least, log_most])
    finite = known[np.isfinite(known)]
    if len(finite) == 0:
        return Bounds(lower=0.0, upper=math.inf)
    reach = CLIP_SCALES * float(scale.max()) + 1e-9
    left, right = float(finite.min()) - reach, float(finite.max()) + reach

    def excluded_from_below(location: float) -> bool:
        return _log_evidence(_score(log_least, location, scale)) >= -math.log(alpha)

    def excluded_from_above(location: float) -> bool:
        return _log_evidence(-_score(log_most, location, scale)) >= -math.log(beta)

    lower = math.exp(_last_true(excluded_from_below, left, right)) if excluded_from_below(left) else 0.0
    upper = math.exp(_last_true(excluded_from_above, right, left)) if excluded_from_above(right) else math.inf
    return Bounds(lower=lower, upper=upper)


def tail_bounds(
    *, ratio_least: Array, ratio_most: Array, aa_quantile: float, aa_count: int, rank: int, alpha: float, beta: float
) -> Bounds:
    """Bound (tail quantile of the live ratio) / (that of the A/A history) at every stopping time.

    Args:
        ratio_least: Shape (n,), finite: what each ratio is at least, where timing was stopped early.
        ratio_most: Shape (n,): what each ratio is at most, +inf where unknown.
        aa_quantile: h_(k), the k-th smallest A/A ratio; finite and above 0.
        aa_count: Length N of the A/A history.
        rank: k.
        alpha: Error rate of the lower end.
        beta: Error rate of the upper end.

    Returns:
        Bounds on the quotient. Thresholds between two neighbouring ratios give the same exceedances, so the ends are
        observed ratios over h_(k).
    """
    urn = (aa_count + 1 - rank, aa_count + 1)
    above, below = (np.array(rates) for rates in alternatives(urn[0] / urn[1]))
    least, most = np.unique(ratio_least), np.unique(ratio_most)

    def excluded_from_below(index: int) -> bool:
        events = ratio_least >= least[index]
        return _log_urn(events, urn, above, _ROLLBACK_WEIGHTS, runs_damped=True) >= -math.log(alpha)

    def excluded_from_above(index: int) -> bool:
        events = ratio_most > most[len(most) - 1 - index]
        return _log_urn(events, urn, below, _PROMOTE_WEIGHTS, runs_damped=False) >= -math.log(beta)

    lower_index = _last_true_index(excluded_from_below, len(least))
    upper_index = _last_true_index(excluded_from_above, len(most))
    return Bounds(
        lower=float(least[lower_index]) / aa_quantile if lower_index >= 0 else 0.0,
        upper=float(most[len(most) - 1 - upper_index]) / aa_quantile if upper_index >= 0 else math.inf,
    )


def _score(log_ratio: Array, location: float, scale: Array) -> Array:
    return np.clip((log_ratio - location) / (CLIP_SCALES * scale), -1.0, 1.0)


def _log_evidence(score: Array) -> float:
    """Return the largest log capital that the stakes ever had on these scores."""
    return _log_peak(1.0 + _STAKES[:, np.newaxis] * score, _STAKE_WEIGHTS)


def _log_urn(happened: Events, urn: tuple[int, int], rates: Array, weights: Array, *, runs_damped: bool) -> float:
    """Return the largest log capital that the rates ever had on these events against the Polya urn."""
    count, stake = Exceedances().add_all(happened)
    null_rate = (urn[0] + count) / (urn[1] + np.arange(len(happened)))
    side = rates[:, np.newaxis]
    gain = np.where(happened, side / null_rate, (1.0 - side) / (1.0 - null_rate))
    return _log_peak(1.0 + stake * (gain - 1.0) if runs_damped else gain, weights)


def _log_peak(factor: NDArray[np.float64], weights: Array) -> float:
    """Return the largest log of the weighted capital over time; factor has the shape (stakes, pairs)."""
    for _ in range(_HALVINGS_MAX):
        if factor.shape[1] <= _LOOKS_MAX:
            break
        if factor.shape[1] % 2:
            factor = np.pad(factor, ((0, 0), (0, 1)), constant_values=1.0)
        factor = factor[:, ::2] * factor[:, 1::2]
    with np.errstate(divide="ignore"):  # An alternative that an event rules out has no capital left.
        log_capital = np.cumsum(np.log(factor), axis=1)
        best = log_capital.max(axis=0)
        # A column is -inf throughout only if every alternative is ruled out; subtracting 0 there keeps it -inf.
        shift = np.where(np.isfinite(best), best, 0.0)
        return float((shift + np.log(weights @ np.exp(log_capital - shift))).max())


def _last_true(holds: Callable[[float], bool], true_end: float, false_end: float) -> float:
    """Return the last place, going from true_end to false_end, at which a monotone predicate holds."""
    for _ in range(_BISECTIONS):
        middle = (true_end + false_end) / 2.0
        if holds(middle):
            true_end = middle
        else:
            false_end = middle
    return true_end


def _last_true_index(holds: Callable[[int], bool], count: int) -> int:
    """Return the last index in [0, count) at which a monotone predicate holds; -1 where it never does."""
    true_end, false_end = -1, count
    while false_end - true_end > 1:
        middle = (true_end + false_end) // 2
        if holds(middle):
            true_end = middle
        else:
            false_end = middle
    return true_end
