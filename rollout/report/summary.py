"""The summary of a run: everything the reports say, taken from the folded journal and worked out once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rollout.flow.run import ADMISSION, DRIFT, LOAD, Run
from rollout.gates.cause import Suspect, rank, signature_of
from rollout.gates.differences import Difference, reported
from rollout.gates.names import CAPABILITIES
from rollout.model.inventory import Absent
from rollout.model.journal import (
    CommandKind,
    CommandReceived,
    Event,
    Phase,
    PhaseEntered,
    Record,
    RunKind,
    TrafficShifted,
)
from rollout.model.policy import CostModel
from rollout.model.roles import Role, Slot
from rollout.model.verdict import GateResult, Outcome, Reason, Verdict
from rollout.report.cost import CostRow, cost_rows
from rollout.report.headline import Ending, decisive_verdict, ending_of, headline_of, is_wanted
from rollout.report.load import LoadRow, load_curves, load_rows
from rollout.report.overhead import Overhead, overhead_of
from rollout.report.stages import StageRow, stage_rows
from rollout.stats.load_curve import LoadCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One of the two stacks of a run.

    Attributes:
        release: Its name; Absent where there is none or it is not known.
        digest: Object digest of the release.
    """

    role: Role
    slot: Slot
    release: str | Absent
    digest: str | Absent


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSpan:
    """A phase and how long it took; 0 seconds for the phase that ends a run."""

    phase: Phase
    event: Event | Absent
    entered_at: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPoint:
    """Per cent of live traffic from this moment on, as the router reported it."""

    at: float
    stage: str
    blue: int
    green: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a person said to the run."""

    at: float
    command: CommandKind
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run for people.

    Attributes:
        reasons: Why the run left the road to promotion; for one that did not, what its last verdict rests on.
        differences: Capabilities in which the candidate differs, heaviest first.
        suspects: The same, ranked by what each is known to cost, but only where latency, behaviour under load, start or
            memory is the cause.
        load: The levels of the load phase that were measured.
        scaling: How each role scales with concurrency.
        stages: In the order of the run; stages that it never reached are there, marked as skipped.
        overhead: Time outside the server, by role; empty where no server declared its own time.
        unsettled: What was being changed when the journal stops; empty at a clean end.
    """

    run_id: str
    stack: str
    kind: RunKind
    ending: Ending
    phase: Phase
    headline: str
    reasons: tuple[Reason, ...]
    differences: tuple[str, ...]
    suspects: tuple[Suspect, ...]
    stacks: tuple[Stack, Stack]
    stages: tuple[StageRow, ...]
    load: tuple[LoadRow, ...]
    scaling: Mapping[Role, LoadCurve | Absent]
    cost: tuple[CostRow, ...] | Absent
    timeline: tuple[PhaseSpan, ...]
    weights: tuple[WeightPoint, ...]
    overhead: tuple[Overhead, ...]
    commands: tuple[Command, ...]
    requested_by: str
    started_at: float
    ended_at: float
    seconds: float
    unsettled: str


