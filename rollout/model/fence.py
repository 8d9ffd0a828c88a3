"""The fence: what keeps a controller that lost its lease from writing."""

from contextlib import AbstractContextManager
from typing import Protocol


class Fence(Protocol):
    """Guards a write to the world with the lease."""

    def hold(self) -> AbstractContextManager[int]:
        """Keep the lease from changing hands while the block runs, and yield its generation.

        Raises:
            ConflictError: The lease is no longer ours; nothing may be written.
            UnavailableError: The lease could not be read in time.
        """
