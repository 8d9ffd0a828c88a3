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
from onnx import numpy_helper

from rollout.serving.engines.interface import LATENT_CHANNELS
from rollout.serving.engines.torch_networks import TEXT_WIDTH, TOKENS, NoisePredictor, PictureDecoder, TextEncoder
from rollout.serving.template import TEMPLATE_SCHEMA, WEIGHTS_LOCATION
from rollout.serving.weights import TensorSpec, aligned, generate_weights

WEIGHTS_SEED = 20240711
TORCH_SEED = 7
OPSET = 18

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


def _parameter_digests(module: torch.nn.Module) -> Iterable[tuple[str, tuple[str, bool]]]:
    """Yield digest, name, and whether it is the transpose that has the digest."""
    for name, parameter in module.named_parameters():
        values = parameter.detach().numpy()
        yield _digest(values), (name, False)
        if values.ndim == 2:  # noqa: PLR2004 - the exporter transposes matrices
            yield _digest(np.ascontiguousarray(values.T)), (name, True)


def _digest(values: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()


def _tensor_spec(
    part: str,
    tensor: str,
    parameter: tuple[str, bool],
    values: np.ndarray[Any, Any],
    *,
    offset: int,
) -> TensorSpec:
    name, transposed = parameter
    std = float(values.std())
    for factor_part, fragment, factor in STD_FACTORS:
        if factor_part == part and fragment in name:
            std *= factor
    constant = bool((values == values.flat[0]).all())
    return TensorSpec(
        name=f"{part}/{tensor}",
        shape=values.shape,
        offset=offset,
        mean=float(values.flat[0]) if constant else 0.0,
        std=0.0 if constant else float(f"{std:.4g}"),
        parameter="" if constant else name,
        transposed=transposed and not constant,
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
        "schema": TEMPLATE_SCHEMA,
        "seed": WEIGHTS_SEED,
        "weights_digest": "sha256:" + hashlib.sha256(weights).hexdigest(),
        "graph_digests": {part: "sha256:" + hashlib.sha256(graph).hexdigest() for part, graph in graphs.items()},
        "tensors": [[s.name, list(s.shape), s.offset, s.mean, s.std, s.parameter, s.transposed] for s in specs],
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
