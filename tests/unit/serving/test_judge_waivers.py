"""Waivers at admission: what blocks is told and let pass, until the waiver's last day."""

from datetime import date

import pytest

from rollout.files.load import load_admission
from rollout.model.snapshot import CapabilitySnapshot, failed
from rollout.model.verdict import Severity
from rollout.model.waiver import Waiver
from rollout.serving.judge import judge

FIELD = "packages.rivals"


@pytest.mark.parametrize(
    ("until", "severity", "told"),
    [
        ("2026-11-01", Severity.INFO, "(waived until 2026-11-01 by ops: TICKET-1)"),
        ("2026-10-31", Severity.BLOCK, "(the waiver by ops ended 2026-10-31)"),
    ],
)
@pytest.mark.parametrize("what", [FIELD, "packages.*"])
def test_waived_finding_passes_until_the_waiver_ends_and_says_so(what, until, severity, told):
    waiver = Waiver(what=what, who="ops", why="TICKET-1", until=date.fromisoformat(until))
    policy = load_admission("development-cpu").policy.model_copy(update={"waivers": [waiver]})
    snapshot = CapabilitySnapshot(schema="rollout.snapshot/v1", fields={FIELD: failed("a test", "crashed")})
    findings = judge(policy, snapshot=snapshot, failure=None, versions=(), today=date(2026, 11, 1))
    (found,) = [one for one in findings if one.field == FIELD]
    assert found.severity is severity
    assert found.text.endswith(told)
    assert {one.severity for one in findings if one.field == "runtime.messages.fallback"} == {Severity.BLOCK}
