"""What the controller itself costs: its share of a promotion's wall time, and how fast a breach becomes safety.

    python benchmarks/controller.py [--rollbacks 5]

Runs real rollouts of examples/local in a folder of its own. Everything is read from the journals they leave: overhead
is (wall time - time inside prompts - declared waits) / wall time, where declared waits are start-up and end of servers,
dwell and soak. For safety the candidate is killed with -9 at half the traffic: the time runs from the decision to roll
back to the router's own report that all weight is on the incumbent.
"""

import argparse
import contextlib
import itertools
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from rollout.evidence.journal import read_journal
from rollout.evidence.runs import run_folder, run_ids
from rollout.model.journal import (
    Deployed,
    LiveRead,
    PairMeasured,
    Phase,
    PhaseEntered,
    Record,
    Retired,
    SnapshotsRead,
    TrafficShifted,
    WarmedUp,
    WindowsMeasured,
)

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LOCAL = EXAMPLES / "local"
OVERHEAD_LIMIT = 0.10
WAIT_S = 0.05
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
            promotion = split(newest_journal(root))
            safe_ms = [killed_candidate_ms(root, stack) for _ in range(arguments.rollbacks)]
        finally:
            rollout(stack, "teardown", "--yes")
    median = statistics.median(safe_ms)
    print(
        f"promotion: {promotion.wall_s:.1f} s, {promotion.prompts_s:.1f} in prompts, {promotion.waits_s:.1f} in waits"
    )
    print(f"overhead of the controller: {100 * promotion.overhead:.1f}% (limit {100 * OVERHEAD_LIMIT:.0f}%)")
    print(
        f"breach known -> all weight on the incumbent, read back: median {median:.0f} ms of {len(safe_ms)}, "
        f"highest {max(safe_ms):.0f} ms (limit of the median {SAFE_LIMIT_MS:.0f} ms)"
    )
    return 0 if promotion.overhead <= OVERHEAD_LIMIT and median <= SAFE_LIMIT_MS else 1


def prepare(root: Path, examples: Path = LOCAL) -> Path:
    """Copy an example stack, on a free port, with its state in a folder of its own."""
    content = yaml.safe_load((examples / "stack.yaml").read_text())
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        content["router"]["listen_port"] = one.getsockname()[1]
    content |= {"state": str(root / "state"), "prompts": str(examples / content["prompts"])}
    content["policy"] = str((examples / content["policy"]).resolve())
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


def release(name: str, examples: Path = LOCAL) -> str:
    """Return the path of an example release."""
    return str(examples / "releases" / f"{name}.yaml")


def newest_journal(root: Path) -> tuple[Record, ...]:
    """Return the records of the newest run, as far as they are written."""
    state = root / "state"
    return read_journal(run_folder(state, run_ids(state)[0]).journal, tolerate_torn=True)


def killed_candidate_ms(root: Path, stack: Path) -> float:
    """Kill the candidate at half the traffic; return the time from the decision to roll back to safety read back."""
    earlier = newest_journal(root)[0]
    promote = subprocess.Popen(
        [sys.executable, "-m", "rollout", "promote", release("blue"), "--stack", str(stack)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while promote.poll() is None:
        records = newest_journal(root)
        if records[0] != earlier and any(half_shifted(one) for one in records):
            break
        time.sleep(0.02)
    candidate = records[0].body.candidate.value
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.environ().get("ROLLOUT_SLOT_DIR") == str(root / "state" / "slots" / candidate):
                one.kill()
    promote.wait()
    records = newest_journal(root)
    known = next(one.at for one in records if isinstance(one.body, PhaseEntered) and one.body.phase is Phase.ROLLBACK)
    safe = next(one.at for one in records if isinstance(one.body, TrafficShifted) and one.body.stage == "rollback")
    return 1000.0 * (safe - known)


def half_shifted(record: Record) -> bool:
    """True for the record that half the traffic is on the candidate."""
    return isinstance(record.body, TrafficShifted) and record.body.stage == "shift-50"


def split(records: tuple[Record, ...]) -> Split:
    """Divide a run's wall time.

    A wait is the start-up of a server (from its deployment to its admission; a twin's ends with its warm-up and is
    counted with that), its end (it finishes what is in flight), and every gap in a shift or soak that is longer than
    WAIT_S and ends in no measurement: the loop does nothing else for so long.
    """
    prompts = waits = 0.0
    phase, deployed_at = Phase.PREFLIGHT, None
    for before, record in itertools.pairwise(records):
        gap = record.at - before.at
        prompts += prompt_seconds(record, gap)
        match record.body:
            case WarmedUp():
                deployed_at = None
            case Deployed():
                deployed_at = record.at
            case Retired():
                waits += gap
            case SnapshotsRead() | PhaseEntered(phase=Phase.ADMIT):
                if deployed_at is not None:
                    waits += record.at - deployed_at
                    deployed_at = None
            case PhaseEntered(phase=entered):
                phase = entered
            case LiveRead() if phase in {Phase.SHIFT, Phase.SOAK} and gap > WAIT_S:
                waits += gap
            case _:
                pass
    return Split(wall_s=records[-1].at - records[0].at, prompts_s=prompts, waits_s=waits)


def prompt_seconds(record: Record, gap: float) -> float:
    """Return how much of the time since the record before was spent on requests to the servers."""
    match record.body:
        case PairMeasured(pair=pair):
            return pair.incumbent.wall_s + pair.candidate.wall_s
        case WindowsMeasured(pair=windows):
            return windows.incumbent.seconds + windows.candidate.seconds
        case WarmedUp():
            return gap
        case _:
            return 0.0


if __name__ == "__main__":
    sys.exit(main())
