"""A run, as the fold of its journal. Nothing about a run is remembered anywhere else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar, assert_never

from rollout.errors import EvidenceError, InvariantError
from rollout.flow.steps import Shift
from rollout.flow.table import TERMINAL, follow
from rollout.gates import names
from rollout.model.canonical import digest_json
from rollout.model.evidence import LiveWindow, Pair
from rollout.model.inventory import LiveCounters
from rollout.model.journal import (
    BaselineStored,
    BundleSealed,
    CommandKind,
    CommandReceived,
    Deployed,
    Event,
    HistoryStored,
    InstancesRead,
    LiveRead,
    PairMeasured,
    Phase,
    PhaseEntered,
    Record,
    Retired,
    RouterStopped,
    RunKind,
    RunRequested,
    SampleMeasured,
    SnapshotsRead,
    StepFailed,
    StepIntended,
    TrafficShifted,
    VerdictGiven,
    WarmedUp,
    WindowsMeasured,
)
from rollout.model.load import WindowPair
from rollout.model.roles import Address, Role, Slot, Weights
from rollout.model.verdict import Outcome, Reason, Verdict

K = TypeVar("K")
V = TypeVar("V")

CANARY = "canary"
LOAD = names.LOAD
RECHECK = names.RECHECK
HISTORY = "history"
SOAK = "soak"
ADMISSION = "admission"
DRIFT = "drift"
ROLLBACK = "rollback"

START, WARM = names.START, names.WARM


def shift_stage(weight: int) -> str:
    """Return the name of the stage that runs while the candidate has this share of traffic."""
    return f"shift-{weight}"


PROOF: Mapping[RunKind, tuple[str, ...]] = {
    RunKind.BOOTSTRAP: (ADMISSION,),
    RunKind.PROMOTE: (ADMISSION, CANARY, LOAD),
}
"""Stages whose PASS must stand before the candidate of a run takes traffic; other kinds move none to a candidate."""


APPROVABLE: Mapping[Phase, str] = {Phase.CANARY: CANARY, Phase.LOAD: LOAD}
"""Phases in which a person may say yes, once their stage has a verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifted:
    """The last change of traffic, as read back."""

    stage: str
    at: float
    weights: Weights
    targets: Mapping[Slot, tuple[Address, ...]]
    epoch: str
    counters: Mapping[Slot, LiveCounters]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything known about a run after some prefix of its journal."""

    request: RunRequested
    requested_at: float
    phase: Phase
    entered_at: float
    recorded_at: float
    """When the newest record was written."""
    causes: tuple[Reason, ...] = ()
    """Why the run left the road to promotion; empty while it has not."""
    cause: Event | None = None
    deployed: Mapping[Slot, Deployed] = field(default_factory=dict)
    deployed_at: Mapping[Slot, float] = field(default_factory=dict)
    history: str | None = None
    """Object digest of the baseline whose A/A history is used."""
    snapshots: SnapshotsRead | None = None
    restored: SnapshotsRead | None = None
    """What was read of the incumbent during ROLLBACK, since it was last deployed there."""
    warmed: frozenset[str] = frozenset()
    """Instance uids that had their warm-up."""
    pairs: Mapping[str, tuple[Pair, ...]] = field(default_factory=dict)
    judged: Mapping[str, Verdict] = field(default_factory=dict)
    """Stage to what the gates said after its last pair."""
    windows: Mapping[str, tuple[WindowPair, ...]] = field(default_factory=dict)
    """Load level to its pairs of windows."""
    load_judged: Verdict | None = None
    """What the load gates said after the last pair of windows."""
    readings: tuple[InstancesRead, ...] = ()
    """Of the instances that stand in the candidate's slot now."""
    twin_starts_s: tuple[float, ...] = ()
    """Cold starts of the incumbent's twins."""
    samples: tuple[SampleMeasured, ...] = ()
    shifted: Shifted | None = None
    candidate_served: bool = False
    """The candidate took live traffic at some time, or may have."""
    live: Mapping[str, LiveWindow] = field(default_factory=dict)
    live_at: Mapping[str, float] = field(default_factory=dict)
    verdicts: Mapping[str, VerdictGiven] = field(default_factory=dict)
    concluded_at: Mapping[str, float] = field(default_factory=dict)
    commands: tuple[CommandReceived, ...] = ()
    approved: bool = False
    """A person approved the shift after everything was proven."""
    extra_budgets: Mapping[str, int] = field(default_factory=dict)
    """Stage to the budgets that people granted it by approving an INCONCLUSIVE verdict."""
    steps: int = 0
    """Steps that worked since the phase was entered."""
    failures: tuple[StepFailed, ...] = ()
    """Failures since the last step that worked."""
    pending: StepIntended | None = None
    """A change of the world of which it is not known whether it was made."""
    baseline: str | None = None
    sealed: bool = False

    @property
    def terminal(self) -> bool:
        """True when the run will not change any more."""
        return self.phase in TERMINAL

    @property
    def paused(self) -> bool:
        """True when the last word on pausing was `pause`."""
        said = [one.command for one in self.commands if one.command in {CommandKind.PAUSE, CommandKind.RESUME}]
        return bool(said) and said[-1] is CommandKind.PAUSE

    @property
    def aborted(self) -> CommandReceived | None:
        """The first `abort`, if there was one."""
        return next((one for one in self.commands if one.command is CommandKind.ABORT), None)

    def slot(self, role: Role) -> Slot:
        """Return where a role stands in this run."""
        return self.request.incumbent if role is Role.INCUMBENT else self.request.candidate

    def pod_uids(self, role: Role) -> tuple[str, ...]:
        """Return the instances whose snapshot was admitted; empty before admission."""
        return tuple(self.snapshots.pod_uids.get(role.value, ())) if self.snapshots else ()

    def fingerprint(self) -> str:
        """Return the digest of what a verdict holds for: release, snapshot and instances of the candidate.

        Raises:
            InvariantError: There was no admission yet.
        """
        if self.snapshots is None:
            raise InvariantError("there is no fingerprint before the snapshots were read")
        return digest_json(
            {
                "release": self.request.release,
                "snapshot": self.snapshots.snapshot_digests.get(Role.CANDIDATE.value, ""),
                "pod_uids": sorted(self.pod_uids(Role.CANDIDATE)),
            }
        )

    def budgets(self, stage: str) -> int:
        """Return how many budgets a stage has: one by the policy, one more by each approval when it was spent."""
        return 1 + self.extra_budgets.get(stage, 0)

    def passed(self, stage: str) -> bool:
        """True when a stage ended with PASS for exactly the candidate that stands there now."""
        given = self.verdicts.get(stage)
        proven = given is not None and given.verdict.outcome is Outcome.PASS
        return proven and given is not None and given.fingerprint == self.fingerprint()

    def proven(self) -> bool:
        """True when everything was shown that must be shown before traffic moves to this candidate."""
        return all(self.passed(stage) for stage in PROOF[self.request.kind])

    def read_at(self, stage: str) -> frozenset[str]:
        """Return the uids of the instances that were read at a stage."""
        return frozenset(one.uid for read in self.readings if read.stage == stage for one in read.readings)

    def serving(self) -> Slot:
        """Return the slot that should take traffic once this run has ended."""
        return self.request.candidate if self.phase is Phase.PROMOTED else self.request.incumbent


