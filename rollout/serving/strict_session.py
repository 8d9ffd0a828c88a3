"""Strict inference sessions for any server: the execution providers that were asked for, or none.

`onnxruntime.InferenceSession` runs on the CPU, without an error, where a provider cannot be used. `open_strict_session`
does not: see `docs/faults.md` for the ways in which it can happen.
"""

import os
from collections.abc import Mapping, Sequence

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from rollout.model.admission import Provider
from rollout.serving.failures import AdmissionError, PlacementLostError, ProviderLostError
from rollout.serving.messages import fallback_signs, listening
from rollout.serving.providers import dropped

RECORD_PLACEMENT_KEY = "session.record_ep_graph_assignment_info"
DISABLE_COMPILE_KEY = "session.disable_model_compile"
INTRA_SPINNING_KEY = "session.intra_op.allow_spinning"
INTER_SPINNING_KEY = "session.inter_op.allow_spinning"

SESSION_KEYS = frozenset(
    {
        RECORD_PLACEMENT_KEY,
        DISABLE_COMPILE_KEY,
        INTRA_SPINNING_KEY,
        INTER_SPINNING_KEY,
        "session.disable_cpu_ep_fallback",
        "session.disable_prepacking",
        "session.dynamic_block_base",
        "session.force_spinning_stop",
        "session.intra_op_thread_affinities",
        "session.load_model_format",
        "session.set_denormal_as_zero",
        "session.use_device_allocator_for_initializers",
        "session.use_env_allocators",
        "session.use_ort_model_bytes_directly",
        "ep.context_enable",
        "ep.context_embed_mode",
        "ep.context_file_path",
    }
)
"""ONNX Runtime accepts misspelt keys in silence; a key that is not here is refused."""

ORT_ERRORS: tuple[type[Exception], ...] = (
    *(
        one
        for one in vars(ort_errors).values()
        if isinstance(one, type) and issubclass(one, Exception) and one.__module__ == ort_errors.__name__
    ),
    RuntimeError,
    ValueError,
)
"""What session creation and run() raise; ONNX Runtime's own errors share no base class, and grow from version to
version."""


def open_strict_session(
    model: bytes | str | os.PathLike[str],
    *,
    providers: Sequence[str],
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
    options: ort.SessionOptions | None = None,
    config: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """Open a session that runs on exactly the requested providers and cannot fall back, now or later.

    Args:
        model: An ONNX model, or the path of one.
        providers: Best first; ONNX Runtime itself adds the CPU behind them.
        provider_options: Options of each provider, by its name.
        options: Threads, optimisation and the like. Its log level is set to 2: a higher one hides dropped providers.
        config: Session configuration entries; keys must be in `SESSION_KEYS`.

    Raises:
        AdmissionError: ONNX Runtime refused the model or an option, chose other providers, or spoke of a fallback;
            `code` names the reason.
    """
    _check_request(providers, provider_options or {}, config or {})
    made = options if options is not None else ort.SessionOptions()
    made.log_severity_level = 2
    for key, value in {DISABLE_COMPILE_KEY: "1", RECORD_PLACEMENT_KEY: "1", **(config or {})}.items():
        made.add_session_config_entry(key, value)
    failure: Exception | None = None
    with listening() as heard:
        try:
            session = ort.InferenceSession(
                model,
                sess_options=made,
                providers=[(name, dict((provider_options or {}).get(name, {}))) for name in providers],
                enable_fallback=0,
            )
        except ORT_ERRORS as error:
            failure = error
    signs = (*heard.signs, *fallback_signs(str(failure or "")))
    if failure is not None:
        told = signs[0].line if signs else " ".join(str(failure).split())
        text = f"ONNX Runtime {ort.__version__} refused the session: {told}"
        raise AdmissionError(text, code=signs[0].code if signs else "session_refused") from failure
    if signs:
        raise AdmissionError(f"ONNX Runtime {ort.__version__} said: {signs[0].line}", code=signs[0].code)
    session.disable_fallback()
    check_providers(session, providers=providers)
    return session


def check_providers(session: ort.InferenceSession, *, providers: Sequence[str]) -> None:
    """Check once more what a session runs on; cheap enough to be done after each request.

    Raises:
        ProviderLostError: It no longer, or never did, run on the requested providers in their order.
    """
    actual = tuple(session.get_providers())
    if dropped(actual, requested=providers):
        raise ProviderLostError(f"asked for {', '.join(providers)}, the session runs on {', '.join(actual)}")


def check_placement(session: ort.InferenceSession, *, admitted: ort.InferenceSession) -> None:
    """Check that a session of the same model puts no more of it on the CPU than the one that was admitted.

    Nodes are assigned when a session is opened and never move in an open one: this is for sessions opened later. About
    a millisecond for a thousand nodes. Both sessions come from `open_strict_session`, which has placement recorded.

    Raises:
        PlacementLostError: More nodes are on the CPU.
    """
    before, now = _cpu_nodes(admitted), _cpu_nodes(session)
    if now > before:
        text = f"{now} nodes of a session that was opened anew are on the CPU, {before} were when it was admitted"
        raise PlacementLostError(text, code="placement_on_cpu")


def _cpu_nodes(session: ort.InferenceSession) -> int:
    assigned = session.get_provider_graph_assignment_info()
    return sum(len(one.get_nodes()) for one in assigned if one.ep_name == Provider.CPU)


def _check_request(
    providers: Sequence[str], options: Mapping[str, Mapping[str, str]], config: Mapping[str, str]
) -> None:
    built = ort.get_available_providers()
    for name in providers:
        if name not in built:
            text = f"this ONNX Runtime {ort.__version__} was built without {name}; it has {', '.join(built)}"
            raise AdmissionError(text, code="provider_not_in_build")
    if not providers:
        raise AdmissionError("no execution provider was asked for", code="session_refused")
    if foreign := sorted(set(options) - set(providers)):
        raise AdmissionError(f"options for {', '.join(foreign)}, which was not asked for", code="option_unknown")
    if unknown := sorted(set(config) - SESSION_KEYS):
        text = f"the session keys {', '.join(unknown)} are not known: ONNX Runtime would ignore a misspelt key"
        raise AdmissionError(text, code="option_unknown")
