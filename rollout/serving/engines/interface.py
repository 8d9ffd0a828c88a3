"""What an engine is: three networks on one runtime, and what it can prove about them."""

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rollout.errors import PlatformError
from rollout.serving.collectors.interface import Fields
from rollout.serving.failures import WorkCancelledError
from rollout.serving.options import ServeOptions
from rollout.serving.scheduler import EulerSchedule

GUIDANCE_SCALE = 7.5
"""How far the picture is pushed from the empty prompt towards the one asked for."""

LATENT_CHANNELS = 4
LATENT_SCALE = 8
"""Pixels per latent cell, along each side."""

Floats = NDArray[np.float32]


class Engine(Protocol):
    """Draws with weights that are loaded; one call at a time. Arrays are on the host on both sides of each call."""

    @property
    def options(self) -> ServeOptions:
        """The release."""

    @property
    def provider(self) -> str:
        """What computes, as metrics and the snapshot name it."""

    @property
    def device_s(self) -> float:
        """Seconds spent inside the runtime's calls since loading, copies to and from the device included.

        What else the host does for a picture is left out: opening sessions, noise, PNG. A caller takes differences.
        """

    def encode(self, token_ids: NDArray[np.int64]) -> Floats:
        """Return the text states, shape (n, 77, width), of token ids, shape (n, 77).

        Raises:
            PlatformError: The runtime failed; RefusedError where it no longer is what was admitted.
        """

    def denoise(
        self, noise: Floats, *, schedule: EulerSchedule, text_states: Floats, cancelled: threading.Event
    ) -> Floats:
        """Return clean latents of the noise's shape, (n, 4, height / 8, width / 8).

        Args:
            noise: Unit noise.
            schedule: The noise levels.
            text_states: Of the empty prompt and of the prompt, shape (2, 77, width).
            cancelled: Read before every step.

        Raises:
            WorkCancelledError: `cancelled` was set.
            PlatformError: See `encode`.
        """

    def decode(self, latents: Floats) -> Floats:
        """Return pictures around [-1, 1], shape (n, 3, height, width).

        Raises:
            PlatformError: See `encode`.
        """

    def fields(self) -> Fields:
        """Return what the runtime and the model prove, read from where the truth is.

        To be asked once, after one picture was drawn: some truths show only in what ran.
        """


def check_cancelled(cancelled: threading.Event, *, step: int, steps: int) -> None:
    """Give up before a step when nobody waits for the picture any more.

    Raises:
        WorkCancelledError: `cancelled` is set.
    """
    if cancelled.is_set():
        raise WorkCancelledError(f"given up before step {step + 1} of {steps}")


def runtime_failure(runtime: str, error: Exception) -> PlatformError:
    """Return a runtime's error as ours, on one line."""
    return PlatformError(f"{runtime} failed while drawing: {' '.join(str(error).split())}")


def guided(plain: Any, prompted: Any) -> Any:  # noqa: ANN401 - numpy's arrays or torch's tensors
    """Extrapolate from the output without the prompt to the one with it."""
    return plain + np.float32(GUIDANCE_SCALE) * (prompted - plain)
