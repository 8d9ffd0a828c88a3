"""What the loop needs of a platform."""

from collections.abc import Collection, Mapping
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

    def deploy(self, slot: Slot, release: Release, *, restart: Collection[str] = ()) -> SlotState:
        """Make the slot run this release; return at once, readiness comes later.

        In a slot that already runs this release, only its dead instances are started anew, under new uids, and those
        that `restart` names; the others are left alone, whether they are ready or not. A slot that runs another
        release is emptied first.

        Args:
            slot: Where.
            release: What.
            restart: Uids of instances to end and start anew though they live; one that is not there any more is
                done already, so that a repeated deploy restarts nothing twice.

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
