"""The planner: one decision for one view. Whole runs are in test_simulated_world.py."""

import pytest

from rollout.flow.planner import plan
from rollout.flow.steps import Act, Deploy, Enter, Finished, MeasurePair, Shift, Wait
from rollout.flow.view import live_window
from rollout.model.inventory import Absent, Inventory, LiveCounters, SlotState
from rollout.model.journal import CommandKind, Event, Phase, StepIntended
from rollout.model.roles import Address, Role, Slot, all_on


def test_plan_is_pure_and_gives_the_same_decision_for_the_same_view(simulate):
    sim = simulate(own_history=True)
    while not sim.run.terminal:
        view = sim._look()
        before = repr(view)
        assert plan(view) == plan(view)
        assert repr(view) == before
        sim.turn()


def test_terminal_run_is_finished_whatever_is_said_or_seen(simulate, vary):
    sim = simulate()
    sim.to_the_end()
    sim.world.router = None
    view = vary(sim._look(), now=sim.world.now + 1e6)
    assert plan(view) == Finished()


def test_every_wait_says_why_and_ends_soon(simulate, release):
    sim = simulate(standby_s=30.0, approval="before_shift", candidate=release(name="new", ready_after_s=3.0))
    while not sim.run.terminal:
        decision = plan(sim._look())
        if isinstance(decision, Wait):
            assert 0.0 < decision.seconds <= 1.0
            assert decision.reason.text
        sim.turn()
    assert set(sim.waits) >= {"standby_lease", "not_ready", "approval"}


def test_pairs_are_numbered_without_gaps_and_prompts_come_in_cycles(simulate):
    sim = simulate()
    sim.to_the_end()
    for pairs in sim.run.pairs.values():
        assert [one.number for one in pairs] == list(range(len(pairs)))
    prompts = [one.prompt_id for one in sim.run.pairs["canary"][:9]]
    assert all(sorted(prompts[start : start + 3]) == ["p0", "p1", "p2"] for start in (0, 3, 6))


def pending(sim, vary, step):
    view = sim._look()
    return vary(view, run=vary(view.run, pending=StepIntended(step=step, args={})))


def test_crash_in_a_shift_does_not_hide_that_the_candidate_died(simulate, vary):
    sim = simulate().until(Phase.SHIFT)
    sim.world.kill(Slot.GREEN)
    decision = plan(pending(sim, vary, "Shift"))
    assert isinstance(decision, Enter)
    assert decision.reasons[0].code == "candidate_died"


@pytest.mark.parametrize("blue", [90, 100])
def test_crash_in_a_shift_is_answered_by_the_same_shift(simulate, vary, blue):
    sim = simulate().until(Phase.SHIFT)
    sim.world.reweigh(blue=blue)
    decision = plan(pending(sim, vary, "Shift"))
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Shift)


@pytest.mark.parametrize("step", ["Deploy", "Retire"])
def test_crash_in_a_deployment_does_not_hide_that_weights_were_changed(simulate, vary, step):
    sim = simulate().until(Phase.DEPLOY)
    sim.world.reweigh(blue=50)
    decision = plan(pending(sim, vary, step))
    assert isinstance(decision, Enter)
    assert decision.reasons[0].code == "weights_changed"


def test_incumbent_without_instances_is_lost_and_restored(simulate, vary):
    sim = simulate().until(Phase.CANARY)
    view = sim._look()
    empty = SlotState(release_digest="x", generation=1, instances=())
    inventory = vary(view.inventory, slots={**view.inventory.slots, Slot.BLUE: empty})
    assert plan(vary(view, inventory=inventory)).event is Event.LOST
    rolling = vary(view, inventory=inventory, run=vary(view.run, phase=Phase.ROLLBACK))
    assert plan(rolling) == Act(step=Deploy(slot=Slot.BLUE, purpose="incumbent"))


def test_order_in_which_a_router_names_its_targets_does_not_matter_to_a_rollback(simulate, vary):
    sim = simulate().until(Phase.CANARY)
    view = sim._look()
    state = view.inventory.slots[Slot.BLUE]
    two = (Address(host="sim", port=2), Address(host="sim", port=1))
    instances = tuple(vary(state.instances[0], address=one) for one in two)
    router = vary(view.inventory.router, weights=all_on(Slot.BLUE), targets={Slot.BLUE: two[::-1]})
    slots = {Slot.BLUE: vary(state, instances=instances), Slot.GREEN: Absent(reason="retired")}
    rolling = vary(view, inventory=Inventory(slots=slots, router=router), run=vary(view.run, phase=Phase.ROLLBACK))
    assert plan(rolling) == Enter(event=Event.RESTORED)


def seen(sim, vary, *, completed, failed):
    view = sim._look()
    then = sim.run.shifted.counters[Slot.GREEN]
    now = LiveCounters(completed=then.completed + completed, failed=then.failed + failed, active=0)
    router = vary(view.inventory.router, counters={**view.inventory.router.counters, Slot.GREEN: now})
    return vary(view, inventory=vary(view.inventory, router=router))


def test_live_window_counts_since_the_last_change_of_traffic(simulate, vary):
    sim = simulate().until_pair("shift-10")
    window = live_window(seen(sim, vary, completed=7, failed=2))
    assert (window.completed, window.failed) == (7, 2)


def test_failure_that_is_counted_before_its_answer_is_no_error(simulate, vary):
    sim = simulate().until_pair("shift-10")
    view = seen(sim, vary, completed=0, failed=1)
    assert live_window(view).completed == 1
    assert plan(view)


def test_counters_that_are_missing_are_lost_contact_and_not_zero_failures(simulate, vary):
    sim = simulate().until_pair("shift-10")
    view = sim._look()
    router = vary(view.inventory.router, counters={})
    decision = plan(vary(view, inventory=vary(view.inventory, router=router)))
    assert decision.reasons[0].code == "counters_lost"


def test_abort_is_heard_before_the_deadline_and_before_lost_contact(simulate, vary):
    sim = simulate().until(Phase.CANARY)
    sim.say(CommandKind.ABORT)
    sim._append(sim.commands.pop())
    sim.world.router = None
    sim.world.kill(Slot.BLUE)
    assert plan(vary(sim._look(), now=sim.world.now + 1e6)).event is Event.ABORTED


def test_pairs_of_a_stage_are_asked_in_the_order_that_the_run_fixed(simulate):
    first = {}
    for _ in range(2):
        sim = simulate()
        orders = []
        while not sim.run.terminal:
            decision = plan(sim._look())
            if isinstance(decision, Act) and isinstance(decision.step, MeasurePair):
                orders.append((decision.step.stage, decision.step.prompt_id, decision.step.first))
            sim.turn()
        first.setdefault("orders", orders)
        assert orders == first["orders"]
    assert {role for _, _, role in orders} == set(Role)
