"""The planner: policy, run and inventory in, one decision out. It makes every choice and has no effect.

Reading order: `plan`, then the phases in the order in which a rollout meets them; then trouble.py, watch.py and
rollback.py beside this file.
"""

from collections.abc import Callable, Mapping

from rollout.flow.rollback import rollback
from rollout.flow.run import ADMISSION, CANARY, DRIFT, HISTORY, LOAD, RECHECK, SOAK, START, WARM, shift_stage
from rollout.flow.schedule import first_role, prompt_at
from rollout.flow.steps import (
    Act,
    Conclude,
    Decision,
    Deploy,
    Enter,
    Finished,
    MeasureSample,
    MeasureWindows,
    ReadSnapshots,
    Retire,
    Shift,
    StoreBaseline,
    StoreHistory,
    WarmUp,
)
from rollout.flow.trouble import trouble
from rollout.flow.view import View, detail_of, enter, unknown, wait
from rollout.flow.watch import alarm, conclude, follow_verdict, measure_pair, read_instances, watch
from rollout.gates.drift import only_latency_drifted
from rollout.gates.latency import HISTORY_UNFIT, history_problem
from rollout.gates.load import busy_s, cost_so_far, next_window
from rollout.gates.pictures import REPEAT_NOISE_TOO_LARGE
from rollout.model.evidence import Pair, SampleStatus, history_of
from rollout.model.inventory import Absent, RouterState, SlotState
from rollout.model.journal import Event, Phase, RunKind, VerdictGiven
from rollout.model.policy import Approval, OnInconclusive
from rollout.model.roles import Role, Slot, Weights, all_on, share
from rollout.model.verdict import Outcome, Reason, Verdict

MEASURED = frozenset({RunKind.PROMOTE})
"""Kinds whose candidate's start is evidence."""

HISTORY_FAILURES_SHARE = 0.1
"""A history in which more than this share of pairs failed shows an ill incumbent, not noise."""


def plan(view: View) -> Decision:
    """Choose what happens next.

    Raises:
        InvariantError: The run is in a state that the planner promises never to reach.
    """
    if view.run.terminal:
        return Finished()
    if view.run.phase is Phase.ROLLBACK:
        return rollback(view)
    if view.run.phase is Phase.PREFLIGHT and view.run.request.kind is RunKind.ROLLBACK:
        # What is asked for is the safe state: nothing that ends or holds a rollout may keep it from being reached.
        return _preflight(view)
    ended = trouble(view)
    if ended is not None:
        return ended
    # While nobody knows whether traffic moved, nobody judges the candidate's live requests: that is found out first.
    if view.run.paused and not unknown(view, Shift):
        return alarm(view) or wait("paused", "paused by a person; `rollout resume` goes on")
    return _PHASES[view.run.phase](view)


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
        case RunKind.PROMOTE | RunKind.CALIBRATE:
            return _preflight_promote(view)


def _preflight_bootstrap(view: View) -> Decision:
    for slot, state in view.inventory.slots.items():
        if isinstance(state, SlotState):
            return enter(Event.REFUSED, "slot_taken", f"{slot} already runs something; use `rollout promote`")
    if isinstance(view.inventory.router, RouterState):
        return enter(Event.REFUSED, "router_running", "the router already runs; use `rollout promote`")
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
        return enter(Event.REFUSED, "traffic_not_on_incumbent", text)
    until = view.run.request.standby_until
    occupied = isinstance(view.inventory.slots[candidate], SlotState)
    if occupied and until is not None and view.now < until:
        text = f"{candidate} is kept hot as the standby of the last promotion for {until - view.now:.0f} s more"
        return wait("standby_lease", text, seconds=min(until - view.now, 1.0))
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
        return wait("incumbent_not_ready", "waiting until the incumbent is ready")
    detail = state.reason if isinstance(state, Absent) else "; ".join(one.detail for one in state.instances)
    text = (
        f"the incumbent in {view.run.request.incumbent} is not ready ({detail}); `rollout rollback --stay` restores it"
    )
    return enter(Event.REFUSED, "incumbent_not_ready", text)


