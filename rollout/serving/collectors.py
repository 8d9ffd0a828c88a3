"""What this process can prove about itself, read from where the truth is."""

import importlib.metadata
import os
import platform
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from rollout.model.snapshot import SNAPSHOT_SCHEMA, Capability, CapabilitySnapshot, failed, ok, unavailable
from rollout.serving.options import ExecutionMode, GraphOptimization, ServeOptions
from rollout.serving.pipeline import GUIDANCE_SCALE
from rollout.serving.scheduler import SCHEDULER_NAME
from rollout.serving.sessions import (
    PARALLEL_INTER_OP_THREADS,
    POLICY_PROFILE,
    REQUESTED_PROVIDERS,
    LoadedModel,
    optimization_level,
)
from rollout.serving.template import Part

Fields = dict[str, Capability]

# These overwrite each other's files when installed together, and pip does not notice.
_ORT_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_FUSED_ATTENTION_OPS = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"})
_PLACEMENT_SOURCE = "InferenceSession.get_provider_graph_assignment_info"
# A cgroup v1 without a limit reports a number near 2^63.
_NO_LIMIT_BYTES = 1 << 60


def collect_snapshot(model: LoadedModel, *, load_s: float) -> CapabilitySnapshot:
    """Collect everything about a loaded model and the process around it.

    Args:
        model: The loaded model.
        load_s: Seconds from the start of loading to open sessions.
    """
    fields = _release_fields(model.options) | _runtime_fields(model) | _model_fields(model)
    fields |= _placement_fields(model) | _container_fields() | _gpu_fields(Path("/dev"))
    measurements = {"load.duration_s": ok(round(load_s, 4), "monotonic clock around model loading")}
    return CapabilitySnapshot.model_validate(
        {"schema": SNAPSHOT_SCHEMA, "fields": fields, "measurements": measurements},
    )


def with_self_test(snapshot: CapabilitySnapshot, *, latency_s: float) -> CapabilitySnapshot:
    """Return the snapshot with the self-test's latency among its measurements."""
    latency = ok(round(latency_s, 4), "monotonic clock around the last warm self-test picture")
    return snapshot.model_copy(update={"measurements": {**snapshot.measurements, "self_test.latency_s": latency}})


def _release_fields(options: ServeOptions) -> Fields:
    source = "server options"
    return {
        "policy.profile": ok(POLICY_PROFILE, source),
        "model.precision": ok(options.precision.value, source),
        "pipeline.guidance": ok(options.guidance.value, source),
        "pipeline.guidance_scale": ok(GUIDANCE_SCALE, "constant of the pipeline"),
        "pipeline.prediction": ok(options.prediction.value, source),
        "pipeline.scheduler": ok(SCHEDULER_NAME, "constant of the pipeline"),
        "server.queue_limit": ok(options.queue_limit, source),
        "runtime.ort.session_lifetime": ok(options.session.value, source),
    }


def _runtime_fields(model: LoadedModel) -> Fields:
    """Read the runtime: what it is, and what the UNet's session really uses."""
    session = model.shared[Part.UNET]
    used = session.get_session_options()
    source = "InferenceSession.get_session_options"
    parallel = used.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    mode = ExecutionMode.PARALLEL if parallel else ExecutionMode.SEQUENTIAL
    spinning = used.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    return {
        "runtime.python.version": ok(platform.python_version(), "platform.python_version"),
        "runtime.numpy.version": ok(np.__version__, "numpy.__version__"),
        "runtime.ort.version": ok(ort.__version__, "onnxruntime.__version__"),
        "runtime.ort.package": _ort_packages(),
        "runtime.ort.build_info": _read("onnxruntime.get_build_info", ort.get_build_info),
        "runtime.ort.providers.requested": ok(list(REQUESTED_PROVIDERS), "server's session recipe"),
        "runtime.ort.providers.actual": ok(session.get_providers(), "InferenceSession.get_providers"),
        "runtime.ort.graph_optimization": _optimization(used, source),
        "runtime.ort.execution_mode": ok(mode.value, source),
        "runtime.ort.arena": ok(bool(used.enable_cpu_mem_arena), source),
        "runtime.ort.memory_pattern": ok(bool(used.enable_mem_pattern), source),
        "runtime.ort.threads.intra_op": ok(int(used.intra_op_num_threads), source),
        "runtime.ort.threads.inter_op": ok(PARALLEL_INTER_OP_THREADS if parallel else 1, source),
        "runtime.ort.threads.spinning": ok(spinning, source),
    }


def _model_fields(model: LoadedModel) -> Fields:
    fields = {
        f"model.{part}.digest": ok(digest, "sha256 of the graph as given to the session")
        for part, digest in model.graph_digests.items()
    }
    fields["model.weights.digest"] = ok(model.weights_digest, "sha256 of the weights as given to the sessions")
    return fields


def _placement_fields(model: LoadedModel) -> Fields:
    """Count nodes per provider and the structure of the UNet's attention, before fusion by the runtime."""
    try:
        placed = {part: _placed_nodes(session) for part, session in model.shared.items()}
    except AttributeError:
        reason = f"ONNX Runtime {ort.__version__} does not report where nodes are placed"
        names = ("model.unet.attention.fused", "model.unet.attention.softmax_count", "runtime.ort.placement.cpu_share")
        return {name: unavailable(_PLACEMENT_SOURCE, reason) for name in names}
    providers: Counter[str] = Counter()
    for nodes in placed.values():
        for (provider, _op), count in nodes.items():
            providers[provider] += count
    unet = Counter[str]()
    for (_provider, op), count in placed[Part.UNET].items():
        unet[op] += count
    total = providers.total()
    if not total:
        share = failed(_PLACEMENT_SOURCE, "the runtime reported no nodes")
    else:
        share = ok(round(providers["CPUExecutionProvider"] / total, 6), _PLACEMENT_SOURCE)
    fused = any(unet[op] for op in _FUSED_ATTENTION_OPS) and not unet["Softmax"]
    return {
        "model.unet.attention.fused": ok(fused, _PLACEMENT_SOURCE),
        "model.unet.attention.softmax_count": ok(unet["Softmax"], _PLACEMENT_SOURCE),
        "runtime.ort.placement.cpu_share": share,
    }


def _placed_nodes(session: ort.InferenceSession) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for group in session.get_provider_graph_assignment_info():
        for node in group.get_nodes():
            counts[group.ep_name, node.op_type] += 1
    return counts


def _ort_packages() -> Capability:
    source = "importlib.metadata"
    found = []
    for name in _ORT_DISTRIBUTIONS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if not found:
        return failed(source, "onnxruntime is imported, but no installed distribution provides it")
    return ok(found, source)


def _optimization(used: ort.SessionOptions, source: str) -> Capability:
    for optimization in GraphOptimization:
        if used.graph_optimization_level == optimization_level(optimization):
            return ok(optimization.value, source)
    return failed(source, f"the session runs at a level this server never asks for: {used.graph_optimization_level}")


def _container_fields() -> Fields:
    return {
        "container.cpu.count": _read("os.sched_getaffinity", lambda: len(os.sched_getaffinity(0))),
        "container.cpu.model": _read("/proc/cpuinfo", lambda: _cpu_model(Path("/proc/cpuinfo").read_text())),
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
        "gpu.driver.version": _read(str(version), lambda: version.read_text().splitlines()[0]),
    }


def _read(source: str, reader: Callable[[], int | str]) -> Capability:
    """Return what the reader finds, or a field that says why it could not be read."""
    try:
        return ok(reader(), source)
    except (OSError, ValueError, IndexError, AttributeError) as error:
        return failed(source, str(error))
