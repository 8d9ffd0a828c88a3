"""The yardstick: what the A/A history says about blue, as far as the paired gates need it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rollout.errors import EvidenceError
from rollout.stats.margins import Margins
from rollout.stats.noise import sigma_of
from rollout.stats.quantiles import RANK_TOLERANCE, rank_of
from rollout.stats.rates import rate_bounds
from rollout.stats.series import Array, checked_ratio

AA_PAIRS_MIN = 100
"""Below this the A/A history's own tail is too uncertain for promotion within any usual budget; 300 is better."""

AA_SLOW_ALPHA = 2e-4
"""A history is refused once a one-sided bound at 1e-4 shows blue itself slow more often than green may be; so small
because slow requests come in clusters, which spread the count of a sound blue wider than the bound knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What the A/A history says about blue, as far as the gates need it.

    `aa_quantile` is h_(k), the ratio of rank k = `rank` among `aa_count`; a pair above `tail_threshold` exceeds it by
    more than the margin; `scale_log` is the spread of the log ratios, or of their means over blocks, 0 or more.
    """

    aa_count: int
    rank: int
    aa_quantile: float
    tail_threshold: float
    scale_log: float


def yardstick_of(aa_ratio: Array, *, margins: Margins, block_pairs: int = 1) -> Yardstick:
    """Read an A/A history.

    Args:
        aa_ratio: See `PairedTest`.
        margins: The limits to judge by.
        block_pairs: See `PairedTest`.

    Raises:
        EvidenceError: The history is too short, damaged, or shows that blue itself fails the margins.
    """
    history = _checked_history(aa_ratio, margins=margins, block_pairs=block_pairs)
    rank = rank_of(margins.tail_quantile, len(history) + 1)
    quantile = _tail_of(history, rank=rank)
    threshold = margins.tail_ratio_max * quantile
    limit_log = math.log(max(margins.slow_factor, threshold))
    return Yardstick(
        aa_count=len(history),
        rank=rank,
        aa_quantile=quantile,
        tail_threshold=threshold,
        scale_log=_block_sigma(history, block_pairs=block_pairs, limit_log=limit_log),
    )


def _checked_history(aa_ratio: Any, *, margins: Margins, block_pairs: int) -> Array:  # noqa: ANN401 - checked here
    history = checked_ratio(aa_ratio, name="aa_ratio")
    count = len(history)
    quantile = margins.tail_quantile
    needed = max(AA_PAIRS_MIN * block_pairs, math.ceil(quantile / (1.0 - quantile) - RANK_TOLERANCE))
    if count < needed:
        raise EvidenceError(
            f"the A/A history holds {count} pairs and the P{100 * quantile:.4g} gate in blocks of {block_pairs} needs "
            f"{needed}: {needed - count} are missing; calibrate with more pairs"
        )
    slow = int(np.count_nonzero(history > margins.slow_factor))
    if rate_bounds(failures=slow, trials=count, alpha=AA_SLOW_ALPHA).lower > margins.slow_rate_rollback:
        raise EvidenceError(
            f"{slow} of {count} A/A pairs are above x{margins.slow_factor:.4g}, more than the "
            f"{100 * margins.slow_rate_rollback:.4g}% for which green is rolled back: repair blue, or set "
            "slow_rate_rollback above blue's own rate"
        )
    return history


def _tail_of(history: Array, *, rank: int) -> float:
    quantile = float(np.sort(history)[rank - 1])
    if math.isinf(quantile) or quantile == 0.0:
        raise EvidenceError(
            f"the A/A ratio of rank {rank} of {len(history)} is {quantile}, a timeout, so it cannot be a yardstick: "
            "repair blue, then calibrate again"
        )
    return quantile


def _block_sigma(history: Array, *, block_pairs: int, limit_log: float) -> float:
    with np.errstate(divide="ignore"):
        log_ratio = np.log(history)
    if block_pairs == 1:
        return sigma_of(log_ratio)
    whole = len(log_ratio) // block_pairs * block_pairs
    return sigma_of(np.clip(log_ratio[:whole], -limit_log, limit_log).reshape(-1, block_pairs).mean(axis=1))
