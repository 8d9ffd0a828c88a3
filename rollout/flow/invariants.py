"""The promises of the architecture, checked before every step that changes the world.

The planner is written so that none of these can fail; this file does not trust it.
"""

from rollout.errors import InvariantError
from rollout.flow.run import PROOF
from rollout.flow.steps import Deploy, Retire, Shift, Step
from rollout.flow.view import View
from rollout.model.inventory import Absent, SlotState
from rollout.model.journal import Phase
from rollout.model.roles import Role


def check(view: View, step: Step) -> None:
    """Refuse a step that would break a promise.

    Raises:
        InvariantError: Names the promise.
    """
    match step:
        case Shift():
            _traffic_has_ready_endpoints(view, step)
            _traffic_follows_proof(view, step)
        case Retire():
            _retired_slot_takes_no_traffic(view, step)
            _standby_is_kept(view, step)
        case Deploy():
            _incumbent_is_untouched(view, step)
            _slot_with_traffic_is_not_swapped(view, step)
        case _:
            return


def _traffic_has_ready_endpoints(view: View, step: Shift) -> None:
    for slot in view.inventory.slots:
        if step.weights.of(slot) == 0:
            continue
        state = view.inventory.slots[slot]
        able = slot in step.targets and isinstance(state, SlotState) and (state.ready or _last_refuge(view, state))
        if not able:
            raise InvariantError(f"traffic must not go to {slot}, which has no ready endpoint")


def _last_refuge(view: View, state: SlotState) -> bool:
    """A rollback must not leave traffic with nobody because a probe of the incumbent is late: alive is enough then."""
    back = view.run.phase is Phase.ROLLBACK and state is view.slot(Role.INCUMBENT)
    return back and len(state.dead) < len(state.instances)


def _traffic_follows_proof(view: View, step: Shift) -> None:
    run = view.run
    if step.weights.of(run.request.candidate) == 0:
        return
    if run.phase is not Phase.SHIFT:
        raise InvariantError(f"traffic must not move to the candidate in phase {run.phase}")
    for stage in PROOF.get(run.request.kind, ()):
        if not run.passed(stage):
            raise InvariantError(
                f"traffic must not move to the candidate without a PASS of {stage} for its fingerprint"
            )
    if run.request.kind not in PROOF:
        raise InvariantError(f"a run of kind {run.request.kind} moves no traffic to a candidate")
    state = view.slot(Role.CANDIDATE)
    seen = () if isinstance(state, Absent) else tuple(sorted(one.uid for one in state.instances))
    if seen != tuple(sorted(run.pod_uids(Role.CANDIDATE))):
        raise InvariantError("traffic must not move to instances other than the verified ones")


def _retired_slot_takes_no_traffic(view: View, step: Retire) -> None:
    if step.slot is view.run.request.incumbent:
        raise InvariantError(f"{step.slot} holds the incumbent and must not be retired")
    router = view.inventory.router
    if not isinstance(router, Absent) and router.weights.of(step.slot) > 0:
        raise InvariantError(f"{step.slot} takes traffic and must not be retired")


def _incumbent_is_untouched(view: View, step: Deploy) -> None:
    incumbent = step.slot is view.run.request.incumbent
    if incumbent and (step.purpose != "incumbent" or view.run.phase is not Phase.ROLLBACK):
        raise InvariantError(f"{step.slot} holds the incumbent; only a rollback may restore it")
    if step.purpose == "incumbent" and not incumbent:
        raise InvariantError(f"{step.slot} is not the incumbent's; it must not be restored there")
    state = view.inventory.slots[step.slot]
    ready = {one.uid for one in state.instances if one.ready} if isinstance(state, SlotState) else set()
    if ready.intersection(step.restart):
        raise InvariantError(f"{step.slot}: a ready instance must not be restarted")
    if step.restart and not incumbent:
        raise InvariantError(f"{step.slot}: only the incumbent's instances are restarted")


def _slot_with_traffic_is_not_swapped(view: View, step: Deploy) -> None:
    router = view.inventory.router
    if (
        step.slot is not view.run.request.incumbent
        and not isinstance(router, Absent)
        and router.weights.of(step.slot) > 0
    ):
        raise InvariantError(f"{step.slot} takes traffic and must not be deployed anew")


def _standby_is_kept(view: View, step: Retire) -> None:
    run = view.run
    until = run.request.standby_until
    if run.phase is Phase.PREFLIGHT and until is not None and view.now < until:
        raise InvariantError(f"{step.slot} is the standby of the last promotion and must not be retired before {until}")
