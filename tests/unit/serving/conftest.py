from collections.abc import Callable
from pathlib import Path

import pytest

from rollout.serving.engines.ort import OrtEngine, load_ort
from rollout.serving.options import ServeOptions


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model-cache")


@pytest.fixture(scope="session")
def options(cache: Path) -> ServeOptions:
    return ServeOptions(port=1, pod_uid="unit", cache=cache)


@pytest.fixture(scope="session")
def model(options: ServeOptions) -> OrtEngine:
    return load_ort(options)


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
