"""How often a rollout is right, after how many pairs, and whether the forecast was: real rollouts of the examples.

    python benchmarks/rollouts.py [--times 20] [--only good,parallel] [--write docs/rollouts.md]
    python benchmarks/rollouts.py --examples gpu --times 2 --write docs/gpu.md    # on a machine with an NVIDIA GPU

Every rollout is one `rollout promote` against real servers behind a real Envoy, with the policy of the example stack,
in some cases changed as the case says. The incumbent is calibrated first, and what its history foretells for the
slowdown that was then measured stands beside the pairs that were taken. Exits 1 when a good release was rolled back, a
bad one was not, or a forecast was off by more than a factor of 1.5.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from controller import EXAMPLES, prepare, release

from rollout.cli.forecast import costed
from rollout.control.standing import standing
from rollout.evidence.baselines import BaselineStore
from rollout.files.load import LoadedStack, load_policy, load_prompts, load_stack

FORECAST_FACTOR = 1.5
GROSS_PAIRS = 5
"""A verdict within so few pairs is no matter of forecasting: a single pair more or less is a factor of its own."""

NARROW = {"latency": {"p50_ratio_max": 1.05, "pairs_max": 400}}
"""The margin and the budget of the strict and the standard policy."""

BLIND = {
    "capabilities": {
        "required": ["model.weights.digest"],
        "allowed_differences": ["gpu.*", "model.*", "policy.*", "runtime.*"],
        "waivers": [],
    },
    "load": None,
}
"""No capability is asked for: what would the latency alone have said?"""

UNLOADED = {"load": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One release under one policy.

    Attributes:
        ending: How each rollout must end.
        share: Of --times, how often it is rolled out.
        changes: Sections of the policy that are not those of the stack.
        note: What they amount to, for the table.
        foretold: Whether the pairs are compared with a forecast.
        own_noise: Its latencies vary otherwise than the incumbent's, which no history of the incumbent can tell: the
            forecast is shown and not held to its factor.
    """

    release: str
    ending: str
    share: float = 1.0
    changes: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    foretold: bool = True
    own_noise: bool = False

    @property
    def name(self) -> str:
        """What --only and the table call it."""
        return f"{self.release} ({self.note})" if self.note else self.release


CASES = {
    "local": (
        Case(release="good", ending="promoted", share=0.5),
        Case(release="good", ending="promoted", changes=UNLOADED, note="no load phase"),
        Case(release="unoptimised", ending="rolled back"),
        Case(release="session-per-request", ending="rolled back"),
        Case(release="parallel", ending="rolled back", own_noise=True),
        Case(release="wrong-picture", ending="rolled back", foretold=False),
        Case(release="arena-off", ending="rolled back", changes=NARROW, note="margin x1.05"),
    ),
    "gpu": (
        Case(release="eager", ending="rolled back", foretold=False),
        Case(release="cpu", ending="rolled back", foretold=False),
        Case(release="eager", ending="rolled back", changes=BLIND, note="latency alone"),
        Case(release="sliced", ending="rolled back", changes=BLIND, note="latency alone"),
        Case(release="cpu", ending="rolled back", changes=BLIND, note="latency alone"),
        Case(release="two-calls", ending="rolled back", changes=UNLOADED),
        Case(release="good", ending="promoted"),
    ),
}


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
        """The slowdown of the median that was measured, over all rollouts; NaN where none was."""
        return statistics.median(self.ratios) if self.ratios else math.nan

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
    parser.add_argument("--examples", choices=CASES, default="local")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    cases = {one.name: one for one in CASES[arguments.examples]}
    wanted = arguments.only.split(",") if arguments.only else list(cases)
    if not cases.keys() >= set(wanted):
        parser.error(f"--only takes of {', '.join(cases)}")
    cases = [cases[name] for name in wanted]
    examples = EXAMPLES / arguments.examples
    with tempfile.TemporaryDirectory() as folder:
        stack = prepare(Path(folder), examples)
        try:
            promote(stack, release("blue", examples), "--bootstrap")
            noise = json.loads(run(stack, "calibrate", "--output", "json", expect={0, 4}))
            tallies = {
                one.name: measured(stack, one, examples, max(1, round(one.share * arguments.times))) for one in cases
            }
        finally:
            run(stack, "teardown", "--yes", expect={0})
    table = "\n".join([*rows(tallies), "", told(noise)])
    print(table)
    if arguments.write:
        put(arguments.write, table)
    right = all(set(tallies[one.name].endings) == {one.ending} for one in cases)
    foreseen = all(one.own_noise or tallies[one.name].off_by <= FORECAST_FACTOR for one in cases)
    return 0 if right and foreseen else 1


