"""The lease between real processes, stopped and killed by real signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.errors import ConflictError
from rollout.evidence.journal import Journal, read_journal
from rollout.evidence.lease import FileLease

RACER = """
import sys, time
from pathlib import Path
from rollout.errors import ConflictError
from rollout.evidence.lease import FileLease

lease = FileLease(Path(sys.argv[1]), holder=sys.argv[2], ttl_s=60.0, clock=time.time)
print("ready", flush=True)
sys.stdin.readline()
try:
    print("won", lease.acquire(), flush=True)
except ConflictError as error:
    print("lost", error, flush=True)
sys.stdin.readline()
"""

COUNTER = """
import sys, time
from pathlib import Path
from rollout.errors import ConflictError
from rollout.evidence.lease import FileLease

count = Path(sys.argv[1]) / "count"
for _ in range(int(sys.argv[2])):
    lease = FileLease(Path(sys.argv[1]), holder="x", ttl_s=60.0, clock=time.time)
    while True:
        try:
            print(lease.acquire())
            break
        except ConflictError:
            time.sleep(0.001)
    with lease.hold():
        count.write_text(str(int(count.read_text()) + 1))
    lease.release()
"""

WRITER = """
import sys, time
from pathlib import Path
from rollout.errors import ConflictError
from rollout.evidence.journal import Journal
from rollout.evidence.lease import FileLease
from rollout.evidence.objects import ObjectStore
from rollout.model.journal import Retired
from rollout.model.roles import Slot

state, path = Path(sys.argv[1]), Path(sys.argv[2])
clock = lambda: float((state / "clock").read_text())
lease = FileLease(state, holder="stopped", ttl_s=30.0, clock=clock)
lease.acquire()
journal = Journal.open(path, fence=lease)
journal.append(Retired(slot=Slot.BLUE), at=2.0)
print("wrote", flush=True)
sys.stdin.readline()
for act in (
    lambda: journal.append(Retired(slot=Slot.GREEN), at=3.0),
    lambda: ObjectStore(path.parent / "objects", fence=lease).put_json("late"),
):
    try:
        act()
        print("done", flush=True)
    except ConflictError as error:
        print("conflict", error, flush=True)
"""


@pytest.fixture
def started():
    running = []

    def start(code, *args):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def _tell(process):
    process.stdin.write("\n")
    process.stdin.flush()


def _files(folder: Path):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_of_processes_that_race_for_the_lease_exactly_one_wins(tmp_path, started):
    racers = [started(RACER, tmp_path, f"racer-{number}") for number in range(3)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        _tell(racer)
    said = [racer.stdout.readline() for racer in racers]
    assert sum(line == "won 1\n" for line in said) == 1
    winner = said.index("won 1\n")
    losers = [line for line in said if line != "won 1\n"]
    assert all(f"held by racer-{winner} (pid {racers[winner].pid} on " in line for line in losers)


def test_two_processes_that_take_turns_never_overlap_and_never_share_a_generation(tmp_path, started):
    (tmp_path / "count").write_text("0")
    outs = [process.communicate(timeout=60)[0] for process in [started(COUNTER, tmp_path, 10) for _ in range(2)]]
    generations = [int(line) for out in outs for line in out.split()]
    assert sorted(generations) == list(range(1, 21))
    assert (tmp_path / "count").read_text() == "20"


def test_a_killed_holder_frees_its_lease_at_once(tmp_path, started, clock):
    holder = started(RACER, tmp_path, "killed")
    holder.stdout.readline()
    _tell(holder)
    assert holder.stdout.readline() == "won 1\n"
    ours = FileLease(tmp_path, holder="ours", ttl_s=30.0, clock=clock)
    with pytest.raises(ConflictError, match="held by killed"):
        ours.acquire()
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    # Not reaped: a zombie is as dead as a process that is gone.
    assert ours.acquire() == 2


def test_a_stopped_holder_that_wakes_after_its_lease_was_taken_changes_nothing(tmp_path, started, begun, clock, said):
    (tmp_path / "clock").write_text(str(clock.now))
    stopped = started(WRITER, tmp_path, begun.path)
    assert stopped.stdout.readline() == "wrote\n"
    stopped.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    ours = FileLease(tmp_path, holder="ours", ttl_s=30.0, clock=clock)
    with pytest.raises(ConflictError, match="held by stopped"):
        ours.acquire()
    clock.now += 31.0
    assert ours.acquire() == 5
    journal = Journal.open(begun.path, fence=ours)
    journal.append(said("taken over"), at=4.0)
    (tmp_path / "clock").write_text(str(clock.now))
    before = _files(tmp_path)
    _tell(stopped)
    stopped.send_signal(signal.SIGCONT)
    answers = stopped.stdout.readlines()
    assert [answer.split()[0] for answer in answers] == ["conflict", "conflict"]
    assert all("taken from stopped by ours" in answer for answer in answers)
    assert _files(tmp_path) == before
    assert read_journal(begun.path) == journal.records
    assert [record.generation for record in journal.records] == [3, 4, 5]
