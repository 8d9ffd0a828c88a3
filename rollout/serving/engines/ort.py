"""Stable Diffusion on ONNX Runtime."""

import importlib.metadata
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, assert_never

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rollout.errors import ConfigError
from rollout.model.canonical import digest_bytes
from rollout.model.snapshot import Capability, failed, ok, unavailable
from rollout.serving.engines.interface import Fields, Floats, check_cancelled, guided, runtime_failure
from rollout.serving.engines.ort_sessions import (
    ORT_ERRORS,
    PARALLEL_INTER_OP_THREADS,
    REQUESTED_PROVIDERS,
    open_session,
    optimization_level,
)
from rollout.serving.failures import ProviderLostError
from rollout.serving.model_cache import load_quantized_unet, load_weights
from rollout.serving.options import (
    DEVELOPMENT_PROFILE,
    ExecutionMode,
    GraphOptimization,
    GuidanceMode,
    Precision,
    ServeOptions,
    SessionLifetime,
)
from rollout.serving.reading import read
from rollout.serving.scheduler import EulerSchedule
from rollout.serving.template import Part, load_template

# These overwrite each other's files when installed together, and pip does not notice.
_ORT_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_FUSED_ATTENTION_OPS = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"})
_PLACEMENT_SOURCE = "InferenceSession.get_provider_graph_assignment_info"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrtEngine:
    """Graphs and weights in memory, verified, and the sessions over them. See `Engine`.

    `shared` holds one session per part; with per-request sessions it serves the collectors only.
    """

    graphs: dict[Part, bytes] = field(repr=False)
    graph_digests: dict[Part, str]
    weights: bytes = field(repr=False)
    weights_digest: str
    options: ServeOptions
    shared: dict[Part, ort.InferenceSession]

    @property
    def provider(self) -> str:
        """The first execution provider that was asked for; the sessions run on no other."""
        return REQUESTED_PROVIDERS[0]

    @property
    def profile(self) -> str:
        """The CPU is for development."""
        return DEVELOPMENT_PROFILE

    def encode(self, token_ids: NDArray[np.int64]) -> Floats:
        """See `Engine.encode`."""
        with self._session(Part.TEXT) as session:
            return _run(session, {"input_ids": token_ids})

    def denoise(
        self, noise: Floats, *, schedule: EulerSchedule, text_states: Floats, cancelled: threading.Event
    ) -> Floats:
        """See `Engine.denoise`."""
        latents = schedule.initial_latents(noise)
        with self._session(Part.UNET) as session:
            for step, timestep in enumerate(schedule.timesteps):
                check_cancelled(cancelled, step=step, steps=len(schedule.timesteps))
                sample = schedule.model_input(latents, step=step)
                output = _guided(session, sample, timestep, text_states, mode=self.options.guidance)
                latents = schedule.advance(latents, output, step=step)
        return latents

    def decode(self, latents: Floats) -> Floats:
        """See `Engine.decode`."""
        with self._session(Part.VAE) as session:
            return _run(session, {"latents": latents})

    def fields(self) -> Fields:
        """See `Engine.fields`."""
        return {**self._runtime_fields(), **self._model_fields(), **self._placement_fields()}

    @contextmanager
    def _session(self, part: Part) -> Iterator[ort.InferenceSession]:
        """Lend a session of this part, made for the occasion when the release says so.

        Raises:
            AdmissionError: A per-request session could not be made as asked for.
            ProviderLostError: The session no longer runs on the requested providers.
        """
        match self.options.session:
            case SessionLifetime.SHARED:
                session = self.shared[part]
            case SessionLifetime.PER_REQUEST:
                session = open_session(self.graphs[part], weights=self.weights, options=self.options)
            case _ as unknown:
                assert_never(unknown)
        yield session
        actual = tuple(session.get_providers())
        if actual != REQUESTED_PROVIDERS:
            raise ProviderLostError(f"the {part} session runs on {actual}, it was admitted on {REQUESTED_PROVIDERS}")

    def _runtime_fields(self) -> Fields:
        """Read the runtime: what it is, and what the UNet's session really uses."""
        session = self.shared[Part.UNET]
        used = session.get_session_options()
        source = "InferenceSession.get_session_options"
        parallel = used.execution_mode == ort.ExecutionMode.ORT_PARALLEL
        mode = ExecutionMode.PARALLEL if parallel else ExecutionMode.SEQUENTIAL
        spinning = used.get_session_config_entry("session.intra_op.allow_spinning") == "1"
        return {
            "runtime.ort.version": ok(ort.__version__, "onnxruntime.__version__"),
            "runtime.ort.package": _ort_packages(),
            "runtime.ort.build_info": read("onnxruntime.get_build_info", ort.get_build_info),
            "runtime.ort.providers.requested": ok(list(REQUESTED_PROVIDERS), "server's session recipe"),
            "runtime.ort.providers.actual": ok(session.get_providers(), "InferenceSession.get_providers"),
            "runtime.ort.graph_optimization": _optimization(used, source),
            "runtime.ort.execution_mode": ok(mode.value, source),
            "runtime.ort.arena": ok(bool(used.enable_cpu_mem_arena), source),
            "runtime.ort.memory_pattern": ok(bool(used.enable_mem_pattern), source),
            "runtime.ort.threads.intra_op": ok(int(used.intra_op_num_threads), source),
            "runtime.ort.threads.inter_op": ok(PARALLEL_INTER_OP_THREADS if parallel else 1, source),
            "runtime.ort.threads.spinning": ok(spinning, source),
            "runtime.ort.session_lifetime": ok(self.options.session.value, "server options"),
        }

    def _model_fields(self) -> Fields:
        graphs = {
            f"model.{part}.digest": ok(digest, "sha256 of the graph as given to the session")
            for part, digest in self.graph_digests.items()
        }
        weights = ok(self.weights_digest, "sha256 of the weights as given to the sessions")
        return {**graphs, "model.weights.digest": weights}

    def _placement_fields(self) -> Fields:
        """Count nodes per provider and the structure of the UNet's attention, before fusion by the runtime."""
        try:
            placed = {part: _placed_nodes(session) for part, session in self.shared.items()}
        except AttributeError:
            reason = f"ONNX Runtime {ort.__version__} does not report where nodes are placed"
            names = (
                "model.unet.attention.fused",
                "model.unet.attention.softmax_count",
                "runtime.ort.placement.cpu_share",
            )
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


