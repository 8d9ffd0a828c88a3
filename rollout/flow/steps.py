"""What the planner can decide, and the steps that it can order."""

from dataclasses import dataclass
from typing import Literal

from rollout.model.journal import Event
from rollout.model.roles import Role, Slot, Weights
from rollout.model.verdict import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """Make a slot run a release: the candidate's, or the incumbent's (as its twin, or to restore it)."""

    slot: Slot
    purpose: Literal["candidate", "twin", "incumbent"]
    block: int = 0
    restart: tuple[str, ...] = ()
    """Uids of the incumbent's instances that hang: to be ended and started anew though they live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """Empty a slot."""

    slot: Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Give the router these weights and these slots as targets, and read them back."""

    stage: str
    weights: Weights
    targets: tuple[Slot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRouter:
    """End the router of a stack that never had an incumbent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSnapshots:
    """Read the capability snapshots of these roles."""

    roles: tuple[Role, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """Send the declared warm-up requests to a role's instances."""

    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurePair:
    """Send one prompt to both roles."""

    stage: str
    number: int
    prompt_id: str
    first: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureWindows:
    """Put both roles under load at one level, one after the other."""

    level: str
    number: int
    first: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadInstances:
    """Record memory, restarts and start-up time of the instances in the candidate's slot."""

    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSample:
    """Send one prompt to the incumbent."""

    number: int
    prompt_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLive:
    """Record the live requests of the candidate since its stage began."""

    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHistory:
    """Store the A/A history that this run measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreBaseline:
    """Store what the candidate was measured to do, as the baseline of the next incumbent."""


Step = (
    Deploy
    | Retire
    | Shift
    | StopRouter
    | ReadSnapshots
    | WarmUp
    | MeasurePair
    | MeasureWindows
    | ReadInstances
    | MeasureSample
    | ReadLive
    | StoreHistory
    | StoreBaseline
)

CHANGES_WORLD = (Deploy, Retire, Shift, StopRouter)
"""Steps that are journaled before they are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Take this step."""

    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Enter:
    """Leave the phase by this event."""

    event: Event
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclude:
    """Record the verdict of this stage."""

    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do yet; look again after so many seconds."""

    reason: Reason
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The run is in a terminal phase."""


Decision = Act | Enter | Conclude | Wait | Finished
