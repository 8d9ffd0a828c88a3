"""Summaries and verdicts as JUnit XML, which every CI system shows."""

import re
from xml.etree import ElementTree as ET

from rollout.model.verdict import GateResult, Outcome, Reason, Verdict
from rollout.report.headline import Ending, is_wanted
from rollout.report.stages import StageOutcome, StageRow
from rollout.report.summary import Summary

# What XML 1.0 section 2.2 leaves out, lone surrogates included: no escape makes these legal.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_ERRORS = frozenset({Ending.REFUSED, Ending.UNDECIDED, Ending.UNFINISHED})
"""Endings that say nothing about the candidate's performance."""


def junit_xml(summary: Summary) -> bytes:
    """Return one test suite as UTF-8: a case for how the run ended, then one for each gate of each stage.

    BREACH is a failure, INCONCLUSIVE and an interrupted stage are errors, a stage that was never reached is skipped.
    The case `outcome` fails whenever the run did not do what was asked, so that no run is green because it never
    came to a gate.
    """
    cases = [_outcome_case(summary)]
    for row in summary.stages:
        cases += _stage_cases(summary, row)
    return _suite(f"rollout {summary.run_id}", cases, summary.seconds)


def verdict_xml(verdict: Verdict, *, subject: str, seconds: float) -> bytes:
    """Return one test suite as UTF-8 with a case for each gate; the suite's time stands at the first."""
    where = f"{subject}.{verdict.stage}"
    cases = [_gate_case(where, gate, seconds=0.0 if place else seconds) for place, gate in enumerate(verdict.gates)]
    return _suite(f"rollout {verdict.stage} {subject}", cases, seconds)


def error_xml(stage: str, *, subject: str, type_: str, message: str) -> bytes:
    """Return one test suite as UTF-8 for what came to no verdict: its one case is an error."""
    case = _case(f"{subject}.{stage}", "verdict", 0.0)
    _add(case, "error", type_, message, ())
    return _suite(f"rollout {stage} {subject}", [case], 0.0)


def _suite(name: str, cases: list[ET.Element], seconds: float) -> bytes:
    suite = ET.Element("testsuite", {"name": _legal(name)})
    counts = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error", "skipped")}
    suite.attrib |= {
        "tests": str(len(cases)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skipped"]),
        "time": f"{seconds:.3f}",
    }
    suite.extend(cases)
    encoded: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return encoded


def _outcome_case(summary: Summary) -> ET.Element:
    case = _case(f"{summary.stack}.run", "outcome", summary.seconds)
    if is_wanted(summary.ending, summary.kind):
        return case
    culprit = (
        Reason(code="most_likely_culprit", text=f"{one.difference}; {one.why}; to settle it: {one.settles}")
        for one in summary.suspects[:1]
        if one.score
    )
    kind = "error" if summary.ending in _ERRORS else "failure"
    _add(case, kind, summary.ending.value.replace(" ", "_"), summary.headline, (*summary.reasons, *culprit))
    return case


def _stage_cases(summary: Summary, row: StageRow) -> list[ET.Element]:
    where = f"{summary.stack}.{row.stage}"
    if row.outcome in {StageOutcome.SKIPPED, StageOutcome.MEASURED}:
        case = _case(where, row.outcome.value, row.seconds)
        if row.outcome is StageOutcome.SKIPPED:
            ET.SubElement(case, "skipped", {"message": _legal(row.note)})
        return [case]
    if row.outcome is StageOutcome.INTERRUPTED:
        case = _case(where, "verdict", row.seconds)
        _add(case, "error", "interrupted", row.note, row.reasons)
        return [case]
    # The stage's time stands at its first case, so that the suite adds up.
    return [_gate_case(where, gate, seconds=0.0 if place else row.seconds) for place, gate in enumerate(row.gates)]


def _gate_case(where: str, gate: GateResult, *, seconds: float) -> ET.Element:
    case = _case(where, gate.gate, seconds)
    first = gate.reasons[0].text if gate.reasons else gate.outcome.value
    kind = {Outcome.BREACH: "failure", Outcome.INCONCLUSIVE: "error"}.get(gate.outcome)
    if kind is not None:
        _add(case, kind, gate.outcome.value, first, gate.reasons)
    else:
        out = ET.SubElement(case, "system-out")
        out.text = _legal(_lines(gate.reasons))
    return case


def _case(where: str, name: str, seconds: float) -> ET.Element:
    return ET.Element("testcase", {"classname": _legal(where), "name": _legal(name), "time": f"{seconds:.3f}"})


def _add(case: ET.Element, kind: str, type_: str, message: str, reasons: tuple[Reason, ...]) -> None:
    found = ET.SubElement(case, kind, {"type": _legal(type_), "message": _legal(message)})
    found.text = _legal(_lines(reasons))


def _lines(reasons: tuple[Reason, ...]) -> str:
    return "\n".join(f"{one.code}: {one.text}" for one in reasons)


def _legal(text: str) -> str:
    return _ILLEGAL.sub("", text)
