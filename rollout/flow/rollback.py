"""Rollback: traffic first, then the candidate. It never waits for the candidate.

The incumbent is made whole, compared with what was admitted, given its traffic; then the candidate goes. Two things
come before: traffic that reaches nobody goes to whoever lives of the incumbent, and what was restored with less than
it had does not take traffic from a proven candidate that serves: a person decides.
"""

from rollout.flow.run import PROOF, ROLLBACK
from rollout.flow.steps import (
    Act,
    Decision,
    Deploy,
    Enter,
    ReadSnapshots,
    Retire,
    Shift,
    StopRouter,
    Wait,
)
from rollout.flow.trouble import FAILURES_MAX
from rollout.flow.view import View, detail_of, enter, wait
from rollout.model.inventory import Absent, RouterState, SlotState
from rollout.model.journal import Event, RunKind
from rollout.model.roles import Address, Role, all_on
from rollout.model.verdict import Reason

ROLLBACK_STEPS_MAX = 12
"""Steps of a rollback that goes on after its deadline because it was interrupted; four are needed at most."""

RESTART_WINDOW = 2.0
"""An incumbent with traffic that hangs is restarted between one and so many times `ready_s`: a controller that looks on
acts at once, and one that was away longer has not seen the incumbent hang for that long."""


def rollback(view: View) -> Decision:
    """Choose what a rollback does next."""
    bootstrap = view.run.request.kind is RunKind.BOOTSTRAP
    undone = _abandon(view) if bootstrap else _restore(view)
    if undone is None:
        worse = None if bootstrap else _degraded(view)
        return Enter(event=Event.RESTORED, reasons=(worse,) if worse else ())
    if view.elapsed() > view.policy.deadlines.rollback_s and _exhausted(view, undone):
        last = view.run.failures[-1].message if view.run.failures else _what_is_left(undone)
        return enter(Event.STUCK, "rollback_incomplete", f"after {view.policy.deadlines.rollback_s:g} s: {last}")
    return undone


def _exhausted(view: View, undone: Decision) -> bool:
    """After the deadline only that is given up which was tried: a controller that comes back late must still try."""
    run, limit_s = view.run, view.policy.deadlines.rollback_s
    if run.steps >= ROLLBACK_STEPS_MAX:
        return True
    if isinstance(undone, Wait):
        return view.now - max(run.entered_at, run.deployed_at.get(run.request.incumbent, 0.0)) > limit_s
    return bool(run.failures) and run.recorded_at - run.entered_at > limit_s


def _restore(view: View) -> Decision | None:
    return (
        _rescue_traffic(view)
        or _restore_incumbent(view)
        or (_examine(view) if _can_stay(view) else None)
        or _restore_traffic(view)
        or _examine(view)
        or _remove_candidate(view)
    )


def _what_is_left(undone: Decision) -> str:
    return undone.reason.text if isinstance(undone, Wait) else f"still to do: {undone}"


def _abandon(view: View) -> Decision | None:
    if isinstance(view.inventory.router, RouterState):
        return Act(step=StopRouter())
    return _remove_candidate(view)


def _rescue_traffic(view: View) -> Decision | None:
    """Take traffic from the dead, the ill and the convicted, as soon as there is somebody of the incumbent to take it.

    From the dead and from a candidate that is not ready, when any of the incumbent lives; from a convicted candidate,
    when any of the incumbent is ready.
    """
    incumbent, candidate = view.run.request.incumbent, view.run.request.candidate
    router, state, other = view.inventory.router, view.slot(Role.INCUMBENT), view.slot(Role.CANDIDATE)
    living = _living(state)
    if isinstance(router, Absent) or not living:
        return None
    # Who is not ready must not take traffic from somebody who is.
    if not _ready(state) and _ready(other):
        return None
    # A router that prefers the least busy sends most of all to the dead, who are never busy.
    to_the_dead = router.weights.of(incumbent) > 0 and not living.issuperset(router.targets.get(incumbent, ()))
    whole = isinstance(other, SlotState) and other.ready
    # What remains of the incumbent may be too few; it is not known to be bad.
    convicted = view.run.cause is Event.BREACHED and bool(_ready(state))
    to_the_ill = router.weights.of(candidate) > 0 and (convicted or not whole)
    return _all_back(view, router) if to_the_dead or to_the_ill else None


def _living(state: SlotState | Absent) -> frozenset[Address]:
    return frozenset() if isinstance(state, Absent) else frozenset(one.address for one in state.instances if one.alive)


def _ready(state: SlotState | Absent) -> frozenset[Address]:
    return frozenset() if isinstance(state, Absent) else frozenset(one.address for one in state.instances if one.ready)


def _restore_incumbent(view: View) -> Decision | None:
    slot, state = view.run.request.incumbent, view.slot(Role.INCUMBENT)
    if isinstance(state, SlotState) and state.ready:
        return None
    if isinstance(state, Absent) or state.dead or not state.instances:
        return Act(step=Deploy(slot=slot, purpose="incumbent"))
    hung = _hung(view, state)
    if hung:
        return Act(step=Deploy(slot=slot, purpose="incumbent", restart=hung))
    return wait("incumbent_not_ready", f"waiting until the incumbent is ready again: {detail_of(state)}")


