"""What ONNX Runtime proves about itself and its sessions; also for a session that another program made."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from rollout.model.admission import Provider
from rollout.model.snapshot import Capability, failed, ok, unavailable
from rollout.serving.collectors.interface import Fields
from rollout.serving.reading import read
from rollout.serving.strict_session import INTRA_SPINNING_KEY, ORT_ERRORS

FUSED_ATTENTION_OPS = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"})

_PLACEMENT_SOURCE = "InferenceSession.get_provider_graph_assignment_info"
_PROFILE_SOURCE = "ONNX Runtime's profile of the warm-up"
_NOT_RECORDED: tuple[type[Exception], ...] = (AttributeError, *ORT_ERRORS)
"""A foreign program's session need not have recorded where its nodes run, and an old ONNX Runtime cannot."""
_MEMCPY_PREFIX = "Memcpy"
_KERNEL_SUFFIX = "_kernel_time"

_LEVELS: Mapping[Any, str] = {
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL: "all",
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED: "extended",
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC: "basic",
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL: "disabled",
}

KernelTimes = Mapping[tuple[str, str], tuple[int, int]]
"""Provider and operator to nodes and microseconds."""


def runtime_fields(session: ort.InferenceSession, *, requested: Sequence[str] | None) -> Fields:
    """Read the build, and what a session really uses.

    Args:
        session: Open.
        requested: The providers that were asked for; None where a foreign program made the session and nobody knows.
    """
    used = session.get_session_options()
    source = "InferenceSession.get_session_options"
    parallel = used.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    asked = unavailable("session recipe", "the program that made the session did not say")
    return {
        "runtime.ort.version": ok(ort.__version__, "onnxruntime.__version__"),
        "runtime.ort.build_info": read("onnxruntime.get_build_info", ort.get_build_info),
        "runtime.ort.cuda_version": _cuda_version(),
        "runtime.ort.providers.built": ok(ort.get_available_providers(), "onnxruntime.get_available_providers"),
        "runtime.ort.providers.requested": asked if requested is None else ok([*requested], "session recipe"),
        "runtime.ort.providers.actual": ok(session.get_providers(), "InferenceSession.get_providers"),
        "runtime.ort.providers.options": ok(_options(session), "InferenceSession.get_provider_options"),
        "runtime.ort.graph_optimization": _level(used, source),
        "runtime.ort.execution_mode": ok("parallel" if parallel else "sequential", source),
        "runtime.ort.arena": ok(bool(used.enable_cpu_mem_arena), source),
        "runtime.ort.memory_pattern": ok(bool(used.enable_mem_pattern), source),
        "runtime.ort.threads.intra_op": ok(int(used.intra_op_num_threads), source),
        "runtime.ort.threads.inter_op": ok(int(used.inter_op_num_threads) if parallel else 1, source),
        "runtime.ort.threads.spinning": ok(_spinning(used), source),
    }


def placement_fields(sessions: Mapping[str, ort.InferenceSession], profiles: Mapping[str, Path]) -> Fields:
    """Tell where nodes run: before fusion as the runtime assigned them, after it as the profiles show.

    Args:
        sessions: By the part of the model; the attention of `unet` is looked at, or of the only one there is.
        profiles: Of the sessions' warm-up, by part; empty where they were not profiled.
    """
    try:
        placed = {part: _placed_nodes(session) for part, session in sessions.items()}
    except _NOT_RECORDED as error:
        said = f"ONNX Runtime {ort.__version__}: {' '.join(str(error).split())}"
        assigned: Fields = dict.fromkeys(_ASSIGNED, unavailable(_PLACEMENT_SOURCE, said))
    else:
        assigned = _assigned(placed)
    try:
        timed = {part: kernel_times(path) for part, path in profiles.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {**assigned, **dict.fromkeys(_TIMED, failed(_PROFILE_SOURCE, f"{type(error).__name__}: {error}"))}
    return {**assigned, **_timed(timed)}


def kernel_times(profile: Path) -> KernelTimes:
    """Add up the time inside nodes.

    Raises:
        OSError, ValueError, KeyError, TypeError: The profile is not what ONNX Runtime writes.
    """
    runs: dict[tuple[str, str], dict[str, list[int]]] = {}
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_SUFFIX):
            where = event["args"]["provider"], event["args"]["op_name"]
            runs.setdefault(where, {}).setdefault(event["name"], []).append(int(event["dur"]))
    # The first run of a node on a GPU is the search for its kernel; where it ran once, that is all there is.
    return {
        where: (len(nodes), sum(sum(took[1:]) if len(took) > 1 else took[0] for took in nodes.values()))
        for where, nodes in runs.items()
    }


