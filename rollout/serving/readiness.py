"""How far a server has come: the one place that says whether it may take traffic."""

import threading
from dataclasses import dataclass
from typing import assert_never

from rollout.model.snapshot import CapabilitySnapshot
from rollout.serving.degradation import Pace
from rollout.serving.engines.interface import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """The server must not get traffic."""

    reason: str
    codes: tuple[str, ...]
    """Of `rollout.model.reasons`; empty while it is being proven, and where no code tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The stack has proven what the admission policy demands."""

    engine: Engine
    snapshot: CapabilitySnapshot
    digest: str
    """The snapshot's digest, computed once: every answer carries it."""
    pace: Pace
    """How the device time of requests compares with what was admitted."""


ReadinessState = NotReady | Ready


class Readiness:
    """The current state; written by the loading thread, by a request that finds the path lost, and by the probe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: ReadinessState = NotReady(reason="the stack is being proven", codes=())

    @property
    def state(self) -> ReadinessState:
        """The state now."""
        with self._lock:
            return self._state

    @property
    def verified_digest(self) -> str:
        """The snapshot's digest once the server is ready; empty before and after."""
        match self.state:
            case Ready(digest=digest):
                return digest
            case NotReady():
                return ""
            case _ as unknown:
                assert_never(unknown)

    def admit(self, engine: Engine, snapshot: CapabilitySnapshot, *, pace: Pace) -> None:
        """Everything is proven: take traffic."""
        self._set(Ready(engine=engine, snapshot=snapshot, digest=snapshot.digest, pace=pace))

    def lose(self, reason: str, *, codes: tuple[str, ...]) -> None:
        """The stack no longer is what was proven, or never was."""
        self._set(NotReady(reason=reason, codes=codes))

    def _set(self, state: ReadinessState) -> None:
        with self._lock:
            self._state = state
