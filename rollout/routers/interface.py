"""What the loop needs of a router."""

from collections.abc import Mapping
from typing import Protocol

from rollout.model.inventory import RouterState
from rollout.model.roles import Address, Slot, Weights


class Router(Protocol):
    """Splits live traffic between slots. Every verb may be repeated."""

    def read(self) -> RouterState:
        """Read weights, targets and counters back from the running router.

        Raises:
            UnavailableError: The router is not running or does not answer.
        """

    def apply(self, *, weights: Weights, targets: Mapping[Slot, tuple[Address, ...]]) -> RouterState:
        """Make the router use these targets and weights, starting it when it is not running; read back.

        A slot that is no longer a target must have weight 0; its requests in flight finish first. A slot that keeps
        its targets loses no request. Returns only when the running router itself reports the new weights.

        Raises:
            ConflictError: The lease was lost; nothing was changed.
            RefusedError: The router rejected the configuration, or its port is taken; the old one is in force.
            UnavailableError: The router does not answer.
            InvariantError: A slot with weight above 0 has no target.
        """

    def stop(self) -> None:
        """Drain and end the router. For tearing a stack down, never during a run."""
