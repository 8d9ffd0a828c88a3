"""docs/smoke.md shows commands that exist, in snippets that parse."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from rollout.cli.commands.smoke import smoke

PAGE = (Path(__file__).parents[3] / "docs" / "smoke.md").read_text()


def commands():
    shown = [line.partition("#")[0] for line in PAGE.splitlines() if line.startswith("rollout smoke")]
    github, gitlab = (yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    return [*shown, github["jobs"]["smoke"]["steps"][1]["run"], *gitlab["smoke"]["script"]]


@pytest.mark.parametrize("line", commands())
def test_every_command_on_the_page_is_understood(line):
    words = shlex.split(line)
    assert words[:2] == ["rollout", "smoke"]
    with smoke.make_context("smoke", words[2:]) as context:
        assert context.params["policy_path"]
