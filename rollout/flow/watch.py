"""Judging a stage that has live traffic: pairs, time, and the router's own counters."""

from rollout.flow.run import SOAK, Run
from rollout.flow.schedule import first_role, prompt_at
from rollout.flow.steps import (
    Act,
    Conclude,
    Decision,
    Enter,
    MeasurePair,
    ReadInstances,
    ReadLive,
)
from rollout.flow.view import POLL_S, View, detail_of, enter, live_window, wait
from rollout.gates.live import judge_live
from rollout.model.inventory import SlotState
from rollout.model.journal import Event, Phase, RunKind, VerdictGiven
from rollout.model.roles import Role
from rollout.model.verdict import Outcome, Verdict

UNREADY_PAIRS_MAX = 20
"""Pairs beyond its demand that a stage asks of a candidate that takes traffic and says that it is not ready. One that
hangs is convicted by the first few; one that answers them all and still is not ready is given up after so many."""

UNREADY_S = 15.0
"""And after so long: a late answer of one probe, or of a few, is a busy machine."""


def watch(view: View, stage: str, *, onward: Event, pairs: int, seconds: float) -> Decision:
    """Judge a stage that has live traffic: pairs, time, and the router's own counters."""
    run = view.run
    if stage in run.verdicts:
        return follow_verdict(run.verdicts[stage], onward)
    alarmed = alarm(view)
    if alarmed is not None:
        return alarmed
    done, ready = len(run.pairs.get(stage, ())), view.ready(Role.CANDIDATE)
    if done >= pairs + UNREADY_PAIRS_MAX and view.unready_s(Role.CANDIDATE) > UNREADY_S:
        text = f"the candidate is not ready: {detail_of(view.slot(Role.CANDIDATE))}"
        return enter(Event.BREACHED, "candidate_not_ready", text)
    judged = run.judged.get(stage)
    open_ = judged is not None and judged.outcome is Outcome.INCONCLUSIVE and done < view.policy.latency.pairs_max
    if done < pairs or not ready or open_:
        return measure_pair(view, stage, done)
    began = _began(view, stage)
    if view.now - began < seconds:
        return wait("dwell", f"{stage}: {began + seconds - view.now:.0f} s left", seconds=min(POLL_S, seconds))
    return _read_live(view, stage, due=began + seconds, give_up=began + view.policy.deadlines.hold_s)


def _read_live(view: View, stage: str, *, due: float, give_up: float) -> Decision:
    """Conclude on live requests read when the stage's time is up; while they do not suffice, wait for more of them."""
    run, policy = view.run, view.policy.live
    recorded = run.live.get(stage)
    fresh = recorded is not None and run.live_at[stage] >= due
    if fresh and judge_live(policy, recorded).outcome is Outcome.PASS:
        return conclude(view, stage, run.judged.get(stage))
    now = judge_live(policy, live_window(view))
    if now.outcome is not Outcome.PASS and view.now < give_up:
        return wait("live_requests", f"{stage}: {now.reasons[0].text}")
    if not fresh or now.outcome is Outcome.PASS:
        return Act(step=ReadLive(stage=stage))
    return conclude(view, stage, run.judged.get(stage))


def conclude(view: View, stage: str, judged: Verdict | None) -> Decision:
    """End a stage of the candidate; unless it is convicted already, after a last look at its instances."""
    convicted = judged is not None and judged.outcome is Outcome.BREACH
    return (None if convicted else read_instances(view, stage)) or Conclude(stage=stage)


def read_instances(view: View, stage: str) -> Act | None:
    """Record the instances in the candidate's slot at this stage, once; None where it is done or nothing is there."""
    state = view.slot(Role.CANDIDATE)
    if not isinstance(state, SlotState) or view.run.read_at(stage).issuperset(one.uid for one in state.instances):
        return None
    return Act(step=ReadInstances(stage=stage))


def alarm(view: View) -> Decision | None:
    """React to evidence against a candidate that takes traffic; nothing may put this off, a pause included."""
    run, policy = view.run, view.policy.live
    stage = _stage_with_traffic(run)
    if stage is None:
        return None
    given, judged = run.verdicts.get(stage), run.judged.get(stage)
    if given is not None and given.verdict.outcome is Outcome.BREACH:
        return follow_verdict(given, Event.BREACHED)
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


def _began(view: View, stage: str) -> float:
    if stage == SOAK or view.run.shifted is None:
        return view.run.entered_at
    return view.run.shifted.at


def measure_pair(view: View, stage: str, number: int) -> Act:
    """Order the next pair of a stage: its prompt and who is asked first follow from the run's id."""
    run_id = view.run.request.run_id
    prompt = prompt_at(view.prompts, run_id=run_id, stage=stage, number=number)
    first = first_role(run_id=run_id, stage=stage, number=number)
    return Act(step=MeasurePair(stage=stage, number=number, prompt_id=prompt.id, first=first))


def follow_verdict(given: VerdictGiven, onward: Event) -> Enter:
    """Turn a stage's verdict into the event that it means."""
    match given.verdict.outcome:
        case Outcome.PASS:
            return Enter(event=onward)
        case Outcome.BREACH:
            return Enter(event=Event.BREACHED, reasons=given.verdict.reasons())
        case Outcome.INCONCLUSIVE:
            return Enter(event=Event.UNDECIDED, reasons=given.verdict.reasons())
