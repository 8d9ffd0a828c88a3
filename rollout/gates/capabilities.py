"""The capability gate: what the candidate proves about itself, and how that differs from the incumbent."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date
from fnmatch import fnmatchcase

from rollout.gates.differences import Difference, diff, heaviest_first
from rollout.gates.names import CAPABILITIES
from rollout.model.policy import CapabilityGate
from rollout.model.snapshot import Capability, CapabilitySnapshot, CapabilityStatus
from rollout.model.verdict import GateResult, Outcome, Reason, Severity
from rollout.model.waiver import waived


def judge_capabilities(
    policy: CapabilityGate,
    *,
    incumbent: CapabilitySnapshot | None,
    candidate: CapabilitySnapshot | None,
    problems: Mapping[str, str],
    compared: bool,
    today: date,
) -> GateResult:
    """Judge the candidate's snapshot by itself and against the incumbent's.

    Args:
        policy: Required fields, allowed differences and waivers.
        incumbent: None where it could not be read.
        candidate: None where it could not be read.
        problems: Role to the reason why its snapshot could not be read.
        compared: False for the first stack of all, which has nothing to be compared with.
        today: In UTC; decides which waivers hold.
    """
    if candidate is None:
        return _said(Outcome.BREACH, "snapshot_unreadable", f"candidate: {problems.get('candidate', 'no snapshot')}")
    missing = [
        _missing(policy, key, candidate.fields.get(key), today=today)
        for key in policy.required
        if not _collected(candidate.fields.get(key))
    ]
    if not compared:
        return _judged(missing, ())
    if incumbent is None:
        if any(one.code == "field_not_collected" for one in missing):
            return _judged(missing, ())
        text = f"incumbent: {problems.get('incumbent', 'no snapshot')}"
        return _said(Outcome.INCONCLUSIVE, "incumbent_snapshot_unreadable", text)
    return _judged(missing, _weighed(policy, diff(incumbent, candidate), today=today))


def fallen(policy: CapabilityGate, *, proven: CapabilitySnapshot, now: CapabilitySnapshot, today: date) -> str:
    """Say what a stack no longer proves and was promoted with; empty where it proves enough.

    To be as good as a stack that has lost its fast path proves nothing.
    """
    gone = _blocking(_weighed(policy, diff(proven, now), today=today))
    if not gone:
        return ""
    return (
        f"what serves no longer proves what it was promoted with ({'; '.join(map(str, gone))}), so to be as good as it "
        "proves nothing: `rollout verify` says more, `rollout rollback` goes back, `rollout calibrate` makes it the "
        "standard as it is now"
    )


def _missing(policy: CapabilityGate, key: str, field: Capability | None, *, today: date) -> Reason:
    code, why = (
        "field_not_collected",
        "is not in the snapshot" if field is None else f"is {field.status}: {field.reason}",
    )
    text = f"{key} is required and {why}"
    severity, told = waived(policy.waivers, code, key, today=today)
    return Reason(
        code=code if severity is Severity.BLOCK else "field_waived", text=f"{text} ({told})" if told else text
    )


def _weighed(policy: CapabilityGate, differences: Iterable[Difference], *, today: date) -> tuple[Difference, ...]:
    """Make lighter what the policy lets pass, for good or for a time."""
    return heaviest_first(_lightened(policy, one, today=today) for one in differences)


def _lightened(policy: CapabilityGate, one: Difference, *, today: date) -> Difference:
    if one.severity is not Severity.BLOCK:
        return one
    if any(fnmatchcase(one.key, pattern) for pattern in policy.allowed_differences):
        return replace(one, severity=Severity.INFO)
    severity, told = waived(policy.waivers, one.code, one.key, today=today)
    return replace(one, severity=severity, note=told)


def _blocking(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    return tuple(one for one in differences if one.severity is Severity.BLOCK)


def _judged(missing: list[Reason], differences: tuple[Difference, ...]) -> GateResult:
    lost = _blocking(differences)
    blocking = [one for one in missing if one.code == "field_not_collected"]
    blocking += [Reason(code="capability_lost", text=str(one)) for one in lost]
    noted = [Reason(code="capability_changed", text=str(one)) for one in differences if one not in lost]
    noted += [one for one in missing if one.code == "field_waived"]
    quiet = Reason(code="capabilities_equal", text="no capability differs")
    return GateResult(
        gate=CAPABILITIES,
        outcome=Outcome.BREACH if blocking else Outcome.PASS,
        reasons=(*blocking, *noted) or (quiet,),
        figures={"blocking": len(blocking), "differences": len(differences)},
    )


def _said(outcome: Outcome, code: str, text: str) -> GateResult:
    return GateResult(gate=CAPABILITIES, outcome=outcome, reasons=(Reason(code=code, text=text),))


def _collected(field: Capability | None) -> bool:
    return field is not None and field.status is CapabilityStatus.OK
