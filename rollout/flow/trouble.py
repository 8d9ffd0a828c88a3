"""What can end any phase before promotion: a person, a deadline, a part that is lost, a candidate that died."""

from rollout.flow.steps import (
    Deploy,
    Enter,
    Retire,
    Shift,
)
from rollout.flow.view import View, enter, unknown
from rollout.model.inventory import Absent
from rollout.model.journal import Event, Phase, RunKind
from rollout.model.roles import Role, all_on

FAILURES_MAX = 3
"""A step that was unavailable this often in a row counts as lost contact."""


def trouble(view: View) -> Enter | None:
    """Return what ends the phase; None while nothing does."""
    run = view.run
    abort = run.aborted
    if abort is not None:
        return enter(Event.ABORTED, "aborted", f"aborted by {abort.by}: {abort.reason or 'no reason given'}")
    if view.now - run.requested_at > view.policy.deadlines.run_s:
        return enter(Event.EXPIRED, "run_deadline", f"not done after {view.policy.deadlines.run_s:g} s")
    failed = _failed(view)
    if failed is not None:
        return failed
    if run.phase is Phase.PREFLIGHT:
        return None
    if run.phase in {Phase.DRIFT, Phase.RECHECK}:
        return _incumbent_trouble(view)
    if run.request.kind is RunKind.BOOTSTRAP:
        return _candidate_trouble(view)
    return _incumbent_trouble(view) or _router_trouble(view) or _candidate_trouble(view)


def _failed(view: View) -> Enter | None:
    failures = view.run.failures
    if not failures:
        return None
    last = failures[-1]
    if last.error == "UnavailableError" and len(failures) < FAILURES_MAX:
        return None
    event = Event.REFUSED if view.run.phase is Phase.PREFLIGHT else Event.LOST
    return enter(event, "step_failed", f"{last.step}: {last.message}")


def _incumbent_trouble(view: View) -> Enter | None:
    state = view.slot(Role.INCUMBENT)
    if isinstance(state, Absent):
        return enter(Event.LOST, "incumbent_lost", f"the incumbent is gone: {state.reason}")
    if not state.instances:
        return enter(Event.LOST, "incumbent_lost", "the incumbent has no instance")
    if state.dead:
        return enter(Event.LOST, "incumbent_lost", f"the incumbent died: {state.dead[0].detail}")
    known = view.run.pod_uids(Role.INCUMBENT)
    if known and sorted(known) != sorted(one.uid for one in state.instances):
        return enter(Event.LOST, "incumbent_replaced", "the incumbent's instances are not the ones measured")
    return None


def _router_trouble(view: View) -> Enter | None:
    router = view.inventory.router
    if isinstance(router, Absent):
        return enter(Event.LOST, "router_lost", router.reason)
    if unknown(view, Shift):
        return None
    shifted = view.run.shifted
    if shifted is None:
        if router.weights != all_on(view.run.request.incumbent):
            return enter(Event.LOST, "weights_changed", f"somebody moved traffic to {router.weights}")
        return None
    if router.weights != shifted.weights:
        return enter(Event.LOST, "weights_changed", f"set {shifted.weights}, the router now reports {router.weights}")
    if router.epoch != shifted.epoch:
        return enter(Event.LOST, "router_restarted", "the router was restarted during the rollout")
    candidate = view.run.request.candidate
    then, now = shifted.counters.get(candidate), router.counters.get(candidate)
    if shifted.weights.of(candidate) and (
        then is None or now is None or now.completed < then.completed or now.failed < then.failed
    ):
        return enter(Event.LOST, "counters_lost", f"the router no longer counts the requests of {candidate}")
    return None


def _candidate_trouble(view: View) -> Enter | None:
    run = view.run
    deployed = run.deployed.get(run.request.candidate)
    if deployed is None or unknown(view, Deploy, Retire):
        return None
    state = view.slot(Role.CANDIDATE)
    twin = deployed.purpose == "twin"
    event = Event.LOST if twin else Event.BREACHED
    name = "twin of the incumbent" if twin else "candidate"
    code = "twin" if twin else "candidate"
    if isinstance(state, Absent):
        return enter(event, f"{code}_gone", f"the {name} is gone: {state.reason}")
    if state.dead:
        return enter(event, f"{code}_died", f"the {name} ended: {state.dead[0].detail}")
    if sorted(deployed.pod_uids) != sorted(one.uid for one in state.instances):
        return enter(event, f"{code}_replaced", f"the {name}'s instances were replaced; their proof is void")
    return None
