"""Judging a candidate under load by pairs of windows: few, long measurements instead of many short ones."""

import math
from dataclasses import dataclass

from rollout.errors import ConfigError, EvidenceError, InvariantError
from rollout.model.verdict import Outcome
from rollout.stats.paired import Estimate, Unmeasured, location_estimate
from rollout.stats.processes import MedianProcess
from rollout.stats.series import check_open_unit

PRIOR_SCALE_SHARE = 0.5
"""Prior scale of the log ratio, as a share of the log margin. A window counts fully from 1.25 scales off the margin, so
at this share from three eighths of the way to the margin: a dozen windows is all there is, and an A/A history of
windows, which could tell the true scale, would cost as much as the phase itself. The error rates hold at any scale."""

LOG_RATIO_MAX = math.log(1e6)
"""A window in which one colour answered nothing counts like a ratio of a million; which side it is on matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowJudgement:
    """What the pairs of windows so far have shown.

    `ratio` is the median of "how many times worse green is", with bounds on its location that hold at any stopping
    time: the lower end is wrong with probability at most alpha, the upper with at most beta.
    """

    outcome: Outcome
    windows_used: int
    e_rollback: float
    e_rollback_needed: float
    e_promote_max: float
    e_promote_needed: float
    ratio: Estimate | Unmeasured


class WindowTest:
    """Sequential test of green against blue on one ratio per pair of windows.

    The ratio says how many times worse green is: throughput of blue over green, or a latency quantile of green over
    blue. BREACH is wrong with probability at most alpha and PASS with at most beta, looked at after every pair.

    Args:
        ratio_max: The margin, above 1 and finite.
        alpha: Largest chance of BREACH while the ratio lies at or below the margin, in (0, 1).
        beta: Largest chance of PASS while it lies at or above the margin, in (0, 1).

    Raises:
        ConfigError: An argument is out of range.
    Source: the median process of `rollout.stats.processes`; Ville 1939.
    """

    def __init__(self, *, ratio_max: float, alpha: float, beta: float) -> None:
        if not 1.0 < ratio_max < math.inf:
            raise ConfigError(f"ratio_max is {ratio_max}; a margin is above 1 and finite")
        check_open_unit(alpha, name="alpha")
        check_open_unit(beta, name="beta")
        self._alpha, self._beta = alpha, beta
        self._breach_at, self._pass_at = 1.0 / alpha, 1.0 / beta
        self._process = MedianProcess(scale_log=PRIOR_SCALE_SHARE * math.log(ratio_max), ratio_max=ratio_max)
        self._promote_max = 1.0
        self._ratios: list[float] = []
        self._log_least: list[float] = []
        self._log_most: list[float] = []
        self._scales: list[float] = []
        self._outcome = Outcome.INCONCLUSIVE

    @property
    def outcome(self) -> Outcome:
        """What has been shown so far."""
        return self._outcome

    def update(self, ratio: float) -> Outcome:
        """Take in one pair of windows and return what has been shown so far.

        Args:
            ratio: How many times worse green is, 0 or more; +inf where green alone answered nothing, 0 where blue
                alone did. A pair in which neither answered says nothing and must be left out.

        Raises:
            EvidenceError: The ratio is NaN or negative.
            InvariantError: The test has already decided.
        """
        if not ratio >= 0.0:
            raise EvidenceError(f"a pair of windows has the ratio {ratio}; 0 or more is expected")
        if self._outcome is not Outcome.INCONCLUSIVE:
            raise InvariantError(f"the window test has decided {self._outcome}; start a new one for new windows")
        log_ratio = math.log(ratio) if ratio > 0.0 else -math.inf
        clamped = self._process.clamp(log_ratio, ceiling=max(LOG_RATIO_MAX, self._process.reach_log))
        self._ratios.append(ratio)
        self._log_least.append(clamped)
        self._log_most.append(max(log_ratio, clamped))
        self._scales.append(self._process.scale)
        self._process.bet(clamped)
        self._promote_max = max(self._promote_max, self._process.promote.total)
        if self._process.rollback.total >= self._breach_at:
            self._outcome = Outcome.BREACH
        elif self._promote_max >= self._pass_at:
            self._outcome = Outcome.PASS
        return self._outcome

    def judgement(self) -> WindowJudgement:
        """Return everything shown so far; costs milliseconds, where an update costs microseconds."""
        return WindowJudgement(
            outcome=self._outcome,
            windows_used=len(self._ratios),
            e_rollback=self._process.rollback.total,
            e_rollback_needed=self._breach_at,
            e_promote_max=self._promote_max,
            e_promote_needed=self._pass_at,
            ratio=self._estimate(),
        )

    def _estimate(self) -> Estimate | Unmeasured:
        if not self._ratios:
            return Unmeasured(reason="no pair of windows was answered by either colour")
        return location_estimate(
            self._ratios, self._log_least, self._log_most, self._scales, alpha=self._alpha, beta=self._beta
        )
