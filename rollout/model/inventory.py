"""Inventory: what was seen of the world a moment ago. The planner decides on nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass

from rollout.model.roles import Address, Slot, Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """Something could not be seen; the reason is for people. Absence is never the same as fine."""

    reason: str


UNKNOWN_MEMORY = Absent(reason="the platform does not tell memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One serving process (locally) or pod (on Kubernetes)."""

    uid: str
    address: Address
    alive: bool
    ready: bool
    detail: str
    """Why it is not ready or not alive, in words; empty when it is both."""
    restarts: int = 0
    memory_bytes: int | Absent = UNKNOWN_MEMORY
    """Resident memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """What stands in one slot."""

    release_digest: str
    generation: int
    """The lease generation under which it was deployed."""
    instances: tuple[Instance, ...]

    @property
    def ready(self) -> bool:
        """True when there is an instance and every instance is alive and ready."""
        return bool(self.instances) and all(one.alive and one.ready for one in self.instances)

    @property
    def dead(self) -> tuple[Instance, ...]:
        """The instances that have ended."""
        return tuple(one for one in self.instances if not one.alive)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCounters:
    """Requests that the router sent to one slot since the router started; counters only grow.

    Attributes:
        completed: Answers of any status.
        failed: Answers 5xx, connection failures and timeouts among them.
        active: Requests in flight now.
    """

    completed: int
    failed: int
    active: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterState:
    """What the router itself says it does, never what it was told."""

    weights: Weights
    generation: int
    version: str
    targets: Mapping[Slot, tuple[Address, ...]]
    counters: Mapping[Slot, LiveCounters]
    epoch: str
    """Changes whenever the router's process changes: counters of two epochs cannot be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One look at everything outside the controller."""

    slots: Mapping[Slot, SlotState | Absent]
    router: RouterState | Absent