def _history(view: View) -> Decision:
    """Measure the incumbent against a second instance of itself, in the slot that the candidate will take."""
    run, demand, candidate = view.run, view.policy.history, view.run.request.candidate
    occupant = run.deployed.get(candidate)
    if run.history is not None:
        ready = Event.CALIBRATED if run.request.kind is RunKind.CALIBRATE else Event.HISTORY_READY
        return Act(step=Retire(slot=candidate)) if occupant else Enter(event=ready)
    pairs = run.pairs.get(HISTORY, ())
    failed = sum({one.incumbent.status, one.candidate.status} != {SampleStatus.OK} for one in pairs)
    if failed > max(1.0, HISTORY_FAILURES_SHARE * demand.pairs):
        text = f"{failed} of {len(pairs)} pairs of the incumbent against itself failed: {_first_detail(pairs)}"
        return enter(Event.UNDECIDED, "incumbent_unhealthy", text)
    if len(pairs) - failed >= demand.pairs:
        problem = history_problem(view.policy.latency, history_of(pairs).ratio)
        return enter(Event.UNDECIDED, HISTORY_UNFIT, problem) if problem else Act(step=StoreHistory())
    block = min(len(pairs) * demand.blocks // demand.pairs, demand.blocks - 1)
    if occupant is not None and (occupant.purpose != "twin" or occupant.block != block):
        return Act(step=Retire(slot=candidate))
    if occupant is None:
        return Act(step=Deploy(slot=candidate, purpose="twin", block=block))
    # A twin that was ready once is asked, whatever its probe says later: pairs that fail are counted.
    unready = None if run.warmed.issuperset(occupant.pod_uids) else _not_ready(view, Event.LOST, "twin")
    return unready or read_instances(view, START) or _cold(view) or measure_pair(view, HISTORY, len(pairs))


def _deploy(view: View) -> Decision:
    run, candidate = view.run, view.run.request.candidate
    # A controller that ended while it emptied the slot, or before it wrote down what it had deployed there: what stands
    # was not watched, and starts once more. A deployment that failed before our eyes is repeated as it is.
    stands = isinstance(view.slot(Role.CANDIDATE), SlotState)
    if unknown(view, Retire) or (
        unknown(view, Deploy) and not run.failures and stands and run.request.kind in MEASURED
    ):
        return Act(step=Retire(slot=candidate))
    if candidate not in run.deployed:
        return Act(step=Deploy(slot=candidate, purpose="candidate"))
    unready = _not_ready(view, Event.BREACHED, "candidate")
    if unready is not None:
        return unready
    # Its start is evidence. Where an earlier controller was to watch it and did not, it starts once more.
    return _start_missed(view) or read_instances(view, START) or Enter(event=Event.READY)


def _start_missed(view: View) -> Act | None:
    state, candidate = view.slot(Role.CANDIDATE), view.run.request.candidate
    began, deployed_at = view.sight.began, view.run.deployed_at[candidate]
    if view.run.request.kind not in MEASURED or began is None or began <= deployed_at:
        return None
    if not isinstance(state, SlotState):
        return None
    read = view.run.read_at(START)
    missed = any(one.uid not in read and view.cold_start_s(one.uid) is None for one in state.instances)
    return Act(step=Retire(slot=candidate)) if missed else None


def _admit(view: View) -> Decision:
    if view.run.snapshots is None:
        roles = (Role.CANDIDATE,) if view.run.request.kind is RunKind.BOOTSTRAP else (Role.INCUMBENT, Role.CANDIDATE)
        return Act(step=ReadSnapshots(roles=roles))
    given = view.run.verdicts.get(ADMISSION)
    return Conclude(stage=ADMISSION) if given is None else follow_verdict(given, Event.ADMITTED)


def _warmup(view: View) -> Decision:
    first = view.run.request.kind is RunKind.BOOTSTRAP
    return _cold(view) or read_instances(view, WARM) or Enter(event=Event.FIRST if first else Event.WARM)


def _canary(view: View) -> Decision:
    run, policy = view.run, view.policy
    given = run.verdicts.get(CANARY)
    if given is None:
        judged = run.judged.get(CANARY)
        spent = len(run.pairs.get(CANARY, ())) >= policy.latency.pairs_max * run.budgets(CANARY)
        if spent or (judged is not None and (judged.outcome is not Outcome.INCONCLUSIVE or _hopeless(judged))):
            return conclude(view, CANARY, judged)
        return measure_pair(view, CANARY, len(run.pairs.get(CANARY, ())))
    return _undecided(view, CANARY, given) or follow_verdict(given, Event.PROVEN)


def _load(view: View) -> Decision:
    run, policy = view.run, view.policy
    given = run.verdicts.get(LOAD)
    if given is None:
        return _windows(view) or conclude(view, LOAD, run.load_judged)
    if given.verdict.outcome is Outcome.PASS and policy.approval is Approval.BEFORE_SHIFT and not run.approved:
        return _hold(view, LOAD, "approval", "proven; `rollout approve` lets traffic move")
    return _undecided(view, LOAD, given) or follow_verdict(given, Event.LOADED)


def _windows(view: View) -> Decision | None:
    """Order the next pair of load windows; None when the levels are decided or a bound is reached."""
    run, demand = view.run, view.policy.load
    if demand is None:
        return None
    budgets = run.budgets(LOAD)
    state = view.slot(Role.CANDIDATE)
    instances = len(state.instances) if isinstance(state, SlotState) else 0
    dear = demand.cost_max is not None and (
        cost_so_far(view.policy.cost, run.windows, instances=instances) >= demand.cost_max * budgets
    )
    # What counts is the time under load: while a person is waited for, nobody is.
    if dear or busy_s(run.windows) > demand.seconds_max * budgets:
        return None
    # Every approval grants the whole budget once more.
    granted = demand.model_copy(
        update={"windows_max": demand.windows_max * budgets, "requests_max": demand.requests_max * budgets}
    )
    due = next_window(granted, run.load_judged, run.windows)
    if due is None:
        return None
    level, number = due
    first = first_role(run_id=run.request.run_id, stage=f"{LOAD} {level.name}", number=number)
    return Act(step=MeasureWindows(level=level.name, number=number, first=first))


def _undecided(view: View, stage: str, given: VerdictGiven) -> Decision | None:
    """Wait for a person where the budget of a proof is spent and the policy says so."""
    hold = view.policy.on_inconclusive is OnInconclusive.HOLD
    if given.verdict.outcome is not Outcome.INCONCLUSIVE or not hold:
        return None
    text = "no decision within the budget; `rollout approve` grants one more budget"
    return _hold(view, stage, "inconclusive", text)


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
        return watch(view, stage, onward=Event.SHIFTED, pairs=plan.pairs_per_step, seconds=plan.dwell_s)
    return Enter(event=Event.SHIFTED)


def _traffic(view: View, *, stage: str, weights: Weights, targets: tuple[Slot, ...]) -> Decision:
    return _unready(view, weights) or Act(step=Shift(stage=stage, weights=weights, targets=targets))


def _unready(view: View, weights: Weights) -> Decision | None:
    """Wait, not for ever, until every slot that these weights give traffic to is ready."""
    for role in Role:
        if weights.of(view.run.slot(role)) == 0 or view.ready(role):
            continue
        text = f"the {role} is not ready: {detail_of(view.slot(role))}"
        if view.unready_s(role) > view.policy.deadlines.ready_s:
            event = Event.LOST if role is Role.INCUMBENT else Event.BREACHED
            return enter(event, f"{role.value}_not_ready", text)
        return alarm(view) or wait(f"{role.value}_not_ready", text)
    return None


def _soak(view: View) -> Decision:
    given, demand = view.run.verdicts.get(SOAK), view.policy.soak
    if given is None or given.verdict.outcome is not Outcome.PASS:
        return watch(view, SOAK, onward=Event.SOAKED, pairs=demand.pairs, seconds=demand.seconds)
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
    if only_latency_drifted(given.verdict) and view.ready(Role.CANDIDATE):
        return Enter(event=Event.ALARMED, reasons=given.verdict.reasons())
    event = {
        Outcome.PASS: Event.CONFIRMED,
        Outcome.BREACH: Event.DRIFTED,
        Outcome.INCONCLUSIVE: Event.UNDECIDED,
    }[given.verdict.outcome]
    return Enter(event=event, reasons=given.verdict.reasons())


def _recheck(view: View) -> Decision:
    """Compare what serves with the earlier stack: a swing of the environment slows both."""
    run = view.run
    given = run.verdicts.get(RECHECK)
    if given is None:
        if not view.ready(Role.CANDIDATE):
            return enter(Event.LOST, "earlier_stack_lost", f"{detail_of(view.slot(Role.CANDIDATE))}; the alarm stands")
        judged, done = run.judged.get(RECHECK), len(run.pairs.get(RECHECK, ()))
        decided = judged is not None and (judged.outcome is not Outcome.INCONCLUSIVE or _hopeless(judged))
        if decided or done >= view.policy.drift.recheck_pairs_max:
            return Conclude(stage=RECHECK)
        return _cold(view) or measure_pair(view, RECHECK, done)
    event = {
        Outcome.PASS: Event.CLEARED,
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
    Phase.LOAD: _load,
    Phase.SHIFT: _shift,
    Phase.SOAK: _soak,
    Phase.DRIFT: _drift,
    Phase.RECHECK: _recheck,
}


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
    detail = detail_of(state)
    if waited > view.policy.deadlines.ready_s:
        return enter(event, f"{name}_never_ready", f"not ready after {view.policy.deadlines.ready_s:g} s: {detail}")
    return wait("not_ready", f"waiting until the {name} is ready: {detail}")


def _hold(view: View, stage: str, code: str, text: str) -> Decision:
    held = view.now - view.run.concluded_at[stage]
    if held > view.policy.deadlines.hold_s:
        return enter(
            Event.UNDECIDED, f"{code}_timeout", f"nobody answered in {view.policy.deadlines.hold_s:g} s: {text}"
        )
    return wait(code, text)


def _first_detail(pairs: tuple[Pair, ...]) -> str:
    details = (one.detail for pair in pairs for one in (pair.incumbent, pair.candidate) if one.detail)
    return next(details, "no detail")
