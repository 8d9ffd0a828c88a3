"""Stable Diffusion on ONNX Runtime."""

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rollout.errors import ConfigError
from rollout.model.admission import Profile, Provider
from rollout.model.canonical import digest_bytes
from rollout.model.snapshot import Capability, failed, ok
from rollout.serving.collectors.interface import Fields
from rollout.serving.engines.interface import Floats, check_cancelled, guided, runtime_failure
from rollout.serving.engines.ort_fields import placement_fields, runtime_fields
from rollout.serving.engines.ort_plans import place_unet
from rollout.serving.engines.ort_sessions import open_session, providers_of
from rollout.serving.failures import PlacementLostError
from rollout.serving.fused_attention import with_fused_attention
from rollout.serving.model_cache import load_converted_unet, load_weights
from rollout.serving.options import Attention, GuidanceMode, Precision, ServeOptions, SessionLifetime, attention_of
from rollout.serving.scheduler import EulerSchedule
from rollout.serving.stopwatch import Stopwatch
from rollout.serving.strict_session import ORT_ERRORS, check_placement, check_providers
from rollout.serving.template import Part, load_template

_HOST = "cpu"
_DEVICE = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OrtEngine:
    """Graphs and weights in memory, verified, and the sessions over them. See `Engine`.

    `shared` holds one session per part; with per-request sessions it serves the collectors, and as a yardstick. Inputs
    and outputs are bound to the device that the sessions compute on.
    """

    graphs: dict[Part, bytes | Path] = field(repr=False)
    graph_digests: dict[Part, str]
    weights: bytes = field(repr=False)
    weights_digest: str
    options: ServeOptions
    shared: dict[Part, ort.InferenceSession]
    plans: tempfile.TemporaryDirectory[str] | None
    """Where the engine plan lies that the policy orders; None where it orders none."""
    profiles: tempfile.TemporaryDirectory[str] | None
    """Where the sessions' profiles go until `fields` is asked for; None where they are made for each request."""
    stopwatch: Stopwatch = field(default_factory=Stopwatch, repr=False, compare=False)

    @property
    def provider(self) -> str:
        """The first execution provider that was asked for."""
        return self.options.admission.providers[0].value

    @property
    def device_s(self) -> float:
        """See `Engine.device_s`: binding inputs, `run_with_iobinding`, and copying the output to the host."""
        return self.stopwatch.seconds

    @property
    def device(self) -> str:
        """Where tensors are bound, in ONNX Runtime's words."""
        match self.options.admission.profile:
            case Profile.GPU:
                return "cuda"
            case Profile.DEVELOPMENT_CPU:
                return _HOST
            case _ as unknown:
                assert_never(unknown)

    def encode(self, token_ids: NDArray[np.int64]) -> Floats:
        """See `Engine.encode`."""
        with self._session(Part.TEXT) as session:
            return self._run(session, {"input_ids": token_ids})

    def denoise(
        self, noise: Floats, *, schedule: EulerSchedule, text_states: Floats, cancelled: threading.Event
    ) -> Floats:
        """See `Engine.denoise`. The text states lie on the device for all steps."""
        latents = schedule.initial_latents(noise)
        with _told_as_ours(), self.stopwatch:
            states = self._bound_states(text_states, count=len(noise))
        with self._session(Part.UNET) as session:
            for step, timestep in enumerate(schedule.timesteps):
                check_cancelled(cancelled, step=step, steps=len(schedule.timesteps))
                sample = schedule.model_input(latents, step=step)
                output = self._guided(session, sample, timestep, states)
                latents = schedule.advance(latents, output, step=step)
        return latents

    def decode(self, latents: Floats) -> Floats:
        """See `Engine.decode`."""
        with self._session(Part.VAE) as session:
            return self._run(session, {"latents": latents})

    def fields(self) -> Fields:
        """See `Engine.fields`. Ends the profiling of the warm-up."""
        return {
            **runtime_fields(self.shared[Part.UNET], requested=self.options.admission.providers),
            "runtime.ort.session_lifetime": ok(self.options.session.value, "server options"),
            "runtime.ort.binding.output_device": self._output_device(),
            **self._model_fields(),
            **self._placement_fields(),
        }

    @contextmanager
    def _session(self, part: Part) -> Iterator[ort.InferenceSession]:
        """Lend a session of this part, made for the occasion when the release says so.

        Raises:
            AdmissionError: A per-request session could not be made as asked for.
            ProviderLostError: The session no longer runs on the requested providers.
            PlacementLostError: A per-request session puts more nodes on the CPU than the admitted one.
        """
        match self.options.session:
            case SessionLifetime.SHARED:
                session = self.shared[part]
            case SessionLifetime.PER_REQUEST:
                session = open_session(
                    self.graphs[part], weights=self.weights, options=self.options, profile_prefix=None
                )
                check_placement(session, admitted=self.shared[part])
            case _ as unknown:
                assert_never(unknown)
        yield session
        check_providers(session, providers=providers_of(self.graphs[part], self.options))

    def _bound_states(self, text_states: Floats, *, count: int) -> tuple[ort.OrtValue, ...]:
        """Put the text states where the UNet reads them, as its inputs want them."""
        match self.options.guidance:
            case GuidanceMode.BATCHED:
                return (self._bound(np.repeat(text_states, count, axis=0)),)
            case GuidanceMode.TWO_CALLS:
                return tuple(self._bound(np.repeat(states[np.newaxis], count, axis=0)) for states in text_states)
            case _ as unknown:
                assert_never(unknown)

    def _guided(
        self, session: ort.InferenceSession, sample: Floats, timestep: np.float32, states: tuple[ort.OrtValue, ...]
    ) -> Floats:
        """Evaluate the UNet without and with the prompt and extrapolate from one to the other."""
        count = len(sample)
        per_call = 2 * count // len(states)
        batch = np.concatenate([sample, sample]) if len(states) == 1 else sample
        outputs = [
            self._run(
                session,
                {"sample": batch, "timestep": np.full(per_call, timestep), "text_states": one},
            )
            for one in states
        ]
        both = np.concatenate(outputs) if len(outputs) > 1 else outputs[0]
        output: Floats = guided(both[:count], both[count:])
        return output

    def _run(self, session: ort.InferenceSession, feeds: Mapping[str, Any]) -> Floats:
        """Run with inputs and outputs bound to the device, and copy the one output to the host.

        Raises:
            PlacementLostError: The output lies elsewhere: a binding to a device that is not used is not refused.
            PlatformError: The runtime failed.
        """
        with _told_as_ours(), self.stopwatch:
            output = self._bound_output(session, feeds)
            values: Floats = output.numpy()
        if output.device_name() != self.device:
            text = f"an output bound to {self.device} lies on {output.device_name()}"
            raise PlacementLostError(text, code="output_off_device")
        return values

    def _bound_output(self, session: ort.InferenceSession, feeds: Mapping[str, Any]) -> ort.OrtValue:
        binding = session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, value if isinstance(value, ort.OrtValue) else self._bound(value))
        (output,) = session.get_outputs()
        binding.bind_output(output.name, self.device, _DEVICE)
        session.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    def _bound(self, values: NDArray[Any]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values), self.device, _DEVICE)

    def _output_device(self) -> Capability:
        """Tell where an output of the text encoder really lies that was bound to the device."""
        source = "device_name of a bound output"
        session = self.shared[Part.TEXT]
        try:
            tokens = np.zeros((1, session.get_inputs()[0].shape[1]), dtype=np.int64)
            return ok(self._bound_output(session, {"input_ids": tokens}).device_name(), source)
        except ORT_ERRORS as error:
            return failed(source, " ".join(str(error).split()))

    def _model_fields(self) -> Fields:
        graphs = {
            f"model.{part}.digest": ok(digest, "sha256 of the graph as given to the session")
            for part, digest in self.graph_digests.items()
        }
        weights = ok(self.weights_digest, "sha256 of the weights as given to the sessions")
        return {**graphs, "model.weights.digest": weights}

    def _placement_fields(self) -> Fields:
        sessions = {part.value: session for part, session in self.shared.items()}
        if self.profiles is None:
            return placement_fields(sessions, {})
        with self.profiles as folder:
            for session in self.shared.values():
                session.end_profiling()
            return placement_fields(
                sessions, {part: path for part in sessions for path in Path(folder).glob(f"{part}_*")}
            )


