"""The invariants: steps that the planner never orders, and that are refused all the same."""

import pytest

from rollout.errors import InvariantError
from rollout.flow.invariants import check
from rollout.flow.steps import Deploy, ReadSnapshots, Retire, Shift
from rollout.model.inventory import Absent
from rollout.model.journal import Phase, RunKind
from rollout.model.roles import Role, Slot, all_on, share

BLUE, GREEN = Slot.BLUE, Slot.GREEN
HALF = Shift(stage="shift-50", weights=share(GREEN, 50), targets=(BLUE, GREEN))
BACK = Shift(stage="rollback", weights=all_on(BLUE), targets=(BLUE,))


@pytest.fixture
def proven(simulate):
    """A run whose candidate may take traffic."""
    return simulate().until(Phase.SHIFT)


def test_traffic_may_move_to_a_proven_candidate(proven):
    check(proven._look(), HALF)


@pytest.mark.parametrize("slot", [BLUE, GREEN])
@pytest.mark.parametrize("harm", ["kill", "hang", "lose"])
def test_traffic_never_goes_to_a_slot_without_ready_endpoints(proven, slot, harm):
    getattr(proven.world, harm)(slot)
    with pytest.raises(InvariantError, match="no ready endpoint"):
        check(proven._look(), HALF)


def test_traffic_never_goes_to_a_slot_that_is_no_target(proven):
    with pytest.raises(InvariantError, match="no ready endpoint"):
        check(proven._look(), Shift(stage="shift-50", weights=share(GREEN, 50), targets=(BLUE,)))


def test_traffic_never_moves_without_a_verdict(proven, vary):
    view = proven._look()
    for stage in ("admission", "canary", "load"):
        left = {name: one for name, one in view.run.verdicts.items() if name != stage}
        with pytest.raises(InvariantError, match=f"without a PASS of {stage}"):
            check(vary(view, run=vary(view.run, verdicts=left)), HALF)


@pytest.mark.parametrize("outcome", ["BREACH", "INCONCLUSIVE"])
def test_traffic_never_moves_on_another_verdict_than_pass(proven, vary, outcome):
    view = proven._look()
    given = view.run.verdicts["canary"]
    other = given.model_copy(update={"verdict": given.verdict.model_copy(update={"outcome": outcome})})
    with pytest.raises(InvariantError, match="without a PASS"):
        check(vary(view, run=vary(view.run, verdicts={"canary": other})), HALF)


def test_traffic_never_moves_on_the_verdict_of_another_fingerprint(proven, vary):
    view = proven._look()
    other = view.run.verdicts["canary"].model_copy(update={"fingerprint": "another"})
    with pytest.raises(InvariantError, match="without a PASS"):
        check(vary(view, run=vary(view.run, verdicts={"canary": other})), HALF)


def test_traffic_never_moves_to_instances_that_were_not_verified(proven):
    proven.world.replace(GREEN)
    with pytest.raises(InvariantError, match="other than the verified"):
        check(proven._look(), HALF)


@pytest.mark.parametrize("phase", [one for one in Phase if one is not Phase.SHIFT])
def test_traffic_moves_to_the_candidate_in_one_phase_only(proven, vary, phase):
    view = proven._look()
    with pytest.raises(InvariantError, match="in phase"):
        check(vary(view, run=vary(view.run, phase=phase)), HALF)


def test_rollback_needs_no_verdict_and_no_candidate(proven, vary):
    proven.world.lose(GREEN)
    view = proven._look()
    check(vary(view, run=vary(view.run, phase=Phase.ROLLBACK, verdicts={}, snapshots=None)), BACK)


def test_first_stack_needs_its_admission(simulate, vary):
    sim = simulate(kind=RunKind.BOOTSTRAP).until(Phase.SHIFT)
    step = Shift(stage="bootstrap", weights=all_on(BLUE), targets=(BLUE,))
    view = sim._look()
    check(view, step)
    with pytest.raises(InvariantError, match="PASS of admission"):
        check(vary(view, run=vary(view.run, verdicts={})), step)