def fold(records: Iterable[Record]) -> Run:
    """Fold a journal into a run.

    Raises:
        EvidenceError: The journal is empty or does not begin with a request.
        InvariantError: A recorded transition is not in the table.
    """
    run: Run | None = None
    for record in records:
        run = begin(record) if run is None else advance(run, record)
    if run is None:
        raise EvidenceError("the journal is empty")
    return run


def begin(record: Record) -> Run:
    """Return the run after its first record."""
    if not isinstance(record.body, RunRequested):
        raise EvidenceError(f"the journal begins with {record.body.type}, not with run_requested")
    return Run(
        request=record.body,
        requested_at=record.at,
        phase=Phase.PREFLIGHT,
        entered_at=record.at,
        recorded_at=record.at,
        history=record.body.baseline,
    )


def advance(run: Run, record: Record) -> Run:
    """Return the run after one more record."""
    return replace(_told(run, record), recorded_at=record.at)


def _told(run: Run, record: Record) -> Run:  # noqa: C901, PLR0911, PLR0912 - one case for each kind of record
    match record.body:
        case RunRequested():
            raise EvidenceError("run_requested stands in the middle of the journal")
        case PhaseEntered() as body:
            return _enter(run, body, record.at)
        case StepIntended() as body:
            # How far a shift came is not known before it is read back; the candidate may have been served to by then.
            served = run.phase is Phase.SHIFT and body.step == Shift.__name__
            return replace(run, pending=body, candidate_served=run.candidate_served or served)
        case StepFailed() as body:
            # What was intended stays pending: how far the step came is not known until one works.
            return replace(run, failures=(*run.failures, body))
        case Deployed() as body:
            return replace(
                _worked(run),
                readings=() if body.slot is run.request.candidate else run.readings,
                deployed=_with(run.deployed, body.slot, body),
                deployed_at=_with(run.deployed_at, body.slot, record.at),
                restored=None if body.slot is run.request.incumbent else run.restored,
            )
        case Retired() as body:
            left = {slot: one for slot, one in run.deployed.items() if slot is not body.slot}
            return replace(_worked(run), deployed=MappingProxyType(left))
        case RouterStopped():
            return replace(_worked(run), shifted=None)
        case SnapshotsRead() as body:
            # What was admitted stays what it is: a rollback reads only to compare with it.
            rollback = run.phase is Phase.ROLLBACK
            return replace(_worked(run), restored=body) if rollback else replace(_worked(run), snapshots=body)
        case WarmedUp() as body:
            return replace(_worked(run), warmed=run.warmed | set(body.pod_uids))
        case PairMeasured() as body:
            return _measured(_worked(run), body)
        case WindowsMeasured() as body:
            windows = _with(run.windows, body.pair.level, (*run.windows.get(body.pair.level, ()), body.pair))
            return replace(_worked(run), windows=windows, load_judged=body.judgement)
        case InstancesRead() as body:
            return _read(_worked(run), body)
        case SampleMeasured() as body:
            return replace(_worked(run), samples=(*run.samples, body))
        case HistoryStored() as body:
            return replace(_worked(run), history=body.baseline)
        case TrafficShifted() as body:
            return replace(_worked(run), shifted=_shifted(body, record.at))
        case LiveRead() as body:
            live = _with(run.live, body.stage, body.window)
            return replace(_worked(run), live=live, live_at=_with(run.live_at, body.stage, record.at))
        case VerdictGiven() as body:
            stage = body.verdict.stage
            concluded = _with(run.concluded_at, stage, record.at)
            return replace(run, verdicts=_with(run.verdicts, stage, body), concluded_at=concluded)
        case CommandReceived() as body:
            return _commanded(run, body)
        case BaselineStored() as body:
            return replace(_worked(run), baseline=body.baseline)
        case BundleSealed():
            return replace(run, sealed=True)
        case _:
            assert_never(record.body)


