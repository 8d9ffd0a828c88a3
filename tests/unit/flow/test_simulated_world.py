"""Whole runs against a simulated world: every ending, every fault in every phase, and a crash after every record."""

import copy
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollout.errors import RefusedError, UnavailableError
from rollout.model.journal import CommandKind, Event, Phase, RunKind, StepIntended
from rollout.model.roles import Slot

ROAD = (Phase.HISTORY, Phase.DEPLOY, Phase.ADMIT, Phase.WARMUP, Phase.CANARY, Phase.LOAD, Phase.SHIFT, Phase.SOAK)
MEASURED = {Phase.HISTORY: "history", Phase.CANARY: "canary", Phase.SHIFT: "shift-50", Phase.SOAK: "soak"}
BLUE, GREEN = Slot.BLUE, Slot.GREEN


def reach(sim, phase):
    """Go on until the run is in the middle of a phase."""
    sim.until(phase)
    if phase in MEASURED:
        sim.until_pair(MEASURED[phase], 2)
    while phase is Phase.LOAD and not sim.run.windows:
        sim.turn()
    while phase is Phase.DEPLOY and GREEN not in sim.run.deployed:
        sim.turn()
    assert sim.run.phase is phase
    return sim


def fault(sim):
    """From now on the world may break promises by itself; the controller still must not."""
    sim.watcher.calm = False


def ended(sim, phase, code, *, decisions=3000):
    assert sim.to_the_end(decisions_max=sim.decisions + decisions) is phase
    assert sim.codes()[0] == code


# Every ending.


