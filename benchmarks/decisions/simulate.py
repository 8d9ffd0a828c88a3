"""Simulate decisions and compare them with the figures that the method must reach.

Run: python benchmarks/decisions/simulate.py --runs 2000
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from peers import kayenta_rejects
from worlds import Bursts, World

from rollout.errors import EvidenceError
from rollout.model.verdict import Outcome
from rollout.stats.margins import STANDARD, STRICT, Margins
from rollout.stats.paired import Estimate, PairedTest

AA_PAIRS = 300
BUDGET = 400
SEED = 71
UPDATES_TIMED = 400
PEER_COUNTS = (50, 100)
PEER_RUNS_MAX = 500

MEDIAN_ONLY = Margins(
    p50_ratio_max=1.05, tail_quantile=0.95, tail_ratio_max=50.0, slow_factor=50.0, slow_rate_promote=0.1
)
TAIL_ONLY = Margins(
    p50_ratio_max=50.0, tail_quantile=0.95, tail_ratio_max=1.10, slow_factor=50.0, slow_rate_promote=0.1
)
SLOW_ONLY = Margins(p50_ratio_max=50.0, tail_quantile=0.95, tail_ratio_max=50.0, slow_rate_promote=0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One simulated rollout; `refused` where the A/A history itself was not accepted, which is INCONCLUSIVE."""

    outcome: Outcome
    pairs: int
    p50_covered: bool
    tail_covered: bool
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number computed from all runs of a case, and its limit; NaN where the design sets none."""

    name: str
    measure: Callable[[list[Run]], float]
    limit: float = math.nan
    at_least: bool = False

    def row(self, runs: list[Run]) -> tuple[str, str, str, str]:
        """Return figure, target, measured, verdict."""
        measured = self.measure(runs)
        if math.isnan(self.limit):
            return self.name, "", f"{measured:.4g}", ""
        reached = measured >= self.limit if self.at_least else measured <= self.limit
        sign = ">=" if self.at_least else "<="
        return self.name, f"{sign} {self.limit:g}", f"{measured:.4g}", "pass" if reached else "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A world, the margins to judge it by, and the figures to reach in it.

    `truth` is the true ratio for which the intervals at the stopping time are checked; 0 leaves them out.
    """

    name: str
    world: World
    margins: Margins = STRICT
    block_pairs: int = 1
    truth: float = 0.0
    figures: tuple[Figure, ...]


def share(outcome: Outcome) -> Callable[[list[Run]], float]:
    """Measure the percentage of runs with this outcome."""
    return lambda runs: 100.0 * float(np.mean([run.outcome is outcome for run in runs]))


def pairs_to(outcome: Outcome, quantile: float) -> Callable[[list[Run]], float]:
    """Measure a quantile of the pairs until this outcome; +inf for runs that never reached it."""

    def measure(runs: list[Run]) -> float:
        pairs = [run.pairs if run.outcome is outcome else np.inf for run in runs]
        return float(np.quantile(pairs, quantile, method="inverted_cdf"))

    return measure


def mean_pairs_of_50(runs: list[Run]) -> float:
    """Measure the mean number of pairs against the 50 that a Mann-Whitney judge always takes."""
    return float(np.mean([run.pairs for run in runs])) / 50.0


CONVICTED_IN_3 = Figure(name="pairs, max", measure=pairs_to(Outcome.BREACH, 1.0), limit=3)
REFUSED = Figure(name="history refused %", measure=lambda r: 100 * float(np.mean([x.refused for x in r])))
FALSE_PROMOTE = Figure(name="false promote %", measure=share(Outcome.PASS), limit=1.0)
P50_COVERED = Figure(
    name="p50 interval covers %",
    measure=lambda r: 100 * float(np.mean([x.p50_covered for x in r])),
    limit=98,
    at_least=True,
)
TAIL_COVERED = Figure(
    name="tail interval covers %",
    measure=lambda r: 100 * float(np.mean([x.tail_covered for x in r])),
    limit=98,
    at_least=True,
)


def false_rollback(limit: float) -> Figure:
    """Return the figure for rollbacks of a sound green."""
    return Figure(name="false rollback %", measure=share(Outcome.BREACH), limit=limit)


def breach_pairs(name: str, quantile: float, limit: float) -> Figure:
    """Return the figure for the pairs until BREACH."""
    return Figure(name=f"pairs, {name}", measure=pairs_to(Outcome.BREACH, quantile), limit=limit)


