"""The planner: policy, run and inventory in, one decision out. It makes every choice and has no effect.

Reading order: `plan`, then the phases in the order in which a rollout meets them, then rollback.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rollout.flow.run import ADMISSION, CANARY, DRIFT, HISTORY, ROLLBACK, SOAK, Run, shift_stage
from rollout.flow.schedule import first_role, prompt_at
from rollout.flow.steps import (
    Act,
    Conclude,
    Decision,
    Deploy,
    Enter,
    Finished,
    MeasurePair,
    MeasureSample,
    ReadLive,
    ReadSnapshots,
    Retire,
    Shift,
    Step,
    StopRouter,
    StoreBaseline,
    StoreHistory,
    Wait,
    WarmUp,
)
from rollout.gates.latency import HISTORY_UNFIT, history_problem
from rollout.gates.live import judge_live
from rollout.gates.pictures import REPEAT_NOISE_TOO_LARGE
from rollout.model.evidence import LiveWindow, Pair, SampleStatus, history_of
from rollout.model.inventory import Absent, Inventory, RouterState, SlotState
from rollout.model.journal import Event, Phase, RunKind, VerdictGiven
from rollout.model.policy import Approval, OnInconclusive, Policy
from rollout.model.prompts import PromptSet
from rollout.model.roles import Address, Role, Slot, Weights, all_on, share
from rollout.model.verdict import Outcome, Reason, Verdict

POLL_S = 0.1
"""How soon a wait looks again: short against every start-up, long against the cost of a look."""

FAILURES_MAX = 3
"""A step that was unavailable this often in a row counts as lost contact."""

HISTORY_FAILURES_SHARE = 0.1
"""A history in which more than this share of pairs failed shows an ill incumbent, not noise."""

UNREADY_PAIRS_MAX = 20
"""Pairs beyond its demand that a stage asks of a candidate that takes traffic and says that it is not ready. One that
hangs is convicted by the first few; one that answers them all and still is not ready is given up after so many."""

ROLLBACK_STEPS_MAX = 12
"""Steps of a rollback that goes on after its deadline because it was interrupted; four are needed at most."""

RESTART_WINDOW = 2.0
"""An incumbent with traffic that hangs is restarted between one and so many times `ready_s`: a controller that looks on
acts at once, and one that was away longer has not seen the incumbent hang for that long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that a decision rests on."""

    policy: Policy
    prompts: PromptSet
    run: Run
    inventory: Inventory
    now: float

    def slot(self, role: Role) -> SlotState | Absent:
        """Return what stands in a role's slot."""
        return self.inventory.slots[self.run.slot(role)]

    def elapsed(self) -> float:
        """Return the seconds since the phase was entered."""
        return self.now - self.run.entered_at


def plan(view: View) -> Decision:
    """Choose what happens next.

    Raises:
        InvariantError: The run is in a state that the planner promises never to reach.
    """
    if view.run.terminal:
        return Finished()
    if view.run.phase is Phase.ROLLBACK:
        return _rollback(view)
    if view.run.phase is Phase.PREFLIGHT and view.run.request.kind is RunKind.ROLLBACK:
        # What is asked for is the safe state: nothing that ends or holds a rollout may keep it from being reached.
        return _preflight(view)
    trouble = _trouble(view)
    if trouble is not None:
        return trouble
    # While nobody knows whether traffic moved, nobody judges the candidate's live requests: that is found out first.
    if view.run.paused and not _unknown(view, Shift):
        return _alarm(view) or _wait("paused", "paused by a person; `rollout resume` goes on")
    return _PHASES[view.run.phase](view)


# What can end any phase before promotion.


def _trouble(view: View) -> Enter | None:
    run = view.run
    abort = run.aborted
    if abort is not None:
        return _enter(Event.ABORTED, "aborted", f"aborted by {abort.by}: {abort.reason or 'no reason given'}")
    if view.now - run.requested_at > view.policy.deadlines.run_s:
        return _enter(Event.EXPIRED, "run_deadline", f"not done after {view.policy.deadlines.run_s:g} s")
    failed = _failed(view)
    if failed is not None:
        return failed
    if run.phase is Phase.PREFLIGHT:
        return None
    if run.phase is Phase.DRIFT:
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
    return _enter(event, "step_failed", f"{last.step}: {last.message}")