@pytest.mark.parametrize("own_history", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_sound_candidate_is_promoted(simulate, own_history, seed):
    sim = simulate(own_history=own_history, seed=seed)
    assert sim.to_the_end(decisions_max=600) is Phase.PROMOTED
    assert sim.run.cause is None
    assert sim.world.ready(BLUE), "the old incumbent stays hot"
    assert sim.run.baseline is not None


@pytest.mark.parametrize("seed", range(5))
def test_slow_candidate_is_rolled_back_before_it_takes_traffic(simulate, release, seed):
    sim = simulate(candidate=release(name="new", ratio=1.6), seed=seed)
    ended(sim, Phase.ROLLED_BACK, "latency_over_margin")
    assert sim.run.cause is Event.BREACHED
    assert sim.run.shifted is None


def test_candidate_that_fails_canary_requests_is_rolled_back(simulate, release):
    # So slow a margin that only the errors can convict.
    loose = {"slow_rate_rollback": 0.49, "slow_rate_promote": 0.49, "tail_ratio_max": 100.0, "p50_ratio_max": 100.0}
    sim = simulate(candidate=release(name="new", error_rate=0.4), latency=loose)
    ended(sim, Phase.ROLLED_BACK, "error_rate_over_margin")


@pytest.mark.parametrize(
    ("changed", "code"), [({"psnr_db": 20.0}, "picture_differs"), ({"flat": True}, "picture_flat")]
)
def test_candidate_that_draws_something_else_is_rolled_back_at_once(simulate, release, changed, code):
    sim = simulate(candidate=release(name="new", **changed))
    ended(sim, Phase.ROLLED_BACK, code)
    assert len(sim.run.pairs["canary"]) == 1


def test_candidate_that_lost_a_capability_is_rolled_back_before_any_measurement(simulate, release, snapshot):
    lost = snapshot(**{"runtime.ort.providers.actual": ["CPUExecutionProvider"]})
    sim = simulate(candidate=release(name="new", snapshot=lost))
    ended(sim, Phase.ROLLED_BACK, "capability_lost")
    assert "canary" not in sim.run.pairs


def test_candidate_without_a_snapshot_is_rolled_back(simulate, release):
    ended(simulate(candidate=release(name="new", snapshot=None)), Phase.ROLLED_BACK, "snapshot_unreadable")


def test_incumbent_without_a_snapshot_leaves_the_run_undecided(simulate, release):
    sim = simulate(incumbent=release(name="old", snapshot=None))
    ended(sim, Phase.ROLLED_BACK, "incumbent_snapshot_unreadable")
    assert sim.run.cause is Event.UNDECIDED


def test_candidate_that_fails_live_requests_is_rolled_back_from_its_first_step(simulate, release):
    sim = simulate(candidate=release(name="new", live_error_rate=0.9))
    ended(sim, Phase.ROLLED_BACK, "live_errors")
    assert sim.run.verdicts.keys() & {"shift-10", "shift-50"} == {"shift-10"}


def test_one_failed_live_request_among_few_is_waited_out(simulate):
    sim = simulate().until_pair("shift-10")
    sim.world.router.failed[GREEN] += 1
    assert sim.to_the_end() is Phase.PROMOTED


@pytest.mark.parametrize("stage", ["shift-10", "soak"])
def test_one_failed_pair_of_a_short_stage_is_answered_with_more_pairs(simulate, stage):
    sim = simulate()
    while sim.run.shifted is None or (stage == "soak" and sim.run.phase is not Phase.SOAK):
        sim.turn()
    server = sim.world.slots[GREEN][0]
    server.release.error_rate = 1.0
    sim.turn()
    server.release.error_rate = 0.0
    assert sim.to_the_end() is Phase.PROMOTED
    assert len(sim.run.pairs[stage]) == 20


def test_step_without_enough_live_traffic_is_undecided(simulate):
    sim = simulate(live_per_s=0.0)
    ended(sim, Phase.ROLLED_BACK, "live_requests_few")
    assert sim.run.cause is Event.UNDECIDED


def test_stack_without_live_traffic_is_promoted_where_the_policy_says_so(simulate):
    sim = simulate(live_per_s=0.0, live={"error_rate_max": 0.05, "requests_min": 0})
    assert sim.to_the_end() is Phase.PROMOTED


# Undecided, held, approved.

SMALL_BUDGET = {"pairs_max": 8}


def test_undecided_canary_is_rolled_back(simulate):
    sim = simulate(latency=SMALL_BUDGET)
    ended(sim, Phase.ROLLED_BACK, "latency_undecided")
    assert sim.run.cause is Event.UNDECIDED


def test_undecided_canary_is_held_and_given_up_when_nobody_answers(simulate):
    sim = simulate(latency=SMALL_BUDGET, on_inconclusive="hold")
    ended(sim, Phase.ROLLED_BACK, "inconclusive_timeout")
    assert sim.waits["inconclusive"] > 100


def test_approval_of_an_undecided_canary_grants_one_more_budget(simulate):
    sim = simulate(latency=SMALL_BUDGET, on_inconclusive="hold")
    while not sim.waits["inconclusive"]:
        sim.turn()
    sim.say(CommandKind.APPROVE)
    assert sim.to_the_end() is Phase.PROMOTED
    assert sim.run.budgets("canary") == 2
    assert 8 < len(sim.run.pairs["canary"]) <= 16


def test_approval_does_not_turn_a_breach_into_anything(simulate, release):
    sim = simulate(candidate=release(name="new", ratio=2.0), on_inconclusive="hold")
    while "canary" not in sim.run.verdicts:
        sim.turn()
    sim.say(CommandKind.APPROVE)
    ended(sim, Phase.ROLLED_BACK, "latency_over_margin")


def test_proven_candidate_waits_for_approval(simulate):
    sim = simulate(approval="before_shift")
    while not sim.waits["approval"]:
        sim.turn()
    assert sim.run.shifted is None
    sim.say(CommandKind.APPROVE)
    assert sim.to_the_end() is Phase.PROMOTED


def test_approval_that_never_comes_rolls_back(simulate):
    ended(simulate(approval="before_shift"), Phase.ROLLED_BACK, "approval_timeout")


def test_approval_given_before_the_proof_does_not_count(simulate):
    sim = simulate(approval="before_shift")
    sim.say(CommandKind.APPROVE)
    ended(sim, Phase.ROLLED_BACK, "approval_timeout")


# What people say.


@pytest.mark.parametrize("phase", ROAD)
def test_paused_run_does_nothing_until_it_is_resumed(simulate, phase):
    sim = reach(simulate(own_history=True), phase)
    sim.say(CommandKind.PAUSE)
    sim.turn()
    before = len(sim.records)
    for _ in range(50):
        sim.turn()
    assert len(sim.records) == before
    sim.say(CommandKind.RESUME)
    assert sim.to_the_end() is Phase.PROMOTED


@pytest.mark.parametrize("phase", ROAD)
def test_paused_run_still_ends_at_its_deadline(simulate, phase):
    sim = reach(simulate(own_history=True), phase)
    sim.say(CommandKind.PAUSE)
    ended(sim, Phase.ROLLED_BACK, "run_deadline")


def test_pause_before_the_candidate_is_ready_adds_nothing_to_its_cold_start(simulate):
    sim = reach(simulate(), Phase.DEPLOY)
    sim.say(CommandKind.PAUSE)
    sim.turn()
    sim.world.pass_time(1.0)
    sim.turn()
    sim.world.pass_time(100.0)
    sim.say(CommandKind.RESUME)
    assert sim.to_the_end() is Phase.PROMOTED
    assert max(one.cold_start_s for one in sim.run.readings[0].readings) < 3.0


def test_start_that_a_crash_kept_from_being_watched_is_watched_once_more(simulate):
    sim = reach(simulate(), Phase.DEPLOY)
    first = sim.world.slots[GREEN][0]
    sim.world.pass_time(100.0)
    sim = sim.resumed(sim.records, sim.world)
    assert sim.to_the_end() is Phase.PROMOTED
    assert sim.world.slots[GREEN][0].uid != first.uid
    assert max(one.cold_start_s for one in sim.run.readings[0].readings) < 3.0


@pytest.mark.parametrize("when", ["before", "after"])
def test_second_start_survives_a_retirement_that_broke(simulate, when):
    sim = reach(simulate(), Phase.DEPLOY)
    sim.world.pass_time(100.0)
    sim = sim.resumed(sim.records, sim.world)
    sim.world.broken["Retire"] = [(when, UnavailableError)]
    assert sim.to_the_end() is Phase.PROMOTED


@pytest.mark.parametrize("late", [0.0, 100.0])
def test_deployment_that_a_crash_kept_from_being_written_down_starts_once_more(simulate, late):
    sim = simulate().until(Phase.DEPLOY)
    crashes = []

    def crash(one, what):
        if what == "done but not journaled" and one.world.slots[GREEN] and not crashes:
            crashes.append((list(one.records), copy.deepcopy(one.world)))

    sim.on_record.append(crash)
    while not crashes:
        sim.turn()
    records, world = crashes[0]
    world.pass_time(late)
    first = world.slots[GREEN][0].uid
    again = sim.resumed(records, world)
    assert again.to_the_end() is Phase.PROMOTED
    assert again.world.slots[GREEN][0].uid != first


def test_start_of_a_twin_that_a_crash_kept_from_being_watched_is_no_yardstick(simulate):
    sim = simulate(own_history=True).until(Phase.HISTORY)
    while GREEN not in sim.run.deployed:
        sim.turn()
    sim.world.pass_time(100.0)
    sim = sim.resumed(sim.records, sim.world)
    assert sim.to_the_end() is Phase.PROMOTED
    assert max(sim.run.twin_starts_s) < 3.0


@pytest.mark.parametrize("phase", [Phase.SHIFT, Phase.SOAK])
def test_pause_does_not_protect_a_candidate_that_fails_live_requests(simulate, phase):
    sim = reach(simulate(), phase)
    sim.say(CommandKind.PAUSE)
    sim.turn()
    sim.world.slots[GREEN][0].release.live_error_rate = 0.9
    ended(sim, Phase.ROLLED_BACK, "live_errors")
    assert sim.run.entered_at - sim.run.requested_at < 100.0


def test_pause_between_a_breach_and_its_rollback_changes_nothing(simulate, release):
    sim = simulate(candidate=release(name="new", live_error_rate=0.9))
    while "shift-10" not in sim.run.verdicts:
        sim.turn()
    sim.say(CommandKind.PAUSE)
    ended(sim, Phase.ROLLED_BACK, "live_errors", decisions=20)


@pytest.mark.parametrize("phase", ROAD)
def test_abort_rolls_back_from_every_phase(simulate, phase):
    sim = reach(simulate(own_history=True), phase)
    sim.say(CommandKind.ABORT)
    ended(sim, Phase.ROLLED_BACK, "aborted", decisions=10)
    assert sim.run.cause is Event.ABORTED


def test_abort_before_anything_was_changed_refuses(simulate):
    sim = simulate()
    sim.say(CommandKind.ABORT)
    ended(sim, Phase.REFUSED, "aborted")


@pytest.mark.parametrize("command", [CommandKind.ABORT, CommandKind.PAUSE])
def test_rollback_that_was_asked_for_is_done_whatever_is_said_before_it_began(simulate, command):
    sim = simulate(kind=RunKind.ROLLBACK)
    sim.say(command)
    ended(sim, Phase.ROLLED_BACK, "rollback_requested", decisions=10)


def test_pause_waits_until_it_is_known_whether_traffic_moved(simulate, release):
    sim = simulate(candidate=release(name="new", live_error_rate=0.9)).until(Phase.SHIFT)
    sim.world.broken["Shift"] = [("after", UnavailableError)]
    sim.turn()
    assert sim.run.shifted is None
    assert sim.world.router.weights[GREEN] == 10
    sim.say(CommandKind.PAUSE)
    ended(sim, Phase.ROLLED_BACK, "live_errors")
    assert sim.run.entered_at - sim.run.requested_at < 100.0


def test_abort_reaches_a_paused_run(simulate):
    sim = reach(simulate(), Phase.CANARY)
    sim.say(CommandKind.PAUSE)
    sim.turn()
    sim.say(CommandKind.ABORT)
    ended(sim, Phase.ROLLED_BACK, "aborted")


@pytest.mark.parametrize("phase", ROAD)
def test_run_deadline_rolls_back_from_every_phase(simulate, phase):
    sim = reach(simulate(own_history=True), phase)
    sim.world.pass_time(1000.0)
    ended(sim, Phase.ROLLED_BACK, "run_deadline", decisions=10)
    assert sim.run.cause is Event.EXPIRED


# What happens to the candidate.


@pytest.mark.parametrize("phase", ROAD)
@pytest.mark.parametrize(("harm", "code"), [("kill", "died"), ("lose", "gone"), ("replace", "replaced")])
def test_candidate_that_is_not_the_one_deployed_is_rolled_back(simulate, phase, harm, code):
    sim = reach(simulate(own_history=True), phase)
    fault(sim)
    getattr(sim.world, harm)(GREEN)
    ended(sim, Phase.ROLLED_BACK, f"{'twin' if phase is Phase.HISTORY else 'candidate'}_{code}", decisions=10)


@pytest.mark.parametrize(("own_history", "code"), [(False, "candidate_never_ready"), (True, "twin_never_ready")])
def test_what_never_becomes_ready_is_given_up(simulate, release, own_history, code):
    late = release(name="old" if own_history else "new", ready_after_s=math.inf)
    sim = simulate(own_history=own_history, **{"incumbent" if own_history else "candidate": late})
    if own_history:
        sim.world.slots[BLUE][0].started_at = -math.inf
        sim.world.slots[BLUE][0].release = release(name="old")
    ended(sim, Phase.ROLLED_BACK, code)


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        (Phase.ADMIT, "snapshot_unreadable"),
        (Phase.CANARY, "error_rate_over_margin"),
        (Phase.SHIFT, "live_errors"),
        (Phase.SOAK, "live_errors"),
    ],
)
def test_candidate_that_hangs_is_rolled_back(simulate, phase, code):
    sim = reach(simulate(), phase)
    fault(sim)
    sim.world.hang(GREEN)
    ended(sim, Phase.ROLLED_BACK, code, decisions=60)


