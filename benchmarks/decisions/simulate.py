"""Simulate decisions, compare them with the figures that the method must reach, and with the judges of peers.

Run: python benchmarks/decisions/simulate.py [--runs 2000] [--write docs/decisions.md]

Exit status 1 when a figure is missed. With --write the tables go between the document's markers and the plots into the
folder img beside it.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from cases import AA_PAIRS, BUDGET, DESIGN_CASES, OTHER_CASES, Case, Row
from peers import BOOTSTRAP_PAIRS, PeerVerdicts, bootstrap, group_sequential, mann_whitney
from vectorized import OUTCOMES, Verdicts, judge_runs
from worlds import Array, World

from rollout.model.verdict import Outcome
from rollout.stats.margins import STRICT
from rollout.stats.noise import block_pairs_for
from rollout.stats.paired import Estimate, PairedTest, judge_pairs

SEED = 71
"""The published seed; weights were tuned on others."""

UPDATES_TIMED = 400
STORED_PAIRS = 100_000
TIMES = 3
"""The least of so many timings is taken: whatever else runs on the machine can only add."""

PEER_COUNTS = (50, 100)
CLIENT_TIMEOUT_S = 60.0
"""What a failed request is recorded as for judges that know only finite latencies."""

STREAMED_RUNS = 100
"""Runs of each case that are decided by the streaming form too."""

CASES = DESIGN_CASES + OTHER_CASES


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the runs of one case see: A/A ratios (runs, AA_PAIRS), the rest (runs, BUDGET) in seconds."""

    aa_ratio: Array
    prompt_s: Array
    blue_s: Array
    green_s: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One of CASES, by number, as decided by this product and by its peers, in the order of PEER_NAMES."""

    number: int
    verdicts: Verdicts
    peers: tuple[PeerVerdicts, ...]
    rows: tuple[Row, ...]

    @property
    def case(self) -> Case:
        """The case itself, which cannot travel between processes."""
        return CASES[self.number]

    @property
    def wrong(self) -> tuple[float, ...]:
        """Wrong verdicts in percent, of this product and of each peer."""
        return tuple(self.case.wrong(judge.share) for judge in (self.verdicts, *self.peers))


PEER_NAMES = (
    *(f"Mann-Whitney {count}" for count in PEER_COUNTS),
    *(f"Mann-Whitney {count}, normalized" for count in PEER_COUNTS),
    f"bootstrap {BOOTSTRAP_PAIRS}",
    "group-sequential",
)


def sample_of(case: Case, *, runs: int, seed: tuple[int, ...]) -> Sample:
    """Draw the runs of a case; equal arguments give equal runs."""
    rng = np.random.default_rng(seed)
    aa_ratio = case.world.history(rng, runs=runs, count=AA_PAIRS)
    prompt, blue, green = case.world.pairs(rng, runs=runs, count=BUDGET + case.excluded_pairs)
    rest = slice(case.excluded_pairs, None)
    return Sample(aa_ratio=aa_ratio, prompt_s=prompt[:, rest], blue_s=blue[:, rest], green_s=green[:, rest])


def verdicts_of(case: Case, sample: Sample) -> Verdicts:
    """Decide every run by the vectorised form."""
    return judge_runs(
        aa_ratio=sample.aa_ratio,
        blue_s=sample.blue_s,
        green_s=sample.green_s,
        margins=case.margins,
        choose_blocks=case.choose_blocks,
    )


def stream(case: Case, sample: Sample, run: int) -> tuple[Outcome, int, tuple[bool, bool]]:
    """Decide one run by the product's own streaming form.

    Returns:
        Outcome, pairs, and whether the intervals of the median and the tail hold the true ratio.
    """
    blocks = block_pairs_for(sample.aa_ratio[run]) if case.choose_blocks else 1
    test = PairedTest(aa_ratio=sample.aa_ratio[run], margins=case.margins, block_pairs=blocks)
    pairs = 0
    for blue_s, green_s in zip(sample.blue_s[run].tolist(), sample.green_s[run].tolist(), strict=True):
        pairs += 1
        if test.update(blue_s=blue_s, green_s=green_s) is not Outcome.INCONCLUSIVE:
            break
    if not case.location:
        return test.outcome, pairs, (True, True)
    judgement = test.judgement()
    median, tail = (
        isinstance(estimate, Estimate) and estimate.bounds.lower <= case.location <= estimate.bounds.upper
        for estimate in (judgement.p50_ratio, judgement.tail_ratio)
    )
    return test.outcome, pairs, (median, tail)


def streamed_rows(case: Case, sample: Sample, verdicts: Verdicts) -> Iterator[Row]:
    """Hold the streaming form against the vectorised one, and its intervals against the truth."""
    runs = np.flatnonzero(~verdicts.refused)
    runs = runs if case.location else runs[:STREAMED_RUNS]
    streamed = [stream(case, sample, int(run)) for run in runs]
    differing = sum(
        (outcome, pairs) != (OUTCOMES[verdicts.outcome[run]], verdicts.pairs[run])
        for run, (outcome, pairs, _) in zip(runs, streamed, strict=True)
    )
    yield Row(case=case.name, figure=f"streaming differs, of {len(runs)}", measured=differing, limit=0)
    if case.location:
        for index, name in enumerate(("p50", "tail")):
            share = 100.0 * float(np.mean([covered[index] for *_, covered in streamed]))
            yield Row(case=case.name, figure=f"{name} interval covers %", measured=share, limit=98.0, at_least=True)


def peers_of(case: Case, sample: Sample) -> tuple[PeerVerdicts, ...]:
    """Decide every run by the judges of peers, in the order of PEER_NAMES."""
    blue, green = (np.minimum(latency, CLIENT_TIMEOUT_S) for latency in (sample.blue_s, sample.green_s))
    log_ratio = np.log(sample.green_s / sample.blue_s)
    log_margin = math.log(case.margins.p50_ratio_max)
    return (
        *(mann_whitney(control=blue[:, :count], experiment=green[:, :count]) for count in PEER_COUNTS),
        *(
            mann_whitney(control=(blue / sample.prompt_s)[:, :count], experiment=(green / sample.prompt_s)[:, :count])
            for count in PEER_COUNTS
        ),
        bootstrap(log_ratio, log_margin=log_margin),
        group_sequential(log_ratio, log_margin=log_margin),
    )


def simulate(number: int, *, runs: int, seed: int) -> Result:
    """Draw and decide every run of one of CASES."""
    case = CASES[number]
    sample = sample_of(case, runs=runs, seed=(seed, number))
    verdicts = verdicts_of(case, sample)
    figures = tuple(figure.row(case.name, verdicts) for figure in case.figures)
    return Result(
        number=number,
        verdicts=verdicts,
        peers=peers_of(case, sample),
        rows=(*figures, *streamed_rows(case, sample, verdicts)),
    )


def cost_rows() -> Iterator[Row]:
    """Measure what one update costs, and what many stored pairs do."""
    rng = np.random.default_rng(SEED)
    world = World()
    history = world.history(rng, runs=1, count=AA_PAIRS)[0]
    _, blue, green = (series[0] for series in world.pairs(rng, runs=1, count=UPDATES_TIMED))
    test = PairedTest(aa_ratio=history, margins=STRICT, alpha=1e-12, beta=1e-12)
    costs = []
    for blue_s, green_s in zip(blue.tolist(), green.tolist(), strict=True):
        started = time.perf_counter()
        test.update(blue_s=blue_s, green_s=green_s)
        costs.append(time.perf_counter() - started)
    yield Row(case="one update", figure="microseconds", measured=1e6 * float(np.median(costs)), limit=100.0)
    # A green between the margins is one that no number of pairs decides.
    _, blue, green = (series[0] for series in World(green_factor=1.045).pairs(rng, runs=1, count=STORED_PAIRS))
    seconds = []
    for _ in range(TIMES):
        started = time.perf_counter()
        judgement = judge_pairs(
            blue, green, aa_ratio=history, profile="strict", alpha=1e-300, beta=1e-300, budget=STORED_PAIRS
        )
        seconds.append(time.perf_counter() - started)
    if judgement.pairs_used != STORED_PAIRS:
        raise AssertionError(f"the test stopped after {judgement.pairs_used} pairs, so nothing was measured")
    yield Row(case=f"{STORED_PAIRS:,} stored pairs", figure="seconds", measured=min(seconds), limit=2.0)


def figures_table(rows: list[Row]) -> list[tuple[str, ...]]:
    """Return the table of figures with targets."""
    return [("case", "figure", "target", "measured", ""), ("---",) * 5, *(row.cells for row in rows)]


def peers_table(results: list[Result]) -> list[tuple[str, ...]]:
    """Return wrong verdicts in percent, and mean pairs, of this product and of each peer."""
    head = ("case", "wrong is", "rollout", *PEER_NAMES)
    table = [head, ("---",) * len(head)]
    for result in results:
        pairs = (judge.pairs.mean() for judge in (result.verdicts, *result.peers))
        cells = (f"{wrong:.3g}% at {mean:.3g}" for wrong, mean in zip(result.wrong, pairs, strict=True))
        table.append((result.case.name, result.case.wrong_name, *cells))
    return table


def print_table(table: list[tuple[str, ...]]) -> str:
    """Print a Markdown table and return it."""
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in table)
    print(text, flush=True)
    return text


def put(path: Path, *, name: str, text: str) -> None:
    """Put text between a document's markers of this name."""
    begin, end = f"<!-- {name}: benchmarks/decisions -->", "<!-- end -->"
    head, rest = path.read_text(encoding="utf-8").split(begin)
    _, tail = rest.split(end, 1)
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def main() -> int:
    """Simulate each case, print the tables and return 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated rollouts per case")
    parser.add_argument("--seed", type=int, default=SEED, help="the weights were tuned on other seeds than the default")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="simulate only the cases whose name holds this text")
    parser.add_argument("--write", type=Path, help="document to put the tables into; needs every case and matplotlib")
    arguments = parser.parse_args()
    started = time.perf_counter()
    numbers = [number for number, case in enumerate(CASES) if arguments.only in case.name]
    with ProcessPoolExecutor(arguments.processes) as pool:
        results = list(pool.map(partial(simulate, runs=arguments.runs, seed=arguments.seed), numbers))
    rows = [row for result in results for row in result.rows] + list(cost_rows())
    figures = print_table(figures_table(rows))
    print()
    peers = print_table(peers_table(results))
    missed = [row for row in rows if row.missed]
    minutes = (time.perf_counter() - started) / 60.0
    took = f"{arguments.runs} runs of {len(results)} cases, {minutes:.1f} minutes, {len(missed)} figures missed"
    print(f"\n{took}")
    if arguments.write:
        import plots  # noqa: PLC0415 - matplotlib is only needed here.

        put(arguments.write, name="figures", text=figures)
        put(arguments.write, name="peers", text=peers)
        put(arguments.write, name="size", text=f"Seed {arguments.seed}: {took}.")
        images = arguments.write.parent / "img"
        plots.draw_pairs({one.case.name: one.verdicts for one in results}, path=images / "decisions-pairs.svg")
        plots.draw_wrong(
            {f"{one.case.name}: {one.case.wrong_name}": one.wrong for one in results},
            judges=("rollout", *PEER_NAMES),
            path=images / "decisions-wrong.svg",
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
