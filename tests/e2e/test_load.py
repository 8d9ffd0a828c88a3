"""The load phase on real servers: what is equal one at a time and worse sixteen at a time does not get traffic."""

import pytest

from rollout.evidence.replay import replay
from rollout.evidence.runs import run_ids

LOAD = {
    "concurrencies": [1, 16],
    "batches": [],
    "arrivals": ["poisson"],
    "arrival_share": 0.5,
    "window_s": 1.0,
    "windows_max": 20,
    # Wide, as all margins of these tests: two servers and a driver share two cores.
    "throughput_ratio_min": 0.5,
    "p95_ratio_max": 4.0,
    "error_rate_max": 0.02,
    "false_rollback_rate": 0.01,
    "false_promote_rate": 0.05,
    "seconds_max": 200.0,
    "requests_max": 100_000,
    "cost_max": None,
}


@pytest.fixture
def loaded(stack):
    stack.policy["load"] = LOAD
    stack.policy["cost"] = {"currency": "USD", "gpu_hour": 2.5, "gpus_per_instance": 1.0}
    stack.bootstrap()
    return stack


def gates_of(ran, stage):
    (row,) = [one for one in ran.data["stages"] if one["stage"] == stage]
    return {gate["gate"]: gate["outcome"] for gate in row["gates"]}


def test_good_release_passes_every_level_and_its_cost_is_told(loaded):
    ran = loaded.run("promote", loaded.release("good"), "--output", "json")
    assert ran.code == 0, (ran.out, ran.err)
    gates = gates_of(ran, "load")
    assert gates == dict.fromkeys(
        ("load concurrency-1", "load concurrency-16", "load arrivals-poisson", "load errors", "instances"), "PASS"
    )
    told = replay(loaded.state / "runs" / run_ids(loaded.state)[0])
    assert told.run.windows["concurrency-16"]


def test_release_that_is_worse_only_under_load_is_rolled_back_by_the_load_phase(loaded):
    ran = loaded.run("promote", loaded.release("queue", "--queue-limit", "4"), "--output", "json")
    assert ran.code == 3, (ran.out, ran.err)
    assert gates_of(ran, "canary")["latency"] == "PASS"
    assert gates_of(ran, "load")["load errors"] == "BREACH"
    assert loaded.weights() == {"blue": 100, "green": 0}
    replay(loaded.state / "runs" / run_ids(loaded.state)[0])


def test_calibrate_measures_the_incumbent_against_itself_and_moves_nothing(bare_stack):
    bare_stack.bootstrap()
    ran = bare_stack.run("calibrate", "--output", "json")
    assert ran.code in {0, 4}, (ran.out, ran.err)
    assert ran.data["noise"]["pairs"] == 100
    assert bare_stack.weights() == {"blue": 100, "green": 0}
    assert not bare_stack.status()["slots"]["green"].get("ready")
    promoted = bare_stack.run("promote", bare_stack.release("good"), "--output", "json")
    assert promoted.code == 0, promoted.err
    (history,) = [one for one in promoted.data["stages"] if one["stage"] == "history"]
    assert history["outcome"] == "skipped", "the calibration is the history of the next rollout"