def _incumbent_trouble(view: View) -> Enter | None:
    state = view.slot(Role.INCUMBENT)
    if isinstance(state, Absent):
        return _enter(Event.LOST, "incumbent_lost", f"the incumbent is gone: {state.reason}")
    if not state.instances:
        return _enter(Event.LOST, "incumbent_lost", "the incumbent has no instance")
    if state.dead:
        return _enter(Event.LOST, "incumbent_lost", f"the incumbent died: {state.dead[0].detail}")
    known = view.run.pod_uids(Role.INCUMBENT)
    if known and sorted(known) != sorted(one.uid for one in state.instances):
        return _enter(Event.LOST, "incumbent_replaced", "the incumbent's instances are not the ones measured")
    return None


def _router_trouble(view: View) -> Enter | None:
    router = view.inventory.router
    if isinstance(router, Absent):
        return _enter(Event.LOST, "router_lost", router.reason)
    if _unknown(view, Shift):
        return None
    shifted = view.run.shifted
    if shifted is None:
        if router.weights != all_on(view.run.request.incumbent):
            return _enter(Event.LOST, "weights_changed", f"somebody moved traffic to {router.weights}")
        return None
    if router.weights != shifted.weights:
        return _enter(Event.LOST, "weights_changed", f"set {shifted.weights}, the router now reports {router.weights}")
    if router.epoch != shifted.epoch:
        return _enter(Event.LOST, "router_restarted", "the router was restarted during the rollout")
    candidate = view.run.request.candidate
    then, now = shifted.counters.get(candidate), router.counters.get(candidate)
    if shifted.weights.of(candidate) and (
        then is None or now is None or now.completed < then.completed or now.failed < then.failed
    ):
        return _enter(Event.LOST, "counters_lost", f"the router no longer counts the requests of {candidate}")
    return None


def _unknown(view: View, *kinds: type[Step]) -> bool:
    """True when a step of such a kind was intended and nobody knows how far it came; repeating it finds out."""
    pending = view.run.pending
    return pending is not None and pending.step in {one.__name__ for one in kinds}


def _candidate_trouble(view: View) -> Enter | None:
    run = view.run
    deployed = run.deployed.get(run.request.candidate)
    if deployed is None or _unknown(view, Deploy, Retire):
        return None
    state = view.slot(Role.CANDIDATE)
    twin = deployed.purpose == "twin"
    event = Event.LOST if twin else Event.BREACHED
    name = "twin of the incumbent" if twin else "candidate"
    code = "twin" if twin else "candidate"
    if isinstance(state, Absent):
        return _enter(event, f"{code}_gone", f"the {name} is gone: {state.reason}")
    if state.dead:
        return _enter(event, f"{code}_died", f"the {name} ended: {state.dead[0].detail}")
    if sorted(deployed.pod_uids) != sorted(one.uid for one in state.instances):
        return _enter(event, f"{code}_replaced", f"the {name}'s instances were replaced; their proof is void")
    return None


# The phases, in order.


def _preflight(view: View) -> Decision:
    match view.run.request.kind:
        case RunKind.BOOTSTRAP:
            return _preflight_bootstrap(view)
        case RunKind.ROLLBACK:
            reason = Reason(code="rollback_requested", text=f"asked for by {view.run.request.requested_by}")
            return Enter(event=Event.RESTORE, reasons=(reason,))
        case RunKind.VERIFY:
            not_ready = _incumbent_not_ready(view)
            return not_ready or Enter(event=Event.CHECK)
        case RunKind.PROMOTE:
            return _preflight_promote(view)


