"""Error rates: a sequential test against a fixed rate, and exact bounds on a share."""

import math
from dataclasses import dataclass

from scipy.special import betaincinv

from rollout.errors import EvidenceError, InvariantError
from rollout.model.verdict import Outcome
from rollout.stats.betting import EventBets
from rollout.stats.processes import PROMOTE_WEIGHTS, SLOW_ROLLBACK_WEIGHTS, alternatives
from rollout.stats.series import Bounds, check_open_unit

_LOG_MAX = 700.0
"""Beyond this exp overflows a float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateJudgement:
    """What the trials so far say about a failure rate.

    `e_above` is the evidence that the rate is above the margin, `e_below` that it is below; a threshold of 1/alpha or
    1/beta reached by either holds at any number of looks.
    """

    outcome: Outcome
    failures: int
    trials: int
    e_above: float
    e_below: float
    e_below_max: float
    reason: str


class RateTest:
    """Sequential test of a failure rate against a fixed margin, looked at as often as one likes.

    Args:
        rate_max: The margin, in (0, 1).
        alpha: Chance at most of BREACH while the rate is at or below the margin, in (0, 1).
        beta: Chance at most of PASS while the rate is at or above the margin, in (0, 1).

    Raises:
        ConfigError: An argument is outside (0, 1).
    """

    def __init__(self, *, rate_max: float, alpha: float = 0.01, beta: float = 0.01) -> None:
        check_open_unit(rate_max, name="rate_max")
        check_open_unit(alpha, name="alpha")
        check_open_unit(beta, name="beta")
        self._rate_max = rate_max
        self._breach_at, self._pass_at = 1.0 / alpha, 1.0 / beta
        rates_above, rates_below = alternatives(rate_max)
        self._above = EventBets(rates=rates_above, weights=SLOW_ROLLBACK_WEIGHTS)
        self._below = EventBets(rates=rates_below, weights=PROMOTE_WEIGHTS)
        self._below_max = 1.0
        self._failures = self._trials = 0
        self._outcome = Outcome.INCONCLUSIVE

    def update(self, *, failures: int, trials: int) -> RateJudgement:
        """Take in further trials; the order inside one call carries no weight.

        Raises:
            EvidenceError: The counts are negative, or there are more failures than trials.
            InvariantError: The test has already decided.
        """
        if failures < 0 or trials < failures:
            raise EvidenceError(
                f"{failures} failures in {trials} trials cannot be; 0 <= failures <= trials is expected"
            )
        if self._outcome is not Outcome.INCONCLUSIVE:
            raise InvariantError(f"the rate test has decided {self._outcome}; start a new one for new trials")
        for index in range(trials):
            happened = index < failures
            self._above.bet(happened=happened, null_rate=self._rate_max)
            self._below.bet(happened=happened, null_rate=self._rate_max)
        self._below_max = max(self._below_max, self._below.total)
        self._failures += failures
        self._trials += trials
        if self._above.total >= self._breach_at:
            self._outcome = Outcome.BREACH
        elif self._below_max >= self._pass_at:
            self._outcome = Outcome.PASS
        return self.judgement()

    def judgement(self) -> RateJudgement:
        """Return what has been shown so far."""
        return RateJudgement(
            outcome=self._outcome,
            failures=self._failures,
            trials=self._trials,
            e_above=self._above.total,
            e_below=self._below.total,
            e_below_max=self._below_max,
            reason=(
                f"{self._failures} of {self._trials} failed, margin {self._rate_max:.3g}: evidence above it "
                f"{self._above.total:.3g} (decides at {self._breach_at:.3g}), below it {self._below_max:.3g} "
                f"(decides at {self._pass_at:.3g})"
            ),
        )


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
    sound = trials - failures
    return Bounds(
        lower=float(betaincinv(failures, sound + 1, alpha / 2.0)) if failures else 0.0,
        upper=float(betaincinv(failures + 1, sound, 1.0 - alpha / 2.0)) if sound else 1.0,
    )


def rate_e_value(*, failures: int, trials: int, rate_max: float) -> float:
    """Return the evidence that a failure rate is above a margin, from counts alone.

    The same mixture of bets as `RateTest`, which does not depend on the order of the trials, so that counters can be
    judged however many trials lie between two looks.

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