def summarise(run: Run, records: Sequence[Record], *, names: Mapping[Role, str], cost: CostModel | None) -> Summary:
    """Say what a run amounts to.

    Args:
        run: The fold of `records`.
        records: The run's journal, from its first record; not empty.
        names: Role to release name; a role that is not in it has no stack, or none that is known.
        cost: The price that the run's policy names.
    """
    ending = ending_of(run)
    decisive = decisive_verdict(run)
    differences = _differences(run)
    ended_at = max(one.at for one in records)
    return Summary(
        run_id=run.request.run_id,
        stack=run.request.stack,
        kind=run.request.kind,
        ending=ending,
        phase=run.phase,
        headline=headline_of(run, ending, decisive, names=names),
        reasons=run.causes or (decisive.reasons() if isinstance(decisive, Verdict) else ()),
        differences=(*map(str, differences), *_waived_fields(run)),
        suspects=() if is_wanted(ending, run.request.kind) else _suspects(run, differences),
        stacks=(_stack(run, Role.INCUMBENT, names), _stack(run, Role.CANDIDATE, names)),
        stages=stage_rows(run, records),
        load=load_rows(run.windows, _load_verdict(run)),
        scaling=load_curves(run.windows),
        cost=cost_rows(cost, run.windows, instances={role: len(run.pod_uids(role)) for role in Role}),
        timeline=_timeline(run, records, ended_at),
        weights=tuple(
            WeightPoint(at=one.at, stage=one.body.stage, blue=one.body.blue, green=one.body.green)
            for one in records
            if isinstance(one.body, TrafficShifted)
        ),
        overhead=overhead_of(run),
        commands=tuple(
            Command(at=one.at, command=one.body.command, by=one.body.by, reason=one.body.reason)
            for one in records
            if isinstance(one.body, CommandReceived)
        ),
        requested_by=run.request.requested_by,
        started_at=run.requested_at,
        ended_at=ended_at,
        seconds=max(ended_at - run.requested_at, 0.0),
        unsettled=run.pending.step if run.pending is not None else "",
    )


def _load_verdict(run: Run) -> Verdict | None:
    given = run.verdicts.get(LOAD)
    return run.load_judged if given is None else given.verdict


def _differences(run: Run) -> tuple[Difference, ...]:
    return tuple(one for gate in _capability_gates(run) for one in reported(gate))


def _waived_fields(run: Run) -> Iterator[str]:
    """Yield what is missing and was let pass: who reads a report of success must see it."""
    for gate in _capability_gates(run):
        yield from (reason.text for reason in gate.reasons if reason.code == "field_waived")


def _capability_gates(run: Run) -> tuple[GateResult, ...]:
    verdicts = [run.verdicts[stage].verdict for stage in (ADMISSION, DRIFT) if stage in run.verdicts]
    return tuple(gate for verdict in verdicts for gate in verdict.gates if gate.gate == CAPABILITIES)


def _suspects(run: Run, differences: Sequence[Difference]) -> tuple[Suspect, ...]:
    """Rank the differences by the verdicts that ended the run; a drift alarm stands where no re-check cleared it."""
    causes, drifted = set(run.causes), run.phase is Phase.DRIFTED
    given = (one.verdict for one in run.verdicts.values())
    against = [one for one in given if one.outcome is not Outcome.PASS and (drifted or set(one.reasons()) <= causes)]
    signature = signature_of(against)
    return rank(differences, signature) if signature.effects else ()


def _stack(run: Run, role: Role, names: Mapping[Role, str]) -> Stack:
    digest = run.request.incumbent_release if role is Role.INCUMBENT else run.request.release
    nothing = Absent(reason="nothing ran before the first stack")
    alone = (
        run.request.kind in {RunKind.VERIFY, RunKind.ROLLBACK, RunKind.CALIBRATE}
        and run.request.release == run.request.incumbent_release
    )
    if alone and role is Role.CANDIDATE:
        nobody = Absent(reason="this run has no candidate")
        return Stack(role=role, slot=run.slot(role), release=nobody, digest=nobody)
    if digest is None:
        return Stack(role=role, slot=run.slot(role), release=nothing, digest=nothing)
    release = names[role] if role in names else Absent(reason="its name is not known")
    return Stack(role=role, slot=run.slot(role), release=release, digest=digest)


def _timeline(run: Run, records: Sequence[Record], ended_at: float) -> tuple[PhaseSpan, ...]:
    begun: list[tuple[Phase, Event | Absent, float]] = [
        (Phase.PREFLIGHT, Absent(reason="the run was asked for"), run.requested_at)
    ]
    begun += [(one.body.phase, one.body.event, one.at) for one in records if isinstance(one.body, PhaseEntered)]
    left = [at for _, _, at in begun[1:]] + [begun[-1][2] if run.terminal else ended_at]
    return tuple(
        PhaseSpan(phase=phase, event=event, entered_at=at, seconds=max(until - at, 0.0))
        for (phase, event, at), until in zip(begun, left, strict=True)
    )
