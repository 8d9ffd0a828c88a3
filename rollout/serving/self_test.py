"""The warm self-test: a server that cannot do its work in time must not become ready."""

import threading
from dataclasses import dataclass
from time import perf_counter

from rollout.errors import PlatformError
from rollout.serving.failures import AdmissionError
from rollout.serving.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmTest:
    """What the warm repetitions showed."""

    latency_s: float
    """Of the fastest."""
    device_s: float
    """Inside the runtime's calls, of the repetition that spent least there."""
    repetitions: int


def warm_up(subject: Subject) -> bytes:
    """Do the work for the first time: kernels are chosen, memory is reserved, libraries are loaded.

    Raises:
        AdmissionError: It fails, or its result is worthless.
    """
    result = _done(subject)
    if fault := subject.fault_in(result):
        raise AdmissionError(f"the self-test {fault}", code="self_test_failed")
    return result


def run_self_test(subject: Subject, *, first: bytes, seconds: float, stopped: threading.Event) -> WarmTest:
    """Do the same work again and again; each result must be the same.

    Args:
        subject: Warm.
        first: The result of the warm-up.
        seconds: How long to go on; the work is done once at least.
        stopped: Ends the test early.

    Raises:
        AdmissionError: It fails, or gives two different results.
    """
    begun = perf_counter()
    fastest_s, device_s, repetitions = float("inf"), float("inf"), 0
    while not repetitions or (perf_counter() - begun < seconds and not stopped.is_set()):
        device_s_before, started = subject.device_s, perf_counter()
        result = _done(subject)
        fastest_s = min(fastest_s, perf_counter() - started)
        device_s = min(device_s, subject.device_s - device_s_before)
        repetitions += 1
        if result != first:
            raise AdmissionError("the self-test gave two different results for one request", code="self_test_failed")
    return WarmTest(latency_s=fastest_s, device_s=device_s, repetitions=repetitions)


def _done(subject: Subject) -> bytes:
    try:
        return subject.work()
    except AdmissionError:
        raise
    except PlatformError as error:
        raise AdmissionError(f"the self-test failed: {error}", code="self_test_failed") from error