@pytest.mark.parametrize("when", ["before the first step", "between two steps", "in the soak"])
def test_candidate_that_hangs_without_live_traffic_is_never_promoted(simulate, when):
    sim = simulate(live_per_s=0.0, live={"error_rate_max": 0.05, "requests_min": 0})
    if when == "before the first step":
        sim.until(Phase.SHIFT)
    elif when == "between two steps":
        while "shift-10" not in sim.run.verdicts:
            sim.turn()
    else:
        while "soak" not in sim.run.verdicts:
            sim.turn()
    fault(sim)
    sim.world.hang(GREEN)
    ended(sim, Phase.ROLLED_BACK, "candidate_not_ready")


@pytest.mark.parametrize("stage", ["shift-50", "soak"])
def test_candidate_that_hangs_while_a_step_dwells_is_asked_and_convicted(simulate, stage):
    sim = simulate(live_per_s=0.0, live={"error_rate_max": 0.05, "requests_min": 0}).until_pair(stage, 3)
    fault(sim)
    sim.world.hang(GREEN)
    ended(sim, Phase.ROLLED_BACK, "error_rate_over_margin", decisions=20)


def test_candidate_that_answers_but_is_never_ready_again_is_given_up(simulate):
    sim = reach(simulate(), Phase.SOAK)
    fault(sim)
    sim.world.slots[GREEN][0].started_at = math.inf
    ended(sim, Phase.ROLLED_BACK, "candidate_not_ready")


@pytest.mark.parametrize("role", [BLUE, GREEN])
@pytest.mark.parametrize("phase", [Phase.HISTORY, Phase.CANARY, Phase.SHIFT, Phase.SOAK])
def test_one_late_answer_of_a_readiness_probe_ends_nothing(simulate, phase, role):
    sim = reach(simulate(own_history=True, deadlines={"ready_s": 1.5}), phase)
    if phase is Phase.HISTORY:
        sim.until_pair("history", 30)
    fault(sim)
    started = sim.world.slots[role][0].started_at
    sim.world.slots[role][0].started_at = math.inf
    sim.turn()
    sim.world.slots[role][0].started_at = started
    assert sim.to_the_end() is Phase.PROMOTED


def test_late_probe_after_a_long_pause_ends_nothing(simulate):
    sim = reach(simulate(), Phase.SHIFT)
    while "shift-10" not in sim.run.verdicts:
        sim.turn()
    sim.say(CommandKind.PAUSE)
    sim.turn()
    sim.world.pass_time(20.0)
    sim.say(CommandKind.RESUME)
    fault(sim)
    sim.world.hang(BLUE)
    sim.turn()
    sim.world.hang(BLUE, hung=False)
    assert sim.to_the_end() is Phase.PROMOTED


def test_late_probe_in_a_stage_that_took_many_pairs_ends_nothing(simulate):
    sim = reach(simulate(soak={"pairs": 40, "seconds": 2}), Phase.SOAK).until_pair("soak", 40)
    sim.policy = sim.policy.model_copy(update={"soak": sim.policy.soak.model_copy(update={"pairs": 3})})
    fault(sim)
    started = sim.world.slots[GREEN][0].started_at
    sim.world.slots[GREEN][0].started_at = math.inf
    sim.turn()
    sim.world.slots[GREEN][0].started_at = started
    assert sim.to_the_end() is Phase.PROMOTED


def test_traffic_waits_until_a_proven_candidate_is_ready_again(simulate):
    sim = simulate().until(Phase.SHIFT)
    sim.world.hang(GREEN)
    for _ in range(5):
        sim.turn()
    assert sim.run.shifted is None
    sim.world.hang(GREEN, hung=False)
    assert sim.to_the_end() is Phase.PROMOTED


# What happens to the incumbent.


@pytest.mark.parametrize("phase", ROAD)
@pytest.mark.parametrize("harm", ["kill", "lose"])
def test_incumbent_that_died_is_restored_before_traffic_returns_to_it(simulate, phase, harm):
    sim = reach(simulate(own_history=True), phase)
    fault(sim)
    getattr(sim.world, harm)(BLUE)
    ended(sim, Phase.ROLLED_BACK, "incumbent_lost", decisions=50)


@pytest.mark.parametrize("phase", ROAD)
def test_one_dead_replica_of_the_incumbent_costs_the_others_nothing(simulate, release, phase):
    sim = reach(simulate(own_history=True, incumbent=release(name="old", replicas=2)), phase)
    fault(sim)
    dead, live = sim.world.slots[BLUE]
    sim.world.kill_one(BLUE)
    sim.until(Phase.ROLLBACK)
    sim.turn()
    if phase is not Phase.SOAK:
        assert sim.world.router.targets[BLUE] == (live.address,), "first of all nobody is sent to the dead"
    ended(sim, Phase.ROLLED_BACK, "incumbent_lost", decisions=50)
    assert live in sim.world.slots[BLUE]
    assert dead not in sim.world.slots[BLUE]


