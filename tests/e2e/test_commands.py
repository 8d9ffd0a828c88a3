"""What people do by hand, on a real stack."""

import json
import os
import signal

import pytest
from e2e_stack import kill, wait_until

from rollout.control.standing import standing
from rollout.evidence.baselines import BaselineStore
from rollout.evidence.runs import run_ids

pytestmark = pytest.mark.slow


LONG_CANARY = {"false_promote_rate": 1e-30, "pairs_max": 400}
"""Proof that takes more than a hundred pairs, some seconds in which a person can speak."""


def test_paused_run_waits_and_a_resumed_one_is_promoted(stack):
    stack.policy["shift"] |= {"dwell_s": 2.0}
    stack.bootstrap()
    promote = stack.start("promote", stack.release("good"))
    wait_until(lambda: stack.weights()["green"] == 50)
    assert stack.run("pause", "--reason", "lunch").code == 0
    wait_until(lambda: stack.status()["run"]["paused"])
    assert stack.run("resume").code == 0
    out, err = promote.communicate(timeout=120)
    assert promote.returncode == 0, err
    assert "lunch" in out


def test_shift_waits_for_approval_where_the_policy_asks_for_it(stack):
    stack.policy["approval"] = "before_shift"
    stack.bootstrap()
    promote = stack.start("promote", stack.release("good"))
    wait_until(lambda: "canary" in stack.status()["run"].get("verdicts", {}))
    assert stack.weights() == {"blue": 100, "green": 0}
    assert stack.run("approve").code == 0
    _, err = promote.communicate(timeout=120)
    assert promote.returncode == 0, err


def test_abort_rolls_back_and_waits_for_it(stack):
    stack.policy["shift"] |= {"dwell_s": 30.0}
    stack.bootstrap()
    promote = stack.start("promote", stack.release("good"))
    wait_until(lambda: stack.weights()["green"] == 50)
    assert stack.run("abort", "--reason", "wrong day").code == 0
    assert stack.weights() == {"blue": 100, "green": 0}
    out, _ = promote.communicate(timeout=60)
    assert promote.returncode == 4
    assert "wrong day" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "ctrl-c"])
def test_signal_rolls_back_safely_and_says_so(stack, number):
    stack.policy["shift"] |= {"dwell_s": 30.0}
    stack.bootstrap()
    promote = stack.start("promote", stack.release("good"))
    wait_until(lambda: stack.weights()["green"] == 50)
    os.kill(promote.pid, number)
    _, err = promote.communicate(timeout=60)
    assert promote.returncode == 4, err
    assert "rolling back safely" in err
    assert stack.weights() == {"blue": 100, "green": 0}


def test_rollback_after_promotion_returns_to_the_standby_at_once(stack):
    stack.policy["standby_s"] = 600.0
    stack.bootstrap()
    assert stack.run("promote", stack.release("good")).code == 0
    before = stack.instances("blue")
    ran = stack.run("rollback", "--output", "json")
    assert ran.code == 0, ran.err
    assert stack.weights() == {"blue": 100, "green": 0}
    assert stack.instances("blue") == before
    assert stack.status()["serving"]["release"] == "blue"


def test_rollback_after_a_failed_rollout_returns_to_the_release_before_the_one_that_serves(stack):
    stack.bootstrap()
    assert stack.run("promote", stack.release("good")).code == 0
    assert stack.run("promote", stack.release("wrong", "--prediction", "v_prediction", RELEASE="good")).code == 3
    assert stack.status()["serving"]["release"] == "good"
    ran = stack.run("rollback")
    assert ran.code == 0, ran.err
    assert stack.status()["serving"]["release"] == "blue"
    assert stack.weights() == {"blue": 100, "green": 0}


def test_rollback_during_a_rollout_that_moved_no_traffic_goes_back_all_the_same(stack):
    stack.bootstrap()
    assert stack.run("promote", stack.release("good")).code == 0
    stack.policy["latency"] |= LONG_CANARY
    third = stack.start("promote", stack.release("third"))
    wait_until(lambda: stack.status()["run"].get("phase") == "canary")
    ran = stack.run("rollback", "--output", "json")
    third.communicate(timeout=60)
    assert third.returncode == 4
    assert ran.code == 0, ran.err
    assert (ran.data["kind"], ran.data["exit"]) == ("rollback", 0)
    assert stack.status()["serving"]["release"] == "blue"


