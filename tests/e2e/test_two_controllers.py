"""One controller at a time; a paused one that wakes too late changes nothing."""

import json
import os
import signal
import time

import pytest
from e2e_stack import wait_until

from rollout.evidence.runs import run_ids

pytestmark = pytest.mark.slow


def test_second_promote_exits_6_and_changes_nothing(stack):
    stack.policy["shift"] |= {"dwell_s": 3.0}
    stack.bootstrap()
    first = stack.start("promote", stack.release("good"), "--output", "json")
    wait_until(lambda: len(run_ids(stack.state)) == 2)
    second = stack.run("promote", stack.release("other"), "--output", "json")
    assert second.code == 6
    assert "held" in second.err or "holds" in second.err
    assert second.data["exit"] == 6
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert len(run_ids(stack.state)) == 2


def test_paused_controller_that_wakes_after_its_lease_was_taken_changes_nothing(stack):
    # The lease must run out while its holder is stopped: short requests make a short lease, and then the file says so.
    stack.policy["shift"] |= {"dwell_s": 5.0}
    stack.bootstrap()
    old = stack.start("promote", stack.release("good"), "--output", "json")
    wait_until(lambda: stack.weights()["green"] == 50)
    os.kill(old.pid, signal.SIGSTOP)
    expire_lease(stack)
    taken = stack.run("abort", "--reason", "the controller hangs")
    assert taken.code == 0, taken.err
    before = snapshot(stack)
    os.kill(old.pid, signal.SIGCONT)
    _, err = old.communicate(timeout=60)
    assert old.returncode == 6, err
    assert snapshot(stack) == before
    assert stack.weights() == {"blue": 100, "green": 0}


def expire_lease(stack):
    """Do what the passing of time does: a stopped holder cannot renew."""
    path = stack.state / "lease.json"
    lease = json.loads(path.read_text())
    lease["expires_at"] = time.time() - 1.0
    path.write_text(json.dumps(lease))


def snapshot(stack):
    journals = {one: (stack.state / "runs" / one / "journal.jsonl").read_bytes() for one in run_ids(stack.state)}
    seen = stack.status()
    return journals, seen["router"]["weights"], seen["router"]["version"], seen["slots"]
