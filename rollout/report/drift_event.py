"""One event for people who are paged: what became of a drift alarm, in the shape of CloudEvents 1.0."""

from datetime import UTC, datetime
from typing import Any

from rollout.flow.run import DRIFT, RECHECK
from rollout.model.inventory import Absent
from rollout.report.as_json import plain
from rollout.report.headline import Ending
from rollout.report.summary import Summary

_TYPES = {Ending.DRIFTED: "confirmed", Ending.VERIFIED: "cleared"}
"""Every other ending of the run leaves the question open."""


def drift_event(summary: Summary, *, alarm: str, bundle: str, at: float, exit_code: int) -> dict[str, Any]:
    """Return the event.

    Args:
        summary: Of the `verify` run that the alarm led to.
        alarm: What raised the alarm: median, tail, failures, capabilities or instances.
        bundle: Where the run's evidence lies.
        at: Unix time in seconds.
        exit_code: Of that run.

    Source: CloudEvents 1.0.2, JSON event format.
    """
    stage = next((row for name in (RECHECK, DRIFT) for row in summary.stages if row.stage == name), None)
    unmeasured = Absent(reason="the run measured nothing")
    stack = next(one for one in summary.stacks if one.role.value == "incumbent")
    return {
        "specversion": "1.0",
        "id": summary.run_id,
        "type": f"io.rollout.drift.{_TYPES.get(summary.ending, 'undecided')}",
        "source": f"/rollout/{summary.stack}",
        "subject": stack.release.reason if isinstance(stack.release, Absent) else stack.release,
        "time": datetime.fromtimestamp(at, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {
            "run": summary.run_id,
            "bundle": bundle,
            "alarm": alarm,
            "outcome": summary.ending.value,
            "headline": summary.headline,
            "stage": plain(unmeasured if stage is None else stage.stage),
            "ratio": plain(unmeasured if stage is None else stage.p50),
            "slot": stack.slot.value,
            "suspects": plain(summary.suspects),
            "exit": exit_code,
        },
    }
