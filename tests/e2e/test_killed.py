"""kill -9 at every moment: of the controller after every journal record, of each server, of the router.

After each the same command is given again. It must end promoted or rolled back, with traffic on a proven stack, one
Envoy, and no process that no slot knows.
"""

import json

import pytest
from e2e_stack import Users, envoys, kill, wait_until

from rollout.evidence.replay import replay
from rollout.evidence.runs import run_ids

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RECORDS_MAX = 400


def newest_bundle(stack):
    return stack.state / "runs" / run_ids(stack.state)[0]


def check_world(stack, *, code):
    """Check the state that a finished command leaves against the promises."""
    check_traffic(stack, others={"blue", "green"} if code == 0 else set())
    told = replay(newest_bundle(stack))
    assert told.sealed
    assert told.run.phase.value == ("promoted" if code == 0 else "rolled_back")
    generations = [record.generation for record in told.records]
    assert generations == sorted(generations)


def check_traffic(stack, *, others):
    """Check that all traffic is on a ready stack, behind one Envoy, with no process that no slot knows."""
    seen = stack.status()
    serving, weights = seen["serving"]["slot"], seen["router"]["weights"]
    assert weights[serving] == 100, seen
    assert sum(weights.values()) == 100
    assert seen["slots"][serving]["ready"], seen
    in_slots = {one.environ()["ROLLOUT_SLOT_DIR"].rsplit("/", 1)[-1] for one in stack.processes()}
    assert in_slots <= {serving} | others, (in_slots, serving)
    assert len(envoys(stack)) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((), 0), (("--session", "per-request"), 3)],
    ids=["promotion", "rollback"],
)
def test_controller_killed_after_every_record_ends_promoted_or_rolled_back(stack, flags, expected):
    stack.bootstrap()
    for kill_after in range(1, RECORDS_MAX):
        # Another name each time, and one content, so that what is promoted has a history already.
        release = stack.release(f"r{kill_after}-{expected}", *flags, RELEASE="good")
        crashed = stack.run("promote", release, crash_after=kill_after)
        if crashed.code == expected:
            assert kill_after > 20, "the whole run has fewer records than any rollout could have"
            return
        finish_after_crash(stack, release, crashed, expected=expected)
    pytest.fail("the run never ended before the count of records")


@pytest.mark.parametrize("kill_after", [1, 2, 3, 4, 5, 30, 57, 58, 60, 112, 113, 114])
def test_controller_killed_while_the_history_is_measured_ends_promoted(bare_stack, kill_after):
    bare_stack.bootstrap()
    release = bare_stack.release("good")
    crashed = bare_stack.run("promote", release, crash_after=kill_after)
    finish_after_crash(bare_stack, release, crashed, expected=0)


def finish_after_crash(stack, release, crashed, *, expected):
    """Give the same command again, and check how the world stands then."""
    assert crashed.code == -9, (crashed.code, crashed.err)
    ran = stack.run("promote", release, "--output", "json")
    assert ran.code == expected, (ran.code, ran.err)
    check_world(stack, code=expected)


@pytest.mark.parametrize(
    ("flags", "codes", "phases"),
    [
        ((), {0, 3, 5}, {"promoted", "rolled_back", "refused"}),
        (("--session", "per-request"), {3, 5}, {"rolled_back", "refused"}),
    ],
    ids=["promotion", "rollback"],
)
@pytest.mark.parametrize("victim", ["incumbent", "candidate", "router"])
def test_part_killed_after_every_record_ends_promoted_or_rolled_back(stack, victim, flags, codes, phases):
    stack.bootstrap()
    for kill_after in range(1, RECORDS_MAX):
        stack.struck.unlink(missing_ok=True)
        release = stack.release(f"r{kill_after}-{victim}", *flags, RELEASE="good")
        ran = stack.run("promote", release, "--output", "json", crash_after=kill_after, victim=victim)
        assert ran.code in codes, (kill_after, ran.code, ran.out, ran.err)
        phase = ran.data["phase"]
        assert phase in phases, (kill_after, phase)
        if not stack.struck.exists():
            assert kill_after > 20, "the whole run has fewer records than any rollout could have"
            return
        if phase == "refused" or kill_after_the_end(stack):
            # Killed before anything began, or after everything was done: nobody watches then, a person restores it.
            assert stack.run("rollback", "--stay").code == 0
        check_traffic(stack, others={"blue", "green"} if phase == "promoted" else set())
    pytest.fail("the run never ended before the count of records")


def kill_after_the_end(stack):
    """True when what was killed is what serves since the promotion, or its router."""
    seen = stack.status()
    return "weights" not in seen["router"] or not seen["slots"][seen["serving"]["slot"]]["ready"]


@pytest.mark.parametrize("stage", ["canary", "shift-50", "shift-100"])
@pytest.mark.parametrize("victim", ["incumbent", "candidate", "router"])
def test_killed_part_leads_to_rollback_and_traffic_on_the_incumbent(stack, stage, victim):
    stack.policy["shift"] |= {"dwell_s": 10.0}
    # The canary must last until the part is dead: an allowed ratio this close to 1 is never proven in time.
    if stage == "canary":
        stack.policy["latency"] |= {"p50_ratio_max": 1.001, "tail_ratio_max": 5.0, "pairs_max": 2000}
    stack.bootstrap()
    promote = stack.start("promote", stack.release("good"), "--output", "json")
    wait_until(lambda: reached(stack, stage))
    kill(envoys(stack)[0] if victim == "router" else in_slot(stack, "blue" if victim == "incumbent" else "green"))
    out, err = promote.communicate(timeout=120)
    assert promote.returncode in {3, 5}, (out, err)
    check_world(stack, code=promote.returncode)
    with Users(stack.router, pictures=False) as users:
        wait_until(lambda: len(users.answers) > 5)
    assert users.failures == []


def reached(stack, stage):
    ids = run_ids(stack.state)
    if not ids:
        return False
    path = stack.state / "runs" / ids[0] / "journal.jsonl"
    bodies = [json.loads(line)["body"] for line in path.read_text().splitlines() if line.endswith("}")]
    return any(body["type"] == "pair_measured" and body["pair"]["stage"] == stage for body in bodies)


def in_slot(stack, slot):
    return next(one for one in stack.processes() if one.environ()["ROLLOUT_SLOT_DIR"].endswith(slot))
