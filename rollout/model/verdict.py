"""Verdicts: what a gate concludes from evidence, with reasons."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from rollout.model.base import Strict


class Outcome(StrEnum):
    """Missing data is INCONCLUSIVE, never PASS."""

    PASS = "PASS"  # noqa: S105 - not a password
    BREACH = "BREACH"
    INCONCLUSIVE = "INCONCLUSIVE"


class Severity(StrEnum):
    """How much a capability difference weighs."""

    BLOCK = "block"
    WARN = "warn"
    INFO = "info"

    @property
    def rank(self) -> int:
        """Place in a list that has the heaviest first."""
        return list(Severity).index(self)


class Reason(Strict):
    """One reason: a stable code for machines and a sentence for people."""

    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    text: str


class GateResult(Strict):
    """What one gate says."""

    gate: str
    outcome: Annotated[Outcome, Field(strict=False)]
    reasons: Annotated[tuple[Reason, ...], Field(strict=False)]
    figures: dict[str, float | int | str] = {}
    """Numbers behind the outcome; a value that is not finite is the string "inf" or "-inf"."""


class Verdict(Strict):
    """What all gates of one stage say together."""

    stage: str
    outcome: Annotated[Outcome, Field(strict=False)]
    gates: Annotated[tuple[GateResult, ...], Field(strict=False)]

    def reasons(self) -> tuple[Reason, ...]:
        """Return the reasons of the gates that decided: those with the verdict's own outcome."""
        return tuple(reason for gate in self.gates if gate.outcome is self.outcome for reason in gate.reasons)


def combine(stage: str, gates: tuple[GateResult, ...]) -> Verdict:
    """Combine gates: one BREACH is a BREACH; PASS needs every gate; no gate at all is INCONCLUSIVE."""
    outcomes = {gate.outcome for gate in gates}
    if Outcome.BREACH in outcomes:
        outcome = Outcome.BREACH
    elif outcomes == {Outcome.PASS}:
        outcome = Outcome.PASS
    else:
        outcome = Outcome.INCONCLUSIVE
    return Verdict(stage=stage, outcome=outcome, gates=gates)
