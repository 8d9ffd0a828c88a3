"""What can go wrong inside the server, as branches of the one error tree."""

import os

from rollout.errors import PlatformError, RefusedError, UnavailableError
from rollout.model.admission import AdmissionReport, blocking

EXIT_REFUSED = os.EX_CONFIG
"""78, sysexits' "configuration error": a supervisor should not restart the process as it is."""


class AdmissionError(RefusedError):
    """The stack in this process is not what was asked for; the server must not become ready.

    `code` is one of `rollout.model.reasons`.
    """

    def __init__(self, text: str, *, code: str) -> None:
        super().__init__(text)
        self.code = code


class NotAdmittedError(RefusedError):
    """The stack did not prove what the admission policy demands; `report` says all that was found."""

    def __init__(self, report: AdmissionReport) -> None:
        super().__init__("; ".join(f"{one.code}: {one.text}" for one in blocking(report.findings)))
        self.report = report


class NonFiniteError(PlatformError):
    """The model gave NaN or infinity: there is no picture to answer with."""


class ProviderLostError(AdmissionError):
    """A session does not run, or no longer runs, on the provider it was admitted with."""

    def __init__(self, text: str) -> None:
        super().__init__(text, code="provider_dropped")


class PlacementLostError(AdmissionError):
    """Work that was admitted on the device is done, or its results lie, on the host."""


class QueueFullError(UnavailableError):
    """As many requests wait as are allowed; a later one may be taken."""


class WorkCancelledError(UnavailableError):
    """The client went away, so the picture was given up between two steps."""
