"""What the controller itself costs: its share of a promotion's wall time, and how fast a breach becomes safety.

    python benchmarks/controller.py [--rollbacks 5]

Runs real rollouts of examples/local in a folder of its own. Everything is read from the journals they leave:
overhead is (wall time - time inside prompts - declared waits) / wall time, where declared waits are start-up of
servers (deploy until ready), dwell and soak. Breach to safety is the time from the pair that decided to the record
that the router reported all weight on blue.
"""

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from rollout.evidence.journal import read_journal
from rollout.model.journal import (
    Deployed,
    PairMeasured,
    Phase,
    PhaseEntered,
    Record,
    SampleMeasured,
    TrafficShifted,
    WarmedUp,
)
from rollout.model.verdict import Outcome

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "local"
OVERHEAD_LIMIT = 0.10
SAFE_LIMIT_MS = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where a run's wall time went, in seconds."""

    wall_s: float
    prompts_s: float
    waits_s: float

    @property
    def overhead(self) -> float:
        """Share of wall time that is the controller's own."""
        return (self.wall_s - self.prompts_s - self.waits_s) / self.wall_s


def main() -> int:
    """Run the rollouts and print the table; return 1 when a limit is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollbacks", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        stack = prepare(root)
        try:
            rollout(stack, "promote", "--bootstrap", release("blue"))
            rollout(stack, "promote", release("good"))
            promotion = split(journal(root, 0))
            safe_ms = []
            for _ in range(arguments.rollbacks):
                rollout(stack, "promote", release("session-per-request"), expect=3)
                safe_ms += breach_to_safety_ms(journal(root, 0))
        finally:
            rollout(stack, "teardown", "--yes")
    print(
        f"promotion: wall {promotion.wall_s:.1f} s, prompts {promotion.prompts_s:.1f} s, waits {promotion.waits_s:.1f} s"
    )
    print(f"overhead of the controller: {100 * promotion.overhead:.1f}% (limit {100 * OVERHEAD_LIMIT:.0f}%)")
    median = statistics.median(safe_ms)
    print(
        f"breach known -> all weight on the incumbent, read back: median {median:.0f} ms of {len(safe_ms)} (limit {SAFE_LIMIT_MS:.0f})"
    )
    return 0 if promotion.overhead <= OVERHEAD_LIMIT and median <= SAFE_LIMIT_MS else 1


def prepare(root: Path) -> Path:
    """Copy the example stack, on a free port, with a policy that rolls back under live traffic."""
    content = yaml.safe_load((EXAMPLES / "stack.yaml").read_text())
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        content["router"]["listen_port"] = one.getsockname()[1]
    content |= {"state": str(root / "state"), "prompts": str(EXAMPLES / content["prompts"])}
    content["policy"] = str((EXAMPLES / content["policy"]).resolve())
    path = root / "stack.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def rollout(stack: Path, *words: str, expect: int = 0) -> None:
    """Run one command and insist on its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "rollout", *words, "--stack", str(stack)], capture_output=True, text=True, check=False
    )
    if done.returncode != expect:
        sys.exit(f"rollout {words[0]} exited {done.returncode}, not {expect}:\n{done.stdout}\n{done.stderr}")


def release(name: str) -> str:
    """Return the path of an example release."""
    return str(EXAMPLES / "releases" / f"{name}.yaml")


def journal(root: Path, newest: int) -> tuple[Record, ...]:
    """Return the records of the newest run."""
    runs = sorted((root / "state" / "runs").iterdir(), reverse=True)
    return read_journal(runs[newest] / "journal.jsonl")


def split(records: tuple[Record, ...]) -> Split:
    """Divide a run's wall time."""
    prompts = waits = 0.0
    dwelling = {Phase.SHIFT, Phase.SOAK}
    phase = Phase.PREFLIGHT
    for before, record in zip(records, records[1:], strict=False):
        gap = record.at - before.at
        match record.body:
            case PairMeasured(pair=pair):
                prompts += pair.incumbent.wall_s + pair.candidate.wall_s
            case SampleMeasured(sample=sample):
                prompts += sample.wall_s
            case WarmedUp():
                prompts += gap
            case PhaseEntered(phase=entered):
                phase = entered
        waited = isinstance(before.body, Deployed) or (phase in dwelling and not isinstance(record.body, PairMeasured))
        if waited and not isinstance(record.body, (WarmedUp, TrafficShifted)):
            waits += gap
        elif isinstance(before.body, Deployed) and isinstance(record.body, WarmedUp):
            waits += 0.0
    return Split(wall_s=records[-1].at - records[0].at, prompts_s=prompts, waits_s=waits)


def breach_to_safety_ms(records: tuple[Record, ...]) -> list[float]:
    """Return the time from the deciding pair to the shift that was read back; empty where traffic never moved."""
    decided = next((one.at for one in records if isinstance(one.body, PairMeasured) and _breach(one.body)), None)
    safe = next(
        (one.at for one in records if isinstance(one.body, TrafficShifted) and one.body.stage == "rollback"), None
    )
    return [] if decided is None or safe is None else [1000.0 * (safe - decided)]


def _breach(body: PairMeasured) -> bool:
    return body.judgement is not None and body.judgement.outcome is Outcome.BREACH


if __name__ == "__main__":
    sys.exit(main())