def test_standby_with_one_dead_replica_is_made_whole_before_it_takes_traffic(simulate, release):
    sim = simulate(kind=RunKind.ROLLBACK, incumbent=release(name="old", replicas=2))
    live = sim.world.slots[BLUE][1]
    sim.world.kill_one(BLUE)
    ended(sim, Phase.ROLLED_BACK, "rollback_requested", decisions=50)
    steps = [one.body.step for one in sim.records if isinstance(one.body, StepIntended)]
    assert steps == ["Deploy", "Shift", "Shift", "Retire"]
    assert live in sim.world.slots[BLUE]


@pytest.mark.parametrize("harm", ["kill", "hang"])
def test_traffic_on_a_candidate_that_serves_nobody_goes_at_once_to_an_incumbent_that_lives(simulate, harm):
    sim = simulate(kind=RunKind.ROLLBACK)
    fault(sim)
    sim.world.slots[BLUE][0].started_at = sim.world.now + 5.0
    getattr(sim.world, harm)(GREEN)
    sim.until(Phase.ROLLBACK)
    sim.turn()
    assert sim.world.router.weights == {BLUE: 100, GREEN: 0}
    assert not sim.world.ready(BLUE)
    ended(sim, Phase.ROLLED_BACK, "rollback_requested")


@pytest.mark.parametrize("dead", [0, 1])
def test_incumbent_that_is_not_ready_takes_no_traffic_from_whoever_is(simulate, release, dead):
    sim = simulate(kind=RunKind.ROLLBACK, candidate=release(name="new", replicas=2))
    fault(sim)
    if dead:
        sim.world.kill_one(GREEN)
    sim.world.slots[BLUE][0].started_at = sim.world.now + 5.0
    ended(sim, Phase.ROLLED_BACK, "rollback_requested")
    assert sim.waits["incumbent_not_ready"] > 40


@pytest.mark.parametrize("phase", [Phase.SHIFT, Phase.SOAK])
def test_convicted_candidate_loses_its_traffic_to_the_part_of_the_incumbent_that_is_ready(simulate, release, phase):
    sim = reach(simulate(own_history=True, incumbent=release(name="old", replicas=2)), phase)
    fault(sim)
    hung, serving = sim.world.slots[BLUE]
    hung.hung = True
    sim.world.slots[GREEN][0].release.live_error_rate = 0.9
    sim.until(Phase.ROLLBACK)
    began = sim.world.now
    while sim.world.router.weights[GREEN]:
        sim.turn()
    assert sim.world.now - began < 1.0
    assert sim.world.router.targets[BLUE] == (serving.address,)
    ended(sim, Phase.ROLLED_BACK, "live_errors")


def test_standby_that_hangs_is_restarted_once(simulate, release):
    sim = simulate(kind=RunKind.ROLLBACK, incumbent=release(name="old", replicas=2))
    fault(sim)
    hung, live = sim.world.slots[BLUE]
    hung.hung = True
    ended(sim, Phase.ROLLED_BACK, "rollback_requested")
    assert sim.world.slots[BLUE][0] is live
    assert hung not in sim.world.slots[BLUE]
    assert 10.0 < sim.world.now - sim.run.requested_at < 15.0


def test_incumbent_that_hangs_also_after_its_restart_needs_a_person(simulate, release):
    sim = simulate(kind=RunKind.ROLLBACK)
    fault(sim)
    sim.world.hang(BLUE)
    sim.releases = {role: release(name=one.name, ready_after_s=math.inf) for role, one in sim.releases.items()}
    ended(sim, Phase.ROLLBACK_INCOMPLETE, "rollback_requested")
    assert [one.body.step for one in sim.records if isinstance(one.body, StepIntended)] == ["Deploy"]
    assert sim.world.router.weights[GREEN] == 100


@pytest.mark.parametrize("phase", [Phase.CANARY, Phase.SHIFT])
def test_incumbent_that_hangs_with_all_traffic_is_restarted_where_nobody_else_could_serve(simulate, phase):
    sim = reach(simulate(), phase)
    fault(sim)
    sim.world.hang(BLUE)
    sim.world.kill(GREEN)
    ended(sim, Phase.ROLLED_BACK, "candidate_died")


def test_controller_that_comes_back_late_restarts_nobody_with_traffic_for_one_late_probe(simulate):
    sim = simulate(kind=RunKind.ROLLBACK)
    fault(sim)
    sim.world.kill(GREEN)
    while sim.run.shifted is None:
        sim.turn()
    sim.world.pass_time(25.0)
    serving = sim.world.slots[BLUE][0]
    serving.hung = True
    sim.turn()
    serving.hung = False
    ended(sim, Phase.ROLLED_BACK, "rollback_requested")
    assert sim.world.slots[BLUE] == [serving]


def degrade(sim, release, snapshot):
    """From now on the incumbent is restored with less than it had."""
    lost = snapshot(**{"runtime.ort.providers.actual": ["CPUExecutionProvider"]})
    sim.releases = {role: release(name=one.name, snapshot=lost) for role, one in sim.releases.items()}


def test_incumbent_restored_with_less_does_not_take_traffic_from_a_proven_candidate(simulate, release, snapshot):
    sim = simulate().until(Phase.SOAK)
    fault(sim)
    degrade(sim, release, snapshot)
    sim.world.kill(BLUE)
    ended(sim, Phase.ROLLBACK_INCOMPLETE, "incumbent_lost")
    assert sim.codes()[-1] == "incumbent_degraded"
    assert sim.world.router.weights == {BLUE: 0, GREEN: 100}
    assert sim.world.ready(GREEN)
    assert sim.run.snapshots.snapshot_digests["incumbent"] != sim.run.restored.snapshot_digests["incumbent"]


def test_incumbent_whose_capabilities_cannot_be_read_is_not_taken_for_the_admitted_one(simulate, release):
    sim = simulate().until(Phase.SOAK)
    fault(sim)
    sim.releases = {role: release(name=one.name, snapshot=None) for role, one in sim.releases.items()}
    sim.world.kill(BLUE)
    ended(sim, Phase.ROLLBACK_INCOMPLETE, "incumbent_lost")
    assert sim.codes()[-1] == "incumbent_degraded"


def test_incumbent_restored_as_it_was_takes_its_traffic_back(simulate):
    sim = simulate().until(Phase.SOAK)
    fault(sim)
    sim.world.kill(BLUE)
    ended(sim, Phase.ROLLED_BACK, "incumbent_lost")
    assert sim.run.restored is not None
    assert sim.codes() == ["incumbent_lost"]


