"""The model templates shipped with the package: graphs without weights, and how to fill them."""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

from rollout.errors import ConfigError
from rollout.model.canonical import digest_bytes
from rollout.serving.weights import TensorSpec

TEMPLATE_SCHEMA = "rollout.model-template/v2"
WEIGHTS_LOCATION = "weights.bin"
"""The external data file that the graphs name."""


class Part(StrEnum):
    """The three networks of Stable Diffusion."""

    TEXT = "text"
    UNET = "unet"
    VAE = "vae"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTemplate:
    """Three ONNX graphs whose weights lie outside, and the recipe of those weights."""

    graphs: Mapping[Part, bytes]
    graph_digests: Mapping[Part, str]
    tensors: tuple[TensorSpec, ...]
    seed: int
    weights_digest: str


def load_template() -> ModelTemplate:
    """Read the templates of this installation and check them against their manifest.

    Raises:
        ConfigError: A file is missing, damaged, or of another schema.
    """
    try:
        manifest = json.loads(_read("manifest.json.gz"))
        if manifest["schema"] != TEMPLATE_SCHEMA:
            raise ConfigError(f"the model manifest has schema {manifest['schema']!r}, expected {TEMPLATE_SCHEMA!r}")
        graphs = {part: _read(f"{part}.onnx.gz") for part in Part}
        template = ModelTemplate(
            graphs=graphs,
            graph_digests={part: digest_bytes(graph) for part, graph in graphs.items()},
            tensors=tuple(_tensor_spec(row) for row in manifest["tensors"]),
            seed=manifest["seed"],
            weights_digest=manifest["weights_digest"],
        )
        pinned = {Part(part): digest for part, digest in manifest["graph_digests"].items()}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the model templates of this installation cannot be read ({error!r}): reinstall") from error
    if pinned != template.graph_digests:
        raise ConfigError("a model graph of this installation differs from its manifest: reinstall")
    return template


def _read(name: str) -> bytes:
    return gzip.decompress((resources.files("rollout.serving") / "templates" / name).read_bytes())


def _tensor_spec(row: tuple[str, list[int], int, float, float, str, bool]) -> TensorSpec:
    name, shape, offset, mean, std, parameter, transposed = row
    return TensorSpec(
        name=name,
        shape=tuple(shape),
        offset=offset,
        mean=mean,
        std=std,
        parameter=parameter,
        transposed=transposed,
    )
