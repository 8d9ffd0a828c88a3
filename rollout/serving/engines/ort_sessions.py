"""The reference server's sessions: its release options in ONNX Runtime's words, opened strictly."""

from pathlib import Path
from typing import Any, assert_never

import onnxruntime as ort

from rollout.errors import ConfigError
from rollout.model.admission import Provider
from rollout.serving.options import ArenaStrategy, ExecutionMode, GraphOptimization, ServeOptions
from rollout.serving.strict_session import INTER_SPINNING_KEY, INTRA_SPINNING_KEY, open_strict_session
from rollout.serving.template import WEIGHTS_LOCATION

PARALLEL_INTER_OP_THREADS = 2


def open_session(
    graph: bytes | Path, *, weights: bytes, options: ServeOptions, profile_prefix: Path | None
) -> ort.InferenceSession:
    """Open a session that runs on exactly the providers of the admission policy and cannot fall back.

    Args:
        graph: An ONNX model whose external data, if any, lies in `WEIGHTS_LOCATION`; or the file of an EPContext model.
        weights: The content of that file.
        options: The release.
        profile_prefix: Where the session's profile of its first runs goes; None: it is not profiled.

    Raises:
        AdmissionError: ONNX Runtime refused the model, or chose other providers.
    """
    made = session_options(options, weights=weights)
    if profile_prefix is not None:
        made.enable_profiling = True
        made.profile_file_prefix = str(profile_prefix)
    spinning = "1" if options.spinning else "0"
    providers = providers_of(graph, options)
    return open_strict_session(
        graph,
        providers=providers,
        provider_options={provider: _options_of(provider, options) for provider in providers},
        options=made,
        config={INTRA_SPINNING_KEY: spinning, INTER_SPINNING_KEY: spinning},
    )


def session_options(options: ServeOptions, *, weights: bytes) -> ort.SessionOptions:
    """Translate a release's options for ONNX Runtime.

    Raises:
        ConfigError: This ONNX Runtime is too old to take weights from memory.
    """
    made = ort.SessionOptions()
    made.graph_optimization_level = optimization_level(options.graph_optimization)
    made.enable_cpu_mem_arena = options.arena
    made.enable_mem_pattern = options.arena
    made.intra_op_num_threads = options.threads
    match options.execution:
        case ExecutionMode.SEQUENTIAL:
            made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        case ExecutionMode.PARALLEL:
            made.execution_mode = ort.ExecutionMode.ORT_PARALLEL
            made.inter_op_num_threads = PARALLEL_INTER_OP_THREADS
        case _ as unknown:
            assert_never(unknown)
    try:
        made.add_external_initializers_from_files_in_memory([WEIGHTS_LOCATION], [weights], [len(weights)])
    except AttributeError as error:
        raise ConfigError(f"ONNX Runtime {ort.__version__} takes no weights from memory: install a newer") from error
    return made


def providers_of(graph: bytes | Path, options: ServeOptions) -> list[Provider]:
    """Return the providers for a part of the model: TensorRT has the part that has an engine plan, and builds none."""
    ordered = options.admission.providers
    if isinstance(graph, Path) or Provider.TENSORRT not in ordered:
        return ordered
    return [one for one in ordered if one is not Provider.TENSORRT] or [Provider.CUDA]


def _options_of(provider: Provider, options: ServeOptions) -> dict[str, str]:
    match provider:
        case Provider.CPU:
            return {}
        case Provider.CUDA:
            made = {
                "arena_extend_strategy": _arena_strategy(options.arena_strategy),
                # Searching is part of the warm-up; a heuristic choice is up to twice as slow in convolutions.
                "cudnn_conv_algo_search": "EXHAUSTIVE",
                "use_tf32": "1" if options.tf32 else "0",
            }
            if options.gpu_memory_limit:
                made["gpu_mem_limit"] = str(options.gpu_memory_limit)
            return made
        case Provider.TENSORRT:
            # Plans are made ahead by `rollout engines build`; nothing is built or cached while loading.
            return {"trt_engine_cache_enable": "0"}
        case _ as unknown:
            assert_never(unknown)


def _arena_strategy(strategy: ArenaStrategy) -> str:
    match strategy:
        case ArenaStrategy.NEXT_POWER_OF_TWO:
            return "kNextPowerOfTwo"
        case ArenaStrategy.SAME_AS_REQUESTED:
            return "kSameAsRequested"
        case _ as unknown:
            assert_never(unknown)


def optimization_level(optimization: GraphOptimization) -> Any:  # noqa: ANN401 - ONNX Runtime ships no types
    """Return ONNX Runtime's name of a level."""
    levels = ort.GraphOptimizationLevel
    match optimization:
        case GraphOptimization.ALL:
            return levels.ORT_ENABLE_ALL
        case GraphOptimization.EXTENDED:
            return levels.ORT_ENABLE_EXTENDED
        case GraphOptimization.BASIC:
            return levels.ORT_ENABLE_BASIC
        case GraphOptimization.DISABLED:
            return levels.ORT_DISABLE_ALL
        case _ as unknown:
            assert_never(unknown)
