"""Drift on real servers: a slower stack is convicted, a busy machine is cleared by the earlier stack."""

import pytest
from e2e_stack import throttled, wait_until


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
