"""The journal's records: what was asked, decided, intended, done and seen, in order.

A run is a fold over these. Every change of the world is preceded by a `StepIntended` and followed by the record of
what was read back, or by a `StepFailed`.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from rollout.model.base import Strict
from rollout.model.canonical import digest_json
from rollout.model.evidence import Digest, InstanceReading, LiveWindow, Pair, Sample
from rollout.model.load import WindowPair
from rollout.model.roles import Role, Slot
from rollout.model.verdict import Reason, Verdict

AnySlot = Annotated[Slot, Field(strict=False)]
AnyRole = Annotated[Role, Field(strict=False)]
Reasons = Annotated[tuple[Reason, ...], Field(strict=False)]


class RunKind(StrEnum):
    """What a run is for."""

    BOOTSTRAP = "bootstrap"
    """The first stack ever: there is nothing to compare with."""
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    VERIFY = "verify"
    CALIBRATE = "calibrate"
    """The incumbent against itself: a new history and a new baseline, nothing else."""


class Phase(StrEnum):
    """Where a run stands."""

    PREFLIGHT = "preflight"
    HISTORY = "history"
    DEPLOY = "deploy"
    ADMIT = "admit"
    WARMUP = "warmup"
    CANARY = "canary"
    LOAD = "load"
    SHIFT = "shift"
    SOAK = "soak"
    DRIFT = "drift"
    RECHECK = "recheck"
    """An alarm is looked at again, in pairs with the earlier stack."""
    ROLLBACK = "rollback"
    PROMOTED = "promoted"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_INCOMPLETE = "rollback_incomplete"
    VERIFIED = "verified"
    DRIFTED = "drifted"
    UNDECIDED = "undecided"
    CALIBRATED = "calibrated"


class Event(StrEnum):
    """Why a run leaves a phase."""

    ACCEPTED = "accepted"
    FIRST = "first"
    """Nothing to compare with: the first stack of all."""
    RESTORE = "restore"
    """A person asked for the earlier stack back."""
    CHECK = "check"
    """A drift check begins."""
    CONFIRMED = "confirmed"
    DRIFTED = "drifted"
    ALARMED = "alarmed"
    """Slower than the baseline, and an earlier stack still stands to be compared with."""
    CLEARED = "cleared"
    """The earlier stack became slower alike: it is the environment."""
    CALIBRATED = "calibrated"
    REFUSED = "refused"
    HISTORY_READY = "history_ready"
    READY = "ready"
    ADMITTED = "admitted"
    WARM = "warm"
    PROVEN = "proven"
    LOADED = "loaded"
    SHIFTED = "shifted"
    SOAKED = "soaked"
    BREACHED = "breached"
    UNDECIDED = "undecided"
    LOST = "lost"
    ABORTED = "aborted"
    EXPIRED = "expired"
    RESTORED = "restored"
    STUCK = "stuck"


class CommandKind(StrEnum):
    """What a person may say to a run."""

    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    ABORT = "abort"


class RunRequested(Strict):
    """The first record of every journal."""

    type: Literal["run_requested"] = "run_requested"
    run_id: str
    kind: Annotated[RunKind, Field(strict=False)]
    stack: str
    incumbent: AnySlot
    candidate: AnySlot
    policy: Digest
    prompts: Digest
    release: Digest
    """Object digest of the candidate's release; of the incumbent's own for `verify` and `rollback`."""
    incumbent_release: Digest | None
    """Object digest of the incumbent's release; None only for `bootstrap`."""
    baseline: Digest | None
    """Object digest of the incumbent's stored baseline; None where none fits."""
    standby_until: float | None
    """Unix time until which the stack in the candidate's slot is the hot standby of an earlier promotion."""
    requested_by: str
    environment: dict[str, str]


class PhaseEntered(Strict):
    """A transition of the phase table."""

    type: Literal["phase_entered"] = "phase_entered"
    phase: Annotated[Phase, Field(strict=False)]
    event: Annotated[Event, Field(strict=False)]
    reasons: Reasons = ()


class StepIntended(Strict):
    """Written before the world is changed."""

    type: Literal["step_intended"] = "step_intended"
    step: str
    args: dict[str, str | int]


class StepFailed(Strict):
    """The step raised; nothing is known of how far it came, so the next look at the world decides."""

    type: Literal["step_failed"] = "step_failed"
    step: str
    error: str
    message: str


class Deployed(Strict):
    """A slot was told to run a release; readiness is seen later."""

    type: Literal["deployed"] = "deployed"
    slot: AnySlot
    purpose: Literal["candidate", "twin", "incumbent"]
    block: int = 0
    """For a twin: the block of the history it serves."""
    release_digest: Digest
    pod_uids: Annotated[tuple[str, ...], Field(strict=False)]


class Retired(Strict):
    """A slot was emptied."""

    type: Literal["retired"] = "retired"
    slot: AnySlot


class RouterStopped(Strict):
    """The router of a stack that never had an incumbent was ended."""

    type: Literal["router_stopped"] = "router_stopped"


class SnapshotsRead(Strict):
    """Capability snapshots, by object digest, and who answered."""

    type: Literal["snapshots_read"] = "snapshots_read"
    snapshots: dict[str, Digest]
    """Role to object digest; a role whose snapshot could not be read is in `problems` instead."""
    snapshot_digests: dict[str, str]
    """Role to the snapshot's own digest, the one that every answer carries."""
    pod_uids: dict[str, list[str]]
    problems: dict[str, str]


