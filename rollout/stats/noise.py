"""How much two measurements of one release differ: the summary of an A/A history."""

import math
from dataclasses import dataclass

import numpy as np

from rollout.errors import EvidenceError
from rollout.stats.quantiles import sample_quantile
from rollout.stats.series import Array, checked_ratio

MAD_TO_SIGMA = 1.4826
"""1 / Phi^-1(3/4): scales the median absolute deviation to the standard deviation of a normal law."""

_PAIRS_MIN = 2

BLOCK_RHO_MIN = 0.3
"""From here single pairs repeat each other enough to matter."""

BLOCK_ERRORS = 2.0
"""The autocorrelation is taken this many standard errors above its estimate: a block too many costs pairs, a block too
few the error rate. At N = 300 one history in a thousand without any autocorrelation gets blocks."""

BLOCK_SCALES_MAX = 2.0
"""Log ratios are clamped to this many scales around their median. Bursts are independent and hide the correlation of
all others: at rho = 0.3 with 1% of bursts the estimate is 0.26 so, and 0.11 without."""

BLOCKS_MIN = 100
"""Fewer blocks than this do not tell the spread of their means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSummary:
    """Noise of blue against blue.

    `sigma_log` is 1.4826 MAD of the log ratios; `autocorrelation_lag1` is of the log ratios clamped to the range of
    slow_factor, in time order, 0 where they do not vary; `slow_rate` is the share of ratios above slow_factor.
    """

    pairs: int
    ratio_median: float
    sigma_log: float
    autocorrelation_lag1: float
    ratio_p90: float
    ratio_p95: float
    ratio_p99: float
    slow_rate: float


def summarize_noise(aa_ratio: Array, *, slow_factor: float) -> NoiseSummary:
    """Summarize stored ratios blue / blue.

    Args:
        aa_ratio: Shape (n,), n >= 2, in the order measured; +inf where the second blue timed out, 0 where the first
            did.
        slow_factor: A ratio above it is slow; above 1.

    Raises:
        EvidenceError: Fewer than two ratios, NaN, negative, or half of them are timeouts.
    """
    ratio = checked_ratio(aa_ratio, name="aa_ratio")
    if len(ratio) < _PAIRS_MIN:
        raise EvidenceError(f"the A/A history holds {len(ratio)} pairs; noise needs at least {_PAIRS_MIN}")
    with np.errstate(divide="ignore"):
        log_ratio = np.log(ratio)
    limit = np.log(slow_factor)
    return NoiseSummary(
        pairs=len(ratio),
        ratio_median=sample_quantile(ratio, q=0.5),
        sigma_log=sigma_of(log_ratio),
        autocorrelation_lag1=_autocorrelation_lag1(np.clip(log_ratio, -limit, limit)),
        ratio_p90=sample_quantile(ratio, q=0.90),
        ratio_p95=sample_quantile(ratio, q=0.95),
        ratio_p99=sample_quantile(ratio, q=0.99),
        slow_rate=float(np.mean(ratio > slow_factor)),
    )


def sigma_of(log_ratio: Array) -> float:
    """Return 1.4826 times the median absolute deviation.

    Args:
        log_ratio: Shape (n,), n >= 1; infinite for a timeout.

    Raises:
        EvidenceError: Half or more of the values are infinite, so that no spread can be told.
    """
    infinite = int(np.count_nonzero(np.isinf(log_ratio)))
    if 2 * infinite >= len(log_ratio):
        raise EvidenceError(
            f"{infinite} of {len(log_ratio)} A/A pairs are timeouts; blue itself is not served: repair it, "
            "then calibrate"
        )
    return MAD_TO_SIGMA * float(np.median(np.abs(log_ratio - np.median(log_ratio))))


def block_pairs_for(aa_ratio: Array) -> int:
    """Return over how many pairs log ratios are averaged in the median gate: more than one where they hang together.

    Args:
        aa_ratio: Shape (n,); see `summarize_noise`.

    Returns:
        1 unless the lag-1 autocorrelation may be 0.3 or more (the estimate and two standard errors, each 1 / sqrt(n));
        then 3 to 5, rising with it, as far as the history holds 100 blocks. What a history of fewer than 300 pairs
        costs at such a correlation is in docs/decisions.md.

    Raises:
        EvidenceError: NaN, negative, or half of the ratios are timeouts.
    """
    ratio = checked_ratio(aa_ratio, name="aa_ratio")
    if len(ratio) < _PAIRS_MIN:
        return 1
    with np.errstate(divide="ignore"):
        log_ratio = np.log(ratio)
    reach = BLOCK_SCALES_MAX * sigma_of(log_ratio)
    middle = float(np.median(log_ratio))
    rho = _autocorrelation_lag1(np.clip(log_ratio, middle - reach, middle + reach)) + BLOCK_ERRORS / math.sqrt(
        len(ratio)
    )
    if rho < BLOCK_RHO_MIN:
        return 1
    wanted = min(3 + int((rho - BLOCK_RHO_MIN) / 0.15), 5)
    return max(min(wanted, len(log_ratio) // BLOCKS_MIN), 1)


def _autocorrelation_lag1(values: Array) -> float:
    centered = values - values.mean()
    power = float(np.dot(centered, centered))
    return float(np.dot(centered[1:], centered[:-1])) / power if power > 0.0 else 0.0
