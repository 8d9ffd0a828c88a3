"""Strict inference sessions: the providers that were asked for, or none."""

from typing import Any, assert_never

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from rollout.errors import ConfigError
from rollout.serving.failures import AdmissionError
from rollout.serving.options import ExecutionMode, GraphOptimization, ServeOptions
from rollout.serving.template import WEIGHTS_LOCATION

REQUESTED_PROVIDERS = ("CPUExecutionProvider",)
"""The CPU development profile is the only one so far; the snapshot says so."""

PARALLEL_INTER_OP_THREADS = 2
RECORD_PLACEMENT_KEY = "session.record_ep_graph_assignment_info"

# ONNX Runtime accepts misspelt keys in silence, so every key in use stands here, spelt once.
_INTRA_SPINNING_KEY = "session.intra_op.allow_spinning"
_INTER_SPINNING_KEY = "session.inter_op.allow_spinning"

ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)
"""What session creation and run() raise; ONNX Runtime's own errors share no base class."""


def open_session(graph: bytes, *, weights: bytes, options: ServeOptions) -> ort.InferenceSession:
    """Open a session that runs on exactly the requested providers and cannot fall back.

    Args:
        graph: An ONNX model whose external data, if any, lies in `WEIGHTS_LOCATION`.
        weights: The content of that file.
        options: The release.

    Raises:
        AdmissionError: ONNX Runtime refused the model, or chose other providers.
    """
    try:
        session = ort.InferenceSession(
            graph,
            sess_options=session_options(options, weights=weights),
            providers=list(REQUESTED_PROVIDERS),
        )
    except ORT_ERRORS as error:
        raise AdmissionError(f"ONNX Runtime {ort.__version__} refused the model: {_one_line(error)}") from error
    session.disable_fallback()
    actual = tuple(session.get_providers())
    if actual != REQUESTED_PROVIDERS:
        raise AdmissionError(f"asked for providers {REQUESTED_PROVIDERS}, the session runs on {actual}")
    return session


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
    made.log_severity_level = 2
    match options.execution:
        case ExecutionMode.SEQUENTIAL:
            made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        case ExecutionMode.PARALLEL:
            made.execution_mode = ort.ExecutionMode.ORT_PARALLEL
            made.inter_op_num_threads = PARALLEL_INTER_OP_THREADS
        case _ as unknown:
            assert_never(unknown)
    spinning = "1" if options.spinning else "0"
    made.add_session_config_entry(_INTRA_SPINNING_KEY, spinning)
    made.add_session_config_entry(_INTER_SPINNING_KEY, spinning)
    made.add_session_config_entry(RECORD_PLACEMENT_KEY, "1")
    try:
        made.add_external_initializers_from_files_in_memory([WEIGHTS_LOCATION], [weights], [len(weights)])
    except AttributeError as error:
        raise ConfigError(f"ONNX Runtime {ort.__version__} takes no weights from memory: install a newer") from error
    return made


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
