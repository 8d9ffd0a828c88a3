import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rollout.files.load import load_admission
from rollout.model.snapshot import CapabilitySnapshot
from rollout.serving.engines.interface import Engine
from rollout.serving.engines.ort import OrtEngine, load_ort
from rollout.serving.engines.table import load_engine
from rollout.serving.options import ServeOptions
from rollout.serving.proof import Named, Proof, prove
from rollout.serving.snapshot import release_fields
from rollout.serving.subject import PictureSubject


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model-cache")


@pytest.fixture(scope="session")
def options(cache: Path) -> ServeOptions:
    return ServeOptions(port=1, pod_uid="unit", cache=cache, admission=load_admission("development-cpu").policy)


@pytest.fixture(scope="session")
def model(options: ServeOptions) -> OrtEngine:
    return load_ort(options)


@pytest.fixture(scope="session")
def proven() -> Callable[[ServeOptions], Proof[PictureSubject]]:
    """Load and prove a release as the server does."""

    def run(options: ServeOptions, load: Callable[[ServeOptions], Engine] = load_engine) -> Proof[PictureSubject]:
        return prove(
            options.admission,
            lambda: PictureSubject(engine=load(options)),
            said=release_fields(options),
            named=Named(matrix=options.matrix, engine_cache=options.engine_cache),
            watch=None,
            stopped=threading.Event(),
        )

    return run


@pytest.fixture(scope="session")
def snapshot(proven: Callable[[ServeOptions], Proof[PictureSubject]], options: ServeOptions) -> CapabilitySnapshot:
    """The snapshot of the good release."""
    return proven(options).snapshot


@pytest.fixture
def psnr() -> Callable[[bytes, bytes], float]:
    import io  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    def measure(one: bytes, other: bytes) -> float:
        pixels = [np.asarray(Image.open(io.BytesIO(png)), dtype=np.float64) for png in (one, other)]
        error = float(((pixels[0] - pixels[1]) ** 2).mean())
        return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))

    return measure
