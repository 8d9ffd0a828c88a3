"""Whether a running server has left the path that it was admitted on: a signal for alerts; a rollout decides.

What is compared with the admitted, and where:

- provider: the list of each session that a request used, when it is done (`strict_session.check_providers`).
- placement: nodes are assigned to providers when a session is opened and never move in an open one, so that nothing is
  read again of a shared session. One that is opened for a request is compared with the admitted one
  (`strict_session.check_placement`), and every run tells whether its output lies on the device.
- latency: here, after each request.
- device: `liveness`, now and then.

All but latency also take the readiness.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from rollout.errors import InvariantError
from rollout.model.snapshot import CapabilitySnapshot
from rollout.serving.pipeline import PictureRequest
from rollout.serving.snapshot import DEVICE_TIME_FIELD

WINDOW = 20
"""Requests whose median is judged: a stall or two are none of its business."""

SHAPES_MAX = 1000
"""Bounds the memory that clients can make a server spend on shapes; what comes later is not judged."""

_CLOCK_S = 1e-9
"""What the clock resolves; keeps a reference from being 0."""


class DegradedReason(StrEnum):
    """What is no longer as admitted."""

    PROVIDER = "provider"
    PLACEMENT = "placement"
    LATENCY = "latency"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides how much work a request is. Sizes are pixels."""

    width: int
    height: int
    steps: int
    count: int


class Pace:
    """How the device time of the last requests compares with the best of their own shape.

    Device seconds per step and megapixel do not compare across shapes: text encoder and decoder run once whatever the
    steps are, attention grows with the square of the pixels, and a GPU needs as long for a small picture as for a
    larger one. So a request is compared with the fastest of its very shape. The self-test's shape has its reference
    from the admission; another shape's first request is its first reference, and is not judged itself.

    Not seen is therefore a server that was slow from the first request of a shape to the last. Queue time is not in it.
    """

    def __init__(self, *, degraded_ratio: float, admitted: Mapping[Shape, float]) -> None:
        """Begin with what was admitted.

        Args:
            degraded_ratio: The median above which the server counts as slow.
            admitted: Device seconds of the shapes that were measured at admission.
        """
        self._degraded_ratio = degraded_ratio
        self._references = dict(admitted)
        self._ratios: deque[float] = deque(maxlen=WINDOW)

    def note(self, shape: Shape, device_s: float) -> None:
        """Take in an answered request."""
        device_s = max(device_s, _CLOCK_S)
        reference = self._references.get(shape)
        if reference is None and len(self._references) >= SHAPES_MAX:
            return
        self._references[shape] = device_s if reference is None else min(reference, device_s)
        if reference is not None:
            self._ratios.append(device_s / self._references[shape])

    @property
    def ratio(self) -> float:
        """Median of the last `WINDOW` requests over their references; NaN while there are fewer."""
        return median(self._ratios) if len(self._ratios) == WINDOW else float("nan")

    @property
    def slow(self) -> bool:
        """Whether requests take longer than the policy calls admitted."""
        return self.ratio > self._degraded_ratio


def admitted_pace(snapshot: CapabilitySnapshot, *, request: PictureRequest, degraded_ratio: float) -> Pace:
    """Return the pace of a server that was just admitted with this snapshot, by a self-test that drew this request."""
    device_s = snapshot.measurements[DEVICE_TIME_FIELD].value
    if not isinstance(device_s, float):
        raise InvariantError(f"a server was admitted whose {DEVICE_TIME_FIELD} is {device_s!r}")
    return Pace(degraded_ratio=degraded_ratio, admitted={shape_of(request): device_s})


def shape_of(request: PictureRequest) -> Shape:
    """Return what of a request decides how much work it is."""
    return Shape(width=request.width, height=request.height, steps=request.steps, count=request.count)
