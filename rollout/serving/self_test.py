"""The warm self-test: a server that cannot draw a picture in time must not become ready."""

import io
import threading
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


def run_self_test(engine: Engine, *, limit_s: float) -> float:
    """Draw one picture twice: the first warms up, the second is timed and must be the same.

    Args:
        engine: Loaded.
        limit_s: Longest time that the warm picture may take, in seconds.

    Returns:
        Seconds that the warm picture took.

    Raises:
        AdmissionError: The model fails, draws a flat picture, draws two different ones, or is too slow.
    """
    never = threading.Event()
    try:
        first = draw(engine, SELF_TEST_REQUEST, cancelled=never)
        started = perf_counter()
        second = draw(engine, SELF_TEST_REQUEST, cancelled=never)
        latency_s = perf_counter() - started
    except PlatformError as error:
        raise AdmissionError(f"the self-test failed: {error}") from error
    if first.pictures != second.pictures:
        raise AdmissionError("the self-test drew two different pictures for one request")
    contrast = float(np.asarray(Image.open(io.BytesIO(second.pictures[0]))).std())
    if contrast < _CONTRAST_MIN:
        raise AdmissionError(f"the self-test drew a flat picture: contrast {contrast:.2f}, minimum {_CONTRAST_MIN}")
    if latency_s > limit_s:
        raise AdmissionError(f"the self-test took {latency_s:.3f} s, the limit is {limit_s} s: see --self-test-limit")
    return latency_s
