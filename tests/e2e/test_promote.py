"""Whole rollouts under live traffic, on real parts."""

import json
import shutil

import pytest
from e2e_stack import Users, kill, wait_until

pytestmark = pytest.mark.slow


def test_good_candidate_is_promoted_and_no_user_notices(stack):
    stack.bootstrap()
    with Users(stack.router) as users:
        ran = stack.run("promote", stack.release("good"), "--output", "json")
    assert ran.code == 0, ran.err
    assert ran.data["ending"] == "promoted"
    assert stack.weights() == {"blue": 0, "green": 100}
    assert users.failures == []
    assert {color for _, color, _ in users.answers} == {"blue", "green"}


def test_slow_candidate_is_rolled_back_with_its_cause_named_and_no_user_notices(stack):
    stack.bootstrap()
    with Users(stack.router) as users:
        ran = stack.run("promote", stack.release("slow", "--session", "per-request"), "--output", "json")
    assert ran.code == 3, ran.err
    assert ran.data["ending"] == "rolled back"
    assert "latency_over_margin" in json.dumps(ran.data["reasons"])
    assert "runtime.ort.session_lifetime" in json.dumps(ran.data)
    assert stack.weights() == {"blue": 100, "green": 0}
    assert users.failures == []


def test_candidate_without_its_gpu_refuses_itself_and_is_rolled_back_with_the_reason(stack):
    stack.bootstrap()
    with Users(stack.router) as users:
        ran = stack.run("promote", stack.release("gpu", command=["rollout", "serve"]), "--output", "json")
    assert ran.code == 3, ran.err
    assert "exit status 78" in ran.data["headline"]
    assert "libcuda_missing" in ran.data["headline"]
    assert stack.weights() == {"blue": 100, "green": 0}
    assert users.failures == []


def test_candidate_that_draws_other_pictures_is_rolled_back(stack):
    stack.bootstrap()
    ran = stack.run("promote", stack.release("wrong", "--prediction", "v_prediction"), "--output", "json")
    assert ran.code == 3
    assert "picture_differs" in json.dumps(ran.data["reasons"])


def test_candidate_killed_at_half_the_traffic_is_rolled_back_by_itself(stack):
    stack.policy["shift"] |= {"dwell_s": 20.0}
    stack.bootstrap()
    with Users(stack.router) as users:
        promote = stack.start("promote", stack.release("good"), "--output", "json")
        wait_until(lambda: stack.weights()["green"] == 50)
        green = next(one for one in stack.processes() if "green" in one.environ()["ROLLOUT_SLOT_DIR"])
        kill(green)
        out, err = promote.communicate(timeout=60)
        wait_until(lambda: users.answers[-1][1] == "blue")
        lost = len(users.failures)
        served = len(users.answers)
        wait_until(lambda: len(users.answers) > served + 20)
    assert promote.returncode == 3, err
    assert "candidate_died" in out
    assert stack.weights() == {"blue": 100, "green": 0}
    assert all(color in {"green", ""} for _, color, _ in users.failures)
    assert len(users.failures) == lost, "nothing fails once traffic is back"


def test_bundle_copied_elsewhere_gives_the_same_verdicts_and_a_changed_byte_is_found(stack, tmp_path):
    stack.bootstrap()
    ran = stack.run("promote", stack.release("slow", "--session", "per-request"), "--output", "json")
    copy = tmp_path / "copied"
    shutil.copytree(ran.data["bundle"], copy)
    told = stack.run("explain", copy, "--output", "json")
    assert told.code == 0, told.err
    assert told.data["ending"] == ran.data["ending"]
    assert told.data["reasons"] == ran.data["reasons"]
    assert told.data["replayed"]["judgements"] > 0
    for path in [copy / "journal.jsonl", copy / "summary.md", next((copy / "objects").glob("*.png"))]:
        whole = path.read_bytes()
        path.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
        assert stack.run("explain", copy).code == 4, path
        path.write_bytes(whole)
    assert stack.run("explain", copy).code == 0


def test_first_rollout_measures_its_own_history_in_restarted_blocks(bare_stack):
    bare_stack.bootstrap()
    ran = bare_stack.run("promote", bare_stack.release("good"), "--output", "json")
    assert ran.code == 0, ran.err
    bodies = [json.loads(line)["body"] for line in (bare_stack.root / ran.data["bundle"] / "journal.jsonl").open()]
    twins = [body for body in bodies if body["type"] == "deployed" and body["purpose"] == "twin"]
    assert [body["block"] for body in twins] == [0, 1]
    assert len({body["pod_uids"][0] for body in twins}) == 2
    assert sum(body["type"] == "pair_measured" and body["pair"]["stage"] == "history" for body in bodies) == 100
