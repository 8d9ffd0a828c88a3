"""The warm self-test: a server that cannot draw a picture in time must not become ready."""

import io
import threading
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from PIL import Image

from rollout.errors import PlatformError
from rollout.serving.engines.interface import Engine
from rollout.serving.failures import AdmissionError
from rollout.serving.pipeline import PictureRequest, draw

SELF_TEST_REQUEST = PictureRequest(prompt="a lighthouse at dusk", seed=1, steps=4, width=128, height=128)

# A picture of one colour has 0, a picture of this model about 60, both in steps of 255.
_CONTRAST_MIN = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmTest:
    """What the warm pictures showed."""

    latency_s: float
    """Of the fastest."""
    pictures: int


def warm_up(engine: Engine) -> bytes:
    """Draw the first picture: kernels are chosen, memory is reserved, libraries are loaded.

    Raises:
        AdmissionError: The model fails, or draws a flat picture.
    """
    picture = _draw(engine)
    contrast = float(np.asarray(Image.open(io.BytesIO(picture))).std())
    if contrast < _CONTRAST_MIN:
        text = f"the self-test drew a flat picture: contrast {contrast:.2f}, minimum {_CONTRAST_MIN}"
        raise AdmissionError(text, code="self_test_failed")
    return picture


def run_self_test(engine: Engine, *, first: bytes, seconds: float, stopped: threading.Event) -> WarmTest:
    """Draw the same picture again and again; each must be the same.

    Args:
        engine: Warm.
        first: The picture of the warm-up.
        seconds: How long to go on; at least one picture is drawn.
        stopped: Ends the test early.

    Raises:
        AdmissionError: The model fails, or draws two different pictures for one request.
    """
    begun = perf_counter()
    fastest_s, pictures = float("inf"), 0
    while not pictures or (perf_counter() - begun < seconds and not stopped.is_set()):
        started = perf_counter()
        picture = _draw(engine)
        fastest_s = min(fastest_s, perf_counter() - started)
        pictures += 1
        if picture != first:
            raise AdmissionError("the self-test drew two different pictures for one request", code="self_test_failed")
    return WarmTest(latency_s=fastest_s, pictures=pictures)


def _draw(engine: Engine) -> bytes:
    try:
        (picture,) = draw(engine, SELF_TEST_REQUEST, cancelled=threading.Event()).pictures
    except AdmissionError:
        raise
    except PlatformError as error:
        raise AdmissionError(f"the self-test failed: {error}", code="self_test_failed") from error
    return picture
