"""The three paired gates as e-processes: median, tail and slow rate, each betting for rollback and for promotion.

Every stake, rate and scale is known before the pair it is used on, so looking after each pair costs nothing.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rollout.stats.betting import EventBets, SignedBets
from rollout.stats.margins import Margins
from rollout.stats.series import Array

Events: TypeAlias = NDArray[np.bool_]
Counts: TypeAlias = NDArray[np.int64]

CLIP_SCALES = 1.25
"""A log ratio this many scales from the margin counts fully; beyond it a single pair cannot weigh more."""

SCALE_PRIOR_PAIRS = 20
"""The A/A scale weighs as much as this many live differences."""

SCALE_JUMP_MAX = 2.0
"""A difference of neighbours counts for at most this many scales, so that a burst does not blunt the gate."""

SCALE_LOG_MIN = 1e-3
"""0.1 percent: no served image is timed better; keeps the score defined where an A/A history does not vary at all."""

STAKES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
STAKE_WEIGHTS = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3)
"""Small stakes find a small slowdown; the large ones, three times as heavy, convict a gross one in a few pairs."""

ROLLBACK_HEADROOM = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Alternatives q = p0 + headroom (1 - p0), from a rate just too high to "every request"."""

TAIL_ROLLBACK_WEIGHTS = (2.0, 2.0, 2.0, 2.0, 32.0, 2.0, 1.0)
"""Most on "three in five": a doubled latency is convicted by the fifth pair although bursts of blue hid it in two of
the first five, and three slow answers in a row convict. Found by simulation."""

SLOW_ROLLBACK_WEIGHTS = (8.0, 4.0, 1.0, 0.1, 0.1, 0.1, 0.1)
"""Chosen by simulation: a tenfold slowdown is convicted at the third pair in a row, not at the second, because two slow
answers in a row happen to a sound release whose slow requests come in clusters."""

RUN_STAKE = 0.05
"""Share of the capital staked on the pair after an exceedance: slow requests come in clusters, and a cluster should
count about once. At full stake, clusters of three gave 5% false rollbacks, at this 0.95%."""

RUN_PAIRS_MIN = 5
"""The first pairs are bet on in full, or a gross slowdown could not be convicted in a few of them."""

RUN_TENTHS_MAX = 7
"""Where more than seven pairs in ten exceed, that is no cluster, and all are bet on in full."""

RUN_LENGTH_MAX = 14
"""Nor is a run of this length: a candidate that becomes x10 after forty good pairs is convicted in 18 more, not 35."""

PROMOTE_SHARE = (0.0, 0.1, 0.2, 0.3, 0.5)
PROMOTE_WEIGHTS = (3, 1, 1, 1, 1)
"""Alternatives q = share p0: most weight on "never happens", which is what a sound candidate shows."""


class MedianProcess:
    """Location of D = log(green / blue) against the log margin.

    score = clip((D - log m) / (1.25 s), -1, 1), and s from the A/A history and past neighbours' differences. The null
    to roll back is a Huber location at or below log m; to promote, at or above.
    Source: Vovk & Wang, Nonparametric e-tests of symmetry, NEJSDS; Huber, Robust estimation of a location parameter.
    """

    __slots__ = ("_count", "_last", "_log_margin", "_sum_squares", "promote", "rollback", "scale")

    def __init__(self, *, scale_log: float, ratio_max: float) -> None:
        self.scale = max(scale_log, SCALE_LOG_MIN)
        self._sum_squares = SCALE_PRIOR_PAIRS * self.scale * self.scale
        self._count = SCALE_PRIOR_PAIRS
        self._last: float | None = None
        self._log_margin = math.log(ratio_max)
        self.rollback = SignedBets(stakes=STAKES, weights=STAKE_WEIGHTS)
        self.promote = SignedBets(stakes=STAKES, weights=STAKE_WEIGHTS)

    @property
    def reach_log(self) -> float:
        """The log ratio from which a pair counts fully for rollback."""
        return self._log_margin + CLIP_SCALES * self.scale

    def clamp(self, log_ratio: float, *, ceiling: float) -> float:
        """Return the log ratio inside [2 log m - ceiling, ceiling]; with ceiling >= reach_log no score changes."""
        return max(min(log_ratio, ceiling), 2.0 * self._log_margin - ceiling)

    def bet(self, log_ratio: float) -> None:
        """Bet on one finite log ratio, then learn the scale from it."""
        self.stake(self.score(log_ratio))

    def score(self, log_ratio: float) -> float:
        """Return the score in [-1, 1] of one finite log ratio, and learn the scale from it for those after it."""
        score = (log_ratio - self._log_margin) / (CLIP_SCALES * self.scale)
        if self._last is not None:
            jump = log_ratio - self._last
            widest = SCALE_JUMP_MAX * self.scale
            self._sum_squares += min(0.5 * jump * jump, widest * widest)
            self._count += 1
            self.scale = max(math.sqrt(self._sum_squares / self._count), SCALE_LOG_MIN)
        self._last = log_ratio
        return max(-1.0, min(1.0, score))

    def stake(self, score: float) -> None:
        """Bet on one score."""
        self.rollback.bet(score)
        self.promote.bet(-score)

    def stake_all(self, score: Array) -> tuple[Array, float]:
        """Bet on each score in turn, shape (n,).

        Returns:
            The evidence for rollback after each, to `betting.NEARLY`, and the most for promotion, exactly.
        """
        totals, _ = self.rollback.bet_all(score)
        _, peak = self.promote.bet_all(-score)
        return totals, peak


