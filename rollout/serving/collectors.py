"""What this process can prove about itself, read from where the truth is."""

import os
import platform
import re
from pathlib import Path

import numpy as np

from rollout.model.snapshot import SNAPSHOT_SCHEMA, Capability, CapabilitySnapshot, failed, ok, unavailable
from rollout.serving.engines.interface import GUIDANCE_SCALE, Engine, Fields
from rollout.serving.reading import read
from rollout.serving.scheduler import SCHEDULER_NAME

# A cgroup v1 without a limit reports a number near 2^63.
_NO_LIMIT_BYTES = 1 << 60


def collect_snapshot(engine: Engine, *, load_s: float) -> CapabilitySnapshot:
    """Collect everything about a loaded engine and the process around it.

    Args:
        engine: Loaded.
        load_s: Seconds from the start of loading to an engine that can draw.
    """
    fields = {**_release_fields(engine), **_container_fields(), **_gpu_fields(Path("/dev")), **engine.fields()}
    measurements = {"load.duration_s": ok(round(load_s, 4), "monotonic clock around model loading")}
    return CapabilitySnapshot.model_validate(
        {"schema": SNAPSHOT_SCHEMA, "fields": fields, "measurements": measurements},
    )


def with_self_test(snapshot: CapabilitySnapshot, *, latency_s: float) -> CapabilitySnapshot:
    """Return the snapshot with the self-test's latency among its measurements."""
    latency = ok(round(latency_s, 4), "monotonic clock around the last warm self-test picture")
    return snapshot.model_copy(update={"measurements": {**snapshot.measurements, "self_test.latency_s": latency}})


def _release_fields(engine: Engine) -> Fields:
    source, options = "server options", engine.options
    return {
        "policy.profile": ok(engine.profile, source),
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


def _container_fields() -> Fields:
    return {
        "container.cpu.count": read("os.sched_getaffinity", lambda: len(os.sched_getaffinity(0))),
        "container.cpu.model": read("/proc/cpuinfo", lambda: _cpu_model(Path("/proc/cpuinfo").read_text())),
        "container.memory.limit_bytes": _memory_limit(Path("/sys/fs/cgroup")),
    }


def _cpu_model(cpuinfo: str) -> str:
    matched = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return matched.group(1).strip() if matched else platform.machine()


def _memory_limit(cgroup: Path) -> Capability:
    for path in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        if not path.exists():
            continue
        try:
            text = path.read_text().strip()
            if text == "max" or int(text) > _NO_LIMIT_BYTES:
                return unavailable(str(path), "the cgroup sets no memory limit")
            return ok(int(text), str(path))
        except (OSError, ValueError) as error:
            return failed(str(path), str(error))
    return unavailable(str(cgroup), "no cgroup memory controller is visible")


def _gpu_fields(devices: Path) -> Fields:
    """Name the GPUs that device nodes show; the CPU profile does not load a driver library."""
    source = f"{devices}/nvidia*"
    nodes = sorted(node.name for node in devices.glob("nvidia[0-9]*"))
    if not nodes:
        reason = "no NVIDIA device node exists in this container"
        return {name: unavailable(source, reason) for name in ("gpu.devices", "gpu.driver.version")}
    version = Path("/proc/driver/nvidia/version")
    return {
        "gpu.devices": ok(nodes, source),
        "gpu.driver.version": read(str(version), lambda: version.read_text().splitlines()[0]),
    }
