"""Every kind of bad input: one clear message, its exit code, blue untouched, nothing lost."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from e2e_stack import Users, envoys, kill, wait_until

from rollout.evidence.runs import run_ids

pytestmark = pytest.mark.slow

FAULTY = Path(__file__).with_name("faulty_server.py")


def faulty(stack, mode):
    """A release of the faulty server that shows blue's own snapshot, so that it is admitted."""
    ran = stack.run("snapshot", stack.status()["slots"]["blue"]["instances"][0]["address"])
    shown = stack.root / "shown.json"
    shown.write_text(ran.out)
    return stack.release(f"faulty-{mode}", command=[sys.executable, str(FAULTY), mode, str(shown)])


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("exit", "candidate_died"),
        ("never-ready", "candidate_never_ready"),
        ("garbage-snapshot", "snapshot_unreadable"),
        ("garbage", "error_rate_over_margin"),
        ("refuse", "error_rate_over_margin"),
        ("hang", "latency_over_margin"),
        ("die", "candidate_died"),
    ],
)
def test_faulty_candidate_is_rolled_back_with_its_reason_and_blue_is_untouched(stack, mode, reason):
    stack.policy["deadlines"] |= {"request_s": 2.0, "ready_s": 4.0}
    stack.bootstrap()
    before = stack.instances("blue")
    with Users(stack.router, pictures=False) as users:
        ran = stack.run("promote", faulty(stack, mode), "--output", "json")
    assert ran.code == 3, (ran.out, ran.err)
    assert reason in json.dumps(ran.data["reasons"]) or reason in json.dumps(ran.data), ran.data["reasons"]
    assert users.failures == []
    assert {color for _, color, _ in users.answers} == {"blue"}
    assert stack.instances("blue") == before
    assert stack.weights() == {"blue": 100, "green": 0}


def test_release_whose_command_does_not_exist_is_refused_before_anything_is_deployed(stack):
    stack.bootstrap()
    ran = stack.run("promote", stack.release("none", command=["/no/such/server"]), "--output", "json")
    assert ran.code == 2
    assert "/no/such/server" in ran.err
    assert len(run_ids(stack.state)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("schema: rollout.policy/v1\nnmae: x\n", "name"),
        ("schema: rollout.policy/v1\nname: [1]\n", "name"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "alias"),
        ("", "empty"),
    ],
    ids=["unknown key", "wrong type", "bomb", "empty"],
)
def test_broken_policy_names_file_and_line(stack, content, words):
    path = stack.root / "broken.yaml"
    path.write_text(content)
    ran = stack.run("policy", "check", path)
    assert ran.code == 2
    assert "broken.yaml" in ran.err
    assert words in ran.err.lower()


def test_margin_below_one_and_empty_prompts_and_missing_file_exit_2(stack):
    broken = json.loads(json.dumps(stack.policy))
    broken["latency"]["p50_ratio_max"] = 0.9
    path = stack.root / "broken.yaml"
    path.write_text(yaml.safe_dump(broken))
    ran = stack.run("promote", stack.release("good"), "--policy", path)
    assert ran.code == 2
    assert "p50_ratio_max" in ran.err
    (stack.root / "none.yaml").write_text("schema: rollout.prompts/v1\nprompts: []\n")
    assert stack.run("policy", "check", "none.yaml").code == 2
    missing = stack.run("promote", "missing.yaml")
    assert missing.code == 2
    assert "missing.yaml" in missing.err


def test_rollback_works_with_a_broken_policy_file(stack):
    stack.policy["standby_s"] = 600.0
    stack.bootstrap()
    assert stack.run("promote", stack.release("good")).code == 0
    path = stack.root / "broken.yaml"
    path.write_text("schema: [")
    ran = stack.run("rollback", "--policy", path)
    assert ran.code == 0, ran.err
    assert "policy of the newest run" in ran.err
    assert stack.weights() == {"blue": 100, "green": 0}


def test_router_port_in_use_is_refused_and_nothing_is_left_running(stack):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", stack.port))
        squatter.listen()
        ran = stack.run("promote", "--bootstrap", stack.release("blue"))
    assert ran.code == 5, (ran.out, ran.err)
    assert str(stack.port) in ran.out + ran.err
    assert stack.processes() == []


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_damaged_journal_stops_the_next_command_and_blue_serves_on(stack, damage):
    stack.bootstrap()
    path = stack.state / "runs" / run_ids(stack.state)[0] / "journal.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    middle = len(lines) // 2
    if damage == "flipped":
        lines[middle] = lines[middle].replace(b'"generation":1', b'"generation":7', 1)
    else:
        del lines[middle]
    path.write_bytes(b"".join(lines))
    ran = stack.run("promote", stack.release("good"))
    assert ran.code == 4, (ran.out, ran.err)
    assert "journal.jsonl" in ran.err
    with Users(stack.router, pictures=False) as users:
        wait_until(lambda: len(users.answers) > 5)
    assert users.failures == []
    path.write_bytes(whole)
    assert stack.run("promote", stack.release("good")).code == 0


def test_full_disk_while_journaling_rolls_back_safely(stack):
    stack.state.mkdir(exist_ok=True)
    baselines = {one.name: one.read_bytes() for one in (stack.state / "baselines").iterdir()}
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(stack.state)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        (stack.state / "baselines").mkdir()
        for name, data in baselines.items():
            (stack.state / "baselines" / name).write_bytes(data)
        stack.policy["shift"] |= {"dwell_s": 15.0}
        stack.bootstrap()
        promote = stack.start("promote", stack.release("good"))
        wait_until(lambda: stack.weights()["green"] == 50)
        fill(stack.state / "filler")
        out, err = promote.communicate(timeout=120)
        assert promote.returncode in {4, 5}, (out, err)
        assert "disk" in out + err or "space" in out + err
        (stack.state / "filler").unlink()
        assert stack.weights() == {"blue": 100, "green": 0}
        assert stack.run("promote", stack.release("good")).code in {0, 4, 5}
        assert stack.run("teardown", "--yes").code == 0
    finally:
        subprocess.run(["umount", "-l", str(stack.state)], check=True)


def test_bundle_that_cannot_be_sealed_does_not_change_how_the_run_ended(stack):
    stack.policy["shift"] |= {"dwell_s": 4.0}
    stack.bootstrap()
    promote = stack.start("promote", stack.release("good"), "--output", "json")
    wait_until(lambda: stack.weights()["green"] == 50)
    stray = stack.state / "runs" / run_ids(stack.state)[0] / ".journal.jsonl.swp"
    stray.write_text("somebody looked at it with an editor")
    out, err = promote.communicate(timeout=120)
    assert promote.returncode == 0, err
    assert json.loads(out)["exit"] == 0
    assert "is not sealed yet" in err
    assert str(stray) in err
    stray.unlink()
    assert stack.run("verify").code == 0
    assert stack.status()["serving"]["release"] == "good"


def fill(path):
    with path.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"x" * 4096)
        except OSError:
            os.fsync(out.fileno())


def test_wrong_argument_and_unknown_command_exit_2_with_a_hint(stack):
    assert stack.run("promot").code == 2
    ran = stack.run("promote")
    assert ran.code == 2
    assert "RELEASE" in ran.err


def test_killed_router_between_rollouts_is_restarted_by_the_next_one(stack):
    stack.bootstrap()
    kill(envoys(stack)[0])
    assert stack.run("promote", stack.release("good")).code == 0
