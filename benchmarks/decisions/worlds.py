"""Synthetic pairs of latencies with a known truth: the worlds in which decisions are simulated."""

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BURST_RATE = 0.01
BURST_FACTOR = 3.0


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

    `cv` is the coefficient of variation of one request on one prompt; `rho` the lag-1 autocorrelation of its log inside
    a color; `green_factor` multiplies every green latency (+inf: all time out); the dearest prompt costs
    `prompt_spread` times the cheapest; a share `slow_share` of green's requests is multiplied by `slow_factor` besides.
    """

    cv: float = 0.08
    bursts: Bursts = Bursts.ALONE
    cluster_length: float = 3.0
    rho: float = 0.0
    green_factor: float = 1.0
    prompt_spread: float = 8.0
    slow_share: float = 0.0
    slow_factor: float = 3.0

    def history(self, rng: np.random.Generator, count: int) -> Array:
        """Return A/A ratios, shape (count,)."""
        first, second = self._two(rng, count)
        return second / first

    def pairs(self, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Return blue and green latencies, shape (count,) each, in seconds; the cheapest prompt takes one."""
        prompt = np.exp(rng.uniform(0.0, np.log(self.prompt_spread), count))
        first, second = self._two(rng, count)
        blue, green = prompt * first, prompt * second
        slow = rng.random(count) < self.slow_share
        return blue, green * np.where(slow, self.slow_factor, 1.0) * self.green_factor

    def _two(self, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        first, second = self._noise(rng, count), self._noise(rng, count)
        if self.bursts is not Bursts.SHARED:
            return first, second
        bursts = _clusters(rng, 2 * count, self.cluster_length).reshape(count, 2)
        bursts = np.where(rng.random((count, 1)) < 0.5, bursts, bursts[:, ::-1])
        return np.where(bursts[:, 0], BURST_FACTOR * first, first), np.where(
            bursts[:, 1], BURST_FACTOR * second, second
        )

    def _noise(self, rng: np.random.Generator, count: int) -> Array:
        normal = rng.standard_normal(count)
        if self.rho:
            fresh = np.sqrt(1.0 - self.rho**2)
            for index in range(1, count):
                normal[index] = self.rho * normal[index - 1] + fresh * normal[index]
        latency = np.exp(np.sqrt(np.log1p(self.cv**2)) * normal)
        match self.bursts:
            case Bursts.NONE | Bursts.SHARED:
                return latency
            case Bursts.ALONE:
                return np.where(rng.random(count) < BURST_RATE, BURST_FACTOR * latency, latency)
            case Bursts.CLUSTERED:
                return np.where(_clusters(rng, count, self.cluster_length), BURST_FACTOR * latency, latency)
            case _:
                assert_never(self.bursts)


def _clusters(rng: np.random.Generator, count: int, length: float) -> NDArray[np.bool_]:
    """Return a two-state Markov chain with rate BURST_RATE and mean run `length`."""
    stop = 1.0 / length
    start = stop * BURST_RATE / (1.0 - BURST_RATE)
    draws = rng.random(count)
    states = np.empty(count, dtype=np.bool_)
    state = bool(draws[0] < BURST_RATE)
    states[0] = state
    for index in range(1, count):
        state = draws[index] >= stop if state else draws[index] < start
        states[index] = state
    return states