def breached(limit: float) -> Figure:
    """Return the figure for the percentage convicted within the budget."""
    return Figure(name="convicted %", measure=share(Outcome.BREACH), limit=limit, at_least=True)


def promoted(median: float) -> tuple[Figure, ...]:
    """Return the figures for the promotion of a sound green."""
    return (
        Figure(name="pairs, median", measure=pairs_to(Outcome.PASS, 0.5), limit=median),
        Figure(name="promoted %", measure=share(Outcome.PASS), limit=95.0, at_least=True),
        false_rollback(1.0),
    )


def of_50(limit: float) -> Figure:
    """Return the figure for mean pairs over 50."""
    return Figure(name="mean pairs / 50", measure=mean_pairs_of_50, limit=limit)


CASES = (
    Case(name="A/A", world=World(), truth=1.0, figures=(false_rollback(0.25), P50_COVERED, TAIL_COVERED)),
    Case(name="A/A, standard", world=World(), margins=STANDARD, figures=(false_rollback(0.25),)),
    # The design does not say what clusters; the three readings go from kind to harsh.
    Case(name="A/A, clusters of 3 in time", world=World(bursts=Bursts.SHARED), figures=(false_rollback(1.0), REFUSED)),
    Case(
        name="A/A, clusters of 2 in a color",
        world=World(bursts=Bursts.CLUSTERED, cluster_length=2.0),
        figures=(false_rollback(1.0), REFUSED),
    ),
    Case(
        name="A/A, clusters of 3 in a color",
        world=World(bursts=Bursts.CLUSTERED),
        figures=(false_rollback(1.0), REFUSED),
    ),
    Case(name="A/A, rho 0.3", world=World(rho=0.3), figures=(false_rollback(1.0),)),
    Case(name="at the margin: all x1.05", world=World(green_factor=1.05, bursts=Bursts.NONE), figures=(FALSE_PROMOTE,)),
    Case(name="median alone at x1.05", world=World(green_factor=1.05), margins=MEDIAN_ONLY, figures=(FALSE_PROMOTE,)),
    Case(name="tail alone at x1.10", world=World(green_factor=1.10), margins=TAIL_ONLY, figures=(FALSE_PROMOTE,)),
    Case(
        name="slow rate alone at 5%",
        world=World(cv=0.03, bursts=Bursts.NONE, slow_share=0.05),
        margins=SLOW_ONLY,
        figures=(FALSE_PROMOTE,),
    ),
    Case(name="x10", world=World(green_factor=10.0), figures=(CONVICTED_IN_3, of_50(0.06))),
    Case(name="x30", world=World(green_factor=30.0), figures=(CONVICTED_IN_3,)),
    Case(name="timeouts", world=World(green_factor=np.inf), figures=(CONVICTED_IN_3,)),
    Case(name="x10, standard", world=World(green_factor=10.0), margins=STANDARD, figures=(CONVICTED_IN_3,)),
    Case(name="x2", world=World(green_factor=2.0), figures=(breach_pairs("p99", 0.99, 5),)),
    # Two bursts of blue among the first five pairs hide any doubling, so "every run" is asked where there are none.
    Case(
        name="x2, no bursts",
        world=World(green_factor=2.0, bursts=Bursts.NONE),
        figures=(breach_pairs("max", 1.0, 5),),
    ),
    Case(
        name="x1.5",
        world=World(green_factor=1.5),
        figures=(breach_pairs("median", 0.5, 4), breach_pairs("p99", 0.99, 12), of_50(0.10)),
    ),
    Case(
        name="x1.2",
        world=World(green_factor=1.2),
        truth=1.2,
        figures=(
            breach_pairs("median", 0.5, 20),
            breach_pairs("p99", 0.99, 45),
            of_50(0.40),
            P50_COVERED,
            TAIL_COVERED,
        ),
    ),
    Case(name="x1.10", world=World(green_factor=1.10), figures=(breached(99.0), breach_pairs("median", 0.5, 100))),
    Case(
        name="10% of requests x3",
        world=World(slow_share=0.1),
        figures=(breached(99.0), breach_pairs("median", 0.5, 100)),
    ),
    Case(name="promote, CV 3%", world=World(cv=0.03, bursts=Bursts.NONE), margins=STANDARD, figures=promoted(60)),
    Case(name="promote, CV 8%", world=World(bursts=Bursts.NONE), margins=STANDARD, figures=promoted(120)),
)


