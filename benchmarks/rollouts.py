"""How often a rollout is right, after how many pairs, and whether the forecast was: real rollouts of the examples.

    python benchmarks/rollouts.py [--times 20] [--only good,parallel] [--write docs/rollouts.md]

Every rollout is one `rollout promote` against real servers behind a real Envoy, with policies/local.yaml, in one case
with a narrower margin of the median. The incumbent is calibrated first, and what its history foretells for the slowdown
that was then measured stands beside the pairs that were taken. Exits 1 when a good release was rolled back, a bad one
was not, or a forecast was off by more than a factor of 1.5.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from controller import prepare, release

from rollout.cli.files import LoadedStack, load_policy, load_prompts, load_stack
from rollout.cli.forecast import costed
from rollout.control.standing import standing
from rollout.evidence.baselines import BaselineStore

FORECAST_FACTOR = 1.5
GROSS_PAIRS = 5
"""A verdict within so few pairs is no matter of forecasting: a single pair more or less is a factor of its own."""

NARROW = {"p50_ratio_max": 1.05, "pairs_max": 400}
"""The margin and the budget of the strict and the standard policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One release under one policy; `share` of --times is how often it is rolled out."""

    release: str
    ending: str
    share: float = 1.0
    latency: dict[str, float] = field(default_factory=dict)
    foretold: bool = True

    @property
    def name(self) -> str:
        """What --only and the table call it."""
        return f"{self.release} x{self.latency['p50_ratio_max']}" if self.latency else self.release


CASES = (
    Case(release="good", ending="promoted", share=1.5),
    Case(release="unoptimised", ending="rolled back"),
    Case(release="session-per-request", ending="rolled back"),
    Case(release="parallel", ending="rolled back"),
    Case(release="wrong-picture", ending="rolled back", foretold=False),
    Case(release="arena-off", ending="rolled back", latency=NARROW),
)


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the rollouts of one case; `foretold` is None where nothing was."""

    endings: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    foretold: float | None = None

    @property
    def effect(self) -> float:
        """The slowdown of the median that was measured, over all rollouts."""
        return statistics.median(self.ratios)

    @property
    def off_by(self) -> float:
        """The factor between the pairs foretold and taken; 1 where nothing was foretold or the verdict was gross."""
        taken = statistics.median(self.pairs)
        if self.foretold is None or max(taken, self.foretold) <= GROSS_PAIRS:
            return 1.0
        return max(taken / self.foretold, self.foretold / taken)


def main() -> int:
    """Run the rollouts, print the table, and write it where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--only", default=",".join(one.name for one in CASES))
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    cases = [one for one in CASES if one.name in wanted]
    with tempfile.TemporaryDirectory() as folder:
        stack = prepare(Path(folder))
        try:
            promote(stack, "blue", "--bootstrap")
            run(stack, "calibrate", expect={0, 4})
            tallies = {one.name: measured(stack, one, round(one.share * arguments.times)) for one in cases}
        finally:
            run(stack, "teardown", "--yes", expect={0})
    table = "\n".join(rows(tallies))
    print(table)
    if arguments.write:
        put(arguments.write, table)
    right = all(set(tallies[one.name].endings) == {one.ending} for one in cases)
    foreseen = all(one.off_by <= FORECAST_FACTOR for one in tallies.values())
    return 0 if right and foreseen else 1


def measured(stack: Path, case: Case, times: int) -> Tally:
    """Roll a release out so many times; then ask what would have been foretold for the slowdown that was seen."""
    tally = Tally()
    policy = policy_of(stack, case)
    for _ in range(times):
        told = promote(stack, case.release, "--policy", str(policy))
        canary = next(one for one in told["stages"] if one["stage"] == "canary")
        tally.endings.append(told["ending"])
        tally.exits.append(told["exit"])
        tally.pairs.append(canary["requests"])
        tally.ratios.append(canary["p50"].get("value", 1.0))
        print(
            f"{case.name}: {told['ending']}, exit {told['exit']}, {canary['requests']} pairs, x{tally.ratios[-1]:.3g}",
            file=sys.stderr,
            flush=True,
        )
    if case.foretold:
        effect = 1.0 if case.ending == "promoted" else tally.effect
        tally.foretold = foretold(load_stack(stack), policy, effect)
    return tally


def foretold(stack: LoadedStack, policy: Path, effect: float) -> float:
    """Return the pairs that the incumbent's history foretells for a candidate of this slowdown, in the median."""
    incumbent = BaselineStore(stack.state / "baselines").get(standing(stack.state).release.digest)
    told = costed(incumbent, load_policy(policy), load_prompts(stack.prompts), replicas=1, effects=(1.0, effect))
    return told.calibration.own.effects[-1].pairs_median


def policy_of(stack: Path, case: Case) -> Path:
    """Write the stack's policy with the case's margins beside the stack."""
    content = yaml.safe_load(load_stack(stack).policy.read_text())
    content["latency"] |= case.latency
    path = stack.with_name(f"policy-{case.release}.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def promote(stack: Path, name: str, *words: str) -> dict:
    """Promote a release and return its summary, whatever became of it."""
    return json.loads(run(stack, "promote", release(name), *words, "--output", "json", expect={0, 3, 4}))


def run(stack: Path, *words: str, expect: set[int]) -> str:
    """Run one command, insist on its exit code and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "rollout", *words, "--stack", str(stack)], capture_output=True, text=True, check=False
    )
    if done.returncode not in expect:
        sys.exit(f"rollout {words[0]} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def rows(tallies: dict[str, Tally]) -> Iterator[str]:
    """Yield the lines of the table as Markdown."""
    yield (
        "| release | median | rollouts | promoted | rolled back: breach | rolled back: inconclusive "
        "| pairs, median (max) | foretold |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name, one in tallies.items():
        counts = " | ".join(str(one.exits.count(code)) for code in (0, 3, 4))
        told = "-" if one.foretold is None else f"{one.foretold:.0f}"
        yield (
            f"| {name} | x{one.effect:.3g} | {len(one.exits)} | {counts} "
            f"| {statistics.median(one.pairs):.0f} ({max(one.pairs)}) | {told} |"
        )


def put(path: Path, table: str) -> None:
    """Put the table between the document's markers."""
    begin, end = "<!-- table: benchmarks/rollouts.py -->", "<!-- end -->"
    text = path.read_text()
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    path.write_text(f"{head}{begin}\n{table}\n{end}{tail}")


if __name__ == "__main__":
    sys.exit(main())
