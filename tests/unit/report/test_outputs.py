"""Markdown, JUnit and JSON: read back by independent readers where there is one."""

import html
import json
import re
import time
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from rollout.errors import InvariantError
from rollout.gates.cause import Suspect
from rollout.model.verdict import GateResult, Outcome, Reason, combine
from rollout.report.as_json import SUMMARY_SCHEMA, plain, to_json
from rollout.report.junit import error_xml, junit_xml, verdict_xml
from rollout.report.markdown import escaped, markdown
from rollout.report.summary import summarise
from rollout.report.words import evidence, interval, milliseconds, printable, ratio, seconds

HOSTILE = (
    "a|b",
    "`code`",
    "<script>alert(1)</script>",
    "[text](http://evil.example)",
    "![x](y)",
    "line\nbreak\r\n\r\n# heading",
    "*bold* _it_ ~~no~~ $x$",
    "\\| trailing \\",
    "@octocat #12 www.evil.example",
    "<!-- comment",
    "\x00\x1b[31m\x85\u2028\u202e\ud800\ufffe",
    "- item",
    "1. item",
    "",
)


def summary_of(book, names):
    return summarise(book.run(), book.records, names=names, cost=None)


def hostile(summary, text):
    reason = summary.reasons[0].model_copy(update={"text": text})
    return {
        "headline": text,
        "reasons": (reason,),
        "requested_by": text,
        "suspects": (Suspect(difference=text, score=0.5, why=text, settles=text),),
        "unsettled": text,
    }


def with_fields(summary, fields):
    return replace(summary, **fields)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_does_not_change_the_structure_of_the_markdown(story, names, text):
    summary = summary_of(story("latency_rollback"), names)
    tame = markdown(with_fields(summary, hostile(summary, "tame")))
    wild = markdown(with_fields(summary, hostile(summary, text)))
    assert structure(wild) == structure(tame)


def structure(document):
    """What opens a block on each line, and every character that can open an inline structure."""
    lines = [re.match(r"(#+ |\| |- |\*\*|)", line)[0] + str(line.count("|")) for line in document.splitlines()]
    inline = re.sub(r"&#\d+;", "", document)
    return lines, sorted(one for one in inline if one in "<>`[]\\*_~$@")


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_is_what_a_reader_sees(text):
    assert html.unescape(escaped(text)) == printable(text)


def test_markdown_tables_have_as_many_cells_in_each_row(every_story, names):
    document = markdown(summary_of(every_story, names))
    for block in document.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_markdown_names_the_culprit(story, names):
    document = markdown(summary_of(story("latency_rollback"), names))
    assert "Most likely culprit: **runtime.ort.graph&#95;optimization: all -&#62; disabled**" in document
    assert "To settle it: start the release a second time with" in document


def test_markdown_is_the_same_in_every_time_zone(story, names, monkeypatch):
    summary = summary_of(story("promotion"), names)
    here = markdown(summary)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert markdown(summary) == here
    finally:
        monkeypatch.undo()
        time.tzset()


def parsed(document):
    return ET.fromstring(document)  # noqa: S314 - written a line before


def cases_of(book, names):
    suite = parsed(junit_xml(summary_of(book, names)))
    return suite, {(one.get("classname"), one.get("name")): [child.tag for child in one] for one in suite}


def test_junit_breach_is_a_failure_and_what_was_not_reached_is_skipped(story, names):
    _, cases = cases_of(story("latency_rollback"), names)
    assert cases["sdxl.run", "outcome"] == ["failure"]
    assert cases["sdxl.canary", "latency"] == ["failure"]
    assert cases["sdxl.canary", "errors"] == ["system-out"]
    assert cases["sdxl.soak", "skipped"] == ["skipped"]


@pytest.mark.parametrize("text", HOSTILE)
def test_junit_of_a_lone_verdict_has_a_case_for_each_gate_whatever_a_server_said(text):
    gates = tuple(
        GateResult(gate=one.value.lower(), outcome=one, reasons=(Reason(code="said", text=text),)) for one in Outcome
    )
    suite = parsed(verdict_xml(combine("smoke", gates), subject=text, seconds=1.5))
    assert [(one.get("name"), one[0].tag) for one in suite] == [
        ("pass", "system-out"),
        ("breach", "failure"),
        ("inconclusive", "error"),
    ]
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {"tests": "3", "failures": "1", "errors": "1", "skipped": "0", "time": "1.500"}
    assert sum(float(one.get("time")) for one in suite) == 1.5


