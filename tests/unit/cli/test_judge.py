"""`rollout judge`: a file of pairs becomes a verdict, an exit code, and a picture."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rollout.cli.app import run
from rollout.report.judgement_plot import narrowing_lines, trace
from rollout.stats.margins import STANDARD
from rollout.stats.paired import judge_pairs

ROOT = Path(__file__).parents[3]
SVG = "{http://www.w3.org/2000/svg}"


def _world(effect, *, pairs=400, cv=0.05, failed=0):
    rng = np.random.default_rng(7)
    heavy = 0.12 * np.exp(rng.normal(0, 0.5, pairs))
    blue = heavy * np.exp(rng.normal(0, cv, pairs))
    green = effect * heavy * np.exp(rng.normal(0, cv, pairs))
    green[:failed] = np.inf
    return blue, green, np.exp(rng.normal(0, cv * 2**0.5, 300))


@pytest.fixture
def pairs(tmp_path):
    def write(effect, *, history=300, **world):
        blue, green, aa = _world(effect, **world)
        rows = max(len(blue), history)
        columns = [[repr(float(one)) for one in series] for series in (blue, green, aa[:history])]
        filled = [column + [""] * (rows - len(column)) for column in columns]
        path = tmp_path / "pairs.csv"
        path.write_text("\n".join(["blue_s,green_s,aa_ratio", *map(",".join, zip(*filled, strict=True)), ""]))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("world", "code", "outcome"),
    [
        ({"effect": 1.0}, 0, "PASS"),
        ({"effect": 1.3}, 3, "BREACH"),
        ({"effect": 1.0, "failed": 5}, 3, "BREACH"),
        ({"effect": 1.0, "pairs": 20}, 4, "INCONCLUSIVE"),
    ],
)
def test_the_exit_code_is_the_verdicts_and_a_pipe_gets_plain_text_of_80_columns(pairs, capsys, world, code, outcome):
    assert run(["judge", pairs(**world), "--profile", "standard"]) == code
    told = capsys.readouterr().out
    assert told.startswith(outcome)
    assert max(map(len, told.splitlines())) <= 80
    assert "\x1b" not in told


def test_a_history_of_its_own_file_gives_the_same_verdict(pairs, tmp_path, capsys):
    run(["judge", pairs(1.0), "--output", "json"])
    together = json.loads(capsys.readouterr().out)
    history = tmp_path / "aa.csv"
    history.write_text("\n".join(["aa_ratio", *(repr(float(one)) for one in _world(1.0)[2]), ""]))
    path = Path(pairs(1.0, history=0))
    path.write_text(path.read_text().replace(",\n", "\n").replace(",aa_ratio", ""))
    run(["judge", str(path), "--aa", str(history), "--output", "json"])
    assert json.loads(capsys.readouterr().out) == together


def test_json_is_the_judgement_of_the_library(pairs, capsys):
    path = pairs(1.0)
    assert run(["judge", path, "--profile", "standard", "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    blue, green, aa = _world(1.0)
    known = judge_pairs(blue, green, aa_ratio=aa, profile="standard")
    assert told["schema"] == "rollout.judgement/v1"
    assert (told["outcome"], told["pairs_used"]) == (known.outcome.value, known.pairs_used)
    assert told["p50_ratio"]["value"] == known.p50_ratio.value
    assert told["gates"][0]["e_promote_max"] == known.gates[0].e_promote_max
    assert (told["pairs_given"], told["aa_pairs"]) == (400, 300)


def test_pairs_beyond_the_budget_are_not_judged(pairs, capsys):
    assert run(["judge", pairs(1.0), "--budget", "7", "--output", "json"]) == 4
    assert json.loads(capsys.readouterr().out)["pairs_used"] == 7


def test_a_policy_states_margins_rates_and_budget_and_an_option_overrides_them(pairs, capsys):
    policy = str(ROOT / "policies/local.yaml")
    run(["judge", pairs(1.0), "--policy", policy, "--beta", "0.05", "--output", "json"])
    told = json.loads(capsys.readouterr().out)["judged_by"]
    assert told["margins"]["p50_ratio_max"] == 1.15
    assert (told["alpha"], told["beta"], told["budget"], told["name"]) == (0.01, 0.05, 300, "local")


def test_a_history_that_is_too_short_says_how_many_are_missing_and_is_no_pass(pairs, capsys):
    assert run(["judge", pairs(1.0, history=40)]) == 4
    assert "60 are missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--profile", "strict", "--policy", "x"], "give one of them"),
        (["--alpha", "2"], "alpha is 2"),
        (["--budget", "0"], "budget is 0"),
        (["--aa", "nowhere.csv"], "--aa names another"),
        (["--plot", "/nowhere/at/all.svg"], "the plot cannot be written"),
    ],
)
def test_options_that_cannot_be_used_are_refused(pairs, capsys, argv, says):
    assert run(["judge", pairs(1.0), *argv]) == 2
    assert says in capsys.readouterr().err


def test_a_file_without_a_history_is_refused(tmp_path, capsys):
    path = tmp_path / "pairs.csv"
    path.write_text("blue_s,green_s\n1,1\n")
    assert run(["judge", str(path)]) == 2
    assert "holds no A/A history" in capsys.readouterr().err


@pytest.mark.parametrize(("effect", "failed"), [(1.0, 0), (1.3, 0), (1.0, 400)])
def test_the_plot_is_one_accessible_file_without_outside_resources(pairs, tmp_path, effect, failed):
    path = tmp_path / "plot.svg"
    run(["judge", pairs(effect, failed=failed), "--plot", str(path), "--output", "json"])
    text = path.read_text()
    root = ET.fromstring(text)  # noqa: S314 - we wrote it
    assert root.get("role") == "img"
    assert {root.find(f"{SVG}{name}").get("id") for name in ("title", "desc")} == set(
        root.get("aria-labelledby").split()
    )
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"href|url\(|@import|<script", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"nan|inf\b", "".join(one.get("points", "") for one in root.iter()))


def test_the_trace_ends_at_the_judgement():
    blue, green, aa = _world(1.0)
    judged = judge_pairs(blue, green, aa_ratio=aa, profile=STANDARD)
    points = trace(
        judged, blue_s=blue, green_s=green, aa_ratio=aa, margins=STANDARD, alpha=0.01, beta=0.01, block_pairs=1
    )
    last = points[-1]
    assert (last.pairs, last.value) == (judged.pairs_used, judged.p50_ratio.value)
    assert (last.lower, last.upper) == (judged.p50_ratio.bounds.lower, judged.p50_ratio.bounds.upper)
    widths = [one.upper - one.lower for one in points]
    assert widths[-1] < widths[len(widths) // 2]


def test_the_drawing_for_a_terminal_fits_and_shows_the_margin_in_every_line():
    blue, green, aa = _world(1.3)
    judged = judge_pairs(blue, green, aa_ratio=aa, profile=STANDARD)
    points = trace(
        judged, blue_s=blue, green_s=green, aa_ratio=aa, margins=STANDARD, alpha=0.01, beta=0.01, block_pairs=1
    )
    lines = narrowing_lines(points, margin=1.05, columns=76)
    assert 3 <= len(lines) <= 9
    assert all(len(line) <= 76 for line in lines)
    assert all("┊" in line or "●" in line for line in lines)
    assert lines[-2].startswith(f"{judged.pairs_used:6}")
