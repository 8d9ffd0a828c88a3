"""Synthetic pairs of latencies with a known truth: the worlds in which decisions are simulated."""

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BURST_RATE = 0.01
BURST_FACTOR = 3.0
SWING_PAIRS = 100


class Bursts(StrEnum):
    """How the slow requests of a sound release come.

    CLUSTERED: in runs inside each color, independent of the other. SHARED: in runs of time, whatever is sent then.
    """

    NONE = auto()
    ALONE = auto()
    CLUSTERED = auto()
    SHARED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Noise common to blue and green, and what green does to a request.

    Attributes:
        cv: Coefficient of variation of one request on one prompt.
        bursts: How the slow requests of a sound release come.
        cluster_length: Mean length of a run of slow requests.
        rho: Lag-1 autocorrelation of the log latency inside a color.
        swing: Amplitude of the log of a factor common to both colors, a sine over SWING_PAIRS pairs.
        prompt_spread: The dearest prompt costs this many times the cheapest.
        green_factor: Multiplies every green latency; +inf: all time out.
        slow_share: This share of green's requests is multiplied by slow_factor besides.
        slow_factor: See slow_share.
        green_cold: This many of green's first requests take 5 times as long.
    """

    cv: float = 0.08
    bursts: Bursts = Bursts.ALONE
    cluster_length: float = 3.0
    rho: float = 0.0
    swing: float = 0.0
    prompt_spread: float = 8.0
    green_factor: float = 1.0
    slow_share: float = 0.0
    slow_factor: float = 3.0
    green_cold: int = 0

    def history(self, rng: np.random.Generator, *, runs: int, count: int) -> Array:
        """Return A/A ratios, shape (runs, count)."""
        first, second = self._two(rng, runs, count)
        return second / first

    def pairs(self, rng: np.random.Generator, *, runs: int, count: int) -> tuple[Array, Array, Array]:
        """Return the prompt's own cost and the latencies of blue and green in seconds, shape (runs, count) each."""
        prompt = np.exp(rng.uniform(0.0, np.log(self.prompt_spread), (runs, count)))
        first, second = self._two(rng, runs, count)
        slow = rng.random((runs, count)) < self.slow_share
        green = second * np.where(slow, self.slow_factor, 1.0) * self.green_factor
        green[:, : self.green_cold] *= 5.0
        return prompt, prompt * first, prompt * green

    def _two(self, rng: np.random.Generator, runs: int, count: int) -> tuple[Array, Array]:
        colors = [self._noise(rng, runs, count) for _ in range(2)]
        green_first = rng.random((runs, count)) < 0.5
        if self.bursts is Bursts.SHARED:
            bursts = _clusters(rng, runs, 2 * count, self.cluster_length).reshape(runs, count, 2)
            early, late = bursts[..., 0], bursts[..., 1]
            colors[0] = np.where(np.where(green_first, late, early), BURST_FACTOR * colors[0], colors[0])
            colors[1] = np.where(np.where(green_first, early, late), BURST_FACTOR * colors[1], colors[1])
        if self.swing:
            position = np.arange(count) + 0.5 * np.stack([green_first, ~green_first])
            colors = list(colors * np.exp(self.swing * np.sin(2.0 * np.pi * position / SWING_PAIRS)))
        return colors[0], colors[1]

    def _noise(self, rng: np.random.Generator, runs: int, count: int) -> Array:
        normal = rng.standard_normal((runs, count))
        if self.rho:
            fresh = np.sqrt(1.0 - self.rho**2)
            for index in range(1, count):
                normal[:, index] = self.rho * normal[:, index - 1] + fresh * normal[:, index]
        latency = np.exp(np.sqrt(np.log1p(self.cv**2)) * normal)
        match self.bursts:
            case Bursts.NONE | Bursts.SHARED:
                return latency
            case Bursts.ALONE:
                burst = rng.random((runs, count)) < BURST_RATE
            case Bursts.CLUSTERED:
                burst = _clusters(rng, runs, count, self.cluster_length)
            case _:
                assert_never(self.bursts)
        return np.where(burst, BURST_FACTOR * latency, latency)


def _clusters(rng: np.random.Generator, runs: int, count: int, length: float) -> NDArray[np.bool_]:
    """Return two-state Markov chains with rate BURST_RATE and mean run `length`, shape (runs, count)."""
    stop = 1.0 / length
    start = stop * BURST_RATE / (1.0 - BURST_RATE)
    draws = rng.random((runs, count))
    states = draws < BURST_RATE
    for index in range(1, count):
        states[:, index] = np.where(states[:, index - 1], draws[:, index] >= stop, draws[:, index] < start)
    return states
