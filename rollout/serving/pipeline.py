"""Text to pictures: tokenise, encode, denoise, decode, compress; one request at a time."""

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, assert_never

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from rollout.errors import PlatformError
from rollout.serving.failures import NonFiniteError, WorkCancelledError
from rollout.serving.options import GuidanceMode
from rollout.serving.scheduler import EulerSchedule, euler_schedule
from rollout.serving.sessions import ORT_ERRORS, LoadedModel
from rollout.serving.template import Part
from rollout.serving.tokenizer import tokenize

GUIDANCE_SCALE = 7.5
LATENT_CHANNELS = 4
LATENT_SCALE = 8
"""Pixels per latent cell, along each side."""

# Memory grows with pixels times pictures (attention: with pixels squared); what does not fit is computed in groups.
GROUP_PIXELS_MAX = 8 * 128 * 128

# Fast and lossless; a higher level costs milliseconds and saves few bytes on pictures of noise.
_PNG_COMPRESSION = 1

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRequest:
    """What to draw. Sizes are pixels; picture i of `count` is drawn with seed `seed + i`."""

    prompt: str
    seed: int
    steps: int
    width: int
    height: int
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """PNG files in request order, and how long each phase took in milliseconds, in order: text, unet, vae, png."""

    pictures: tuple[bytes, ...]
    phase_ms: Mapping[str, float]


def draw(model: LoadedModel, request: PictureRequest, *, cancelled: threading.Event) -> Drawing:
    """Draw a request's pictures; the same request gives the same bytes on one machine and release.

    Args:
        model: A loaded model.
        request: What to draw, already checked.
        cancelled: Read before every denoising step.

    Raises:
        WorkCancelledError: `cancelled` was set.
        NonFiniteError: The model gave NaN or infinity.
        AdmissionError, ProviderLostError: A session does not run where it must.
        PlatformError: ONNX Runtime failed.
    """
    schedule = euler_schedule(steps=request.steps, prediction=model.options.prediction)
    per_group = max(1, GROUP_PIXELS_MAX // (request.width * request.height))
    phase_ms = {"text": 0.0, "unet": 0.0, "vae": 0.0, "png": 0.0}
    pictures: list[bytes] = []
    started = perf_counter()
    text_states = _encode(model, request.prompt)
    phase_ms["text"] = _ms_since(started)
    for first in range(0, request.count, per_group):
        seeds = range(request.seed + first, request.seed + min(first + per_group, request.count))
        started = perf_counter()
        latents = _denoise(model, schedule, _noise(request, seeds), text_states, cancelled=cancelled)
        phase_ms["unet"] += _ms_since(started)
        started = perf_counter()
        pixels = _decode(model, latents)
        phase_ms["vae"] += _ms_since(started)
        started = perf_counter()
        pictures += [_png(picture) for picture in pixels]
        phase_ms["png"] += _ms_since(started)
    return Drawing(pictures=tuple(pictures), phase_ms=phase_ms)


def _encode(model: LoadedModel, prompt: str) -> Floats:
    """Return the text states of the empty prompt and of this one, shape (2, 77, width)."""
    with model.session(Part.TEXT) as session:
        return _run(session, {"input_ids": np.stack([tokenize(""), tokenize(prompt)])})


def _noise(request: PictureRequest, seeds: range) -> Floats:
    """Return unit noise, shape (len(seeds), 4, height / 8, width / 8)."""
    shape = (LATENT_CHANNELS, request.height // LATENT_SCALE, request.width // LATENT_SCALE)
    return np.stack([np.random.Generator(np.random.Philox(s)).standard_normal(shape, np.float32) for s in seeds])


def _denoise(
    model: LoadedModel,
    schedule: EulerSchedule,
    noise: Floats,
    text_states: Floats,
    *,
    cancelled: threading.Event,
) -> Floats:
    """Return clean latents of the noise's shape."""
    latents = schedule.initial_latents(noise)
    with model.session(Part.UNET) as session:
        for step, timestep in enumerate(schedule.timesteps):
            if cancelled.is_set():
                raise WorkCancelledError(f"given up before step {step + 1} of {len(schedule.timesteps)}")
            sample = schedule.model_input(latents, step=step)
            output = _guided(session, sample, timestep, text_states, mode=model.options.guidance)
            latents = schedule.advance(latents, output, step=step)
    return _finite(latents, "the UNet")


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
    return plain + np.float32(GUIDANCE_SCALE) * (prompted - plain)


def _decode(model: LoadedModel, latents: Floats) -> NDArray[np.uint8]:
    """Return pixels, shape (n, height, width, 3)."""
    with model.session(Part.VAE) as session:
        picture = _finite(_run(session, {"latents": latents}), "the VAE")
    pixels: NDArray[np.uint8] = np.clip((picture + np.float32(1)) * np.float32(127.5), 0, 255).round().astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def _run(session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> Floats:
    try:
        output: Floats = session.run(None, dict(feeds))[0]
    except ORT_ERRORS as error:
        raise PlatformError(f"ONNX Runtime failed while drawing: {' '.join(str(error).split())}") from error
    return output


def _finite(values: Floats, source: str) -> Floats:
    if not np.isfinite(values).all():
        raise NonFiniteError(f"{source} gave NaN or infinity: the model or its options are broken")
    return values


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=_PNG_COMPRESSION)
    return buffer.getvalue()


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1e3
