"""The recipes of docs/judge.md, run as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.cli.pairs_file import Columns, read_pairs

TEXT = (Path(__file__).parents[3] / "docs/judge.md").read_text()


@pytest.fixture
def recipe(tmp_path):
    def cook(name, *files):
        code = re.search(rf"<!-- recipe: {name} -->\n```python\n(.*?)```", TEXT, re.DOTALL)
        paths = []
        for number, text in enumerate(files):
            paths.append(tmp_path / str(number))
            paths[-1].write_text(text)
        ran = subprocess.run([sys.executable, "-c", code[1], *paths], capture_output=True, text=True, check=False)
        if ran.returncode:
            return ran.stderr
        out = tmp_path / "pairs.csv"
        out.write_text(ran.stdout)
        return read_pairs(out, Columns())

    return cook


def test_two_files_are_joined_by_prompt_and_turn(recipe):
    head = "prompt,latency_s,status\n"
    blue = head + "a,0.1,ok\nb,0.2,ok\na,0.3,ok\n"
    found = recipe("join", blue, head + "b,0.4,ok\na,0.5,ok\na,9,timeout\n")
    assert found.blue_s.tolist() == [0.1, 0.2, 0.3]
    assert found.green_s.tolist() == [0.5, 0.4, float("inf")]
    assert "without a partner" in recipe("join", blue, head + "a,0.5,ok\n")


def test_a_k6_export_becomes_pairs(recipe):
    head = "metric_name,timestamp,metric_value,status,extra_tags\n"
    rows = [
        "http_reqs,1,1,200,colour=blue&prompt=a&turn=0",
        "http_req_duration,1,100,200,colour=blue&prompt=a&turn=0",
        "http_req_duration,1,110,200,colour=green&prompt=a&turn=0",
        "http_req_duration,2,5,503,colour=green&prompt=b&turn=1",
        "http_req_duration,2,90,200,colour=blue&prompt=b&turn=1",
    ]
    found = recipe("k6", head + "\n".join(rows) + "\n")
    assert found.blue_s.tolist() == [0.1, 0.09]
    assert found.green_s.tolist() == [0.11, float("inf")]


def test_two_exports_of_perf_analyzer_become_pairs(recipe):
    def export(*ends):
        requests = [{"timestamp": 10**9, "response_timestamps": one} for one in ends]
        return json.dumps({"experiments": [{"requests": requests}]})

    found = recipe("perf_analyzer", export([2 * 10**9], [3 * 10**9]), export([15 * 10**8, 4 * 10**9], []))
    assert found.blue_s.tolist() == [1.0, 2.0]
    assert found.green_s.tolist() == [3.0, float("inf")]
    assert "no common order" in recipe("perf_analyzer", export([1]), export())
