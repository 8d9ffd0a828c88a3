"""Drift on real servers: a slower stack is convicted, a busy machine is cleared by the earlier stack."""

import contextlib
import threading
from contextlib import contextmanager

import psutil
import pytest
from e2e_stack import wait_until

PERIOD_S = 0.02
RUNS_S = 0.005
"""Of each period, as a CPU quota of a quarter of a core lets a container run."""


@contextmanager
def throttled(stack, *slots):
    """Let the servers of these slots run for a quarter of the time, as a quota or a busy host does."""
    servers = [one for one in stack.processes() if one.environ()["ROLLOUT_SLOT_DIR"].endswith(slots)]
    assert servers
    ended = threading.Event()

    def turn():
        while not ended.wait(RUNS_S):
            for one in servers:
                one.suspend()
            ended.wait(PERIOD_S - RUNS_S)
            for one in servers:
                one.resume()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for one in servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()


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
    with throttled(promoted, "blue", "green"):
        ran = promoted.run("verify", "--output", "json")
    assert ran.code == 0, (ran.out, ran.err)
    assert stages_of(ran) == {"drift": "BREACH", "recheck": "PASS"}


def test_stack_that_alone_became_slower_is_convicted_by_the_recheck(promoted):
    with throttled(promoted, "green"):
        ran = promoted.run("verify", "--output", "json")
    assert ran.code == 3, (ran.out, ran.err)
    assert stages_of(ran) == {"drift": "BREACH", "recheck": "BREACH"}


def test_alarm_without_an_earlier_stack_stands(promoted):
    for one in promoted.processes():
        if one.environ()["ROLLOUT_SLOT_DIR"].endswith("blue"):
            one.kill()
            one.wait()
    wait_until(lambda: not promoted.status()["slots"]["blue"].get("ready"))
    with throttled(promoted, "green"):
        ran = promoted.run("verify", "--output", "json")
    assert ran.code == 3, (ran.out, ran.err)
    assert "recheck" not in stages_of(ran)
