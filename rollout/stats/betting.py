"""E-processes as bets: capital spread over several stakes, multiplied by one factor per observation.

Under the null the total capital is a nonnegative supermartingale that starts at 1, so it ever reaches 1/alpha with
probability at most alpha (Ville 1939). Only IEEE additions, multiplications and divisions are used, and totals are
correctly rounded sums, so that stored evidence gives the same bits on another machine.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rollout.stats.series import Array

CAPITAL_MAX = 1e200
"""Betting stops here, far above any threshold and far below overflow; a stopped process stays valid."""

NEARLY = 1.0 - 1e-9
"""A plain sum of a few dozen positive numbers lies within this share of the correctly rounded one, by far."""


class SignedBets:
    """Capital on several stakes lambda, against a null under which the score has mean at most 0.

    E = sum_k w_k prod_t (1 + lambda_k score_t), score in [-1, 1].
    Source: Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024.
    """

    __slots__ = ("_capital", "_stakes", "total")

    def __init__(self, *, stakes: Sequence[float], weights: Sequence[float]) -> None:
        scale = math.fsum(weights)
        self._stakes = tuple(stakes)
        self._capital = [weight / scale for weight in weights]
        self.total = 1.0

    def bet(self, score: float) -> None:
        """Multiply the capital by the outcome of one observation; score in [-1, 1]."""
        if self.total >= CAPITAL_MAX:
            return
        self._capital = [
            capital * (1.0 + stake * score) for capital, stake in zip(self._capital, self._stakes, strict=True)
        ]
        self.total = math.fsum(self._capital)

    def bet_all(self, score: Array) -> tuple[Array, float]:
        """Bet on each score in turn, as `bet` does, bit for bit; score has the shape (n,).

        Returns:
            The total after each, to NEARLY, and the largest of them and of the total before, exactly.
        """
        totals, self._capital, peak = _play(self._capital, 1.0 + score[:, np.newaxis] * np.array(self._stakes))
        self.total = math.fsum(self._capital)
        return totals, peak


class EventBets:
    """Capital on several event probabilities q_j, against the null probability given at each step.

    E = sum_j w_j prod_t (1 + stake_t (f_jt - 1)), with f = q_j / p_t where the event happened and (1 - q_j) / (1 - p_t)
    where it did not.
    Any stake in [0, 1] that is chosen before its observation keeps the null's promise.
    """

    __slots__ = ("_capital", "_misses", "_rates", "total")

    def __init__(self, *, rates: Sequence[float], weights: Sequence[float]) -> None:
        scale = math.fsum(weights)
        self._rates = tuple(rates)
        self._misses = tuple(1.0 - rate for rate in rates)
        self._capital = [weight / scale for weight in weights]
        self.total = 1.0

    def bet(self, *, happened: bool, null_rate: float, stake: float = 1.0) -> None:
        """Multiply the capital by the outcome of one observation; null_rate in (0, 1), stake in [0, 1]."""
        if self.total >= CAPITAL_MAX:
            return
        chances, null = (self._rates, null_rate) if happened else (self._misses, 1.0 - null_rate)
        if stake == 1.0:
            self._capital = [capital * (chance / null) for capital, chance in zip(self._capital, chances, strict=True)]
        else:
            self._capital = [
                capital * (1.0 + stake * (chance / null - 1.0))
                for capital, chance in zip(self._capital, chances, strict=True)
            ]
        self.total = math.fsum(self._capital)

    def bet_all(self, *, happened: NDArray[np.bool_], null_rate: Array, stake: Array) -> tuple[Array, float]:
        """Bet on each observation in turn, as `bet` does, bit for bit; shapes (n,).

        Returns:
            The total after each, to NEARLY, and the largest of them and of the total before, exactly.
        """
        chance = np.where(happened[:, np.newaxis], self._rates, self._misses)
        gain = chance / np.where(happened, null_rate, 1.0 - null_rate)[:, np.newaxis]
        part = stake[:, np.newaxis]
        factor = np.where(part == 1.0, gain, 1.0 + part * (gain - 1.0))
        totals, self._capital, peak = _play(self._capital, factor)
        self.total = math.fsum(self._capital)
        return totals, peak


def _play(capital: list[float], factor: NDArray[np.float64]) -> tuple[Array, list[float], float]:
    """Multiply capital by one row of factors after the other until betting stops.

    Returns:
        The total after each row, to NEARLY; the last capital, and the largest total, both exactly.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # What comes after the row that stops betting is never used.
        rows = np.multiply.accumulate(np.vstack([capital, factor]), axis=0)
        totals = rows.sum(axis=1)
    for index in np.flatnonzero(~(totals < CAPITAL_MAX * NEARLY)):
        if math.fsum(rows[index]) >= CAPITAL_MAX:
            totals[index:] = totals[index]
            rows = rows[: index + 1]
            break
    so_far = totals[: len(rows)]
    peak = max(math.fsum(rows[index]) for index in np.flatnonzero(so_far >= so_far.max() * NEARLY))
    return totals[1:], rows[-1].tolist(), peak