_FUSED = "model.unet.attention.fused"
_ASSIGNED = (_FUSED, "model.unet.attention.softmax_count", "runtime.ort.placement.cpu_share")
_TIMED = ("runtime.ort.placement.cpu_ops", "runtime.ort.placement.memcpy_nodes", "runtime.ort.placement.cpu_time_share")


def _assigned(placed: Mapping[str, Counter[tuple[str, str]]]) -> Fields:
    providers: Counter[str] = Counter()
    for nodes in placed.values():
        for (provider, _op), count in nodes.items():
            providers[provider] += count
    unet: Counter[str] = Counter()
    for (_provider, op), count in placed.get("unet", next(iter(placed.values()))).items():
        unet[op] += count
    total = providers.total()
    if total:
        share = ok(round(providers[Provider.CPU] / total, 6), _PLACEMENT_SOURCE)
    else:
        share = failed(_PLACEMENT_SOURCE, "the runtime reported no nodes")
    return {
        _FUSED: _fused(unet, _PLACEMENT_SOURCE),
        "model.unet.attention.softmax_count": ok(unet["Softmax"], _PLACEMENT_SOURCE),
        "runtime.ort.placement.cpu_share": share,
    }


def _fused(ops: Collection[str], source: str) -> Capability:
    """Tell whether attention is computed by fused operators alone."""
    if any(op == "EPContext" or op.startswith("TRTKernel") for op in ops):
        return unavailable(source, "attention is inside an engine plan, which does not tell")
    return ok(bool(FUSED_ATTENTION_OPS.intersection(ops)) and "Softmax" not in ops, source)


def _timed(profiled: Mapping[str, KernelTimes]) -> Fields:
    times: dict[tuple[str, str], tuple[int, int]] = {}
    for part in profiled.values():
        for where, (count, duration_us) in part.items():
            before = times.get(where, (0, 0))
            times[where] = before[0] + count, before[1] + duration_us
    total_us = sum(duration_us for _, duration_us in times.values())
    if not times or not total_us:
        return dict.fromkeys(_TIMED, unavailable(_PROFILE_SOURCE, "the sessions were not profiled, or ran no node"))
    cpu_us = sum(duration_us for (provider, _), (_, duration_us) in times.items() if provider == Provider.CPU)
    copies = sum(count for (_, op), (count, _) in times.items() if op.startswith(_MEMCPY_PREFIX))
    ops, memcpy_nodes, cpu_time_share = _TIMED
    unet = {op for _, op in profiled.get("unet", next(iter(profiled.values())))}
    return {
        # What ran, after the runtime's own fusions, in place of what was assigned before them.
        _FUSED: _fused(unet, _PROFILE_SOURCE),
        ops: ok(sorted({op for provider, op in times if provider == Provider.CPU}), _PROFILE_SOURCE),
        memcpy_nodes: ok(copies, _PROFILE_SOURCE),
        cpu_time_share: ok(round(cpu_us / total_us, 6), _PROFILE_SOURCE),
    }


def _cuda_version() -> Capability:
    source = "onnxruntime.cuda_version"
    found = getattr(ort, "cuda_version", None)
    return ok(str(found), source) if found else unavailable(source, "a build without CUDA")


def _options(session: ort.InferenceSession) -> list[str]:
    """Return the options in effect, as `Provider.option=value`; an identifier of a stream differs between processes."""
    return sorted(
        f"{provider.removesuffix('ExecutionProvider')}.{name}={value}"
        for provider, options in session.get_provider_options().items()
        for name, value in options.items()
        if name != "user_compute_stream"
    )


def _level(used: ort.SessionOptions, source: str) -> Capability:
    name = _LEVELS.get(used.graph_optimization_level)
    return ok(name, source) if name else failed(source, f"unknown level {used.graph_optimization_level}")


def _spinning(used: ort.SessionOptions) -> bool:
    """Tell whether idle threads spin; ONNX Runtime lets them unless it is told otherwise."""
    try:
        return bool(used.get_session_config_entry(INTRA_SPINNING_KEY) != "0")
    except RuntimeError:
        return True


def _placed_nodes(session: ort.InferenceSession) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for group in session.get_provider_graph_assignment_info():
        for node in group.get_nodes():
            counts[group.ep_name, node.op_type] += 1
    return counts
