"""The paired test over thousands of runs at once: what `rollout.stats.paired.PairedTest` does, step by step over pairs.

Written a second time, with arrays of shape (runs,), because the streaming form would need an hour for a study of this
size. A test and every run of the study hold the two against each other: sampled runs must end with the same outcome at
the same pair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from worlds import Array

from rollout.errors import EvidenceError
from rollout.model.verdict import Outcome
from rollout.stats.margins import Margins
from rollout.stats.noise import block_pairs_for
from rollout.stats.paired import (
    MEDIAN_WEIGHT,
    ROLLBACK_PAIRS_MIN,
    SLOW_WEIGHT,
    TAIL_WEIGHT,
)
from rollout.stats.processes import (
    CLIP_SCALES,
    PROMOTE_WEIGHTS,
    RUN_LENGTH_MAX,
    RUN_PAIRS_MIN,
    RUN_STAKE,
    RUN_TENTHS_MAX,
    SCALE_JUMP_MAX,
    SCALE_LOG_MIN,
    SCALE_PRIOR_PAIRS,
    SLOW_ROLLBACK_WEIGHTS,
    STAKE_WEIGHTS,
    STAKES,
    TAIL_ROLLBACK_WEIGHTS,
    alternatives,
)
from rollout.stats.yardstick import Yardstick, yardstick_of

Flags: TypeAlias = NDArray[np.bool_]
Counts: TypeAlias = NDArray[np.int64]

OUTCOMES = (Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.BREACH)
UNDECIDED, PASSED, BREACHED = range(3)
"""Codes of the outcomes in arrays."""

_LOOK_EVERY = 16
"""Steps between two looks whether every run has decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """How each run ended.

    `outcome` (runs,) holds an index into OUTCOMES and `pairs` (runs,) the pair that decided, or the budget; `refused`
    (runs,) marks runs whose A/A history was not accepted, which are INCONCLUSIVE at no pair.
    """

    outcome: Counts
    pairs: Counts
    refused: Flags

    def share(self, code: int) -> float:
        """Return the percentage of runs that ended with this outcome."""
        return 100.0 * float(np.mean(self.outcome == code))


def judge_runs(
    *,
    aa_ratio: Array,
    blue_s: Array,
    green_s: Array,
    margins: Margins,
    alpha: float = 0.01,
    beta: float = 0.01,
    choose_blocks: bool = False,
) -> Verdicts:
    """Judge each run by its own history, stopping at the first pair that decides.

    Args:
        aa_ratio: Shape (runs, N).
        blue_s: Shape (runs, pairs), finite, above 0.
        green_s: Shape (runs, pairs), above 0; +inf for a timeout.
        margins: See `PairedTest`.
        alpha: See `PairedTest`.
        beta: See `PairedTest`.
        choose_blocks: Average over the blocks that each history asks for, as the product does; otherwise never.
    """
    runs, budget = blue_s.shape
    blocks = np.array([block_pairs_for(history) for history in aa_ratio]) if choose_blocks else np.ones(runs, np.int64)
    outcome, pairs = np.full(runs, UNDECIDED), np.full(runs, budget)
    yardsticks = [_yardstick_or_none(*each, margins) for each in zip(aa_ratio, blocks.tolist(), strict=True)]
    refused = np.array([one is None for one in yardsticks])
    pairs[refused] = 0
    for block in np.unique(blocks[~refused]):
        chosen = np.flatnonzero((blocks == block) & ~refused)
        bets = _Bets(
            yardsticks=[one for index in chosen if (one := yardsticks[index]) is not None],
            margins=margins,
            block_pairs=int(block),
        )
        outcome[chosen], pairs[chosen] = bets.play(green_s[chosen] / blue_s[chosen], alpha=alpha, beta=beta)
    return Verdicts(outcome=outcome, pairs=pairs, refused=refused)


def _yardstick_or_none(history: Array, block_pairs: int, margins: Margins) -> Yardstick | None:
    try:
        return yardstick_of(history, margins=margins, block_pairs=block_pairs)
    except EvidenceError:
        return None