@pytest.mark.parametrize("what", ["died", "breached", "unproven"])
def test_incumbent_restored_with_less_serves_where_no_proven_candidate_does(simulate, release, snapshot, what):
    sim = reach(simulate(), Phase.CANARY if what == "unproven" else Phase.SOAK)
    fault(sim)
    degrade(sim, release, snapshot)
    if what == "died":
        sim.world.kill(GREEN)
    if what == "breached":
        sim.world.slots[GREEN][0].release.live_error_rate = 0.9
        sim.until(Phase.ROLLBACK)
    sim.world.kill(BLUE)
    assert sim.to_the_end(decisions_max=sim.decisions + 3000) is Phase.ROLLED_BACK
    assert sim.codes()[-1] == "incumbent_degraded"
    back = [one.seq for one in sim.records if getattr(one.body, "stage", "") == "rollback"]
    read = [one.seq for one in sim.records if one.body.type == "snapshots_read"]
    assert back[0] < read[-1], "traffic first, then the reading"


def test_traffic_that_reaches_the_dead_does_not_wait_for_a_reading_of_capabilities(simulate, release, snapshot):
    sim = reach(simulate(), Phase.SHIFT)
    fault(sim)
    degrade(sim, release, snapshot)
    sim.world.broken["ReadSnapshots"] = [("before", UnavailableError)] * 1000
    sim.world.kill(BLUE)
    ended(sim, Phase.ROLLBACK_INCOMPLETE, "incumbent_lost", decisions=60)
    done = [one.body.type for one in sim.records]
    assert done.index("step_failed") > len(done) - done[::-1].index("traffic_shifted") - 1
    assert sim.codes()[-1] == "incumbent_degraded"
    assert sim.world.router.weights == {BLUE: 100, GREEN: 0}
    assert sim.world.ready(BLUE)


@pytest.mark.parametrize("phase", [Phase.WARMUP, Phase.CANARY, Phase.SHIFT, Phase.SOAK])
def test_incumbent_that_was_replaced_after_admission_voids_the_comparison(simulate, phase):
    sim = reach(simulate(), phase)
    fault(sim)
    sim.world.replace(BLUE)
    ended(sim, Phase.ROLLED_BACK, "incumbent_replaced")


def test_incumbent_that_is_not_ready_takes_no_part_in_a_step(simulate):
    sim = simulate().until(Phase.SHIFT)
    fault(sim)
    sim.world.hang(BLUE)
    ended(sim, Phase.ROLLBACK_INCOMPLETE, "incumbent_not_ready")


@pytest.mark.parametrize(("harm", "seconds"), [("kill", 0.0), ("lose", 0.0), ("hang", 10.0)])
def test_promotion_is_refused_where_the_incumbent_is_not_ready(simulate, harm, seconds):
    sim = simulate()
    fault(sim)
    getattr(sim.world, harm)(BLUE)
    ended(sim, Phase.REFUSED, "incumbent_not_ready")
    assert sim.run.entered_at - sim.run.requested_at >= seconds


# What happens to the router.


@pytest.mark.parametrize("phase", ROAD)
def test_router_that_died_is_started_again_for_the_incumbent(simulate, phase):
    sim = reach(simulate(own_history=True), phase)
    fault(sim)
    sim.world.router = None
    ended(sim, Phase.ROLLED_BACK, "router_lost", decisions=10)


@pytest.mark.parametrize("phase", ROAD)
def test_router_that_was_restarted_ends_a_rollout_with_live_traffic(simulate, phase):
    sim = reach(simulate(own_history=True), phase)
    sim.world.restart_router()
    if phase in {Phase.SHIFT, Phase.SOAK}:
        ended(sim, Phase.ROLLED_BACK, "router_restarted")
    else:
        assert sim.to_the_end() is Phase.PROMOTED


@pytest.mark.parametrize("phase", ROAD)
def test_weights_that_somebody_else_set_end_the_rollout(simulate, phase):
    sim = reach(simulate(own_history=True), phase)
    fault(sim)
    sim.world.reweigh(blue=70)
    ended(sim, Phase.ROLLED_BACK, "weights_changed", decisions=10)


@pytest.mark.parametrize("phase", [Phase.SHIFT, Phase.SOAK])
def test_counters_that_fall_end_the_rollout(simulate, phase):
    sim = reach(simulate(), phase)
    sim.world.router.completed[GREEN] = 0
    ended(sim, Phase.ROLLED_BACK, "counters_lost")


@pytest.mark.parametrize("phase", ROAD)
def test_router_that_never_answers_again_needs_a_person(simulate, phase):
    sim = reach(simulate(own_history=True), phase)
    fault(sim)
    sim.world.router.answers = False
    ended(sim, Phase.ROLLBACK_INCOMPLETE, "router_lost")
    assert sim.codes()[-1] == "rollback_incomplete"


# Steps that fail.


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["Deploy", "Retire", "Shift", "ReadSnapshots", "StoreHistory", "StoreBaseline"])
def test_step_that_was_unavailable_twice_is_repeated(simulate, step, when):
    sim = simulate(own_history=True)
    sim.world.broken[step] = [(when, UnavailableError)] * 2
    assert sim.to_the_end() is Phase.PROMOTED


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["Deploy", "Retire", "Shift", "ReadSnapshots", "StoreHistory", "StoreBaseline"])
@pytest.mark.parametrize(("error", "times"), [(UnavailableError, 3), (RefusedError, 1)])
def test_step_that_cannot_be_taken_is_lost_contact(simulate, step, when, error, times):
    sim = simulate(own_history=True)
    sim.world.broken[step] = [(when, error)] * times
    ended(sim, Phase.ROLLED_BACK, "step_failed")
    assert sim.run.cause is Event.LOST


def test_rollback_goes_on_however_often_a_step_fails(simulate, release):
    sim = simulate(candidate=release(name="new", ratio=2.0)).until(Phase.ROLLBACK)
    sim.world.broken = {"Shift": [("before", UnavailableError)] * 20, "Retire": [("after", RefusedError)] * 20}
    assert sim.to_the_end() is Phase.ROLLED_BACK


def test_rollback_that_cannot_be_done_is_given_up_at_its_deadline(simulate, release):
    sim = simulate(candidate=release(name="new", ratio=2.0)).until(Phase.ROLLBACK)
    sim.world.broken = {"Retire": [("before", UnavailableError)] * 10_000}
    assert sim.to_the_end() is Phase.ROLLBACK_INCOMPLETE
    assert 30.0 <= sim.world.now - sim.run.recorded_at + 30.0 <= 40.0


def test_rollback_whose_incumbent_dies_again_and_again_is_given_up(simulate, release):
    sim = reach(simulate(), Phase.SHIFT)
    fault(sim)
    sim.releases = {role: release(name=one.name, dies_after_s=0.5) for role, one in sim.releases.items()}
    sim.world.kill(BLUE)
    ended(sim, Phase.ROLLBACK_INCOMPLETE, "incumbent_lost")
    assert sim.world.now - sim.run.requested_at < 200.0


