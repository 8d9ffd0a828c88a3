"""Text to pictures: tokenise, encode, denoise, decode, compress; one request at a time, on any engine."""

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rollout.serving.engines.interface import LATENT_CHANNELS, LATENT_SCALE, Engine, Floats
from rollout.serving.failures import NonFiniteError
from rollout.serving.scheduler import euler_schedule
from rollout.serving.tokenizer import tokenize

# Memory grows with pixels times pictures (attention: with pixels squared); what does not fit is computed in groups.
GROUP_PIXELS_MAX = 8 * 128 * 128

# Fast and lossless; a higher level costs milliseconds and saves few bytes on pictures of noise.
_PNG_COMPRESSION = 1


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
    device_s: float
    """Of text, unet and vae, the seconds inside the runtime's calls: see `Engine.device_s`."""


def draw(engine: Engine, request: PictureRequest, *, cancelled: threading.Event) -> Drawing:
    """Draw a request's pictures; the same request gives the same bytes on one machine and release.

    Args:
        engine: Loaded.
        request: What to draw, already checked.
        cancelled: Read before every denoising step.

    Raises:
        WorkCancelledError: `cancelled` was set.
        NonFiniteError: The model gave NaN or infinity.
        AdmissionError, ProviderLostError, PlacementLostError: The runtime no longer is what it must be.
        PlatformError: The runtime failed.
    """
    schedule = euler_schedule(steps=request.steps, prediction=engine.options.prediction)
    per_group = max(1, GROUP_PIXELS_MAX // (request.width * request.height))
    phase_ms = {"text": 0.0, "unet": 0.0, "vae": 0.0, "png": 0.0}
    pictures: list[bytes] = []
    device_s_before = engine.device_s
    started = perf_counter()
    text_states = engine.encode(np.stack([tokenize(""), tokenize(request.prompt)]))
    phase_ms["text"] = _ms_since(started)
    for first in range(0, request.count, per_group):
        seeds = range(request.seed + first, request.seed + min(first + per_group, request.count))
        started = perf_counter()
        latents = engine.denoise(
            _noise(request, seeds), schedule=schedule, text_states=text_states, cancelled=cancelled
        )
        phase_ms["unet"] += _ms_since(started)
        started = perf_counter()
        pixels = _pixels(engine.decode(_finite(latents, "the UNet")))
        phase_ms["vae"] += _ms_since(started)
        started = perf_counter()
        pictures += [_png(picture) for picture in pixels]
        phase_ms["png"] += _ms_since(started)
    return Drawing(pictures=tuple(pictures), phase_ms=phase_ms, device_s=engine.device_s - device_s_before)


def _noise(request: PictureRequest, seeds: range) -> Floats:
    """Return unit noise, shape (len(seeds), 4, height / 8, width / 8)."""
    shape = (LATENT_CHANNELS, request.height // LATENT_SCALE, request.width // LATENT_SCALE)
    return np.stack([np.random.Generator(np.random.Philox(s)).standard_normal(shape, np.float32) for s in seeds])


def _pixels(pictures: Floats) -> NDArray[np.uint8]:
    """Return pixels, shape (n, height, width, 3)."""
    scaled = (_finite(pictures, "the VAE") + np.float32(1)) * np.float32(127.5)
    pixels: NDArray[np.uint8] = np.clip(scaled, 0, 255).round().astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


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
