"""The capability gate: what the candidate proves about itself, and how that differs from the incumbent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rollout.gates.names import CAPABILITIES
from rollout.model.policy import CapabilityGate
from rollout.model.snapshot import Capability, CapabilitySnapshot, CapabilityStatus
from rollout.model.verdict import GateResult, Outcome, Reason, Severity

SEVERITIES: tuple[tuple[str, Severity], ...] = (
    ("runtime.ort.providers.*", Severity.BLOCK),
    ("runtime.ort.package", Severity.BLOCK),
    ("runtime.ort.placement.*", Severity.BLOCK),
    ("runtime.ort.binding.*", Severity.BLOCK),
    ("runtime.torch.device", Severity.BLOCK),
    ("model.unet.attention.fused", Severity.BLOCK),
    ("policy.profile", Severity.BLOCK),
    ("gpu.*", Severity.BLOCK),
)
"""First match wins; a difference that matches nothing is a warning, never silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field that is not the same in two snapshots."""

    key: str
    before: str
    after: str
    severity: Severity

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


def diff(before: CapabilitySnapshot, after: CapabilitySnapshot) -> tuple[Difference, ...]:
    """Compare two snapshots field by field, heaviest first; a field present on one side only is a difference."""
    keys = sorted({*before.fields, *after.fields})
    found = [
        Difference(
            key=key,
            before=_shown(before.fields.get(key)),
            after=_shown(after.fields.get(key)),
            severity=_severity(key),
        )
        for key in keys
        if not _same(before.fields.get(key), after.fields.get(key))
    ]
    order = list(Severity)
    return tuple(sorted(found, key=lambda one: (order.index(one.severity), one.key)))


def judge_capabilities(
    policy: CapabilityGate,
    *,
    incumbent: CapabilitySnapshot | None,
    candidate: CapabilitySnapshot | None,
    problems: Mapping[str, str],
    compared: bool,
) -> GateResult:
    """Judge the candidate's snapshot by itself and against the incumbent's.

    Args:
        policy: Required fields and allowed differences.
        incumbent: None where it could not be read.
        candidate: None where it could not be read.
        problems: Role to the reason why its snapshot could not be read.
        compared: False for the first stack of all, which has nothing to be compared with.
    """
    if candidate is None:
        return _said(Outcome.BREACH, "snapshot_unreadable", f"candidate: {problems.get('candidate', 'no snapshot')}")
    blocking = [
        Reason(code="field_not_collected", text=f"{key} is required and {_why_missing(candidate.fields.get(key))}")
        for key in policy.required
        if not _collected(candidate.fields.get(key))
    ]
    if not compared:
        return _judged(blocking, ())
    if incumbent is None:
        if blocking:
            return _judged(blocking, ())
        text = f"incumbent: {problems.get('incumbent', 'no snapshot')}"
        return _said(Outcome.INCONCLUSIVE, "incumbent_snapshot_unreadable", text)
    differences = diff(incumbent, candidate)
    blocking += [Reason(code="capability_lost", text=str(one)) for one in lost(policy, differences)]
    return _judged(blocking, differences)


def lost(policy: CapabilityGate, differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """Return the differences that block and that the policy does not allow."""
    return tuple(one for one in differences if one.severity is Severity.BLOCK and not _allowed(policy, one.key))


def fallen(policy: CapabilityGate, *, proven: CapabilitySnapshot, today: CapabilitySnapshot) -> str:
    """Say what a stack no longer proves and was promoted with; empty where it proves enough.

    To be as good as a stack that has lost its fast path proves nothing.
    """
    gone = lost(policy, diff(proven, today))
    if not gone:
        return ""
    return (
        f"what serves no longer proves what it was promoted with ({'; '.join(map(str, gone))}), so to be as good as it "
        "proves nothing: `rollout verify` says more, `rollout rollback` goes back, `rollout calibrate` makes it the "
        "standard as it is now"
    )


def reported(result: GateResult) -> tuple[Difference, ...]:
    """Return the differences that a capability gate reported, heaviest first, read back from its reasons."""
    told = [reason.text for reason in result.reasons if reason.code in {"capability_lost", "capability_changed"}]
    return tuple(_read_back(text) for text in told)


def _read_back(text: str) -> Difference:
    key, _, values = text.partition(": ")
    before, _, after = values.partition(" -> ")
    return Difference(key=key, before=before, after=after, severity=_severity(key))


def _judged(blocking: list[Reason], differences: tuple[Difference, ...]) -> GateResult:
    noted = [
        Reason(code="capability_changed", text=str(one))
        for one in differences
        if not any(reason.text.startswith(f"{one.key}: ") for reason in blocking)
    ]
    quiet = Reason(code="capabilities_equal", text="no capability differs")
    return GateResult(
        gate=CAPABILITIES,
        outcome=Outcome.BREACH if blocking else Outcome.PASS,
        reasons=(*blocking, *noted) or (quiet,),
        figures={"blocking": len(blocking), "differences": len(differences)},
    )


def _said(outcome: Outcome, code: str, text: str) -> GateResult:
    return GateResult(gate=CAPABILITIES, outcome=outcome, reasons=(Reason(code=code, text=text),))


def _severity(key: str) -> Severity:
    return next((severity for pattern, severity in SEVERITIES if fnmatchcase(key, pattern)), Severity.WARN)


def _allowed(policy: CapabilityGate, key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in policy.allowed_differences)


def _collected(field: Capability | None) -> bool:
    return field is not None and field.status is CapabilityStatus.OK


def _why_missing(field: Capability | None) -> str:
    return "is not in the snapshot" if field is None else f"is {field.status}: {field.reason}"


def _same(before: Capability | None, after: Capability | None) -> bool:
    if before is None or after is None:
        return before is after
    # Python holds True and 1 for equal; a snapshot's digest does not.
    alike = isinstance(before.value, bool) is isinstance(after.value, bool)
    return alike and (before.status, before.value) == (after.status, after.value)


def _shown(field: Capability | None) -> str:
    if field is None:
        return "absent"
    if field.status is not CapabilityStatus.OK:
        return field.status.value
    if isinstance(field.value, list):
        return ", ".join(field.value)
    if isinstance(field.value, bool):
        return str(field.value).lower()
    return str(field.value)
