"""How much two measurements of one release differ: the summary of an A/A history."""

from dataclasses import dataclass

import numpy as np

from rollout.errors import EvidenceError
from rollout.stats.quantiles import sample_quantile
from rollout.stats.series import Array, checked_ratio

MAD_TO_SIGMA = 1.4826
"""1 / Phi^-1(3/4): scales the median absolute deviation to the standard deviation of a normal law."""

_PAIRS_MIN = 2


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


def _autocorrelation_lag1(values: Array) -> float:
    centered = values - values.mean()
    power = float(np.dot(centered, centered))
    return float(np.dot(centered[1:], centered[:-1])) / power if power > 0.0 else 0.0