class _Bets:
    """The six e-processes of many runs; arrays end in the shape (runs,)."""

    def __init__(self, *, yardsticks: Sequence[Yardstick], margins: Margins, block_pairs: int) -> None:
        self._margins, self._block_pairs = margins, block_pairs
        self._log_margin = math.log(margins.p50_ratio_max)
        self._threshold = np.array([one.tail_threshold for one in yardsticks])
        self._fixed_ceiling = np.maximum(margins.slow_factor, self._threshold)
        self._scale = np.maximum([one.scale_log for one in yardsticks], SCALE_LOG_MIN)
        self._sum_squares = SCALE_PRIOR_PAIRS * self._scale**2
        self._count = SCALE_PRIOR_PAIRS
        self._last: Array | None = None
        self._block: list[Array] = []
        runs = len(yardsticks)
        self._median = [_capital(STAKE_WEIGHTS, runs) for _ in range(2)]
        self._urn_size = yardsticks[0].aa_count + 1
        self._urn_hits = self._urn_size - yardsticks[0].rank
        self._tail = _Events(
            rates=alternatives(self._urn_hits / self._urn_size), weights=TAIL_ROLLBACK_WEIGHTS, runs=runs
        )
        self._slow = _Events(
            rates=(alternatives(margins.slow_rate_rollback)[0], alternatives(margins.slow_rate_promote)[1]),
            weights=SLOW_ROLLBACK_WEIGHTS,
            runs=runs,
        )

    def play(self, ratio: Array, *, alpha: float, beta: float) -> tuple[Counts, Counts]:
        """Return the outcome code and the deciding pair of each run; ratio (runs, pairs)."""
        runs, budget = ratio.shape
        outcome, pairs = np.full(runs, UNDECIDED), np.full(runs, budget)
        promote_max = np.ones((3, runs))
        with np.errstate(all="ignore"):  # Capital of runs that have decided may grow beyond all measure.
            for step in range(budget):
                combined, promote = self._step(np.ascontiguousarray(ratio[:, step]), step)
                np.fmax(promote_max, promote, out=promote_max)
                is_open = outcome == UNDECIDED
                breached = is_open & (combined >= 1.0 / alpha) & (step + 1 >= ROLLBACK_PAIRS_MIN)
                passed = is_open & ~breached & (promote_max.min(axis=0) >= 1.0 / beta)
                outcome[breached], outcome[passed] = BREACHED, PASSED
                pairs[breached | passed] = step + 1
                if step % _LOOK_EVERY == 0 and (outcome != UNDECIDED).all():
                    break
        return outcome, pairs

    def _step(self, ratio: Array, step: int) -> tuple[Array, Array]:
        self._bet_median(ratio)
        null_rate = (self._urn_hits + self._tail.count) / (self._urn_size + step)
        self._tail.bet(happened=ratio > self._threshold, null_rates=(null_rate, null_rate), pairs=step)
        self._slow.bet(
            happened=ratio > self._margins.slow_factor,
            null_rates=(self._margins.slow_rate_rollback, self._margins.slow_rate_promote),
            pairs=step,
        )
        totals = (self._median[0].sum(axis=0), self._median[1].sum(axis=0)), self._tail.totals, self._slow.totals
        rollback, promote = zip(*totals, strict=True)
        combined = MEDIAN_WEIGHT * rollback[0] + TAIL_WEIGHT * rollback[1] + SLOW_WEIGHT * rollback[2]
        return combined, np.array(promote)

    def _bet_median(self, ratio: Array) -> None:
        reach = self._log_margin + CLIP_SCALES * self._scale
        ceiling = np.log(np.maximum(self._fixed_ceiling, np.exp(reach)))
        self._block.append(np.clip(np.log(ratio), 2.0 * self._log_margin - ceiling, ceiling))
        if len(self._block) < self._block_pairs:
            return
        value = np.sum(self._block, axis=0) / self._block_pairs
        self._block.clear()
        score = np.clip((value - self._log_margin) / (CLIP_SCALES * self._scale), -1.0, 1.0)
        change = np.array(STAKES)[:, np.newaxis] * score
        self._median[0] *= 1.0 + change
        self._median[1] *= 1.0 - change
        if self._last is not None:
            jump = value - self._last
            self._sum_squares += np.minimum(0.5 * jump**2, (SCALE_JUMP_MAX * self._scale) ** 2)
            self._count += 1
            self._scale = np.maximum(np.sqrt(self._sum_squares / self._count), SCALE_LOG_MIN)
        self._last = value


class _Events:
    """Bets on an event for rollback and for promotion."""

    def __init__(
        self, *, rates: tuple[tuple[float, ...], tuple[float, ...]], weights: tuple[float, ...], runs: int
    ) -> None:
        self._rates = [np.array(side)[:, np.newaxis] for side in rates]
        self._capital = [_capital(weights, runs), _capital(PROMOTE_WEIGHTS, runs)]
        self._run = np.zeros(runs, np.int64)
        self.count = np.zeros(runs, np.int64)

    @property
    def totals(self) -> tuple[Array, Array]:
        """Evidence for rollback and for promotion."""
        rollback, promote = (capital.sum(axis=0) for capital in self._capital)
        return rollback, promote

    def bet(self, *, happened: Flags, null_rates: tuple[Array | float, Array | float], pairs: int) -> None:
        """Bet on one pair of each run, after `pairs` earlier ones."""
        is_cluster = (
            (self._run > 0)
            & (self._run < RUN_LENGTH_MAX)
            & (pairs >= RUN_PAIRS_MIN)
            & (10 * self.count <= RUN_TENTHS_MAX * pairs)
        )
        stakes = (np.where(is_cluster, RUN_STAKE, 1.0), 1.0)
        for side in range(2):
            rates, null = self._rates[side], null_rates[side]
            gain = np.where(happened, rates / null, (1.0 - rates) / (1.0 - null))
            self._capital[side] *= 1.0 + stakes[side] * (gain - 1.0)
        self._run = np.where(happened, self._run + 1, 0)
        self.count += happened


def _capital(weights: Sequence[float], runs: int) -> Array:
    shares = np.array(weights, np.float64) / math.fsum(weights)
    return np.repeat(shares[:, np.newaxis], runs, axis=1)