def test_rollback_during_a_rollout_that_had_moved_traffic_ends_that_and_goes_no_further(stack):
    stack.policy["shift"] |= {"dwell_s": 20.0}
    stack.bootstrap()
    promote = stack.start("promote", stack.release("good"))
    wait_until(lambda: stack.weights()["green"] == 50)
    ran = stack.run("rollback", "--output", "json")
    promote.communicate(timeout=60)
    assert promote.returncode == 4
    assert ran.code == 0, ran.err
    assert (ran.data["phase"], ran.data["exit"]) == ("rolled_back", 0)
    assert stack.weights() == {"blue": 100, "green": 0}


def test_rollback_during_the_first_rollout_of_all_ends_it_and_has_nowhere_further_to_go(stack):
    stack.policy["latency"] |= LONG_CANARY
    stack.bootstrap()
    promote = stack.start("promote", stack.release("good"))
    wait_until(lambda: stack.status()["run"].get("phase") == "canary")
    ran = stack.run("rollback", "--output", "json")
    promote.communicate(timeout=60)
    assert ran.code == 0, ran.err
    assert ran.data["phase"] == "rolled_back"
    assert stack.status()["serving"]["release"] == "blue"


def test_abort_of_a_run_whose_bundle_cannot_be_sealed_tries_once(stack):
    stack.bootstrap()
    assert stack.run("promote", stack.release("good"), crash_after=40).code == -9
    stray = stack.state / "runs" / run_ids(stack.state)[0] / ".journal.jsonl.swp"
    stray.write_text("somebody looked at it with an editor")
    ran = stack.run("abort")
    assert ran.code == 0, ran.err
    assert (ran.out + ran.err).count("is not sealed yet") == 1
    stray.unlink()


def test_rollback_that_was_killed_is_not_taken_for_another_one(stack):
    stack.policy["standby_s"] = 600.0
    stack.bootstrap()
    assert stack.run("promote", stack.release("good")).code == 0
    assert stack.run("rollback", crash_after=2).code == -9
    ran = stack.run("rollback", "--stay")
    assert ran.code == 6
    assert "repeat its command" in ran.err
    assert stack.run("rollback").code == 0
    assert stack.status()["serving"]["release"] == "blue"


def test_rollback_of_the_first_stack_is_refused_with_what_to_do(stack):
    stack.bootstrap()
    ran = stack.run("rollback")
    assert ran.code == 2
    assert "--stay" in ran.err


def test_rollback_ends_a_drift_check_and_then_rolls_back(stack):
    stack.policy |= {"standby_s": 600.0, "drift": stack.policy["drift"] | {"requests": 5000}}
    stack.bootstrap()
    assert stack.run("promote", stack.release("good")).code == 0
    verify = stack.start("verify")
    wait_until(lambda: stack.status()["run"].get("kind") == "verify")
    ran = stack.run("rollback")
    assert ran.code == 0, ran.err
    assert stack.weights() == {"blue": 100, "green": 0}
    verify.communicate(timeout=60)
    assert verify.returncode == 4


def test_rollback_works_without_the_prompt_file_and_status_without_the_policy(stack):
    stack.policy["standby_s"] = 600.0
    stack.bootstrap()
    assert stack.run("promote", stack.release("good")).code == 0
    (stack.state / "commands").mkdir(exist_ok=True)
    (stack.state / "commands" / "garbage.json").write_text("not a command")
    broken = stack.root / "gone.yaml"
    assert stack.run("status", "--policy", broken).code == 0
    stack.write()
    content = (stack.root / "stack.yaml").read_text().replace("prompts.yaml", "no-such-prompts.yaml")
    other = stack.root / "other.yaml"
    other.write_text(content)
    ran = stack.run("rollback", "--stack", other)
    assert ran.code == 0, ran.err
    assert stack.weights() == {"blue": 100, "green": 0}


def test_rollback_stay_restores_a_dead_incumbent(stack):
    stack.bootstrap()
    for one in stack.processes():
        one.kill()
        one.wait()
    assert stack.run("promote", stack.release("good")).code == 5
    ran = stack.run("rollback", "--stay")
    assert ran.code == 0, ran.err
    assert stack.status()["slots"]["blue"]["ready"]


