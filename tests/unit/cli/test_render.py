import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from rollout.cli.render import (
    SlotRow,
    Status,
    history_row,
    render_diff,
    render_history,
    render_smoke,
    render_status,
    render_summary,
)
from rollout.gates.differences import Difference
from rollout.model.inventory import Absent, LiveCounters
from rollout.model.reasons import REASONS
from rollout.model.roles import Slot, Weights
from rollout.model.verdict import GateResult, Outcome, Reason, Severity, combine
from rollout.report.smoke import Smoked, smoke_json
from rollout.report.summary import summarise

WIDTHS = [1, 3, 9, 20, 40, 72, 80, 120, 200]


def page(*, columns, is_terminal, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    # The same options that the commands use.
    console = Console(
        file=file,
        width=columns,
        force_terminal=is_terminal,
        highlight=False,
        soft_wrap=not is_terminal,
        color_system="standard" if is_terminal else None,
        _environ={"TERM": "xterm"},
    )
    return console, lambda: file.buffer.getvalue().decode(encoding)


def piped(render, *args):
    console, text = page(columns=120, is_terminal=False)
    render(console, *args)
    return text()


def summary_of(book, names):
    return summarise(book.run(), book.records, names=names, cost=None)


@pytest.fixture
def status(story, names, markup):
    blue = SlotRow(
        slot=Slot.BLUE,
        release="sdxl-7",
        instances=1,
        ready=1,
        restarts=0,
        detail="",
        live=LiveCounters(completed=100, failed=0, active=2),
    )
    green = SlotRow(
        slot=Slot.GREEN,
        release=Absent(reason="empty"),
        instances=2,
        ready=1,
        restarts=3,
        detail=markup,
        live=Absent(reason="no router"),
    )
    return Status(
        stack="sdxl",
        serving=Slot.BLUE,
        traffic=Weights(blue=90, green=10),
        slots=(blue, green),
        standby_s=30.0,
        run=summary_of(story("unfinished"), names),
    )


@pytest.fixture
def differences():
    return (
        Difference(
            key="gpu.product", before="NVIDIA H200", after="absent", code="gpu_changed", severity=Severity.BLOCK
        ),
        Difference(
            key="runtime.ort.providers.actual",
            before="TensorrtExecutionProvider, CUDAExecutionProvider, CPUExecutionProvider",
            after="[red]CPUExecutionProvider[/red]",
            code="provider_dropped",
            severity=Severity.BLOCK,
        ),
        Difference(
            key="model.weights.digest", before="a" * 64, after="b" * 64, code="model_changed", severity=Severity.WARN
        ),
    )


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_summary_is_drawn_at_every_width(every_story, names, columns, is_terminal):
    console, text = page(columns=columns, is_terminal=is_terminal)
    render_summary(console, summary_of(every_story, names))
    assert text()


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_other_pages_are_drawn_at_every_width(status, differences, columns, is_terminal):
    console, text = page(columns=columns, is_terminal=is_terminal)
    render_history(console, [history_row(status.run)])
    render_status(console, status)
    render_diff(console, differences)
    assert text()


def test_piped_pages_stay_within_80_columns_and_hold_no_escapes(every_story, names, status, differences):
    text = piped(render_summary, summary_of(every_story, names))
    text += piped(render_history, [history_row(summary_of(every_story, names))])
    text += piped(render_status, status) + piped(render_diff, differences)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert text.isascii()
    assert not [line for line in text.splitlines() if line != line.rstrip()]


@pytest.fixture
def smoked():
    """A server that is slow for a reason that is known."""
    changed = [("capability_changed", "runtime.ort.session_lifetime: shared -> per-request")] * 14
    gates = [("capabilities", Outcome.PASS, changed), ("drift", Outcome.BREACH, [("latency_drifted", "x3.1 " * 40)])]
    verdict = combine(
        "smoke",
        tuple(
            GateResult(
                gate=gate,
                outcome=outcome,
                reasons=tuple(Reason(code=code, text=text) for code, text in reasons),
                figures={"p50_ratio": 3.1, "p50_ratio_lower": 2.9, "p50_ratio_upper": 3.3, "p50_ratio_max": 1.6},
            )
            for gate, outcome, reasons in gates
        ),
    )
    digest = "sha256:" + "a" * 64
    return Smoked(
        subject="slow",
        policy="quick",
        verdict=verdict,
        release=digest,
        snapshot=digest,
        baseline=Absent(reason="none was given"),
        written="",
        requests=30,
        seconds=4.2,
    )


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_smoke_page_is_drawn_at_every_width(smoked, columns, is_terminal):
    console, text = page(columns=columns, is_terminal=is_terminal)
    render_smoke(console, smoked)
    assert text()


def test_smoke_page_names_the_gates_that_decided_and_the_culprit_within_80_columns(smoked):
    text = piped(render_smoke, smoked)
    assert text.splitlines()[0] == "BREACH: drift"
    assert "culprit   most likely runtime.ort.session_lifetime: shared -> per-request" in text
    assert "and 2 more; --output json has all" in text
    assert f"snapshot  {'a' * 64}\n" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text


def test_smoke_json_names_what_is_absent_and_why(smoked):
    told = json.loads(json.dumps(smoke_json(smoked)))
    assert (told["schema"], told["outcome"], told["baseline"]) == (
        "rollout.smoke/v1",
        "BREACH",
        {"absent": "none was given"},
    )
    assert [one["gate"] for one in told["gates"]] == ["capabilities", "drift"]
    assert told["suspects"][0]["difference"] == "runtime.ort.session_lifetime: shared -> per-request"


def test_summary_names_culprit_intervals_and_what_was_skipped(story, names):
    text = piped(render_summary, summary_of(story("latency_rollback"), names))
    assert text.splitlines()[0] == "rolled back after 3 pairs: tail latency x1.39 [1.36, inf] of the history's,"
    assert "culprit   most likely runtime.ort.graph_optimization: all -> disabled" in text
    assert "settle    start the release a second time with `--graph-optimization all` and" in text
    assert "canary     BREACH   3      x1.39 [0, inf]             x1.39 [1.36, inf]" in text
    assert "soak       skipped  -      the run ended before it" in text


def test_difference_of_a_promoted_release_is_told_without_calling_it_a_culprit(story, names):
    text = piped(render_summary, summary_of(story("promotion"), names))
    assert "differs   runtime.ort.version: 1.20.1 -> 1.21.0" in text
    assert "culprit" not in text


def test_narrow_terminal_gets_lines_that_keep_every_interval_whole(story, names):
    console, text = page(columns=40, is_terminal=True)
    render_summary(console, summary_of(story("promotion"), names))
    assert "median x0.798 [0.791, 0.806]" in text()


def test_markup_is_shown_and_not_obeyed(story, names, status, differences):
    text = piped(render_summary, summary_of(story("abort"), names)) + piped(render_status, status)
    assert "[red]no[/red]" in text.replace("\n", "")
    assert "\\x1b[31m" in text
    assert "[red]CPUExecutionProv" in piped(render_diff, differences)


def test_diff_tells_severity_code_and_change_and_the_remedy_of_what_blocks(differences):
    text = piped(render_diff, differences)
    assert "block  gpu_changed       gpu.product: NVIDIA H200 -> absent\n" in text
    assert "remedy" in text
    assert REASONS["gpu_changed"].remedy[:40] in text
    assert REASONS["model_changed"].remedy[:40] not in text


def test_run_id_of_usual_length_stays_whole_in_the_history(story, names):
    rows = [history_row(summary_of(story(name), names)) for name in ("bootstrap", "abort")]
    text = piped(render_history, rows)
    assert "r000001-bootstrap-sdxl-7  2026-01-02 03:04  11 s" in text


def test_empty_history_and_equal_snapshots_are_said_in_words():
    assert piped(render_history, []) == "no run yet\n"
    assert piped(render_diff, []) == "no capability differs\n"


def test_unknown_traffic_is_told_with_its_reason(status):
    text = piped(render_status, replace(status, traffic=Absent(reason="the router does not answer")))
    assert "traffic   unknown: the router does not answer" in text


def test_pages_can_be_drawn_on_a_terminal_without_unicode(story, names, status):
    console, text = page(columns=80, is_terminal=True, encoding="ascii")
    render_summary(console, summary_of(story("promotion"), names))
    render_status(console, status)
    assert text().isascii()


def test_status_and_history_are_json(status, story, names):
    told = json.loads(json.dumps(status.to_json(), allow_nan=False))
    assert told["traffic"] == {"blue": 90, "green": 10}
    assert told["slots"][1]["release"] == {"absent": "empty"}
    assert told["run"]["schema"] == "rollout.summary/v1"
    row = json.loads(json.dumps(history_row(summary_of(story("abort"), names)).to_json(), allow_nan=False))
    assert (row["ending"], row["wanted"]) == ("rolled back", False)


def test_looking_at_a_stack_loads_no_scipy():
    """It takes a third of what `rollout status` may take."""
    program = "import sys, rollout.cli.render, rollout.cli.survey; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