@pytest.mark.parametrize("text", HOSTILE)
def test_junit_of_what_came_to_no_verdict_is_one_error(text):
    suite = parsed(error_xml("smoke", subject=text, type_="EvidenceError", message=text))
    assert (suite.get("tests"), suite.get("errors"), suite[0][0].get("type")) == ("1", "1", "EvidenceError")


def test_junit_inconclusive_is_an_error(story, names):
    _, cases = cases_of(story("inconclusive"), names)
    assert cases["sdxl.canary", "latency"] == ["error"]


def test_junit_interrupted_stage_is_an_error(story, names):
    suite, cases = cases_of(story("abort"), names)
    assert cases["sdxl.canary", "verdict"] == ["error"]
    assert suite.find(".//error").get("type") == "interrupted"


def test_junit_is_red_exactly_where_the_run_did_not_do_what_was_asked(every_story, names):
    suite, cases = cases_of(every_story, names)
    red = int(suite.get("failures")) + int(suite.get("errors"))
    assert (red > 0) is (not to_json(summary_of(every_story, names))["wanted"])
    assert (cases["sdxl.run", "outcome"] != []) is (red > 0)


def test_junit_counts_and_times_add_up(every_story, names):
    suite, _ = cases_of(every_story, names)
    assert int(suite.get("tests")) == len(suite)
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(attribute)) == len(suite.findall(f"testcase/{tag}"))


def test_junit_names_are_unique(every_story, names):
    suite, cases = cases_of(every_story, names)
    assert len(cases) == len(suite)


@pytest.mark.parametrize("text", HOSTILE)
def test_junit_with_hostile_text_is_well_formed(story, names, text):
    summary = summary_of(story("latency_rollback"), names)
    suite = parsed(junit_xml(with_fields(summary, hostile(summary, text))))
    assert suite.find("testcase/failure") is not None


def test_json_is_json_without_infinities(every_story, names):
    text = json.dumps(to_json(summary_of(every_story, names)), allow_nan=False)
    assert json.loads(text)["schema"] == SUMMARY_SCHEMA == "rollout.summary/v1"


def test_json_keys_of_the_first_schema_are_kept(story, names):
    told = to_json(summary_of(story("latency_rollback"), names))
    assert set(told) >= {
        "schema", "wanted", "run_id", "stack", "kind", "ending", "phase", "headline", "reasons", "differences",
        "suspects", "stacks", "stages", "timeline", "weights", "overhead", "commands", "requested_by", "started_at",
        "ended_at", "seconds", "unsettled",
    }  # fmt: skip
    canary = next(one for one in told["stages"] if one["stage"] == "canary")
    assert set(canary) >= {
        "stage", "outcome", "requests", "seconds", "p50", "tail", "incumbent_s", "candidate_s", "incumbent_failed",
        "candidate_failed", "candidate_stopped", "psnr_db", "live", "gates", "reasons", "note",
    }  # fmt: skip
    assert canary["tail"]["upper"] == "inf"
    assert canary["live"] == {"absent": "no live requests were counted"}


def test_value_without_a_json_form_is_refused():
    with pytest.raises(InvariantError, match="set has no JSON form"):
        plain({1, 2})


def test_printable_text_is_one_short_line_that_commands_nothing():
    shown = printable("a\x1b[31m\nb\t" + "x" * 5000)
    assert shown.startswith("a\\x1b[31m b xxx")
    assert len(shown) == 600
    assert shown.endswith("...")
    assert printable("\u202eab\ud800") == "\\u202eab\\ud800"


def test_numbers_are_written_as_people_read_them():
    assert interval(1.4234, lower=1.2912, upper=1.5499) == "x1.42 [1.29, 1.55]"
    assert interval(float("inf"), lower=1.6, upper=float("inf")) == "over x1.6"
    assert interval(float("inf"), lower=float("inf"), upper=float("inf")) == "without any answer in time"
    assert [ratio(one) for one in (0.71349, 12.34, 1234.5)] == ["x0.713", "x12.3", "x1234"]
    assert [evidence(one) for one in (0.0312, 12.4, 1e9, float("inf"))] == ["0.031", "12", ">9999", ">9999"]
    assert [seconds(one) for one in (0.25, 59.6, 125, 7260)] == ["0.2 s", "60 s", "2 min 5 s", "2 h 1 min"]
    assert [milliseconds(one) for one in (0.0021, 1.5, float("inf"))] == ["2.1 ms", "1500 ms", "not in time"]
