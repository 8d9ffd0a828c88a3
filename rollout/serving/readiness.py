"""How far a server has come: the one place that says whether it may take traffic."""

import threading
from dataclasses import dataclass
from typing import assert_never

from rollout.model.snapshot import CapabilitySnapshot
from rollout.serving.engines.interface import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """The server must not get traffic; the snapshot is there once it was collected."""

    reason: str
    snapshot: CapabilitySnapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The snapshot was collected and the warm self-test passed."""

    engine: Engine
    snapshot: CapabilitySnapshot
    digest: str
    """The snapshot's digest, computed once: every answer carries it."""


ReadinessState = NotReady | Ready


class Readiness:
    """The current state; written by the loading thread and by a request that finds the stack degraded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: ReadinessState = NotReady(reason="the model is being loaded")

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

    def collected(self, snapshot: CapabilitySnapshot) -> None:
        """The model is loaded; the self-test is still to pass."""
        self._set(NotReady(reason="the warm self-test is running", snapshot=snapshot))

    def pass_self_test(self, engine: Engine, snapshot: CapabilitySnapshot) -> None:
        """Everything is proven: take traffic."""
        self._set(Ready(engine=engine, snapshot=snapshot, digest=snapshot.digest))

    def lose(self, reason: str) -> None:
        """The stack no longer is what was proven, or never was."""
        self._set(NotReady(reason=reason))

    def _set(self, state: ReadinessState) -> None:
        with self._lock:
            self._state = state
