"""The proof of a stack: load, warm up, look everywhere, test, judge."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, perf_counter
from typing import Generic, TypeVar

from rollout.model.admission import REPORT_SCHEMA, AdmissionPolicy, AdmissionReport, Finding, Profile, blocking
from rollout.model.matrix import ORT_UNKNOWN, Matrix, compare_snapshot, contradictions
from rollout.model.snapshot import Capability, CapabilitySnapshot, failed, ok, unavailable
from rollout.model.verdict import Reason
from rollout.serving.collectors.interface import Fields
from rollout.serving.collectors.libraries import LIBRARIES
from rollout.serving.collectors.running import RunningCollectors
from rollout.serving.collectors.table import COLLECTORS
from rollout.serving.device_watch import DeviceWatch
from rollout.serving.failures import AdmissionError
from rollout.serving.judge import judge
from rollout.serving.messages import listening
from rollout.serving.plans.cache_watch import CacheState, cache_changes, read_cache
from rollout.serving.self_test import run_self_test, warm_up
from rollout.serving.snapshot import DEVICE_TIME_FIELD, build_snapshot
from rollout.serving.subject import Subject

S = TypeVar("S", bound=Subject)

_CLOCK = "monotonic clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What an admission policy names: files that were read, and places."""

    matrix: Matrix | None
    engine_cache: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof(Generic[S]):
    """What a stack showed, and what that is worth."""

    policy: AdmissionPolicy
    snapshot: CapabilitySnapshot
    findings: tuple[Finding, ...]
    subject: S | None
    """Loaded and warm; None where it could not be loaded or failed its self-test."""

    @property
    def admitted(self) -> bool:
        """Whether it may take traffic."""
        return self.subject is not None and not blocking(self.findings)

    def report(self) -> AdmissionReport:
        """Return what others may read."""
        return AdmissionReport(
            schema=REPORT_SCHEMA,
            policy=self.policy.name,
            admitted=self.admitted,
            snapshot=self.snapshot,
            findings=self.findings,
        )


def prove(
    policy: AdmissionPolicy,
    load: Callable[[], S],
    *,
    said: Fields,
    named: Named,
    watch: DeviceWatch | None,
    stopped: threading.Event,
    loaded_before: bool = False,
) -> Proof[S]:
    """Load something and find out what it is worth; collectors read beside it.

    Args:
        policy: What must be shown.
        load: Loads it.
        said: Fields that the release itself decides.
        named: What the policy names.
        watch: Samples the GPUs; None under a profile without.
        stopped: Ends the self-test early.
        loaded_before: `load` returns what was loaded already, when nobody listened and nobody held a clock.

    Raises:
        ConfigError: It cannot be loaded for a reason that is no matter of admission.
        UnavailableError: The engine cache cannot be read.
    """
    before = None if named.engine_cache is None else read_cache(named.engine_cache)
    reading = RunningCollectors(COLLECTORS, limit_s=policy.probe_s)
    with listening() as heard:
        subject, failure, shown = _exercised(policy, load, watch=watch, stopped=stopped)
    if loaded_before:
        shown["load.duration_s"] = unavailable(_CLOCK, "it was loaded before the proof began")
    heard_while = "warming up; it was loaded before" if loaded_before else "loading"
    snapshot = build_snapshot(
        [*reading.results(), (LIBRARIES, LIBRARIES.complete(LIBRARIES.read()))],
        said,
        shown,
        {
            "runtime.messages.fallback": ok(
                [sign.line for sign in heard.signs], f"descriptors 1 and 2 while {heard_while}"
            )
        },
        {} if before is None or named.engine_cache is None else _engine_cache(before, read_cache(named.engine_cache)),
    )
    findings = judge(
        policy,
        snapshot=snapshot,
        failure=failure,
        versions=() if named.matrix is None else _versions(named.matrix, snapshot),
        today=datetime.now(tz=UTC).date(),
    )
    return Proof(policy=policy, snapshot=snapshot, findings=findings, subject=subject if failure is None else None)


def _versions(matrix: Matrix, snapshot: CapabilitySnapshot) -> tuple[Reason, ...]:
    """Compare with the matrix; a pin that is unknown to the tables is settled by a machine that fits all others."""
    differing = compare_snapshot(matrix, snapshot)
    return (*(one for one in contradictions(matrix) if differing or one.code != ORT_UNKNOWN), *differing)


def _engine_cache(before: CacheState, after: CacheState) -> Fields:
    source = "names, sizes and digests of the engine cache's files, before and after the warm-up"
    return {
        "runtime.engine_cache.digest": ok(after.digest, source),
        "runtime.engine_cache.changes": ok(cache_changes(before, after), source),
    }


def start_device_watch(policy: AdmissionPolicy) -> DeviceWatch | None:
    """Start sampling the GPUs where the profile has any."""
    return DeviceWatch() if policy.profile is Profile.GPU else None


def _exercised(
    policy: AdmissionPolicy, load: Callable[[], S], *, watch: DeviceWatch | None, stopped: threading.Event
) -> tuple[S | None, Reason | None, dict[str, Capability]]:
    """Load, work, ask, work again; return the subject, why it failed, and what it showed so far."""
    started = perf_counter()
    subject: S | None = None
    shown: dict[str, Capability] = {}
    try:
        subject = load()
        shown["load.duration_s"] = ok(round(perf_counter() - started, 4), f"{_CLOCK} around model loading")
        first = warm_up(subject)
        shown |= subject.fields()
        begun = monotonic()
        test = run_self_test(subject, first=first, seconds=policy.self_test.seconds, stopped=stopped)
    except AdmissionError as error:
        return subject, Reason(code=error.code, text=str(error)), shown
    shown["self_test.latency_s"] = ok(round(test.latency_s, 4), f"{_CLOCK} around the fastest warm repetition")
    shown[DEVICE_TIME_FIELD] = ok(round(test.device_s, 6), f"{_CLOCK} in the runtime's calls, least repetition")
    shown["self_test.repetitions"] = ok(test.repetitions, "warm self-test")
    shown["self_test.utilisation"] = _utilisation(watch, since=begun)
    return subject, None, shown


def _utilisation(watch: DeviceWatch | None, *, since: float) -> Capability:
    source = "NVML, highest sample of any GPU during the self-test"
    if watch is None:
        return unavailable(source, "the profile has no GPU")
    busiest = watch.busiest_since(since)
    if busiest is None:
        return failed(source, f"NVML gave no sample: {watch.trouble}" if watch.trouble else "NVML gave no sample")
    return ok(busiest, source)
