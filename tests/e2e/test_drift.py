"""Drift on real servers: a slower stack is convicted, a busy machine is cleared by the earlier stack."""

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from e2e_stack import wait_until

BUSY = "while True: pass"
HOGS = 10
"""Five for each of two cores: everything on this machine becomes several times slower."""


@contextmanager
def busy_machine():
    hogs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(HOGS)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for one in hogs:
            one.kill()
            one.wait()


@pytest.fixture
def promoted(stack):
    """Good serves from green, and blue stands beside it as the standby."""
    stack.policy["standby_s"] = 600.0
    stack.policy["drift"] |= {"requests": 60, "recheck_pairs_max": 100}
    stack.bootstrap()
    ran = stack.run("promote", stack.release("good"), "--output", "json")
    assert ran.code == 0, ran.err
    return stack


def stages_of(ran):
    return {one["stage"]: one["outcome"] for one in ran.data["stages"]}


def test_machine_that_slows_both_stacks_alike_is_cleared_by_the_recheck(promoted):
    with busy_machine():
        ran = promoted.run("verify", "--output", "json")
    assert ran.code == 0, (ran.out, ran.err)
    assert stages_of(ran) == {"drift": "BREACH", "recheck": "PASS"}


def test_stack_that_alone_became_slower_is_convicted_by_the_recheck(promoted):
    # What a neighbour's priority class, a cgroup limit or a wrong niceness does to one stack and not to the other.
    for one in promoted.processes():
        if one.environ()["ROLLOUT_SLOT_DIR"].endswith("green"):
            one.nice(12)
    with busy_machine():
        ran = promoted.run("verify", "--output", "json")
    assert ran.code == 3, (ran.out, ran.err)
    assert stages_of(ran) == {"drift": "BREACH", "recheck": "BREACH"}


def test_alarm_without_an_earlier_stack_stands(promoted):
    for one in promoted.processes():
        if one.environ()["ROLLOUT_SLOT_DIR"].endswith("blue"):
            one.kill()
            one.wait()
    wait_until(lambda: not promoted.status()["slots"]["blue"].get("ready"))
    with busy_machine():
        ran = promoted.run("verify", "--output", "json")
    assert ran.code == 3, (ran.out, ran.err)
    assert "recheck" not in stages_of(ran)
