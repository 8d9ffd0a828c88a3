"""Synthetic pairs of latencies with a known truth: the worlds in which decisions are simulated."""

from dataclasses import dataclass
from enum import StrEnum, auto

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BURST_RATE = 0.01
BURST_FACTOR = 3.0
CLUSTER_LENGTH = 3.0
"""Mean number of neighbouring requests of one color that a clustered burst slows."""


class Bursts(StrEnum):
    """How the slow requests of a sound release come."""

    NONE = auto()
    ALONE = auto()
    CLUSTERED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Noise common to blue and green, and what green does to a request.

    `cv` is the coefficient of variation of one request on one prompt; `rho` the lag-1 autocorrelation of its log inside
    a color; `green_factor` multiplies every green latency (+inf: all time out); the dearest prompt costs
    `prompt_spread` times the cheapest; a share `slow_share` of green's requests is multiplied by `slow_factor` besides.
    """

    cv: float = 0.08
    bursts: Bursts = Bursts.ALONE
    rho: float = 0.0
    green_factor: float = 1.0
    prompt_spread: float = 8.0
    slow_share: float = 0.0
    slow_factor: float = 3.0

    def history(self, rng: np.random.Generator, count: int) -> Array:
        """Return A/A ratios, shape (count,)."""
        return self._noise(rng, count) / self._noise(rng, count)

    def pairs(self, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Return blue and green latencies, shape (count,) each, in seconds; the cheapest prompt takes one."""
        prompt = np.exp(rng.uniform(0.0, np.log(self.prompt_spread), count))
        blue, green = prompt * self._noise(rng, count), prompt * self._noise(rng, count)
        slow = rng.random(count) < self.slow_share
        return blue, green * np.where(slow, self.slow_factor, 1.0) * self.green_factor

    def _noise(self, rng: np.random.Generator, count: int) -> Array:
        normal = rng.standard_normal(count)
        if self.rho:
            fresh = np.sqrt(1.0 - self.rho**2)
            for index in range(1, count):
                normal[index] = self.rho * normal[index - 1] + fresh * normal[index]
        latency = np.exp(np.sqrt(np.log1p(self.cv**2)) * normal)
        match self.bursts:
            case Bursts.NONE:
                return latency
            case Bursts.ALONE:
                return np.where(rng.random(count) < BURST_RATE, BURST_FACTOR * latency, latency)
            case Bursts.CLUSTERED:
                return np.where(_clusters(rng, count), BURST_FACTOR * latency, latency)


def _clusters(rng: np.random.Generator, count: int) -> NDArray[np.bool_]:
    """Return a two-state Markov chain with rate BURST_RATE and mean run CLUSTER_LENGTH."""
    stop = 1.0 / CLUSTER_LENGTH
    start = stop * BURST_RATE / (1.0 - BURST_RATE)
    draws = rng.random(count)
    states = np.empty(count, dtype=np.bool_)
    state = bool(draws[0] < BURST_RATE)
    states[0] = state
    for index in range(1, count):
        state = draws[index] >= stop if state else draws[index] < start
        states[index] = state
    return states