@contextmanager
def _told_as_ours() -> Iterator[None]:
    """Tell the runtime's errors as ours: also memory that a device does not have raises one."""
    try:
        yield
    except ORT_ERRORS as error:
        raise runtime_failure("ONNX Runtime", error) from error


def _unet(graph: bytes, weights: bytes, options: ServeOptions) -> bytes:
    """Return the UNet's graph as the release computes it."""
    match attention_of(options):
        case Attention.SDPA:
            graph = with_fused_attention(graph)
        case Attention.EAGER:
            pass  # As it was exported.
        case Attention.SLICED:
            raise ConfigError("ONNX Runtime does not compute attention in slices")
        case _ as unknown:
            assert_never(unknown)
    if options.precision is Precision.FP32:
        return graph
    return load_converted_unet(graph, weights, precision=options.precision, cache=options.cache)


def load_ort(options: ServeOptions) -> OrtEngine:
    """Fetch or make the model files and open a verified session per part.

    Raises:
        ConfigError: The model files or the cache cannot be used.
        AdmissionError: A session does not run as asked for.
    """
    template = load_template()
    weights = load_weights(template, cache=options.cache)
    graphs: dict[Part, bytes | Path] = dict(template.graphs)
    graph_digests = dict(template.graph_digests)
    plans = tempfile.TemporaryDirectory() if Provider.TENSORRT in options.admission.providers else None
    if plans is not None:
        placed = place_unet(template, options, folder=Path(plans.name))
        graphs[Part.UNET], graph_digests[Part.UNET] = placed, digest_bytes(placed.read_bytes())
    else:
        graphs[Part.UNET] = unet = _unet(template.graphs[Part.UNET], weights, options)
        graph_digests[Part.UNET] = digest_bytes(unet)
    profiles = tempfile.TemporaryDirectory() if options.session is SessionLifetime.SHARED else None
    shared = {
        part: open_session(
            graph,
            weights=weights,
            options=options,
            profile_prefix=Path(profiles.name, part) if profiles else None,
        )
        for part, graph in graphs.items()
    }
    return OrtEngine(
        graphs=graphs,
        graph_digests=graph_digests,
        weights=weights,
        weights_digest=template.weights_digest,
        options=options,
        shared=shared,
        plans=plans,
        profiles=profiles,
    )