def _enter(run: Run, body: PhaseEntered, at: float) -> Run:
    expected = follow(run.phase, body.event)
    if expected is not body.phase:
        raise InvariantError(f"the journal enters {body.phase} by {body.event}, the table says {expected}")
    left_the_road = body.phase in {Phase.ROLLBACK, Phase.REFUSED, Phase.UNDECIDED, Phase.DRIFTED, Phase.RECHECK}
    return replace(
        run,
        phase=body.phase,
        entered_at=at,
        steps=0,
        failures=(),
        # RESTORED is said by somebody who has looked at all there is; nothing is unknown any more.
        pending=None if body.event is Event.RESTORED else run.pending,
        cause=body.event if left_the_road else run.cause,
        causes=body.reasons if left_the_road else (*run.causes, *body.reasons),
    )


def _measured(run: Run, body: PairMeasured) -> Run:
    stage = body.pair.stage
    pairs = _with(run.pairs, stage, (*run.pairs.get(stage, ()), body.pair))
    judged = run.judged if body.judgement is None else _with(run.judged, stage, body.judgement)
    return replace(run, pairs=pairs, judged=judged)


def _read(run: Run, body: InstancesRead) -> Run:
    if body.role is not Role.CANDIDATE:
        return run
    starts = [one.cold_start_s for one in body.readings if one.cold_start_s is not None]
    twin = run.phase is Phase.HISTORY and body.stage == START
    return replace(
        run,
        readings=(*run.readings, body),
        twin_starts_s=(*run.twin_starts_s, *starts) if twin else run.twin_starts_s,
    )


def _commanded(run: Run, body: CommandReceived) -> Run:
    run = replace(run, commands=(*run.commands, body))
    stage = APPROVABLE.get(run.phase)
    if body.command is not CommandKind.APPROVE or stage is None or stage not in run.verdicts:
        return run
    if run.verdicts[stage].verdict.outcome is Outcome.PASS:
        # The load phase is the last proof; what is approved before it is not proven yet.
        return replace(run, approved=stage == LOAD)
    left = {name: one for name, one in run.verdicts.items() if name != stage}
    extra = _with(run.extra_budgets, stage, run.extra_budgets.get(stage, 0) + 1)
    return replace(run, extra_budgets=extra, verdicts=MappingProxyType(left))


def _shifted(body: TrafficShifted, at: float) -> Shifted:
    return Shifted(
        stage=body.stage,
        at=at,
        weights=Weights(blue=body.blue, green=body.green),
        targets={Slot(slot): tuple(map(Address.parse, found)) for slot, found in body.targets.items()},
        epoch=body.epoch,
        counters={
            Slot(slot): LiveCounters(completed=completed, failed=failed, active=0)
            for slot, (completed, failed) in body.counters.items()
        },
    )


def _worked(run: Run) -> Run:
    return replace(run, steps=run.steps + 1, failures=(), pending=None)


def _with(mapping: Mapping[K, V], key: K, value: V) -> Mapping[K, V]:
    return MappingProxyType({**mapping, key: value})
