"""The standing monitor on real servers: quiet today, and tomorrow somebody changed an option of the server."""

import json

import pytest
from e2e_stack import kill, throttled, wait_until


@pytest.fixture
def flags(stack):
    """A file that the server reads its options from: what a mounted configuration is to a container."""
    path = stack.root / "flags"
    path.write_text("")
    return path


@pytest.fixture
def promoted(stack, flags):
    """Good serves from green."""
    stack.policy["standby_s"] = 600.0
    # The pairs of a promotion are the baseline, and those of these short stages are too few for one.
    stack.policy["soak"]["pairs"] = 60
    stack.bootstrap()
    command = ["sh", "-c", f"exec rollout serve --admission development-cpu $(cat {flags})"]
    ran = stack.run("promote", stack.release("good", command=command), "--output", "json")
    assert ran.code == 0, ran.err
    return stack


def monitor(stack, looks, *, requests=5):
    words = ("--looks", looks, "--every", "0.05", "--requests-per-look", requests, "--output", "json")
    ran = stack.run("monitor", *words)
    return ran, [json.loads(line) for line in ran.out.splitlines()]


def test_option_changed_behind_the_rollouts_back_is_convicted_and_its_cause_is_named(promoted, flags):
    ran, events = monitor(promoted, 4)
    assert (ran.code, events) == (0, []), ran.err
    runs = promoted.run("history", "--output", "json").data["runs"]

    flags.write_text("--session per-request")
    for one in promoted.processes():
        if one.environ()["ROLLOUT_SLOT_DIR"].endswith("green"):
            kill(one)
    restored = promoted.run("rollback", "--stay", "--output", "json")
    assert restored.code == 0, restored.err
    wait_until(lambda: promoted.status()["slots"]["green"]["ready"])

    ran, (event,) = monitor(promoted, 20)
    assert ran.code == 3, (ran.out, ran.err)
    assert (event["specversion"], event["type"]) == ("1.0", "io.rollout.drift.confirmed")
    assert (event["source"], event["subject"]) == ("/rollout/test", "good")
    told = event["data"]
    assert (told["outcome"], told["stage"], told["slot"], told["exit"]) == ("drifted", "drift", "green", 3)
    assert told["ratio"]["lower"] > promoted.policy["latency"]["p50_ratio_max"]
    assert told["suspects"][0]["difference"] == "runtime.ort.session_lifetime: shared -> per-request"
    assert told["run"] == promoted.run("history", "--output", "json").data["runs"][0]["run_id"]
    assert len(promoted.run("history", "--output", "json").data["runs"]) == len(runs) + 2
    # The alarm stands until somebody mends what drifted, and nobody is paged for it again.
    ran, events = monitor(promoted, 1)
    assert (ran.code, events) == (3, [])
    assert f"confirmed by {told['run']}" in ran.err
    flags.write_text("")
    for one in promoted.processes():
        if one.environ()["ROLLOUT_SLOT_DIR"].endswith("green"):
            kill(one)
    assert promoted.run("rollback", "--stay").code == 0
    wait_until(lambda: promoted.status()["slots"]["green"]["ready"])
    assert promoted.run("verify").code == 0
    ran, events = monitor(promoted, 1)
    assert (ran.code, events) == (0, []), ran.err


def test_alarm_of_an_environment_that_slows_both_stacks_is_cleared_by_the_earlier_stack_and_the_monitor_goes_on(
    promoted,
):
    with throttled(promoted, "blue", "green"):
        ran, events = monitor(promoted, 6, requests=10)
    assert ran.code == 0, (ran.out, ran.err)
    assert events, ran.err
    assert {(one["type"], one["data"]["stage"]) for one in events} == {("io.rollout.drift.cleared", "recheck")}
    assert all("earlier stack became slower alike" in one["data"]["headline"] for one in events)
    assert all(one["data"]["suspects"] == [] for one in events)


def test_stored_baselines_are_listed_with_who_made_them(promoted):
    listed = promoted.run("baselines", "list", "--output", "json")
    assert listed.code == 0, listed.err
    newest = listed.data["baselines"][-1]
    assert newest["in_use"]
    assert newest["made_by_run"].endswith("-good")
    shown = promoted.run("baselines", "show", "--output", "json")
    assert shown.data["digest"] == newest["digest"]
    assert set(shown.data["latency_s_median"]) == {"cat", "sea"}
    assert promoted.run("baselines", "show", "000000000000").code == 2