def test_rollback_whose_incumbent_never_becomes_ready_is_given_up(simulate, release):
    sim = reach(simulate(), Phase.SHIFT)
    fault(sim)
    sim.releases = {role: release(name=one.name, ready_after_s=math.inf) for role, one in sim.releases.items()}
    sim.world.kill(BLUE)
    ended(sim, Phase.ROLLBACK_INCOMPLETE, "incumbent_lost")


@pytest.mark.parametrize("harm", [None, "kill", "lose"])
def test_rollback_that_is_taken_up_long_after_its_deadline_is_still_done(simulate, harm):
    sim = reach(simulate(), Phase.SHIFT)
    sim.say(CommandKind.ABORT)
    sim.until(Phase.ROLLBACK)
    sim.world.pass_time(86_400.0)
    if harm:
        fault(sim)
        getattr(sim.world, harm)(BLUE)
    late = sim.resumed(sim.records, sim.world)
    assert late.to_the_end() is Phase.ROLLED_BACK


# The history.


def test_twin_that_dies_in_any_block_ends_the_run(simulate):
    for count in (1, 41, 81):
        sim = simulate(own_history=True).until_pair("history", count)
        sim.world.kill(GREEN)
        ended(sim, Phase.ROLLED_BACK, "twin_died")
        assert sim.run.cause is Event.LOST


def test_each_block_of_the_history_has_a_twin_of_its_own(simulate):
    sim = simulate(own_history=True)
    sim.to_the_end()
    twins = [one.body.pod_uids for one in sim.records if getattr(one.body, "purpose", "") == "twin"]
    assert len(set(twins)) == 3


def test_incumbent_that_fails_against_itself_leaves_the_run_undecided(simulate, release):
    sim = simulate(own_history=True, incumbent=release(name="old", error_rate=0.3))
    ended(sim, Phase.ROLLED_BACK, "incumbent_unhealthy")
    assert len(sim.run.pairs["history"]) < 120


def test_history_that_cannot_be_a_yardstick_is_not_stored(simulate, release):
    # Every second answer is slower than the slow factor allows the candidate to be.
    sim = simulate(own_history=True, incumbent=release(name="old", sigma=1.5))
    ended(sim, Phase.ROLLED_BACK, "history_unfit")
    assert sim.run.history is None
    assert sim.run.cause is Event.UNDECIDED


def test_incumbent_that_never_draws_the_same_twice_costs_one_pair(simulate):
    sim = simulate()
    stored = sim.objects[sim.run.history]
    sim.objects[sim.run.history] = stored.model_copy(update={"repeat_psnr_db": 12.0})
    sim = sim.resumed(sim.records, sim.world)
    assert sim.to_the_end() is Phase.ROLLED_BACK
    assert "repeat_noise_too_large" in sim.codes()
    assert sim.run.cause is Event.UNDECIDED
    assert len(sim.run.pairs["canary"]) == 1


def test_stored_history_that_does_not_fit_the_policy_costs_one_pair(simulate):
    sim = simulate(latency={"tail_quantile": 0.99, "slow_factor": 1.0001, "slow_rate_rollback": 0.001})
    ended(sim, Phase.ROLLED_BACK, "history_unfit")
    assert len(sim.run.pairs["canary"]) == 1


# Standby, first stack, rollback, drift check.


def test_standby_is_not_touched_before_its_lease_ends(simulate):
    sim = simulate(standby_s=60.0)
    assert sim.to_the_end() is Phase.PROMOTED
    retired = next(one for one in sim.records if one.body.type == "retired")
    assert retired.at >= sim.run.request.standby_until


def test_standby_that_is_gone_is_not_waited_for(simulate):
    sim = simulate(standby_s=60.0)
    sim.world.restart_router()
    sim.world.lose(GREEN)
    sim.to_the_end()
    assert sim.waits["standby_lease"] == 0


def test_promotion_is_refused_while_traffic_is_split(simulate):
    sim = simulate()
    fault(sim)
    sim.world.reweigh(blue=50)
    ended(sim, Phase.REFUSED, "traffic_not_on_incumbent")


def test_promotion_starts_a_router_that_is_not_there(simulate):
    sim = simulate()
    sim.world.router = None
    assert sim.to_the_end() is Phase.PROMOTED


def test_first_stack_is_promoted_without_comparison(simulate):
    sim = simulate(kind=RunKind.BOOTSTRAP)
    assert sim.to_the_end(decisions_max=50) is Phase.PROMOTED


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"ready_after_s": math.inf}, "candidate_never_ready"),
        ({"dies_after_s": 0.5}, "candidate_died"),
        ({"snapshot": None}, "snapshot_unreadable"),
    ],
)
def test_first_stack_that_fails_is_removed(simulate, release, changed, code):
    sim = simulate(kind=RunKind.BOOTSTRAP, candidate=release(name="new", **changed))
    ended(sim, Phase.ROLLED_BACK, code)
    assert sim.world.router is None
    assert sim.world.slots[BLUE] is None


def test_first_stack_that_hangs_takes_no_traffic(simulate):
    sim = simulate(kind=RunKind.BOOTSTRAP).until(Phase.SHIFT)
    sim.world.hang(BLUE)
    ended(sim, Phase.ROLLED_BACK, "candidate_not_ready")


@pytest.mark.parametrize("taken", ["slot", "router"])
def test_first_stack_is_refused_where_something_stands(simulate, release, taken):
    sim = simulate(kind=RunKind.BOOTSTRAP)
    fault(sim)
    if taken == "slot":
        sim.world.slots[BLUE] = [sim.world.new_server(BLUE, release(name="other"))]
    else:
        sim.world.start_router()
    ended(sim, Phase.REFUSED, "slot_taken" if taken == "slot" else "router_running")


def test_rollback_command_moves_traffic_first_and_then_removes_the_other_stack(simulate):
    sim = simulate(kind=RunKind.ROLLBACK)
    ended(sim, Phase.ROLLED_BACK, "rollback_requested", decisions=10)
    steps = [one.body.step for one in sim.records if isinstance(one.body, StepIntended)]
    assert steps == ["Shift", "Shift", "Retire"]


@pytest.mark.parametrize("harm", ["kill", "lose"])
def test_rollback_command_starts_a_standby_that_is_gone_before_it_moves_traffic(simulate, harm):
    sim = simulate(kind=RunKind.ROLLBACK)
    getattr(sim.world, harm)(BLUE)
    ended(sim, Phase.ROLLED_BACK, "rollback_requested")