class WarmedUp(Strict):
    """Declared warm-up requests were sent to an instance; they are never measured."""

    type: Literal["warmed_up"] = "warmed_up"
    role: AnyRole
    pod_uids: Annotated[tuple[str, ...], Field(strict=False)]
    requests: int
    failed: int


class PairMeasured(Strict):
    """One pair, and what the gates say after it."""

    type: Literal["pair_measured"] = "pair_measured"
    pair: Pair
    judgement: Verdict | None
    """None for the history, which is not judged."""


class WindowsMeasured(Strict):
    """One pair of load windows, and what the load gates say after it."""

    type: Literal["windows_measured"] = "windows_measured"
    pair: WindowPair
    judgement: Verdict


class InstancesRead(Strict):
    """Memory, restarts and start-up time of a role's instances at one moment of the run."""

    type: Literal["instances_read"] = "instances_read"
    stage: str
    """`start`: just ready. `warm`: after the warm-up. Else the stage that was just measured."""
    role: AnyRole
    readings: Annotated[tuple[InstanceReading, ...], Field(strict=False)]


class SampleMeasured(Strict):
    """One request to the incumbent alone, for the drift check."""

    type: Literal["sample_measured"] = "sample_measured"
    number: int
    prompt_id: str
    sample: Sample


class HistoryStored(Strict):
    """The A/A history is complete; the object is a Baseline."""

    type: Literal["history_stored"] = "history_stored"
    baseline: Digest


class TrafficShifted(Strict):
    """Weights as the router itself reported them after the change."""

    type: Literal["traffic_shifted"] = "traffic_shifted"
    stage: str
    blue: int
    green: int
    targets: dict[str, list[str]]
    version: str
    epoch: str
    counters: dict[str, list[int]]
    """Slot to completed and failed requests at that moment."""


class LiveRead(Strict):
    """Live requests of the candidate since its stage began."""

    type: Literal["live_read"] = "live_read"
    stage: str
    window: LiveWindow


class VerdictGiven(Strict):
    """The verdict that ends a stage, and the fingerprint it holds for."""

    type: Literal["verdict_given"] = "verdict_given"
    verdict: Verdict
    fingerprint: str


class CommandReceived(Strict):
    """A person spoke."""

    type: Literal["command_received"] = "command_received"
    id: str
    command: Annotated[CommandKind, Field(strict=False)]
    by: str
    reason: str


class BaselineStored(Strict):
    """The promoted release's baseline, for drift checks and later rollouts."""

    type: Literal["baseline_stored"] = "baseline_stored"
    baseline: Digest


class BundleSealed(Strict):
    """The last record: digests of the derived files (summaries) beside the journal."""

    type: Literal["bundle_sealed"] = "bundle_sealed"
    files: dict[str, Digest]


Body = Annotated[
    RunRequested
    | PhaseEntered
    | StepIntended
    | StepFailed
    | Deployed
    | Retired
    | RouterStopped
    | SnapshotsRead
    | WarmedUp
    | PairMeasured
    | WindowsMeasured
    | InstancesRead
    | SampleMeasured
    | HistoryStored
    | TrafficShifted
    | LiveRead
    | VerdictGiven
    | CommandReceived
    | BaselineStored
    | BundleSealed,
    Field(discriminator="type"),
]

GENESIS = "sha256:" + "0" * 64
"""What the first record names as its predecessor."""


class Record(Strict):
    """One line of the journal: a body, chained to its predecessor by hash."""

    seq: Annotated[int, Field(ge=0)]
    at: float
    """Unix time in seconds, for people and deadlines; order is given by seq."""
    generation: Annotated[int, Field(ge=1)]
    prev: Digest
    body: Body
    hash: Digest


def seal(*, seq: int, at: float, generation: int, prev: str, body: Body) -> Record:
    """Make the record that follows the one with hash `prev`."""
    at = float(at)
    content = {"seq": seq, "at": at, "generation": generation, "prev": prev, "body": body.model_dump(mode="json")}
    return Record(seq=seq, at=at, generation=generation, prev=prev, body=body, hash=digest_json(content))


def content_hash(record: Record) -> str:
    """Return the hash that the record's content gives; it must equal `record.hash`."""
    return digest_json(record.model_dump(mode="json", exclude={"hash"}))


def referenced(body: Body) -> frozenset[str]:
    """Return the digests of every object that a body names."""
    named: set[str] = set()
    match body:
        case RunRequested():
            named |= {body.policy, body.prompts, body.release}
            named |= {one for one in (body.incumbent_release, body.baseline) if one is not None}
        case SnapshotsRead():
            named |= set(body.snapshots.values())
        case HistoryStored() | BaselineStored():
            named.add(body.baseline)
        case PairMeasured():
            named |= {*body.pair.incumbent.pictures, *body.pair.candidate.pictures}
        case WindowsMeasured():
            named |= {body.pair.incumbent.samples, body.pair.candidate.samples}
        case SampleMeasured():
            named |= set(body.sample.pictures)
        case _:
            pass
    return frozenset(named)