def simulate(seed: int, case_number: int, run_number: int) -> Run:
    """Simulate one rollout of one of CASES with a fresh A/A history; equal arguments give equal runs."""
    case = CASES[case_number]
    rng = np.random.default_rng((seed, case_number, run_number))
    try:
        history = case.world.history(rng, AA_PAIRS)
        test = PairedTest(aa_ratio=history, margins=case.margins, block_pairs=case.block_pairs)
    except EvidenceError:
        return Run(outcome=Outcome.INCONCLUSIVE, pairs=0, p50_covered=True, tail_covered=True, refused=True)
    blue, green = case.world.pairs(rng, BUDGET)
    pairs = 0
    for blue_s, green_s in zip(blue.tolist(), green.tolist(), strict=True):
        pairs += 1
        if test.update(blue_s=blue_s, green_s=green_s) is not Outcome.INCONCLUSIVE:
            break
    if not case.truth:
        return Run(outcome=test.outcome, pairs=pairs, p50_covered=True, tail_covered=True)
    judgement = test.judgement()
    covered = [
        isinstance(estimate, Estimate) and estimate.bounds.lower <= case.truth <= estimate.bounds.upper
        for estimate in (judgement.p50_ratio, judgement.tail_ratio)
    ]
    return Run(outcome=test.outcome, pairs=pairs, p50_covered=covered[0], tail_covered=covered[1])


def update_cost_us() -> float:
    """Return the median cost of one update in microseconds."""
    rng = np.random.default_rng(SEED)
    world = World()
    test = PairedTest(aa_ratio=world.history(rng, AA_PAIRS), margins=STRICT, alpha=1e-12, beta=1e-12)
    blue, green = world.pairs(rng, UPDATES_TIMED)
    costs = []
    for blue_s, green_s in zip(blue.tolist(), green.tolist(), strict=True):
        started = time.perf_counter()
        test.update(blue_s=blue_s, green_s=green_s)
        costs.append(time.perf_counter() - started)
    return 1e6 * float(np.median(costs))


def peer_rejections(world: World, *, count: int, runs: int) -> float:
    """Return the percentage of canaries of `count` requests per color that the peer's judge rejects."""
    rng = np.random.default_rng((SEED, count))
    rejected = 0
    for _ in range(runs):
        blue, green = world.pairs(rng, count)
        rejected += kayenta_rejects(control=blue, experiment=green)
    return 100.0 * rejected / runs


def print_peer(runs: int) -> None:
    """Print what the Mann-Whitney judge does on raw latencies and on latencies divided by the prompt's own cost."""
    for factor in (1.0, 1.03, 1.2, 1.5):
        for name, spread in (("raw", 8.0), ("normalized", 1.0)):
            world = World(green_factor=factor, prompt_spread=spread)
            shares = [f"{peer_rejections(world, count=count, runs=runs):.1f}" for count in PEER_COUNTS]
            print_row((f"Mann-Whitney, {name}, x{factor}", "rejected % at n = 50, 100", "", ", ".join(shares), "peer"))


def print_row(cells: tuple[str, ...]) -> None:
    """Print one row of the table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> int:
    """Simulate each case, print the table and return 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="simulated rollouts per case")
    parser.add_argument("--seed", type=int, default=SEED, help="weights were tuned on other seeds than the default")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="simulate only the cases whose name holds this text")
    arguments = parser.parse_args()
    missed = 0
    print_row(("case", "figure", "target", "measured", ""))
    print_row(("---",) * 5)
    with ProcessPoolExecutor(arguments.processes) as pool:
        for number, case in enumerate(CASES):
            if arguments.only not in case.name:
                continue
            runs = list(pool.map(partial(simulate, arguments.seed, number), range(arguments.runs), chunksize=25))
            for figure in case.figures:
                row = figure.row(runs)
                missed += row[-1] == "FAIL"
                print_row((case.name, *row))
    if not arguments.only:
        print_peer(min(arguments.runs, PEER_RUNS_MAX))
    cost = update_cost_us()
    missed += cost > 100.0
    print_row(("one update", "microseconds", "<= 100", f"{cost:.1f}", "pass" if cost <= 100.0 else "FAIL"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
