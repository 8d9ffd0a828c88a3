"""The Euler discrete scheduler in numpy."""

from dataclasses import dataclass
from typing import Any, TypeVar, assert_never

import numpy as np
from numpy.typing import NDArray

from rollout.serving.options import Prediction

SCHEDULER_NAME = "euler-discrete"

Latents = TypeVar("Latents", bound=Any)
"""A numpy array or a torch tensor of 32-bit floats: both know the same arithmetic."""

_TRAIN_STEPS = 1000
_BETA_START = 0.00085
_BETA_END = 0.012


@dataclass(frozen=True, slots=True, kw_only=True)
class EulerSchedule:
    """Noise levels of one denoising run.

    `timesteps` has shape (steps,), falling from 999 to 0; `sigmas` has shape (steps + 1,), falling, the last is 0.
    """

    timesteps: NDArray[np.float32]
    sigmas: NDArray[np.float32]
    prediction: Prediction

    def initial_latents(self, noise: Latents) -> Latents:
        """Scale unit noise to the first noise level."""
        latents: Latents = noise * self.sigmas[0]
        return latents

    def model_input(self, latents: Latents, *, step: int) -> Latents:
        """Scale latents to the unit variance that the UNet was trained on."""
        scale = np.float32(1) / np.sqrt(self.sigmas[step] ** 2 + np.float32(1))
        scaled: Latents = latents * scale
        return scaled

    def advance(
        self,
        latents: Latents,
        output: Latents,
        *,
        step: int,
    ) -> Latents:
        """Take one Euler step.

        Args:
            latents: Any shape, at noise level `step`.
            output: The guided UNet output, same shape.
            step: In [0, steps).

        Returns:
            Latents at noise level `step + 1`.
        """
        sigma, sigma_next = self.sigmas[step], self.sigmas[step + 1]
        match self.prediction:
            case Prediction.EPSILON:
                clean = latents - sigma * output
            case Prediction.V_PREDICTION:
                variance = sigma**2 + np.float32(1)
                clean = output * (-sigma / np.sqrt(variance)) + latents / variance
            case _ as unknown:
                assert_never(unknown)
        derivative = (latents - clean) / sigma
        advanced: Latents = latents + derivative * (sigma_next - sigma)
        return advanced


def euler_schedule(*, steps: int, prediction: Prediction) -> EulerSchedule:
    """Lay out the noise levels: scaled-linear betas, linearly spaced timesteps, as Stable Diffusion 1 was trained.

    Args:
        steps: Number of UNet evaluations, in [1, 1000].
        prediction: What the UNet's output means.

    Raises:
        ValueError: `steps` is out of range.

    Source: Karras et al. 2022, Elucidating the Design Space of Diffusion-Based Generative Models, algorithm 1 without
        churn; diffusers' EulerDiscreteScheduler with timestep_spacing "linspace".
    """
    if not 1 <= steps <= _TRAIN_STEPS:
        raise ValueError(f"steps must be in [1, {_TRAIN_STEPS}], not {steps}")
    betas = np.linspace(_BETA_START**0.5, _BETA_END**0.5, _TRAIN_STEPS) ** 2
    kept = np.cumprod(1 - betas)
    all_sigmas = np.sqrt((1 - kept) / kept)
    timesteps = np.linspace(0, _TRAIN_STEPS - 1, steps)[::-1]
    sigmas = np.append(np.interp(timesteps, np.arange(_TRAIN_STEPS), all_sigmas), 0)
    return EulerSchedule(
        timesteps=timesteps.astype(np.float32),
        sigmas=sigmas.astype(np.float32),
        prediction=prediction,
    )