@pytest.mark.parametrize("harm", ["kill", "lose", "hang", "replace"])
def test_rollback_command_never_waits_for_the_stack_it_removes(simulate, harm):
    sim = simulate(kind=RunKind.ROLLBACK)
    fault(sim)
    getattr(sim.world, harm)(GREEN)
    ended(sim, Phase.ROLLED_BACK, "rollback_requested", decisions=10)
    assert sim.waits.total() == 0


def test_rollback_command_that_is_taken_up_days_later_does_not_expire(simulate):
    sim = simulate(kind=RunKind.ROLLBACK)
    sim.world.pass_time(86_400.0)
    assert sim.resumed(sim.records, sim.world).to_the_end() is Phase.ROLLED_BACK


def test_drift_check_confirms_an_incumbent_that_does_what_it_did(simulate):
    sim = simulate(kind=RunKind.VERIFY)
    assert sim.to_the_end() is Phase.VERIFIED
    assert not [one for one in sim.records if isinstance(one.body, StepIntended)]


@pytest.mark.parametrize(
    ("changed", "phase", "code"),
    [
        ({"ratio": 1.6}, Phase.DRIFTED, "latency_drifted"),
        ({"error_rate": 0.4}, Phase.DRIFTED, "error_rate_over_margin"),
        ({"ratio": 1.2}, Phase.UNDECIDED, "drift_undecided"),
    ],
)
def test_drift_check_finds_an_incumbent_that_changed(simulate, release, changed, phase, code):
    ended(simulate(kind=RunKind.VERIFY, incumbent=release(name="old", **changed)), phase, code)


def test_drift_check_finds_a_capability_that_is_gone(simulate, release, snapshot):
    lost = snapshot(**{"runtime.ort.providers.actual": ["CPUExecutionProvider"]})
    sim = simulate(kind=RunKind.VERIFY, incumbent=release(name="old", snapshot=lost))
    ended(sim, Phase.DRIFTED, "capability_lost")


def test_drift_check_without_a_baseline_is_undecided(simulate):
    ended(simulate(kind=RunKind.VERIFY, own_history=True), Phase.UNDECIDED, "incumbent_snapshot_unreadable")


@pytest.mark.parametrize(("harm", "code"), [("kill", "incumbent_lost"), ("replace", "incumbent_replaced")])
def test_drift_check_of_an_incumbent_that_goes_away_is_undecided(simulate, harm, code):
    sim = simulate(kind=RunKind.VERIFY).until(Phase.DRIFT)
    for _ in range(10):
        sim.turn()
    fault(sim)
    getattr(sim.world, harm)(BLUE)
    ended(sim, Phase.UNDECIDED, code)


@pytest.mark.parametrize(("what", "code"), [("abort", "aborted"), ("late", "run_deadline")])
def test_drift_check_that_is_cut_short_is_undecided(simulate, what, code):
    sim = simulate(kind=RunKind.VERIFY).until(Phase.DRIFT)
    if what == "abort":
        sim.say(CommandKind.ABORT)
    else:
        sim.world.pass_time(1000.0)
    ended(sim, Phase.UNDECIDED, code)


@pytest.mark.parametrize(
    ("ratio", "phase", "code"),
    [
        (1.6, Phase.VERIFIED, None),
        (1.0, Phase.DRIFTED, "drift_of_the_stack"),
    ],
    ids=["both-slower", "one-slower"],
)
def test_alarm_is_looked_at_again_in_pairs_with_the_earlier_stack(simulate, release, ratio, phase, code):
    sim = simulate(
        kind=RunKind.VERIFY,
        incumbent=release(name="old", ratio=1.6),
        older=release(name="older", ratio=ratio),
        standby_s=600.0,
    )
    sim.world.pass_time(5.0)
    assert sim.to_the_end() is phase
    assert sim.run.pairs["recheck"]
    assert not [one for one in sim.records if isinstance(one.body, StepIntended)], "a drift check changes nothing"
    if code:
        assert sim.codes() == [code]


def test_alarm_that_the_budget_cannot_clear_stands(simulate, release):
    older = release(name="older", ratio=1.6)
    sim = simulate(
        kind=RunKind.VERIFY,
        incumbent=release(name="old", ratio=1.6),
        older=older,
        standby_s=600.0,
        drift={"recheck_pairs_max": 3},
    )
    sim.world.pass_time(5.0)
    ended(sim, Phase.DRIFTED, "recheck_undecided")


def test_alarm_stands_when_the_earlier_stack_goes_away_during_the_recheck(simulate, release):
    slow = release(name="old", ratio=1.6)
    sim = simulate(kind=RunKind.VERIFY, incumbent=slow, older=slow, standby_s=600.0)
    sim.world.pass_time(5.0)
    sim.until_pair("recheck")
    sim.world.lose(GREEN)
    ended(sim, Phase.DRIFTED, "earlier_stack_lost")


def test_lost_capability_is_no_alarm_that_pairs_could_clear(simulate, release, snapshot):
    lost = snapshot(**{"runtime.ort.providers.actual": ["CPUExecutionProvider"]})
    slow = release(name="old", ratio=1.6, snapshot=lost)
    sim = simulate(kind=RunKind.VERIFY, incumbent=slow, older=release(name="older", ratio=1.6), standby_s=600.0)
    sim.world.pass_time(5.0)
    ended(sim, Phase.DRIFTED, "capability_lost")
    assert "recheck" not in sim.run.pairs


# Under load, and what instances do.


def test_candidate_that_is_worse_only_under_load_is_rolled_back_before_it_takes_traffic(simulate, release):
    sim = simulate(candidate=release(name="new", load_ratio=3.0))
    ended(sim, Phase.ROLLED_BACK, "load_throughput_over_margin")
    assert sim.run.shifted is None
    assert sim.run.verdicts["canary"].verdict.outcome.value == "PASS"


def test_load_phase_ends_at_its_bound_in_time_without_a_promotion(simulate):
    ended(simulate(load={"seconds_max": 3.0}), Phase.ROLLED_BACK, "load_throughput_undecided")


def test_load_phase_that_is_not_demanded_sends_no_window(simulate):
    sim = simulate(load=None)
    assert sim.to_the_end() is Phase.PROMOTED
    assert not sim.run.windows
    assert sim.run.verdicts["load"].verdict.gates[0].reasons[0].code == "load_not_demanded"


def test_candidate_whose_memory_grows_is_rolled_back(simulate, release):
    ended(simulate(candidate=release(name="new", memory_growth=2.0)), Phase.ROLLED_BACK, "memory_grows")


def test_candidate_that_starts_slowly_is_rolled_back(simulate, release):
    sim = simulate(candidate=release(name="new", ready_after_s=9.0), instances={"cold_start_s_max": 5.0})
    ended(sim, Phase.ROLLED_BACK, "cold_start_slow")
    assert sim.run.shifted is None


# Calibration.


def test_calibration_measures_a_history_and_leaves_everything_as_it_was(simulate):
    sim = simulate(kind=RunKind.CALIBRATE, own_history=True)
    assert sim.to_the_end() is Phase.CALIBRATED
    assert sim.objects[sim.run.history].aa_ratio
    assert sim.world.slots[GREEN] is None
    assert sim.world.router.weights == {BLUE: 100, GREEN: 0}