def load_ort(options: ServeOptions) -> OrtEngine:
    """Fetch or make the model files and open a verified session per part.

    Raises:
        ConfigError: The model files or the cache cannot be used.
        AdmissionError: A session does not run as asked for.
    """
    template = load_template()
    weights = load_weights(template, cache=options.cache)
    graphs = dict(template.graphs)
    graph_digests = dict(template.graph_digests)
    match options.precision:
        case Precision.FP32:
            pass
        case Precision.INT8:
            graphs[Part.UNET] = load_quantized_unet(template, weights, cache=options.cache)
            graph_digests[Part.UNET] = digest_bytes(graphs[Part.UNET])
        case Precision.FP16:
            raise ConfigError("the CPU has no fp16 graph here; --engine diffusers computes in fp16 on a GPU")
        case _ as unknown:
            assert_never(unknown)
    return OrtEngine(
        graphs=graphs,
        graph_digests=graph_digests,
        weights=weights,
        weights_digest=template.weights_digest,
        options=options,
        shared={part: open_session(graph, weights=weights, options=options) for part, graph in graphs.items()},
    )


def _guided(
    session: ort.InferenceSession,
    sample: Floats,
    timestep: np.float32,
    text_states: Floats,
    *,
    mode: GuidanceMode,
) -> Floats:
    """Evaluate the UNet without and with the prompt and extrapolate from one to the other."""
    count = len(sample)
    match mode:
        case GuidanceMode.BATCHED:
            feeds = {
                "sample": np.concatenate([sample, sample]),
                "timestep": np.full(2 * count, timestep),
                "text_states": np.repeat(text_states, count, axis=0),
            }
            both = _run(session, feeds)
            plain, prompted = both[:count], both[count:]
        case GuidanceMode.TWO_CALLS:
            plain, prompted = (
                _run(
                    session,
                    {
                        "sample": sample,
                        "timestep": np.full(count, timestep),
                        "text_states": np.repeat(states[np.newaxis], count, axis=0),
                    },
                )
                for states in text_states
            )
        case _ as unknown:
            assert_never(unknown)
    output: Floats = guided(plain, prompted)
    return output


def _run(session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> Floats:
    try:
        output: Floats = session.run(None, dict(feeds))[0]
    except ORT_ERRORS as error:
        raise runtime_failure("ONNX Runtime", error) from error
    return output


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
