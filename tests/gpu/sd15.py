"""Stable Diffusion 1.5's networks with random weights: they cost what trained ones cost, and draw noise.

Widths: the model cards' `unet/config.json`, `vae/config.json` and `text_encoder/config.json`.
"""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from transformers import CLIPTextConfig, CLIPTextModel

from rollout.serving.engines.diffusers import DiffusersEngine
from rollout.serving.options import Attention, Precision, ServeOptions
from rollout.serving.template import Part

SEED = 1
TEXT_WIDTH = 768


class TextEncoder(torch.nn.Module):
    """Token ids, shape (b, 77), to hidden states, shape (b, 77, 768)."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=TEXT_WIDTH,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                max_position_embeddings=77,
            )
        )

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.clip(input_ids, return_dict=True).last_hidden_state


class NoisePredictor(torch.nn.Module):
    """Latents (b, 4, h, w), timestep (b,) and text states (b, 77, 768) to noise (b, 4, h, w); 860 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=64,
            layers_per_block=2,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8,
        )

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, text_states: torch.Tensor) -> torch.Tensor:
        return self.unet(sample, timestep, text_states, return_dict=False)[0]


class PictureDecoder(torch.nn.Module):
    """Latents (b, 4, h, w) to a picture (b, 3, 8h, 8w)."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents / 0.18215, return_dict=False)[0]


def sd15_engine(options: ServeOptions, device: torch.device) -> DiffusersEngine:
    """Build the engine with these networks in place of the reference model's."""
    torch.manual_seed(SEED)
    torch.set_num_threads(options.threads)
    dtype = torch.float16 if options.precision is Precision.FP16 else torch.float32
    built = {Part.TEXT: TextEncoder, Part.UNET: NoisePredictor, Part.VAE: PictureDecoder}
    networks = {
        part: build().eval().to(device, dtype if part is Part.UNET else torch.float32) for part, build in built.items()
    }
    processor = AttnProcessor() if options.attention is Attention.EAGER else AttnProcessor2_0()
    networks[Part.UNET].unet.set_attn_processor(processor)
    return DiffusersEngine(
        networks=networks, weights_digest=f"random, seed {SEED}", device=device, dtype=dtype, options=options
    )