def test_verify_passes_what_was_promoted_and_finds_what_drifted(stack):
    stack.policy["standby_s"] = 600.0
    # Today's machine may be busier than the one that made the baseline: only a gross drift is this test's business.
    stack.policy["latency"] |= {"p50_ratio_max": 3.0}
    stack.policy["drift"] |= {"requests": 60}
    stack.bootstrap()
    assert stack.run("promote", stack.release("good")).code == 0
    weights = stack.weights()
    ran = stack.run("verify", "--output", "json")
    assert ran.code == 0, (ran.out, ran.err)
    slow_down(stack)
    # The earlier stack still stands, and is as far from that baseline: it is the environment.
    ran = stack.run("verify", "--output", "json")
    assert ran.code == 0, (ran.out, ran.err)
    assert "drift_of_the_environment" in json.dumps(ran.data)
    for one in stack.processes():
        if one.environ()["ROLLOUT_SLOT_DIR"].endswith("blue"):
            kill(one)
    ran = stack.run("verify", "--output", "json")
    assert ran.code == 3, (ran.out, ran.err)
    assert "latency_drifted" in json.dumps(ran.data["reasons"])
    assert stack.weights() == weights


def slow_down(stack):
    """Make the stored baseline ten times faster than the server ever was: today then looks ten times slower."""
    store = BaselineStore(stack.state / "baselines")
    baseline = store.get(standing(stack.state).release.digest)
    faster = {prompt: [one / 10.0 for one in values] for prompt, values in baseline.latency_s.items()}
    store.put(baseline.model_copy(update={"latency_s": faster}))


def test_plan_tells_the_steps_and_changes_nothing(stack):
    stack.bootstrap()
    before = sorted(str(one) for one in stack.state.rglob("*"))
    ran = stack.run("plan", stack.release("good"), "--output", "json")
    assert ran.code == 0, ran.err
    assert any("50%" in step for step in ran.data["steps"])
    assert sorted(str(one) for one in stack.state.rglob("*")) == before


def test_history_watch_diff_compare_and_snapshot_tell_what_there_is(stack):
    stack.policy["standby_s"] = 600.0
    stack.bootstrap()
    assert stack.run("promote", stack.release("good")).code == 0
    runs = stack.run("history", "--output", "json").data["runs"]
    assert [one["ending"] for one in runs] == ["promoted", "promoted"]
    assert "no run is under way" in stack.run("watch").out
    slots = stack.status()["slots"]
    blue, green = (slots[slot]["instances"][0]["address"] for slot in ("blue", "green"))
    assert stack.run("snapshot", blue).data["schema"] == "rollout.snapshot/v1"
    assert stack.run("diff", blue, green, "--output", "json").data == {"differences": []}
    ran = stack.run("compare", blue, green, "--policy", "policy.yaml", "--prompts", "prompts.yaml", "--output", "json")
    assert ran.code == 0, (ran.out, ran.err)


def test_waived_field_is_let_pass_until_its_day_and_then_refused_in_advance(stack):
    driver = {"what": "gpu.driver.version", "who": "ops", "why": "no GPU in this test"}
    stack.policy["capabilities"]["required"].append(driver["what"])
    stack.policy["capabilities"]["waivers"] = [driver | {"until": "9999-12-31"}]
    stack.bootstrap()
    assert "(waived until 9999-12-31 by ops: no GPU in this test)" in " ".join(stack.run("explain", "last").out.split())
    planned = stack.run("plan", stack.release("good"))
    assert planned.code == 0
    assert "note: gpu.driver.version is waived until 9999-12-31 by ops: no GPU in this test" in planned.out

    stack.policy["capabilities"]["waivers"] = [driver | {"until": "2020-06-30"}]
    told = "the waiver of gpu.driver.version by ops ended 2020-06-30"
    for command in (
        ["plan", stack.release("good")],
        ["promote", stack.release("good")],
        ["policy", "check", "policy.yaml"],
    ):
        ran = stack.run(*command)
        assert (ran.code, told in ran.err) == (2, True), command
    assert stack.run("explain", "last").code == 0
    ran = stack.run("verify")
    assert ran.code == 3
    assert "the waiver by ops ended 2020-06-30" in " ".join(ran.out.split())
