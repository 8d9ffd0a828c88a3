"""A real NVIDIA GPU and a CUDA build of torch, or these tests say what is missing."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))


@pytest.fixture(scope="session", autouse=True)
def cuda():
    torch = pytest.importorskip("torch", reason="the diffusers extra is not installed")
    pytest.importorskip("diffusers", reason="the diffusers extra is not installed")
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no CUDA device")
    return torch
