"""What came of an admission, for people and for machines."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rollout.model.admission import AdmissionReport, Finding
from rollout.model.reasons import REASONS
from rollout.model.verdict import Severity


def as_lines(report: AdmissionReport) -> Iterator[str]:
    """Yield the outcome, then one line for each finding, and the remedy of each code that blocks."""
    explained = set()
    yield f"rollout: {'admitted' if report.admitted else 'refused'} by policy {report.policy}"
    for one in report.findings:
        yield f"  {one.severity:5} {one.code}: {one.text}"
        if one.severity is Severity.BLOCK and one.code not in explained:
            explained.add(one.code)
            yield f"        {REASONS[one.code].remedy}"


def as_json(report: AdmissionReport, *, bytes_max: int | None = None) -> str:
    """Return the outcome as one JSON object.

    Args:
        report: What came of it.
        bytes_max: Leave out the last findings, and say so, until it fits; None: all are told.
    """
    for count in range(len(report.findings), -1, -1):
        text = json.dumps(_told(report, report.findings[:count]), ensure_ascii=False)
        if bytes_max is None or len(text.encode()) <= bytes_max:
            break
    return text


def _told(report: AdmissionReport, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "schema": report.schema_,
        "policy": report.policy,
        "admitted": report.admitted,
        "snapshot_digest": "" if report.snapshot is None else report.snapshot.digest,
        "findings": [one.model_dump(mode="json") for one in findings],
        "left_out": len(report.findings) - len(findings),
    }