@pytest.mark.parametrize("phase", list(Phase))
def test_incumbent_is_never_retired(proven, vary, phase):
    view = proven._look()
    with pytest.raises(InvariantError, match="must not be retired"):
        check(vary(view, run=vary(view.run, phase=phase)), Retire(slot=BLUE))


def test_slot_with_traffic_is_never_retired(proven):
    proven.world.reweigh(blue=99)
    with pytest.raises(InvariantError, match="takes traffic"):
        check(proven._look(), Retire(slot=GREEN))


def test_slot_with_traffic_is_never_deployed_anew(proven):
    proven.world.reweigh(blue=99)
    with pytest.raises(InvariantError, match="takes traffic"):
        check(proven._look(), Deploy(slot=GREEN, purpose="candidate"))


def test_incumbent_is_never_restored_into_the_other_slot(proven, vary):
    view = proven._look()
    with pytest.raises(InvariantError, match="not the incumbent's"):
        check(vary(view, run=vary(view.run, phase=Phase.ROLLBACK)), Deploy(slot=GREEN, purpose="incumbent"))


@pytest.mark.parametrize(("hung", "allowed"), [(True, True), (False, False)])
def test_only_an_instance_that_is_not_ready_is_restarted(proven, vary, hung, allowed):
    proven.world.hang(BLUE, hung=hung)
    view = proven._look()
    view = vary(view, run=vary(view.run, phase=Phase.ROLLBACK))
    step = Deploy(slot=BLUE, purpose="incumbent", restart=(proven.world.slots[BLUE][0].uid,))
    if allowed:
        check(view, step)
    else:
        with pytest.raises(InvariantError, match="must not be restarted"):
            check(view, step)


def test_candidate_is_never_restarted(proven):
    proven.world.hang(GREEN)
    step = Deploy(slot=GREEN, purpose="candidate", restart=(proven.world.slots[GREEN][0].uid,))
    with pytest.raises(InvariantError, match="only the incumbent's"):
        check(proven._look(), step)


def test_rollback_may_send_traffic_to_an_incumbent_that_lives_but_not_to_a_dead_one(proven, vary):
    proven.world.hang(BLUE)
    view = proven._look()
    check(vary(view, run=vary(view.run, phase=Phase.ROLLBACK)), BACK)
    proven.world.kill(BLUE)
    view = proven._look()
    with pytest.raises(InvariantError, match="no ready endpoint"):
        check(vary(view, run=vary(view.run, phase=Phase.ROLLBACK)), BACK)


@pytest.mark.parametrize("purpose", ["candidate", "twin", "incumbent"])
@pytest.mark.parametrize("phase", list(Phase))
def test_incumbent_is_deployed_only_to_restore_it(proven, vary, purpose, phase):
    view = proven._look()
    view, step = vary(view, run=vary(view.run, phase=phase)), Deploy(slot=BLUE, purpose=purpose)
    if phase is Phase.ROLLBACK and purpose == "incumbent":
        check(view, step)
    else:
        with pytest.raises(InvariantError, match="holds the incumbent"):
            check(view, step)


def test_standby_is_never_retired_before_its_time(simulate, vary):
    view = simulate(standby_s=60.0)._look()
    with pytest.raises(InvariantError, match="standby"):
        check(view, Retire(slot=GREEN))
    check(vary(view, now=view.now + 60.0), Retire(slot=GREEN))


def test_candidate_may_be_removed_while_the_router_cannot_be_seen(proven, vary):
    view = proven._look()
    check(vary(view, inventory=vary(view.inventory, router=Absent(reason="gone"))), Retire(slot=GREEN))


def test_reading_is_always_allowed(proven):
    check(proven._look(), ReadSnapshots(roles=(Role.CANDIDATE,)))
