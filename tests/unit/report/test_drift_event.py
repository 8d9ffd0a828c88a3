import json

import pytest

from rollout.report.drift_event import drift_event
from rollout.report.summary import summarise


def event_of(book, names):
    summary = summarise(book.run(), book.records, names=names, cost=None)
    return drift_event(summary, alarm="median", bundle="/state/runs/r", at=1_767_323_045.25, exit_code=3)


def test_event_says_who_drifted_by_how_much_and_where_the_evidence_is(story, names):
    event = event_of(story("drifted"), names)
    assert {key: value for key, value in event.items() if key != "data"} == {
        "specversion": "1.0",
        "id": "r000005-verify-sdxl-8",
        "type": "io.rollout.drift.confirmed",
        "source": "/rollout/sdxl",
        "subject": "sdxl-7",
        "time": "2026-01-02T03:04:05.250Z",
        "datacontenttype": "application/json",
    }
    data = event["data"]
    assert (data["run"], data["bundle"], data["outcome"]) == ("r000005-verify-sdxl-8", "/state/runs/r", "drifted")
    ratio = {key: data["ratio"][key] for key in ("value", "lower", "upper")}
    assert ratio == {"value": 1.2, "lower": 1.17, "upper": 1.25}
    assert data["suspects"][0]["difference"] == "runtime.ort.graph_optimization: all -> disabled"


@pytest.mark.parametrize(
    ("name", "kind"), [("verified", "cleared"), ("drifted", "confirmed"), ("refused", "undecided")]
)
def test_type_of_the_event_is_what_became_of_the_alarm(story, names, name, kind):
    assert event_of(story(name), names)["type"] == f"io.rollout.drift.{kind}"


def test_event_is_one_line_of_json_whatever_a_server_said(every_story, names):
    line = json.dumps(event_of(every_story, names), allow_nan=False)
    assert "\n" not in line