def test_calibration_that_is_aborted_takes_the_twin_away(simulate):
    sim = simulate(kind=RunKind.CALIBRATE, own_history=True).until_pair("history", 5)
    sim.say(CommandKind.ABORT)
    ended(sim, Phase.ROLLED_BACK, "aborted")
    assert sim.world.slots[GREEN] is None


# The controller dies after every record, and between every change of the world and its record.


def crashes(sim):
    """Run to the end and return every (records, world) that a crash could leave behind."""
    found = []

    def keep(at, why):
        found.append((why, len(at.records), list(at.records), copy.deepcopy(at.world)))

    sim.on_record.append(keep)
    sim.to_the_end()
    return found


def survives(sim, *, downtime_s, harm=None):
    endings = set()
    for why, count, records, world in crashes(sim):
        later = sim.resumed(records, world)
        later.world.pass_time(downtime_s)
        if harm:
            fault(later)
            harm(later.world)
        assert later.to_the_end(decisions_max=2000) in {Phase.PROMOTED, Phase.ROLLED_BACK}, (why, count, later.codes())
        endings.add(later.run.phase)
    return endings


@pytest.mark.parametrize("own_history", [pytest.param(True, marks=pytest.mark.slow), False])
def test_promotion_survives_a_crash_after_every_record(simulate, own_history):
    assert survives(simulate(own_history=own_history), downtime_s=0.5) == {Phase.PROMOTED}


@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_rollback_survives_a_crash_after_every_record(simulate, release, ratio):
    # At ratio 1 only live requests fail, so that the rollback begins with traffic on the candidate.
    slow = release(name="new", ratio=ratio, live_error_rate=0.9)
    assert survives(simulate(candidate=slow), downtime_s=0.5) == {Phase.ROLLED_BACK}


def test_run_that_is_taken_up_long_after_its_deadline_ends_safely(simulate, release):
    sim = simulate(candidate=release(name="new", live_error_rate=0.9))
    for _why, _count, records, world in crashes(sim):
        later = sim.resumed(records, world)
        later.world.pass_time(10_000.0)
        assert later.to_the_end() in {Phase.ROLLED_BACK, Phase.REFUSED}


HARMS = {
    "candidate killed": lambda world: world.kill(GREEN),
    "candidate replaced": lambda world: world.replace(GREEN),
    "candidate hangs": lambda world: world.hang(GREEN),
    "incumbent killed": lambda world: world.kill(BLUE),
    "one of the incumbent killed": lambda world: world.kill_one(BLUE),
    "router gone": lambda world: setattr(world, "router", None),
    "router restarted": lambda world: world.restart_router(),
    "weights changed": lambda world: world.reweigh(blue=30),
    "machine restarted": lambda world: (world.kill(BLUE), world.kill(GREEN), setattr(world, "router", None)),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_run_survives_a_fault_while_its_controller_was_down(simulate, harm):
    sim = simulate()
    for why, count, records, world in crashes(sim):
        later = sim.resumed(records, world)
        if later.run.terminal:
            continue
        fault(later)
        harm(later.world)
        ending = later.to_the_end(decisions_max=2000)
        assert ending in {Phase.PROMOTED, Phase.ROLLED_BACK, Phase.REFUSED}, (why, count, later.codes())


# Anything may happen, several times over.

FAULTS = {
    **HARMS,
    "candidate lost": lambda world: world.lose(GREEN),
    "candidate recovers": lambda world: world.hang(GREEN, hung=False),
    "incumbent hangs": lambda world: world.hang(BLUE),
    "incumbent recovers": lambda world: world.hang(BLUE, hung=False),
    "incumbent replaced": lambda world: world.replace(BLUE),
    "incumbent lost": lambda world: world.lose(BLUE),
    "router silent": lambda world: world.router and setattr(world.router, "answers", False),
    "router answers": lambda world: world.router and setattr(world.router, "answers", True),
    "time passes": lambda world: world.pass_time(3.0),
    "long time passes": lambda world: world.pass_time(150.0),
    "shift fails": lambda world: world.broken.setdefault("Shift", []).append(("before", UnavailableError)),
    "shift half fails": lambda world: world.broken.setdefault("Shift", []).append(("after", UnavailableError)),
    "deploy half fails": lambda world: world.broken.setdefault("Deploy", []).append(("after", UnavailableError)),
    "retire refused": lambda world: world.broken.setdefault("Retire", []).append(("before", RefusedError)),
}
COMMANDS = {f"say {one}": one for one in CommandKind}
ENDINGS = {Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ROLLBACK_INCOMPLETE, Phase.REFUSED}


def endure(sim, happenings):
    """Let things happen after given numbers of decisions, then run to the end."""
    for turns, what in happenings:
        for _ in range(turns):
            if not sim.run.terminal:
                sim.turn()
        if sim.run.terminal:
            break
        fault(sim)
        if what in COMMANDS:
            sim.say(COMMANDS[what])
        elif what == "crash":
            sim = sim.resumed(sim.records, sim.world)
        else:
            FAULTS[what](sim.world)
    return sim


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_sequence_of_faults_breaks_a_promise_or_runs_for_ever(simulate, release, data):
    happenings = data.draw(
        st.lists(
            st.tuples(st.integers(0, 60), st.sampled_from([*FAULTS, *COMMANDS, "crash", "crash"])),
            min_size=1,
            max_size=6,
        )
    )
    kind = data.draw(st.sampled_from([RunKind.PROMOTE, RunKind.PROMOTE, RunKind.BOOTSTRAP, RunKind.ROLLBACK]))
    ratio = data.draw(st.sampled_from([1.0, 1.0, 1.2, 2.0]))
    errors = data.draw(st.sampled_from([0.0, 0.0, 0.1]))
    replicas = data.draw(st.sampled_from([1, 2]))
    sim = simulate(
        kind=kind,
        candidate=release(name="new", ratio=ratio, live_error_rate=errors, replicas=replicas),
        incumbent=release(name="old", replicas=replicas),
        own_history=data.draw(st.booleans()),
        approval=data.draw(st.sampled_from(["none", "before_shift"])),
        on_inconclusive=data.draw(st.sampled_from(["hold", "rollback"])),
        live={"error_rate_max": 0.05, "requests_min": data.draw(st.sampled_from([0, 5]))},
    )
    sim = endure(sim, happenings)
    # A promise about the end can be kept only by a world that is left in peace at the end.
    left = sim.run.terminal
    while not sim.run.terminal:
        sim.turn()
        assert sim.decisions < 6000, (sim.run.phase, sim.waits)
    assert sim.run.phase in ENDINGS
    if not left:
        sim.watcher.at_the_end(sim.world, sim.records)
