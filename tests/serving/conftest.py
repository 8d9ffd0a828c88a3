"""Fixtures of the tests in which real GPU libraries meet a doubled driver.

They need onnxruntime-gpu, nvidia-cuda-runtime, nvidia-ml-py and gcc, and skip with the reason where one is missing.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))


@pytest.fixture(scope="session")
def parts(pytestconfig: pytest.Config) -> Path:
    """Folder of what fault worlds are made of: compiled once and downloaded once, for all runs of this checkout."""
    return pytestconfig.cache.mkdir("fault-worlds")
