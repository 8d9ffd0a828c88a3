"""What the loop needs of a platform."""

from collections.abc import Mapping
from typing import Protocol

from rollout.model.inventory import Absent, SlotState
from rollout.model.release import Release
from rollout.model.roles import Slot


class Platform(Protocol):
    """Deploys releases into slots. Every verb may be repeated; a repeated verb changes nothing more."""

    def observe(self) -> Mapping[Slot, SlotState | Absent]:
        """Look at both slots; an empty slot is Absent with a reason. Probes readiness over HTTP.

        Raises:
            UnavailableError: The platform does not answer.
        """

    def check(self, release: Release) -> None:
        """Refuse a release that can never start here, before anything is deployed.

        Raises:
            ConfigError: For example, the command does not exist.
        """

    def deploy(self, slot: Slot, release: Release) -> SlotState:
        """Make the slot run this release; return at once, readiness comes later.

        A slot that already runs this release with live instances is left alone. A slot that runs another release,
        or whose instances are dead, is emptied first.

        Raises:
            ConflictError: The lease was lost.
            PlatformError: The release could not be started.
        """

    def retire(self, slot: Slot) -> None:
        """End everything in the slot: SIGTERM, grace, SIGKILL. An empty slot stays empty.

        Raises:
            ConflictError: The lease was lost.
            PlatformError: Something could not be ended.
        """

    def log_tail(self, slot: Slot, lines: int) -> str:
        """Return the last lines that the slot's instances printed; empty when there are none."""
