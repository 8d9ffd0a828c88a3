"""Fixtures of the tests in which real GPU libraries meet a doubled driver.

They need onnxruntime-gpu, nvidia-cuda-runtime, nvidia-ml-py and gcc, and skip with the reason where one is missing.
"""

import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))


@pytest.fixture(scope="session")
def parts(pytestconfig: pytest.Config) -> Path:
    """Folder of what fault worlds are made of: compiled once and downloaded once, for all runs of this checkout."""
    return pytestconfig.cache.mkdir("fault-worlds")


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
