"""Everything outside the controller, as the loop holds it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from rollout.canary.driver import CanaryDriver
from rollout.canary.interface import ServingProtocol
from rollout.canary.load import LoadDriver
from rollout.evidence.baselines import BaselineStore
from rollout.evidence.inbox import Inbox
from rollout.evidence.lease import FileLease
from rollout.flow.run import Run
from rollout.model.journal import Record
from rollout.model.verdict import Reason
from rollout.platforms.interface import Platform
from rollout.routers.interface import Router


class Clock(Protocol):
    """Time, as an argument."""

    def now(self) -> float:
        """Return Unix time in seconds."""

    def sleep(self, seconds: float) -> None:
        """Wait; a signal may end the wait early by raising `Interrupted`."""


class Interrupted(Exception):  # noqa: N818 - an event, not an error
    """A signal arrived while the loop was waiting or measuring."""


class Signals(Protocol):
    """SIGTERM and SIGINT, as the loop sees them."""

    @property
    def received(self) -> str:
        """Name of the signal that asked for a safe end; empty while none did."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Let a signal raise `Interrupted` inside the block; elsewhere it only sets `received`."""


class Listener(Protocol):
    """Somebody who watches: a terminal, a pipe, nobody."""

    def recorded(self, record: Record, run: Run) -> None:
        """The journal grew."""

    def waiting(self, reason: Reason) -> None:
        """The loop waits; called once per look, so the same reason comes many times."""

    def close(self) -> None:
        """Nothing more comes; leave the terminal as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The parts that the loop acts on; `router` is None where a command must not be able to move traffic."""

    platform: Platform
    router: Router | None
    protocol: ServingProtocol
    driver: CanaryDriver
    load: LoadDriver
    lease: FileLease
    inbox: Inbox
    baselines: BaselineStore
    clock: Clock
    signals: Signals
    listener: Listener
