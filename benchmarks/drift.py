"""How long the drift monitor stays quiet without a change, and how soon it finds one: a simulation.

    python benchmarks/drift.py [--runs 400] [--write docs/drift.md]

Exits 1 when a mean run length without a change, or at a margin exactly, is below the promise.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rollout.stats.detector import DriftDetector, relative
from rollout.stats.margins import STANDARD
from rollout.stats.series import Array

PROMISE = 1000.0
FOLLOWED = 5000
"""A run without alarm is ended here, so that its mean is an underestimate."""

SHIPPED_PROMISE = 10_000.0
DELAY_FOLLOWED = 2000
PROMPTS = 12
SEED = 2026

Noise = Callable[[np.random.Generator, int], Array]


def bursts(luck: np.random.Generator, count: int) -> Array:
    """CV 8%, 1% of requests x3."""
    usual = np.exp(luck.normal(0.0, 0.08, count))
    return np.where(luck.random(count) < 0.01, 3.0 * usual, usual)


def clusters(luck: np.random.Generator, count: int) -> Array:
    """CV 8%; slow requests x3 come in threes, 1% of all."""
    usual = np.exp(luck.normal(0.0, 0.08, count))
    starts = luck.random(count) < 0.01 / 3
    slow = np.convolve(starts, np.ones(3))[:count] > 0
    return np.where(slow, 3.0 * usual, usual)


def correlated(luck: np.random.Generator, count: int) -> Array:
    """CV 8%, autocorrelation 0.3."""
    steps = luck.normal(0.0, 0.08 * math.sqrt(1 - 0.3**2), count)
    values = np.empty(count)
    value = luck.normal(0.0, 0.08)
    for place, step in enumerate(steps):
        value = 0.3 * value + step
        values[place] = value
    return np.exp(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row."""

    name: str
    noise: Noise
    history: int
    ratio: float
    quiet: int = 0
    """Requests before the change."""


QUIET = [
    Case(name=f"{name}, x{ratio:g}", noise=noise, history=history, ratio=ratio)
    for name, noise in (("independent bursts", bursts), ("clustered bursts", clusters), ("rho 0.3", correlated))
    for ratio in (1.0, 1.05)
    for history in (65, 300)
]
DRIFTED = [
    Case(name=f"x{ratio:g}{f' after {quiet} quiet requests' if quiet else ''}", noise=bursts, history=history,
         ratio=ratio, quiet=quiet)
    for ratio, quiet in ((1.1, 0), (1.2, 0), (1.3, 0), (1.3, 1000), (1.5, 0), (2.0, 0), (math.inf, 0))
    for history in (65, 300)
]  # fmt: skip


def run_length(luck: np.random.Generator, case: Case, *, promise: float, followed: int) -> int | None:
    """Return after how many requests from the change on an alarm comes; None where it came before the change."""
    lasting = 1.0 + np.arange(PROMPTS)
    then = case.noise(luck, case.history)
    stored: dict[str, list[float]] = {}
    for place, value in enumerate(then):
        stored.setdefault(str(place % PROMPTS), []).append(float(value * lasting[place % PROMPTS]))
    typical = {prompt: float(np.median(values)) for prompt, values in stored.items()}
    detector = DriftDetector(
        baseline=relative(stored), margins=STANDARD, failure_rate_max=0.01, false_alarm_requests=promise
    )
    values = case.noise(luck, case.quiet + followed)
    for number, value in enumerate(values):
        place = number % PROMPTS
        ratio = 1.0 if number < case.quiet else case.ratio
        detector.hear(float(value * ratio * lasting[place]) / typical[str(place)])
        if detector.alarm:
            return number + 1 - case.quiet if number >= case.quiet else None
    return followed


def main() -> int:
    """Run the simulation, print the tables, and write them where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    kept, lines = (
        True,
        [
            f"| no change beyond the margin, promise {PROMISE:.0f} | baseline | mean requests to an alarm, at least |",
            "|---|---|---|",
        ],
    )
    for place, case in enumerate(QUIET):
        luck = np.random.default_rng([SEED, place])
        found = [run_length(luck, case, promise=PROMISE, followed=FOLLOWED) for _ in range(arguments.runs)]
        mean = float(np.mean([one for one in found if one is not None]))
        kept = kept and mean >= PROMISE
        lines.append(f"| {case.name} | {case.history} | {mean:.0f} {'' if mean >= PROMISE else 'BROKEN'} |")
    lines += [
        "",
        f"| drift, promise {SHIPPED_PROMISE:.0f} | baseline | requests to an alarm: median | p99 | mean |",
        "|---|---|---|---|---|",
    ]
    for place, case in enumerate(DRIFTED):
        luck = np.random.default_rng([SEED, 100 + place])
        found = [
            run_length(luck, case, promise=SHIPPED_PROMISE, followed=DELAY_FOLLOWED) for _ in range(arguments.runs)
        ]
        delays = np.array([one for one in found if one is not None])
        told = [float(np.quantile(delays, q)) for q in (0.5, 0.99)]
        shown = [f"over {DELAY_FOLLOWED}" if one >= DELAY_FOLLOWED else f"{one:.0f}" for one in told]
        lines.append(f"| {case.name} | {case.history} | {shown[0]} | {shown[1]} | {delays.mean():.0f} |")
    detector = DriftDetector(
        baseline=np.ones(300), margins=STANDARD, failure_rate_max=0.01, false_alarm_requests=SHIPPED_PROMISE
    )
    start = time.perf_counter()
    for _ in range(20_000):
        detector.hear(1.0)
    each_us = (time.perf_counter() - start) / 20_000 * 1e6
    lines += ["", f"{arguments.runs} runs per row; one request costs the detector {each_us:.0f} microseconds."]
    table = "\n".join(lines)
    print(table)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    if arguments.write:
        put(arguments.write, table)
    return 0 if kept else 1


def put(path: Path, table: str) -> None:
    """Put the tables between the document's markers."""
    begin, end = "<!-- table: benchmarks/drift.py -->", "<!-- end -->"
    head, rest = path.read_text().split(begin)
    _, tail = rest.split(end)
    path.write_text(f"{head}{begin}\n{table}\n{end}{tail}")


if __name__ == "__main__":
    sys.exit(main())