class Exceedances:
    """Count of events and the stake for rollback that it allows on the next pair; see RUN_STAKE.

    Promotion stakes all, so that a cluster costs its full price.
    """

    __slots__ = ("_run", "count", "pairs")

    def __init__(self) -> None:
        self.count = self.pairs = self._run = 0

    @property
    def stake(self) -> float:
        """The stake on the next pair."""
        is_cluster = (
            0 < self._run < RUN_LENGTH_MAX
            and self.pairs >= RUN_PAIRS_MIN
            and 10 * self.count <= RUN_TENTHS_MAX * self.pairs
        )
        return RUN_STAKE if is_cluster else 1.0

    def add(self, *, happened: bool) -> None:
        """Take in one pair."""
        self.count += happened
        self.pairs += 1
        self._run = self._run + 1 if happened else 0

    def add_all(self, happened: Events) -> tuple[Counts, Array]:
        """Take in pairs, shape (n,), n >= 1; return the count before each and the stake that it allowed."""
        place = np.arange(len(happened))
        count = self.count + np.cumsum(happened) - happened
        pairs = self.pairs + place
        run = place - np.maximum.accumulate(np.where(happened, -1 - self._run, place))
        run_before = np.append(self._run, run[:-1])
        is_cluster = (
            (run_before > 0)
            & (run_before < RUN_LENGTH_MAX)
            & (pairs >= RUN_PAIRS_MIN)
            & (10 * count <= RUN_TENTHS_MAX * pairs)
        )
        self.count += int(np.count_nonzero(happened))
        self.pairs += len(happened)
        self._run = int(run[-1])
        return count, np.where(is_cluster, RUN_STAKE, 1.0)


class TailProcess:
    """Exceedances of margin x h_(k), the k-th smallest A/A ratio, against a Polya urn.

    With k = ceil(p (N + 1)) and K_t exceedances so far, an exchangeable next ratio exceeds h_(k) with probability
    (N + 1 - k + K_t) / (N + 1 + t): exact where A/A and margin-scaled live ratios are exchangeable. The probability is
    over the history too, so a history must come from the same protocol as the live pairs.
    """

    __slots__ = ("_urn_hits", "_urn_size", "exceeded", "promote", "rollback", "threshold")

    def __init__(self, *, aa_count: int, rank: int, threshold: float) -> None:
        self._urn_hits = aa_count + 1 - rank
        self._urn_size = aa_count + 1
        self.exceeded = Exceedances()
        self.threshold = threshold
        rollback_rates, promote_rates = alternatives(self._urn_hits / self._urn_size)
        self.rollback = EventBets(rates=rollback_rates, weights=TAIL_ROLLBACK_WEIGHTS)
        self.promote = EventBets(rates=promote_rates, weights=PROMOTE_WEIGHTS)

    def bet(self, ratio: float) -> None:
        """Bet on one ratio in [0, +inf]."""
        happened = ratio > self.threshold
        null_rate = (self._urn_hits + self.exceeded.count) / (self._urn_size + self.exceeded.pairs)
        self.rollback.bet(happened=happened, null_rate=null_rate, stake=self.exceeded.stake)
        self.promote.bet(happened=happened, null_rate=null_rate)
        self.exceeded.add(happened=happened)

    def bet_all(self, ratio: Array) -> tuple[Array, float]:
        """Bet on each ratio in turn; see `MedianProcess.stake_all`."""
        happened = ratio > self.threshold
        size = self._urn_size + self.exceeded.pairs + np.arange(len(ratio))
        count, stake = self.exceeded.add_all(happened)
        null_rate = (self._urn_hits + count) / size
        totals, _ = self.rollback.bet_all(happened=happened, null_rate=null_rate, stake=stake)
        _, peak = self.promote.bet_all(happened=happened, null_rate=null_rate, stake=np.ones(len(ratio)))
        return totals, peak


class SlowProcess:
    """Share of pairs with ratio above slow_factor, against one fixed rate to roll back and one to promote."""

    __slots__ = ("_factor", "_promote_rate", "_rollback_rate", "promote", "rollback", "slow")

    def __init__(self, margins: Margins) -> None:
        self._factor = margins.slow_factor
        self._rollback_rate = margins.slow_rate_rollback
        self._promote_rate = margins.slow_rate_promote
        self.slow = Exceedances()
        self.rollback = EventBets(rates=alternatives(self._rollback_rate)[0], weights=SLOW_ROLLBACK_WEIGHTS)
        self.promote = EventBets(rates=alternatives(self._promote_rate)[1], weights=PROMOTE_WEIGHTS)

    def bet(self, ratio: float) -> None:
        """Bet on one ratio in [0, +inf]."""
        happened = ratio > self._factor
        self.rollback.bet(happened=happened, null_rate=self._rollback_rate, stake=self.slow.stake)
        self.promote.bet(happened=happened, null_rate=self._promote_rate)
        self.slow.add(happened=happened)

    def bet_all(self, ratio: Array) -> tuple[Array, float]:
        """Bet on each ratio in turn; see `MedianProcess.stake_all`."""
        happened = ratio > self._factor
        _, stake = self.slow.add_all(happened)
        one = np.ones(len(ratio))
        totals, _ = self.rollback.bet_all(happened=happened, null_rate=self._rollback_rate * one, stake=stake)
        _, peak = self.promote.bet_all(happened=happened, null_rate=self._promote_rate * one, stake=one)
        return totals, peak


GateProcess: TypeAlias = MedianProcess | TailProcess | SlowProcess


def alternatives(rate: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the event probabilities to bet on above `rate` (rollback) and below it (promotion)."""
    above = tuple(rate + headroom * (1.0 - rate) for headroom in ROLLBACK_HEADROOM)
    below = tuple(share * rate for share in PROMOTE_SHARE)
    return above, below
