"""The proof of a server: load, warm up, look everywhere, test, judge."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic, perf_counter

from rollout.model.admission import AdmissionPolicy, Finding, Profile, blocking
from rollout.model.snapshot import Capability, CapabilitySnapshot, failed, ok, unavailable
from rollout.model.verdict import Reason
from rollout.serving.collectors.libraries import LIBRARIES
from rollout.serving.collectors.running import RunningCollectors
from rollout.serving.collectors.table import COLLECTORS
from rollout.serving.device_watch import DeviceWatch
from rollout.serving.engines.interface import Engine
from rollout.serving.failures import AdmissionError
from rollout.serving.judge import judge
from rollout.serving.messages import fallback_signs, listening
from rollout.serving.options import ServeOptions
from rollout.serving.self_test import run_self_test, warm_up
from rollout.serving.snapshot import build_snapshot, release_fields

_CLOCK = "monotonic clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a server showed, and what that is worth."""

    snapshot: CapabilitySnapshot
    findings: tuple[Finding, ...]
    engine: Engine | None
    """None where it could not be loaded or failed its self-test."""

    @property
    def admitted(self) -> bool:
        """Whether the server may take traffic."""
        return self.engine is not None and not blocking(self.findings)


def prove(
    options: ServeOptions,
    load: Callable[[ServeOptions], Engine],
    *,
    watch: DeviceWatch | None,
    stopped: threading.Event,
) -> Proof:
    """Load an engine and find out what it is worth; collectors read beside it.

    Args:
        options: The release and its admission policy.
        load: Loads the engine.
        watch: Samples the GPUs; None under a profile without.
        stopped: Ends the self-test early.

    Raises:
        ConfigError: The release cannot be loaded for a reason that is no matter of admission.
    """
    policy = options.admission
    reading = RunningCollectors(COLLECTORS, limit_s=policy.probe_s)
    with listening() as heard:
        engine, failure, shown = _exercised(options, load, watch=watch, stopped=stopped)
    snapshot = build_snapshot(
        [*reading.results(), (LIBRARIES, LIBRARIES.complete(LIBRARIES.read()))],
        release_fields(options),
        shown,
        {"runtime.messages.fallback": ok(_lines(heard.text), "descriptors 1 and 2 while loading")},
    )
    findings = judge(policy, snapshot=snapshot, failure=failure, versions=(), today=datetime.now(tz=UTC).date())
    return Proof(snapshot=snapshot, findings=findings, engine=engine if failure is None else None)


def _exercised(
    options: ServeOptions,
    load: Callable[[ServeOptions], Engine],
    *,
    watch: DeviceWatch | None,
    stopped: threading.Event,
) -> tuple[Engine | None, Reason | None, Mapping[str, Capability]]:
    """Load, draw, ask, draw again; return the engine, why it failed, and what it showed so far."""
    started = perf_counter()
    engine: Engine | None = None
    shown: dict[str, Capability] = {}
    try:
        engine = load(options)
        shown["load.duration_s"] = ok(round(perf_counter() - started, 4), f"{_CLOCK} around model loading")
        first = warm_up(engine)
        shown |= engine.fields()
        begun = monotonic()
        test = run_self_test(engine, first=first, seconds=options.admission.self_test.seconds, stopped=stopped)
    except AdmissionError as error:
        return engine, Reason(code=error.code, text=str(error)), shown
    shown["self_test.latency_s"] = ok(round(test.latency_s, 4), f"{_CLOCK} around the fastest warm self-test picture")
    shown["self_test.pictures"] = ok(test.pictures, "warm self-test")
    shown["self_test.utilisation"] = _utilisation(watch, since=begun)
    return engine, None, shown


def _utilisation(watch: DeviceWatch | None, *, since: float) -> Capability:
    source = "NVML, highest sample of any GPU during the self-test"
    if watch is None:
        return unavailable(source, "the profile has no GPU")
    busiest = watch.busiest_since(since)
    return failed(source, "NVML gave no sample") if busiest is None else ok(busiest, source)


def _lines(text: str) -> list[str]:
    return [sign.line for sign in fallback_signs(text)]


def watched(policy: AdmissionPolicy) -> DeviceWatch | None:
    """Start sampling the GPUs where the profile has any."""
    return DeviceWatch() if policy.profile is Profile.GPU else None
