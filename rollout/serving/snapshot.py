"""The snapshot of this process: what its collectors, its engine and its warm-up showed."""

import platform
from collections.abc import Iterable

import numpy as np

from rollout.model.admission import AdmissionPolicy
from rollout.model.snapshot import SNAPSHOT_SCHEMA, Capability, CapabilitySnapshot, ok
from rollout.serving.collectors.interface import Collector, Fields
from rollout.serving.engines.interface import GUIDANCE_SCALE
from rollout.serving.options import ServeOptions
from rollout.serving.scheduler import SCHEDULER_NAME

DEVICE_TIME_FIELD = "self_test.device_s"
"""Seconds inside the runtime's calls for the self-test's picture; what later requests are compared with."""

MEASUREMENTS = frozenset(
    {
        DEVICE_TIME_FIELD,
        "runtime.ort.placement.cpu_time_share",
        "self_test.latency_s",
        "self_test.repetitions",
        "self_test.utilisation",
        "load.duration_s",
    }
)
"""Of the fields that no collector promises, those that vary between instances of one release."""


def policy_fields(policy: AdmissionPolicy) -> Fields:
    """Return by what a stack is judged."""
    source = "admission policy"
    return {"policy.profile": ok(policy.profile.value, source), "policy.admission": ok(policy.name, source)}


def release_fields(options: ServeOptions) -> Fields:
    """Return what the release asked for."""
    source = "server options"
    return {
        **policy_fields(options.admission),
        "runtime.engine": ok(options.engine.value, source),
        "model.precision": ok(options.precision.value, source),
        "pipeline.guidance": ok(options.guidance.value, source),
        "pipeline.guidance_scale": ok(GUIDANCE_SCALE, "constant of the pipeline"),
        "pipeline.prediction": ok(options.prediction.value, source),
        "pipeline.scheduler": ok(SCHEDULER_NAME, "constant of the pipeline"),
        "server.side_max": ok(options.side_max, source),
        "server.queue_limit": ok(options.queue_limit, source),
        "runtime.python.version": ok(platform.python_version(), "platform.python_version"),
        "runtime.numpy.version": ok(np.__version__, "numpy.__version__"),
    }


def build_snapshot(collected: Iterable[tuple[Collector, Fields]], *others: Fields) -> CapabilitySnapshot:
    """Put everything into one snapshot; what varies between instances goes among the measurements.

    Args:
        collected: What each collector found.
        others: Fields that no collector promises; later ones win.
    """
    everything: dict[str, Capability] = {}
    varying = set(MEASUREMENTS)
    for collector, found in collected:
        everything |= found
        varying |= collector.measurements
    for fields in others:
        everything |= fields
    return CapabilitySnapshot.model_validate(
        {
            "schema": SNAPSHOT_SCHEMA,
            "fields": {name: one for name, one in everything.items() if name not in varying},
            "measurements": {name: one for name, one in everything.items() if name in varying},
        },
    )