def _preflight_bootstrap(view: View) -> Decision:
    for slot, state in view.inventory.slots.items():
        if isinstance(state, SlotState):
            return _enter(Event.REFUSED, "slot_taken", f"{slot} already runs something; use `rollout promote`")
    if isinstance(view.inventory.router, RouterState):
        return _enter(Event.REFUSED, "router_running", "the router already runs; use `rollout promote`")
    return Enter(event=Event.FIRST)


def _preflight_promote(view: View) -> Decision:
    incumbent, candidate = view.run.request.incumbent, view.run.request.candidate
    not_ready = _incumbent_not_ready(view)
    if not_ready is not None:
        return not_ready
    router = view.inventory.router
    alone = Act(step=Shift(stage="preflight", weights=all_on(incumbent), targets=(incumbent,)))
    if isinstance(router, Absent):
        return alone
    if router.weights != all_on(incumbent):
        text = f"the router sends {router.weights}, not all to {incumbent}; `rollout rollback --stay` restores that"
        return _enter(Event.REFUSED, "traffic_not_on_incumbent", text)
    until = view.run.request.standby_until
    occupied = isinstance(view.inventory.slots[candidate], SlotState)
    if occupied and until is not None and view.now < until:
        text = f"{candidate} is kept hot as the standby of the last promotion for {until - view.now:.0f} s more"
        return _wait("standby_lease", text, seconds=min(until - view.now, 1.0))
    if candidate in router.targets:
        return alone
    if occupied:
        return Act(step=Retire(slot=candidate))
    return Enter(event=Event.ACCEPTED)


def _incumbent_not_ready(view: View) -> Decision | None:
    state = view.slot(Role.INCUMBENT)
    if isinstance(state, SlotState) and state.ready:
        return None
    if isinstance(state, SlotState) and not state.dead and view.elapsed() < view.policy.deadlines.ready_s:
        return _wait("incumbent_not_ready", "waiting until the incumbent is ready")
    detail = state.reason if isinstance(state, Absent) else "; ".join(one.detail for one in state.instances)
    text = (
        f"the incumbent in {view.run.request.incumbent} is not ready ({detail}); `rollout rollback --stay` restores it"
    )
    return _enter(Event.REFUSED, "incumbent_not_ready", text)