def _hung(view: View, state: SlotState) -> tuple[str, ...]:
    """Return the incumbent's instances that live, were not ready for too long, and may be restarted: once each."""
    run, limit_s = view.run, view.policy.deadlines.ready_s
    slot, router = run.request.incumbent, view.inventory.router
    since = max(run.entered_at, run.deployed_at.get(slot, 0.0), run.shifted.at if run.shifted else 0.0)
    waited = view.now - since
    if waited <= limit_s:
        return ()
    # One that takes traffic may serve it, however its probe answers. It is restarted where nobody else could serve,
    # and only by a controller that looked all the while: one that comes back after long may see one late probe.
    last_hope = waited <= RESTART_WINDOW * limit_s and not _ready(view.slot(Role.CANDIDATE))
    takes = router.targets.get(slot, ()) if isinstance(router, RouterState) and router.weights.of(slot) else ()
    unseen = isinstance(router, Absent)
    known = run.deployed.get(slot)
    started = set(known.pod_uids if known else ()) - set(run.pod_uids(Role.INCUMBENT))
    return tuple(
        one.uid
        for one in state.instances
        if not one.ready and one.uid not in started and (last_hope or not (unseen or one.address in takes))
    )


def _can_stay(view: View) -> bool:
    """True when all traffic reaches somebody ready, and the candidate is proven, not convicted, and ready."""
    run, router, other = view.run, view.inventory.router, view.slot(Role.CANDIDATE)
    if run.snapshots is None or run.cause is Event.BREACHED or run.request.kind not in PROOF or not run.proven():
        return False
    if isinstance(router, Absent) or isinstance(other, Absent) or not other.ready:
        return False
    verified = sorted(one.uid for one in other.instances) == sorted(run.pod_uids(Role.CANDIDATE))
    served = all(
        router.targets.get(slot) and _ready(state).issuperset(router.targets[slot])
        for slot, state in view.inventory.slots.items()
        if router.weights.of(slot) > 0
    )
    return verified and served


def _examine(view: View) -> Decision | None:
    """Compare an incumbent that is not the one admitted with it, and leave it to a person where that is worse."""
    if not _replaced(view):
        return None
    restored, failures = view.run.restored, view.run.failures
    read = restored is not None and (restored.problems or _uids(view) <= set(restored.pod_uids[Role.INCUMBENT.value]))
    tried = len(failures) >= FAILURES_MAX and failures[-1].step == ReadSnapshots.__name__
    if not read and not tried:
        return Act(step=ReadSnapshots(roles=(Role.INCUMBENT,)))
    worse = _degraded(view)
    return Enter(event=Event.STUCK, reasons=(worse,)) if worse and _can_stay(view) else None


def _degraded(view: View) -> Reason | None:
    """Say how a restored incumbent differs from the admitted one; None where it does not, or none was admitted."""
    if not _replaced(view) or view.run.snapshots is None:
        return None
    role, restored = Role.INCUMBENT.value, view.run.restored
    admitted = view.run.snapshots.snapshot_digests[role]
    found = restored.snapshot_digests.get(role) if restored else None
    if found == admitted:
        return None
    seen = f"are {found}" if found else f"could not be read: {restored.problems[role] if restored else 'no answer'}"
    text = f"the restored incumbent's capabilities {seen}; {admitted} were admitted"
    return Reason(code="incumbent_degraded", text=text)


def _replaced(view: View) -> bool:
    """True when an incumbent was admitted, and an instance stands there now that was not."""
    admitted = view.run.pod_uids(Role.INCUMBENT)
    return bool(admitted) and not _uids(view).issubset(admitted)


def _uids(view: View) -> set[str]:
    state = view.slot(Role.INCUMBENT)
    return set() if isinstance(state, Absent) else {one.uid for one in state.instances}


def _restore_traffic(view: View) -> Decision | None:
    incumbent, candidate = view.run.request.incumbent, view.run.request.candidate
    router, state = view.inventory.router, view.slot(Role.INCUMBENT)
    if isinstance(state, Absent):
        return None
    alone = Act(step=Shift(stage=ROLLBACK, weights=all_on(incumbent), targets=(incumbent,)))
    if isinstance(router, Absent):
        return alone
    if router.weights != all_on(incumbent) or set(router.targets.get(incumbent, ())) != _living(state):
        return _all_back(view, router)
    return alone if candidate in router.targets else None


def _all_back(view: View, router: RouterState) -> Act:
    """Send all traffic to the incumbent; a candidate that lives stays a target, so that it ends what it has begun."""
    incumbent, candidate = view.run.request.incumbent, view.run.request.candidate
    other = view.slot(Role.CANDIDATE)
    alive = candidate in router.targets and isinstance(other, SlotState) and not other.dead
    targets = (incumbent, candidate) if alive else (incumbent,)
    return Act(step=Shift(stage=ROLLBACK, weights=all_on(incumbent), targets=targets))


def _remove_candidate(view: View) -> Decision | None:
    if isinstance(view.slot(Role.CANDIDATE), Absent):
        return None
    return Act(step=Retire(slot=view.run.request.candidate))
