"""The judges that peers use, written anew from their descriptions, over thousands of runs at once.

Arrays have the shape (runs, n). Each judge takes what its users give it; only the last two know of pairs.
"""

from dataclasses import dataclass

import numpy as np
from vectorized import BREACHED, PASSED, UNDECIDED, Counts, Flags
from worlds import Array

KAYENTA_QUANTILE = 2.326
"""Normal quantile of Kayenta's default confidence of 98 percent, two-sided."""

KAYENTA_TOLERANCE = 0.25

BOOTSTRAP_PAIRS = 50
RESAMPLES = 1000
BOOTSTRAP_SEED = 7

LOOKS = (20, 40, 60, 80, 100)
LOOK_LIMIT = 2.385
"""A walk of five standard normal steps ever exceeds this many sqrt(5) with a chance of 1 percent. O'Brien & Fleming,
Biometrics 35, 1979; by numerical integration as in Jennison & Turnbull, Group Sequential Methods, chapter 19."""

_CHUNK = 100
"""Runs whose differences are held in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerVerdicts:
    """`outcome` (runs,) as in `vectorized.Verdicts`, and the pairs each run took."""

    outcome: Counts
    pairs: Counts

    def share(self, code: int) -> float:
        """Return the percentage of runs that ended with this outcome."""
        return 100.0 * float(np.mean(self.outcome == code))


def mann_whitney(*, control: Array, experiment: Array) -> PeerVerdicts:
    """Judge as Kayenta does by default: High where the interval of the shift lies above a quarter of its estimate.

    The interval is the 98 percent confidence interval of the shift, the estimate that of Hodges and Lehmann; whatever
    is not High is let pass.

    Args:
        control: n >= 20, for the interval uses the normal approximation; finite.
        experiment: The same shape; finite: a request that failed is recorded with the client's timeout.
    """
    runs, count = control.shape
    rejected = np.concatenate(
        [
            _is_high(control[start : start + _CHUNK], experiment[start : start + _CHUNK])
            for start in range(0, runs, _CHUNK)
        ]
    )
    return PeerVerdicts(outcome=np.where(rejected, BREACHED, PASSED), pairs=np.full(runs, count))


def bootstrap(log_ratio: Array, *, log_margin: float) -> PeerVerdicts:
    """Judge the first 50 pairs by the 98 percent bootstrap interval of their median log ratio.

    Above the margin as a whole: rolled back; below: promoted; else undecided. +inf allowed.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    # Which of the sorted pairs are the two middle ones of a resample does not depend on their values.
    middle = np.sort(rng.integers(0, BOOTSTRAP_PAIRS, (RESAMPLES, BOOTSTRAP_PAIRS)), axis=1)
    middle = middle[:, [BOOTSTRAP_PAIRS // 2 - 1, BOOTSTRAP_PAIRS // 2]]
    ordered = np.sort(log_ratio[:, :BOOTSTRAP_PAIRS], axis=1)
    medians = np.sort((ordered[:, middle[:, 0]] + ordered[:, middle[:, 1]]) / 2.0, axis=1)
    lower, upper = medians[:, RESAMPLES // 100], medians[:, RESAMPLES - RESAMPLES // 100 - 1]
    outcome = np.where(lower > log_margin, BREACHED, np.where(upper < log_margin, PASSED, UNDECIDED))
    return PeerVerdicts(outcome=outcome, pairs=np.full(len(outcome), BOOTSTRAP_PAIRS))


def group_sequential(log_ratio: Array, *, log_margin: float) -> PeerVerdicts:
    """Judge at five looks up to 100 pairs by Wilcoxon's signed ranks against the margin, each side at 1 percent.

    +inf allowed: it takes the highest rank.
    """
    runs = len(log_ratio)
    outcome, pairs = np.full(runs, UNDECIDED), np.full(runs, LOOKS[-1])
    for look, count in enumerate(LOOKS, start=1):
        score = _signed_rank_score(log_ratio[:, :count] - log_margin)
        limit = LOOK_LIMIT * np.sqrt(len(LOOKS) / look)
        is_open = outcome == UNDECIDED
        outcome[is_open & (score >= limit)] = BREACHED
        outcome[is_open & (score <= -limit)] = PASSED
        pairs[is_open & (np.abs(score) >= limit)] = count
    return PeerVerdicts(outcome=outcome, pairs=pairs)


def _is_high(control: Array, experiment: Array) -> Flags:
    runs, count = control.shape
    shifts = (experiment[:, :, np.newaxis] - control[:, np.newaxis, :]).reshape(runs, -1)
    middle = shifts.shape[1] // 2
    spread = np.sqrt(shifts.shape[1] * (2 * count + 1) / 12.0)
    lower = max(int(np.floor(middle - KAYENTA_QUANTILE * spread)), 0)
    shifts.partition((lower, middle - 1, middle), axis=1)
    estimate: Array = (shifts[:, middle - 1] + shifts[:, middle]) / 2.0
    return shifts[:, lower] > KAYENTA_TOLERANCE * np.abs(estimate)


def _signed_rank_score(difference: Array) -> Array:
    count = difference.shape[1]
    ranks: Counts = np.argsort(np.argsort(np.abs(difference), axis=1), axis=1) + 1
    positive = np.sum(ranks * (difference > 0.0), axis=1)
    spread = np.sqrt(count * (count + 1) * (2 * count + 1) / 24.0)
    score: Array = (positive - count * (count + 1) / 4.0) / spread
    return score
