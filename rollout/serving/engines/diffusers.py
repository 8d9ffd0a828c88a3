"""Stable Diffusion on torch with diffusers' own networks and attention processors, on a GPU or the CPU."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

import diffusers
import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from numpy.typing import NDArray

from rollout.errors import ConfigError
from rollout.model.admission import Profile
from rollout.model.snapshot import Capability, ok, unavailable
from rollout.serving.collectors.interface import Fields
from rollout.serving.engines.interface import (
    LATENT_CHANNELS,
    Floats,
    check_cancelled,
    guided,
    runtime_failure,
)
from rollout.serving.engines.torch_networks import NETWORKS, TOKENS
from rollout.serving.failures import AdmissionError
from rollout.serving.messages import fallback_signs
from rollout.serving.model_cache import load_weights
from rollout.serving.options import Attention, GuidanceMode, Precision, ServeOptions, attention_of
from rollout.serving.reading import read
from rollout.serving.scheduler import EulerSchedule
from rollout.serving.stopwatch import Stopwatch
from rollout.serving.template import Part, load_template
from rollout.serving.weights import TensorSpec

SLICE_HEADS = 1

_PROBED_SIDE = 16
"""Latent cells along a side of the input that the attention kernels are read with: the self-test's picture."""

_SOFTMAX_OPS = frozenset({"aten::_softmax", "aten::softmax"})
_FUSED_OPS_PREFIX = "aten::_scaled_dot_product_"
_MATH_OP = "aten::_scaled_dot_product_attention_math"
_KERNELS_SOURCE = "torch.profiler over one UNet evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusersEngine:
    """Networks on one device. See `Engine`."""

    networks: Mapping[Part, torch.nn.Module] = field(repr=False)
    weights_digest: str
    device: torch.device
    dtype: torch.dtype
    """Of the UNet, which does nearly all the work; the rest computes in 32 bits."""
    options: ServeOptions
    stopwatch: Stopwatch = field(default_factory=Stopwatch, repr=False, compare=False)

    @property
    def provider(self) -> str:
        """The device that torch computes on."""
        return f"torch:{self.device}"

    @property
    def device_s(self) -> float:
        """See `Engine.device_s`: all of `encode`, `denoise` and `decode`.

        A call of torch returns before the GPU has computed; only the last copy to the host waits for it.
        """
        return self.stopwatch.seconds

    def encode(self, token_ids: NDArray[np.int64]) -> Floats:
        """See `Engine.encode`."""
        with _on_torch(), self.stopwatch:
            states = self.networks[Part.TEXT](torch.from_numpy(token_ids).to(self.device))
            return _on_host(states)

    def denoise(
        self, noise: Floats, *, schedule: EulerSchedule, text_states: Floats, cancelled: threading.Event
    ) -> Floats:
        """See `Engine.denoise`. Latents stay on the device between steps."""
        with _on_torch(), self.stopwatch:
            states = torch.from_numpy(text_states).to(self.device, self.dtype)
            latents = schedule.initial_latents(torch.from_numpy(noise).to(self.device))
            for step, timestep in enumerate(schedule.timesteps):
                check_cancelled(cancelled, step=step, steps=len(schedule.timesteps))
                sample = schedule.model_input(latents, step=step).to(self.dtype)
                plain, prompted = self._predict(sample, float(timestep), states)
                latents = schedule.advance(latents, guided(plain.float(), prompted.float()), step=step)
            return _on_host(latents)

    def decode(self, latents: Floats) -> Floats:
        """See `Engine.decode`."""
        with _on_torch(), self.stopwatch:
            return _on_host(self.networks[Part.VAE](torch.from_numpy(latents).to(self.device)))

    def fields(self) -> Fields:
        """See `Engine.fields`."""
        return {**self._runtime_fields(), **self._device_fields(), **self._model_fields()}

    def _predict(self, sample: Any, timestep: float, states: Any) -> tuple[Any, Any]:  # noqa: ANN401 - torch's tensors
        """Evaluate the UNet without and with the prompt, shape (n, 4, h, w) each; `states` is (2, 77, width)."""
        unet, count = self.networks[Part.UNET], len(sample)
        match self.options.guidance:
            case GuidanceMode.BATCHED:
                times = torch.full((2 * count,), timestep, device=self.device)
                both = unet(torch.cat([sample, sample]), times, states.repeat_interleave(count, dim=0))
                return both[:count], both[count:]
            case GuidanceMode.TWO_CALLS:
                times = torch.full((count,), timestep, device=self.device)
                plain, prompted = (unet(sample, times, one.expand(count, -1, -1)) for one in states)
                return plain, prompted
            case _ as unknown:
                assert_never(unknown)

    def _runtime_fields(self) -> Fields:
        source = "server options, as torch holds them"
        return {
            "runtime.torch.version": ok(torch.__version__, "torch.__version__"),
            "runtime.torch.cuda.version": _present(torch.version.cuda, "torch.version.cuda", "a build without CUDA"),
            "runtime.torch.device": ok(
                " and ".join(sorted({str(one.device) for net in self.networks.values() for one in net.parameters()})),
                "devices of all networks' parameters",
            ),
            "runtime.torch.threads": ok(torch.get_num_threads(), "torch.get_num_threads"),
            "runtime.torch.tf32.matmul": ok(bool(torch.backends.cuda.matmul.allow_tf32), source),
            "runtime.torch.tf32.convolution": ok(bool(torch.backends.cudnn.allow_tf32), source),
            "runtime.cudnn.version": _present(
                torch.backends.cudnn.version(), "torch.backends.cudnn.version", "a build without cuDNN"
            ),
            "runtime.diffusers.version": ok(diffusers.__version__, "diffusers.__version__"),
        }

    def _device_fields(self) -> Fields:
        names = tuple(
            f"runtime.torch.device.{name}"
            for name in ("product", "compute_capability", "memory_bytes", "multiprocessors")
        )
        source = "torch.cuda.get_device_properties"
        if self.device.type != "cuda":
            return {name: unavailable(source, f"the networks compute on {self.device}") for name in names}
        found = torch.cuda.get_device_properties(self.device)
        values = (found.name, f"{found.major}.{found.minor}", found.total_memory, found.multi_processor_count)
        return {name: ok(value, source) for name, value in zip(names, values, strict=True)}

    def _model_fields(self) -> Fields:
        processors = self.networks[Part.UNET].unet.attn_processors.values()
        kernels = read(_KERNELS_SOURCE, self._attention_ops)
        ops = kernels.value if isinstance(kernels.value, list) else []
        fused = bool(ops) and not _SOFTMAX_OPS.intersection(ops) and _MATH_OP not in ops
        return {
            "model.weights.digest": ok(self.weights_digest, "sha256 of the weights that the networks were filled from"),
            "model.unet.attention.processors": ok(
                sorted({type(one).__name__ for one in processors}), "UNet2DConditionModel.attn_processors"
            ),
            "model.unet.attention.kernels": kernels,
            "model.unet.attention.fused": (
                ok(fused, _KERNELS_SOURCE) if ops else unavailable(_KERNELS_SOURCE, "no attention was seen")
            ),
        }

    def _attention_ops(self) -> list[str]:
        """Return the operators that one evaluation of the UNet computes attention with."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        sample = torch.zeros(1, LATENT_CHANNELS, _PROBED_SIDE, _PROBED_SIDE, device=self.device, dtype=self.dtype)
        width = self.networks[Part.UNET].unet.config.cross_attention_dim
        states = torch.zeros(2, TOKENS, width, device=self.device, dtype=self.dtype)
        with torch.inference_mode(), torch.profiler.profile(activities=activities) as profiled:
            self._predict(sample, 0.0, states)
        names = {one.key for one in profiled.key_averages()}
        return sorted(one for one in names if one.startswith(_FUSED_OPS_PREFIX) or one in _SOFTMAX_OPS)


def load_diffusers(options: ServeOptions) -> DiffusersEngine:
    """Build the networks, fill them with the template's weights and move them to the device.

    Raises:
        ConfigError: The weights or the cache cannot be used, or this diffusers builds other networks.
        AdmissionError: The device that was asked for is not there.
    """
    device = _device(options.admission.profile)
    template = load_template()
    weights = load_weights(template, cache=options.cache)
    torch.set_num_threads(options.threads)
    dtype = _dtype(options.precision)
    networks = {}
    for part, build in NETWORKS.items():
        network = build()
        _fill(network, part, template.tensors, weights)
        networks[part] = network.eval().to(device, dtype if part is Part.UNET else torch.float32)
    networks[Part.UNET].unet.set_attn_processor(_processor(attention_of(options)))
    return DiffusersEngine(
        networks=networks, weights_digest=template.weights_digest, device=device, dtype=dtype, options=options
    )


def _device(profile: Profile) -> torch.device:
    match profile:
        case Profile.DEVELOPMENT_CPU:
            return torch.device("cpu")
        case Profile.GPU:
            try:
                torch.cuda.init()
                return torch.device("cuda", torch.cuda.current_device())
            except (RuntimeError, AssertionError) as error:
                signs = fallback_signs(str(error))
                raise AdmissionError(
                    f"the policy asks for a GPU and torch {torch.__version__} finds none: {error}",
                    code=signs[0].code if signs else "no_device",
                ) from error
        case _ as unknown:
            assert_never(unknown)


def _dtype(precision: Precision) -> torch.dtype:
    match precision:
        case Precision.FP32:
            return torch.float32
        case Precision.FP16:
            return torch.float16
        case Precision.INT8:
            raise ConfigError("the diffusers engine has no int8")
        case _ as unknown:
            assert_never(unknown)


def _processor(attention: Attention) -> AttnProcessor | AttnProcessor2_0 | SlicedAttnProcessor:
    match attention:
        case Attention.SDPA:
            return AttnProcessor2_0()
        case Attention.EAGER:
            return AttnProcessor()
        case Attention.SLICED:
            return SlicedAttnProcessor(SLICE_HEADS)
        case _ as unknown:
            assert_never(unknown)


def _fill(network: torch.nn.Module, part: Part, tensors: tuple[TensorSpec, ...], weights: bytes) -> None:
    """Copy the template's weights into a network that was built anew.

    Raises:
        ConfigError: A parameter that is drawn at random has no weights, or weights have no parameter.
    """
    named = {one.parameter: one for one in tensors if one.parameter and one.name.startswith(f"{part}/")}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            spec = named.pop(name, None)
            if spec is not None:
                values = np.frombuffer(weights, dtype="<f4", count=parameter.numel(), offset=spec.offset)
                shaped = torch.from_numpy(values.reshape(spec.shape).copy())
                parameter.copy_(shaped.T if spec.transposed else shaped)
            elif _is_used(name) and parameter.numel() > 1 and bool(parameter.min() != parameter.max()):
                raise ConfigError(f"the model template has no weights for {part} {name}: {_REMEDY}")
    if named:
        raise ConfigError(f"this diffusers builds a {part} network without {', '.join(sorted(named))}: {_REMEDY}")


_REMEDY = "install the diffusers that tools/make_templates.py was run with, or run it anew"


def _is_used(name: str) -> bool:
    """Tell whether drawing needs a parameter: the VAE's encoder is built and never run."""
    return not name.startswith(("vae.encoder.", "vae.quant_conv."))


@contextlib.contextmanager
def _on_torch() -> Iterator[None]:
    """Compute without gradients, and tell torch's errors as ours."""
    try:
        with torch.inference_mode():
            yield
    except RuntimeError as error:
        raise runtime_failure("torch", error) from error


def _on_host(values: Any) -> Floats:  # noqa: ANN401 - torch's tensors
    copied: Floats = values.float().cpu().numpy()
    return copied


def _present(value: int | str | None, source: str, absent: str) -> Capability:
    return unavailable(source, absent) if value is None else ok(value, source)
