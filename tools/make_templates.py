"""Make the graph templates of the reference server anew: `rollout/serving/templates/`.

Run from the repository root, in an environment with torch, diffusers, transformers and onnx (none of them is needed at
run time): `PYTHONPATH=. python tools/make_templates.py`. The three parts of Stable Diffusion are built with small
dimensions in their real architecture, exported, and stripped of their weights: what stays is each graph and a manifest
that says how each tensor is distributed. The output is a function of the library versions only.
"""

import argparse
import gzip
import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from onnx import numpy_helper
from transformers import CLIPTextConfig, CLIPTextModel

from rollout.serving.weights import TensorSpec, aligned, generate_weights

MANIFEST_SCHEMA = "rollout.model-template/v1"
WEIGHTS_SEED = 20240711
TORCH_SEED = 7
OPSET = 18
WEIGHTS_LOCATION = "weights.bin"
VOCABULARY = 514
TOKENS = 77
TEXT_WIDTH = 64
LATENT_CHANNELS = 4
VAE_SCALING_FACTOR = 0.18215

# Random weights follow the text too weakly and draw too grey: these factors make prompts differ and the picture's
# contrast that of a photograph. They are applied to the std of the real initialisation.
STD_FACTORS: tuple[tuple[str, str, float], ...] = (
    ("text", "token_embedding", 10.0),
    ("text", "position_embedding", 4.0),
    ("unet", "attn2.to_q", 4.0),
    ("unet", "attn2.to_k", 4.0),
    ("unet", "attn2.to_v", 2.0),
    ("unet", "attn2.to_out", 3.0),
)


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


def export_part(
    module: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    *,
    output: str,
    dynamic_axes: dict[str, dict[int, str]],
) -> onnx.ModelProto:
    """Return the module as an ONNX graph with its weights inside."""
    buffer = io.BytesIO()
    torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        buffer,
        input_names=list(inputs),
        output_names=[output],
        dynamic_axes=dynamic_axes,
        opset_version=OPSET,
        dynamo=False,
    )
    return onnx.load_from_string(buffer.getvalue())


def strip_weights(part: str, graph: onnx.ModelProto, module: torch.nn.Module, *, offset: int) -> list[TensorSpec]:
    """Move every tensor that holds a parameter out of the graph; folded constants stay inside.

    Args:
        part: Name of the part, the first word of each tensor's name in the manifest.
        graph: The exported model, changed in place.
        module: The model that was exported; a tensor counts as weights when it equals a parameter or its transpose.
        offset: First free offset of the weights file.

    Returns:
        What was moved, in file order.
    """
    parameters = dict(_parameter_digests(module))
    specs = []
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        parameter = parameters.get(_digest(values))
        if parameter is None or values.size < 2:  # noqa: PLR2004 - a scalar is smaller inside
            continue
        offset = aligned(offset)
        spec = _tensor_spec(part, tensor.name, parameter, values, offset=offset)
        offset += spec.size_bytes
        specs.append(spec)
        _make_external(tensor, spec)
    return specs


def _parameter_digests(module: torch.nn.Module) -> Iterable[tuple[str, str]]:
    for name, parameter in module.named_parameters():
        values = parameter.detach().numpy()
        yield _digest(values), name
        if values.ndim == 2:  # noqa: PLR2004 - the exporter transposes matrices
            yield _digest(np.ascontiguousarray(values.T)), name


def _digest(values: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()


def _tensor_spec(
    part: str,
    tensor: str,
    parameter: str,
    values: np.ndarray[Any, Any],
    *,
    offset: int,
) -> TensorSpec:
    std = float(values.std())
    for factor_part, fragment, factor in STD_FACTORS:
        if factor_part == part and fragment in parameter:
            std *= factor
    constant = bool((values == values.flat[0]).all())
    return TensorSpec(
        name=f"{part}/{tensor}",
        shape=values.shape,
        offset=offset,
        mean=float(values.flat[0]) if constant else 0.0,
        std=0.0 if constant else float(f"{std:.4g}"),
    )


def _make_external(tensor: onnx.TensorProto, spec: TensorSpec) -> None:
    for field in ("raw_data", "float_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": WEIGHTS_LOCATION, "offset": spec.offset, "length": spec.size_bytes}
    for key, value in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


def _strip_names(graph: onnx.ModelProto) -> None:
    """Drop documentation and source paths that the exporter writes."""
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
    for node in graph.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    graph.graph.ClearField("value_info")


def main() -> None:
    """Write the templates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("rollout/serving/templates"))
    out = parser.parse_args().out
    warnings.filterwarnings("ignore")
    torch.manual_seed(TORCH_SEED)
    latents = torch.randn(2, LATENT_CHANNELS, 16, 16)
    states = torch.randn(2, TOKENS, TEXT_WIDTH)
    picture_axes = {0: "batch", 2: "height", 3: "width"}
    parts: dict[str, tuple[Callable[[], torch.nn.Module], dict[str, torch.Tensor], str, dict[str, dict[int, str]]]] = {
        "text": (
            TextEncoder,
            {"input_ids": torch.zeros(2, TOKENS, dtype=torch.int64)},
            "text_states",
            {"input_ids": {0: "batch"}, "text_states": {0: "batch"}},
        ),
        "unet": (
            NoisePredictor,
            {"sample": latents, "timestep": torch.zeros(2), "text_states": states},
            "noise",
            {"sample": picture_axes, "timestep": {0: "batch"}, "text_states": {0: "batch"}, "noise": picture_axes},
        ),
        "vae": (PictureDecoder, {"latents": latents}, "picture", {"latents": picture_axes, "picture": picture_axes}),
    }
    specs: list[TensorSpec] = []
    graphs: dict[str, bytes] = {}
    for part, (build, inputs, output, dynamic_axes) in parts.items():
        module = build()
        with torch.no_grad():
            graph = export_part(module, inputs, output=output, dynamic_axes=dynamic_axes)
        end = specs[-1].offset + specs[-1].size_bytes if specs else 0
        specs += strip_weights(part, graph, module, offset=end)
        _strip_names(graph)
        graphs[part] = graph.SerializeToString(deterministic=True)
    write_templates(out, specs=specs, graphs=graphs)


def write_templates(out: Path, *, specs: list[TensorSpec], graphs: dict[str, bytes]) -> None:
    """Write the manifest and the graphs, gzipped without names or times, so that equal content is equal bytes."""
    weights = generate_weights(specs, seed=WEIGHTS_SEED)
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "seed": WEIGHTS_SEED,
        "weights_digest": "sha256:" + hashlib.sha256(weights).hexdigest(),
        "graph_digests": {part: "sha256:" + hashlib.sha256(graph).hexdigest() for part, graph in graphs.items()},
        "tensors": [[s.name, list(s.shape), s.offset, s.mean, s.std] for s in specs],
    }
    out.mkdir(parents=True, exist_ok=True)
    contents = {f"{part}.onnx.gz": graph for part, graph in graphs.items()}
    contents["manifest.json.gz"] = (json.dumps(manifest, indent=0) + "\n").encode()
    for name, content in contents.items():
        (out / name).write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
        print(f"{name}: {len(content)} bytes, {(out / name).stat().st_size} gzipped")
    print(f"weights: {len(weights)} bytes, {len(specs)} tensors")


if __name__ == "__main__":
    main()
