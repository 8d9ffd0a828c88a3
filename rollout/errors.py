"""The one tree of errors; what each means to the caller and to the exit code.

A breach is a result of a rollout, never an exception.
"""


class RolloutError(Exception):
    """Base of every error this product raises on purpose."""


class ConfigError(RolloutError):
    """The caller's input cannot be used: a file, a key, a value, an option. Retrying does not help."""


class ConflictError(RolloutError):
    """Somebody else holds what this command needs: the lease, a newer generation, an unfinished run."""


class EvidenceError(RolloutError):
    """Stored evidence is damaged, incomplete or does not say what it must."""


class PlatformError(RolloutError):
    """A part outside the controller (process, router, disk, server) failed."""


class UnavailableError(PlatformError):
    """The part did not answer or is not there yet; the same call may work later."""


class RefusedError(PlatformError):
    """The part answered no; the same call will be refused again."""


class InvariantError(RolloutError):
    """The program reached a state it promises never to reach: a bug, never the user's fault."""
