"""The journals of tests/unit/report, for what shows them on a terminal."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "rollout_test_stories", Path(__file__).parents[1] / "report" / "conftest.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
_STORIES = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _STORIES
_SPEC.loader.exec_module(_STORIES)


@pytest.fixture(name="story")
def _story() -> Callable[[str], Any]:
    return _STORIES.story


@pytest.fixture(params=sorted(_STORIES.STORIES))
def every_story(request: pytest.FixtureRequest) -> Any:
    return _STORIES.story(request.param)


@pytest.fixture(name="names")
def _names() -> Any:
    return _STORIES.NAMES


@pytest.fixture
def new_book() -> Callable[[], Any]:
    return _STORIES.Book


@pytest.fixture(name="markup")
def _markup() -> str:
    return str(_STORIES.MARKUP)
