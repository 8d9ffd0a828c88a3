"""The three networks of the reference model in torch: diffusers' and transformers' own classes, with small dimensions.

Both the diffusers engine and `tools/make_templates.py`, which exports them to ONNX, build them here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from rollout.serving.engines.interface import LATENT_CHANNELS
from rollout.serving.template import Part

VOCABULARY = 514
TOKENS = 77
TEXT_WIDTH = 64
VAE_SCALING_FACTOR = 0.18215


class TextEncoder(torch.nn.Module):
    """Token ids, shape (b, 77), to hidden states, shape (b, 77, TEXT_WIDTH)."""

    def __init__(self) -> None:
        """Build the CLIP text model."""
        super().__init__()
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=VOCABULARY,
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                projection_dim=TEXT_WIDTH,
                bos_token_id=VOCABULARY - 2,
                eos_token_id=VOCABULARY - 1,
                pad_token_id=VOCABULARY - 1,
            ),
        )

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Encode."""
        return self.clip(input_ids, return_dict=True).last_hidden_state


class NoisePredictor(torch.nn.Module):
    """Latents (b, 4, h, w), timestep (b,) and text states (b, 77, TEXT_WIDTH) to the predicted noise (b, 4, h, w)."""

    def __init__(self) -> None:
        """Build the conditional UNet."""
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
        )

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, text_states: torch.Tensor) -> torch.Tensor:
        """Predict."""
        return self.unet(sample, timestep, text_states, return_dict=False)[0]


class PictureDecoder(torch.nn.Module):
    """Latents (b, 4, h, w) to a picture (b, 3, 8h, 8w) around [-1, 1]."""

    def __init__(self) -> None:
        """Build the variational autoencoder."""
        super().__init__()
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 16, 32, 32),
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=8,
            sample_size=128,
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode."""
        return self.vae.decode(latents / VAE_SCALING_FACTOR, return_dict=False)[0]


NETWORKS: Mapping[Part, Callable[[], torch.nn.Module]] = MappingProxyType(
    {Part.TEXT: TextEncoder, Part.UNET: NoisePredictor, Part.VAE: PictureDecoder}
)