def _history(view: View) -> Decision:
    """Measure the incumbent against a second instance of itself, in the slot that the candidate will take."""
    run, demand, candidate = view.run, view.policy.history, view.run.request.candidate
    occupant = run.deployed.get(candidate)
    if run.history is not None:
        return Act(step=Retire(slot=candidate)) if occupant else Enter(event=Event.HISTORY_READY)
    pairs = run.pairs.get(HISTORY, ())
    failed = sum({one.incumbent.status, one.candidate.status} != {SampleStatus.OK} for one in pairs)
    if failed > max(1.0, HISTORY_FAILURES_SHARE * demand.pairs):
        text = f"{failed} of {len(pairs)} pairs of the incumbent against itself failed: {_first_detail(pairs)}"
        return _enter(Event.UNDECIDED, "incumbent_unhealthy", text)
    if len(pairs) - failed >= demand.pairs:
        problem = history_problem(view.policy.latency, history_of(pairs).ratio)
        return _enter(Event.UNDECIDED, HISTORY_UNFIT, problem) if problem else Act(step=StoreHistory())
    block = min(len(pairs) * demand.blocks // demand.pairs, demand.blocks - 1)
    if occupant is not None and (occupant.purpose != "twin" or occupant.block != block):
        return Act(step=Retire(slot=candidate))
    if occupant is None:
        return Act(step=Deploy(slot=candidate, purpose="twin", block=block))
    # A twin that was ready once is asked, whatever its probe says later: pairs that fail are counted.
    unready = None if run.warmed.issuperset(occupant.pod_uids) else _not_ready(view, Event.LOST, "twin")
    return unready or _cold(view) or _pair(view, HISTORY, len(pairs))


def _deploy(view: View) -> Decision:
    candidate = view.run.request.candidate
    if candidate not in view.run.deployed:
        return Act(step=Deploy(slot=candidate, purpose="candidate"))
    return _not_ready(view, Event.BREACHED, "candidate") or Enter(event=Event.READY)


def _admit(view: View) -> Decision:
    if view.run.snapshots is None:
        roles = (Role.CANDIDATE,) if view.run.request.kind is RunKind.BOOTSTRAP else (Role.INCUMBENT, Role.CANDIDATE)
        return Act(step=ReadSnapshots(roles=roles))
    given = view.run.verdicts.get(ADMISSION)
    return Conclude(stage=ADMISSION) if given is None else _follow(given, Event.ADMITTED)


def _warmup(view: View) -> Decision:
    first = view.run.request.kind is RunKind.BOOTSTRAP
    return _cold(view) or Enter(event=Event.FIRST if first else Event.WARM)


def _canary(view: View) -> Decision:
    run, policy = view.run, view.policy
    given = run.verdicts.get(CANARY)
    if given is None:
        judged = run.judged.get(CANARY)
        spent = len(run.pairs.get(CANARY, ())) >= policy.latency.pairs_max * run.budgets
        if spent or (judged is not None and (judged.outcome is not Outcome.INCONCLUSIVE or _hopeless(judged))):
            return Conclude(stage=CANARY)
        return _pair(view, CANARY, len(run.pairs.get(CANARY, ())))
    if given.verdict.outcome is Outcome.INCONCLUSIVE and policy.on_inconclusive is OnInconclusive.HOLD:
        return _hold(view, "inconclusive", "no decision within the budget; `rollout approve` grants one more budget")
    if given.verdict.outcome is Outcome.PASS and policy.approval is Approval.BEFORE_SHIFT and not run.approved:
        return _hold(view, "approval", "proven; `rollout approve` lets traffic move")
    return _follow(given, Event.PROVEN)


def _hopeless(judged: Verdict) -> bool:
    """True when no further pair can decide."""
    final = {HISTORY_UNFIT, REPEAT_NOISE_TOO_LARGE}
    return any(reason.code in final for gate in judged.gates for reason in gate.reasons)


def _shift(view: View) -> Decision:
    run = view.run
    incumbent, candidate = run.request.incumbent, run.request.candidate
    if run.request.kind is RunKind.BOOTSTRAP:
        if run.shifted is None:
            return _traffic(view, stage="bootstrap", weights=all_on(candidate), targets=(candidate,))
        return Enter(event=Event.FIRST)
    plan = view.policy.shift
    for weight in plan.weights:
        stage = shift_stage(weight)
        given = run.verdicts.get(stage)
        if given is not None and given.verdict.outcome is Outcome.PASS:
            continue
        if run.shifted is None or run.shifted.stage != stage:
            return _traffic(view, stage=stage, weights=share(candidate, weight), targets=(incumbent, candidate))
        return _watch(view, stage, onward=Event.SHIFTED, pairs=plan.pairs_per_step, seconds=plan.dwell_s)
    return Enter(event=Event.SHIFTED)


def _traffic(view: View, *, stage: str, weights: Weights, targets: tuple[Slot, ...]) -> Decision:
    return _unready(view, weights) or Act(step=Shift(stage=stage, weights=weights, targets=targets))


def _unready(view: View, weights: Weights) -> Decision | None:
    """Wait, not for ever, until every slot that these weights give traffic to is ready."""
    since = max(view.run.entered_at, *view.run.concluded_at.values())
    for role in Role:
        state = view.slot(role)
        if weights.of(view.run.slot(role)) == 0 or (isinstance(state, SlotState) and state.ready):
            continue
        text = f"the {role} is not ready: {_detail(state)}"
        if view.now - since > view.policy.deadlines.ready_s:
            event = Event.LOST if role is Role.INCUMBENT else Event.BREACHED
            return _enter(event, f"{role.value}_not_ready", text)
        return _alarm(view) or _wait(f"{role.value}_not_ready", text)
    return None


def _soak(view: View) -> Decision:
    given, demand = view.run.verdicts.get(SOAK), view.policy.soak
    if given is None or given.verdict.outcome is not Outcome.PASS:
        return _watch(view, SOAK, onward=Event.SOAKED, pairs=demand.pairs, seconds=demand.seconds)
    unready = _unready(view, all_on(view.run.request.candidate))
    if unready is not None:
        return unready
    return Act(step=StoreBaseline()) if view.run.baseline is None else Enter(event=Event.SOAKED)


def _drift(view: View) -> Decision:
    run = view.run
    if run.snapshots is None:
        return Act(step=ReadSnapshots(roles=(Role.INCUMBENT,)))
    cold = _cold(view)
    if cold is not None:
        return cold
    given = run.verdicts.get(DRIFT)
    if given is None:
        if len(run.samples) >= view.policy.drift.requests or run.history is None:
            return Conclude(stage=DRIFT)
        prompt = prompt_at(view.prompts, run_id=run.request.run_id, stage=DRIFT, number=len(run.samples))
        return Act(step=MeasureSample(number=len(run.samples), prompt_id=prompt.id))
    event = {
        Outcome.PASS: Event.CONFIRMED,
        Outcome.BREACH: Event.DRIFTED,
        Outcome.INCONCLUSIVE: Event.UNDECIDED,
    }[given.verdict.outcome]
    return Enter(event=event, reasons=given.verdict.reasons())


_PHASES: Mapping[Phase, Callable[[View], Decision]] = {
    Phase.PREFLIGHT: _preflight,
    Phase.HISTORY: _history,
    Phase.DEPLOY: _deploy,
    Phase.ADMIT: _admit,
    Phase.WARMUP: _warmup,
    Phase.CANARY: _canary,
    Phase.SHIFT: _shift,
    Phase.SOAK: _soak,
    Phase.DRIFT: _drift,
}


# What several phases share.


def _watch(view: View, stage: str, *, onward: Event, pairs: int, seconds: float) -> Decision:
    """Judge a stage that has live traffic: pairs, time, and the router's own counters."""
    run = view.run
    if stage in run.verdicts:
        return _follow(run.verdicts[stage], onward)
    alarm = _alarm(view)
    if alarm is not None:
        return alarm
    done, state = len(run.pairs.get(stage, ())), view.slot(Role.CANDIDATE)
    ready = isinstance(state, SlotState) and state.ready
    if not ready and done >= pairs + UNREADY_PAIRS_MAX:
        return _enter(Event.BREACHED, "candidate_not_ready", f"the candidate is not ready: {_detail(state)}")
    judged = run.judged.get(stage)
    open_ = judged is not None and judged.outcome is Outcome.INCONCLUSIVE and done < view.policy.latency.pairs_max
    if done < pairs or not ready or open_:
        return _pair(view, stage, done)
    began = _began(view, stage)
    if view.now - began < seconds:
        return _wait("dwell", f"{stage}: {began + seconds - view.now:.0f} s left", seconds=min(POLL_S, seconds))
    return _read_live(view, stage, due=began + seconds, give_up=began + view.policy.deadlines.hold_s)


def _read_live(view: View, stage: str, *, due: float, give_up: float) -> Decision:
    """Conclude on live requests read when the stage's time is up; while they do not suffice, wait for more of them."""
    run, policy = view.run, view.policy.live
    recorded = run.live.get(stage)
    fresh = recorded is not None and run.live_at[stage] >= due
    if fresh and judge_live(policy, recorded).outcome is Outcome.PASS:
        return Conclude(stage=stage)
    now = judge_live(policy, live_window(view))
    if now.outcome is not Outcome.PASS and view.now < give_up:
        return _wait("live_requests", f"{stage}: {now.reasons[0].text}")
    if not fresh or now.outcome is Outcome.PASS:
        return Act(step=ReadLive(stage=stage))
    return Conclude(stage=stage)


def _alarm(view: View) -> Decision | None:
    """React to evidence against a candidate that takes traffic; nothing may put this off, a pause included."""
    run, policy = view.run, view.policy.live
    stage = _stage_with_traffic(run)
    if stage is None:
        return None
    given, judged = run.verdicts.get(stage), run.judged.get(stage)
    if given is not None and given.verdict.outcome is Outcome.BREACH:
        return _follow(given, Event.BREACHED)
    if judged is not None and judged.outcome is Outcome.BREACH:
        return Conclude(stage=stage)
    if judge_live(policy, live_window(view)).outcome is not Outcome.BREACH:
        return None
    recorded = run.live.get(stage)
    if recorded is None or judge_live(policy, recorded).outcome is not Outcome.BREACH:
        return Act(step=ReadLive(stage=stage))
    return Conclude(stage=stage)


def _stage_with_traffic(run: Run) -> str | None:
    """Return the stage that the candidate's live traffic belongs to; None where it takes none, or nobody judges it."""
    if run.request.kind is RunKind.BOOTSTRAP or run.shifted is None:
        return None
    if run.phase is Phase.SOAK:
        return SOAK
    takes = run.phase is Phase.SHIFT and run.shifted.weights.of(run.request.candidate) > 0
    return run.shifted.stage if takes else None


def live_window(view: View) -> LiveWindow:
    """Return the candidate's live requests since the last change of traffic."""
    router, shifted = view.inventory.router, view.run.shifted
    candidate = view.run.request.candidate
    if isinstance(router, Absent) or shifted is None or router.epoch != shifted.epoch:
        return LiveWindow(completed=0, failed=0)
    then, now = shifted.counters.get(candidate), router.counters.get(candidate)
    if then is None or now is None:
        return LiveWindow(completed=0, failed=0)
    failed = max(now.failed - then.failed, 0)
    # The router counts both in turn, so that a look in between may see the failure only.
    return LiveWindow(completed=max(now.completed - then.completed, failed), failed=failed)


def _began(view: View, stage: str) -> float:
    if stage == SOAK or view.run.shifted is None:
        return view.run.entered_at
    return view.run.shifted.at


def _pair(view: View, stage: str, number: int) -> Act:
    run_id = view.run.request.run_id
    prompt = prompt_at(view.prompts, run_id=run_id, stage=stage, number=number)
    first = first_role(run_id=run_id, stage=stage, number=number)
    return Act(step=MeasurePair(stage=stage, number=number, prompt_id=prompt.id, first=first))


def _cold(view: View) -> Decision | None:
    """Warm every instance that was not warmed yet."""
    bootstrap, drift = view.run.request.kind is RunKind.BOOTSTRAP, view.run.phase is Phase.DRIFT
    for role in Role:
        if (role is Role.INCUMBENT and bootstrap) or (role is Role.CANDIDATE and drift):
            continue
        state = view.slot(role)
        if isinstance(state, SlotState) and any(one.uid not in view.run.warmed for one in state.instances):
            return Act(step=WarmUp(role=role))
    return None


def _not_ready(view: View, event: Event, name: str) -> Decision | None:
    state = view.slot(Role.CANDIDATE)
    if isinstance(state, SlotState) and state.ready:
        return None
    waited = view.now - view.run.deployed_at.get(view.run.request.candidate, view.run.entered_at)
    detail = _detail(state)
    if waited > view.policy.deadlines.ready_s:
        return _enter(event, f"{name}_never_ready", f"not ready after {view.policy.deadlines.ready_s:g} s: {detail}")
    return _wait("not_ready", f"waiting until the {name} is ready: {detail}")


def _detail(state: SlotState | Absent) -> str:
    if isinstance(state, Absent):
        return state.reason
    return "; ".join(one.detail for one in state.instances if one.detail) or "no detail"


def _follow(given: VerdictGiven, onward: Event) -> Enter:
    """Turn a stage's verdict into the event that it means."""
    match given.verdict.outcome:
        case Outcome.PASS:
            return Enter(event=onward)
        case Outcome.BREACH:
            return Enter(event=Event.BREACHED, reasons=given.verdict.reasons())
        case Outcome.INCONCLUSIVE:
            return Enter(event=Event.UNDECIDED, reasons=given.verdict.reasons())


def _hold(view: View, code: str, text: str) -> Decision:
    held = view.now - view.run.concluded_at[CANARY]
    if held > view.policy.deadlines.hold_s:
        return _enter(
            Event.UNDECIDED, f"{code}_timeout", f"nobody answered in {view.policy.deadlines.hold_s:g} s: {text}"
        )
    return _wait(code, text)


def _first_detail(pairs: tuple[Pair, ...]) -> str:
    details = (one.detail for pair in pairs for one in (pair.incumbent, pair.candidate) if one.detail)
    return next(details, "no detail")


# Rollback: traffic first, then the candidate. It never waits for the candidate.
#
# The incumbent is made whole, compared with what was admitted, given its traffic; then the candidate goes. Two things
# come before: traffic that reaches nobody goes to whoever lives of the incumbent, and what was restored with less than
# it had does not take traffic from a proven candidate that serves: a person decides.


def _rollback(view: View) -> Decision:
    bootstrap = view.run.request.kind is RunKind.BOOTSTRAP
    undone = _abandon(view) if bootstrap else _restore(view)
    if undone is None:
        worse = None if bootstrap else _degraded(view)
        return Enter(event=Event.RESTORED, reasons=(worse,) if worse else ())
    if view.elapsed() > view.policy.deadlines.rollback_s and _exhausted(view, undone):
        last = view.run.failures[-1].message if view.run.failures else _what_is_left(undone)
        return _enter(Event.STUCK, "rollback_incomplete", f"after {view.policy.deadlines.rollback_s:g} s: {last}")
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
    """Take traffic from the dead and from a candidate that is not ready, as soon as any of the incumbent lives."""
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
    to_the_ill = router.weights.of(candidate) > 0 and not whole
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
    return _wait("incumbent_not_ready", f"waiting until the incumbent is ready again: {_detail(state)}")


def _hung(view: View, state: SlotState) -> tuple[str, ...]:
    """Return the incumbent's instances that live, were not ready for too long, and may be restarted: once each."""
    run, limit_s = view.run, view.policy.deadlines.ready_s
    slot, router = run.request.incumbent, view.inventory.router
    since = max(run.entered_at, run.deployed_at.get(slot, 0.0), run.shifted.at if run.shifted else 0.0)
    waited = view.now - since
    idle = isinstance(router, RouterState) and router.weights.of(slot) == 0
    # One that takes traffic may serve it, however its probe answers. It is restarted where nobody else could serve,
    # and only by a controller that looked all the while: one that comes back after long may see one late probe.
    if waited <= limit_s or not (
        idle or (waited <= RESTART_WINDOW * limit_s and not _ready(view.slot(Role.CANDIDATE)))
    ):
        return ()
    known = run.deployed.get(slot)
    started = set(known.pod_uids if known else ()) - set(run.pod_uids(Role.INCUMBENT))
    return tuple(one.uid for one in state.instances if not one.ready and one.uid not in started)


def _can_stay(view: View) -> bool:
    """True when all traffic reaches somebody ready, and the candidate is proven, not convicted, and ready."""
    run, router, other = view.run, view.inventory.router, view.slot(Role.CANDIDATE)
    given = run.verdicts.get(CANARY)
    if given is None or given.verdict.outcome is not Outcome.PASS or run.cause is Event.BREACHED:
        return False
    if isinstance(router, Absent) or isinstance(other, Absent) or not other.ready:
        return False
    verified = sorted(one.uid for one in other.instances) == sorted(run.pod_uids(Role.CANDIDATE))
    served = all(
        router.targets.get(slot) and _ready(state).issuperset(router.targets[slot])
        for slot, state in view.inventory.slots.items()
        if router.weights.of(slot) > 0
    )
    return verified and given.fingerprint == run.fingerprint() and served


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


def _enter(event: Event, code: str, text: str) -> Enter:
    return Enter(event=event, reasons=(Reason(code=code, text=text),))


def _wait(code: str, text: str, seconds: float = POLL_S) -> Wait:
    return Wait(reason=Reason(code=code, text=text), seconds=seconds)
