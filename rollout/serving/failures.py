"""What can go wrong inside the server, as branches of the one error tree."""

from rollout.errors import PlatformError, RefusedError, UnavailableError


class AdmissionError(RefusedError):
    """The stack in this process is not what was asked for; the server must not become ready."""


class NonFiniteError(PlatformError):
    """The model gave NaN or infinity: there is no picture to answer with."""


class ProviderLostError(RefusedError):
    """A session stopped running on the provider it was admitted with."""


class QueueFullError(UnavailableError):
    """As many requests wait as are allowed; a later one may be taken."""


class WorkCancelledError(UnavailableError):
    """The client went away, so the picture was given up between two steps."""
