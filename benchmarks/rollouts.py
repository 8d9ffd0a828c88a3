"""How often a rollout is right, and after how many pairs: real rollouts of the example releases.

    python benchmarks/rollouts.py [--times 20] [--only good,parallel] [--write docs/rollouts.md]

Every rollout is one `rollout promote` against real servers behind a real Envoy, with policies/local.yaml. Exits 1 when
a good release was rolled back or a bad one was not.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from controller import prepare, release

EXPECTED = {
    "good": "promoted",
    "unoptimised": "rolled back",
    "session-per-request": "rolled back",
    "parallel": "rolled back",
    "wrong-picture": "rolled back",
}


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the rollouts of one release."""

    endings: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)


def main() -> int:
    """Run the rollouts, print the table, and write it where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--only", default=",".join(EXPECTED))
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = prepare(Path(folder))
        try:
            promote(stack, "blue", "--bootstrap")
            tallies = {name: measured(stack, name, arguments.times) for name in arguments.only.split(",")}
        finally:
            subprocess.run([sys.executable, "-m", "rollout", "teardown", "--yes", "--stack", str(stack)], check=False)
    table = render(tallies)
    print(table)
    if arguments.write:
        put(arguments.write, table)
    right = all(set(one.endings) == {EXPECTED[name]} for name, one in tallies.items())
    return 0 if right else 1


def measured(stack: Path, name: str, times: int) -> Tally:
    """Roll a release out so many times."""
    tally = Tally()
    for _ in range(times):
        told = promote(stack, name)
        canary = next(one for one in told["stages"] if one["stage"] == "canary")
        tally.endings.append(told["ending"])
        tally.exits.append(told["exit"])
        tally.pairs.append(canary["requests"])
        print(f"{name}: {told['ending']}, exit {told['exit']}, {canary['requests']} pairs", file=sys.stderr, flush=True)
    return tally


def promote(stack: Path, name: str, *words: str) -> dict:
    """Promote a release and return its summary, whatever became of it."""
    done = subprocess.run(
        [sys.executable, "-m", "rollout", "promote", release(name), *words, "--output", "json", "--stack", str(stack)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 3, 4}:
        sys.exit(f"promote {name} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout)


def render(tallies: dict[str, Tally]) -> str:
    """Return the table as Markdown."""
    head = "release|rollouts|promoted|rolled back: breach|rolled back: inconclusive|pairs, median (max)"
    lines = [f"| {head.replace('|', ' | ')} |", "|---|---|---|---|---|---|"]
    for name, one in tallies.items():
        counts = [one.exits.count(code) for code in (0, 3, 4)]
        lines.append(
            f"| {name} | {len(one.exits)} | {counts[0]} | {counts[1]} | {counts[2]} "
            f"| {statistics.median(one.pairs):.0f} ({max(one.pairs)}) |"
        )
    return "\n".join(lines)


def put(path: Path, table: str) -> None:
    """Put the table between the document's markers."""
    begin, end = "<!-- table: benchmarks/rollouts.py -->", "<!-- end -->"
    text = path.read_text()
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    path.write_text(f"{head}{begin}\n{table}\n{end}{tail}")


if __name__ == "__main__":
    sys.exit(main())