def measured(stack: Path, case: Case, examples: Path, times: int) -> Tally:
    """Roll a release out so many times; then ask what would have been foretold for the slowdown that was seen."""
    tally = Tally()
    policy = policy_of(stack, case)
    for _ in range(times):
        ended = promote(stack, release(case.release, examples), "--policy", str(policy))
        canary = next(one for one in ended["stages"] if one["stage"] == "canary")
        tally.endings.append(ended["ending"])
        tally.exits.append(ended["exit"])
        tally.pairs.append(canary["requests"])
        ratio = canary["p50"].get("value", math.nan)
        # A candidate that was refused at its admission has no ratio, and a rate of failures has none either.
        tally.ratios += [float(ratio)] if math.isfinite(float(ratio)) else []
        print(f"{case.name}: {ended['headline']}", file=sys.stderr, flush=True)
    if case.foretold:
        effect = 1.0 if case.ending == "promoted" else tally.effect
        tally.foretold = foretold(load_stack(stack), policy, effect)
    return tally


def foretold(stack: LoadedStack, policy: Path, effect: float) -> float | None:
    """Return the pairs that the incumbent's history foretells for a candidate of this slowdown, in the median.

    None where what serves was just promoted and has no history yet.
    """
    incumbent = BaselineStore(stack.state / "baselines").get(standing(stack.state).release.digest)
    if not incumbent.aa_ratio:
        return None
    told = costed(incumbent, load_policy(policy), load_prompts(stack.prompts), replicas=1, effects=(1.0, effect))
    return told.calibration.own.effects[-1].pairs_median


def policy_of(stack: Path, case: Case) -> Path:
    """Write the stack's policy with the case's margins beside the stack."""
    content = yaml.safe_load(load_stack(stack).policy.read_text())
    for section, changed in case.changes.items():
        content[section] = changed if changed is None else content[section] | changed
    path = stack.with_name("policy-of-the-case.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def promote(stack: Path, path: str, *words: str) -> dict:
    """Promote a release and return its summary, whatever became of it."""
    return json.loads(run(stack, "promote", path, *words, "--output", "json", expect={0, 3, 4}))


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
        foreseen = "-" if one.foretold is None else f"{one.foretold:.0f}"
        effect = "-" if math.isnan(one.effect) else f"x{one.effect:.3g}"
        yield (
            f"| {name} | {effect} | {len(one.exits)} | {counts} "
            f"| {statistics.median(one.pairs):.0f} ({max(one.pairs)}) | {foreseen} |"
        )


def told(noise: dict) -> str:
    """Say what the incumbent against itself looked like, from the output of `rollout calibrate`."""
    shapes = ", ".join(f"{one['shape']} in {1000 * one['request_s']:.0f} ms" for one in noise["shapes"])
    whole = noise["noise"]
    return (
        f"A/A history before them: {whole['pairs']} pairs, {shapes}; noise {100 * whole['sigma_log']:.1f}% from pair "
        f"to pair, P90 x{whole['ratio_p90']:.3g}, autocorrelation {whole['autocorrelation_lag1']:.2f}."
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
