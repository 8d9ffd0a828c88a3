"""The message gate: a server that speaks of a fallback is on one, whatever its answers look like."""

from dataclasses import dataclass

from rollout.gates.names import MESSAGES
from rollout.gates.result import result
from rollout.model.inventory import Absent
from rollout.model.verdict import GateResult, Outcome, Reason

SIGNS_MAX = 20
"""A server that says it with every request says it thousands of times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a server wrote.

    Attributes:
        lines: How many lines there are in all.
        signs: Those that speak of a fallback: the code of what they mean, and the line itself.
    """

    lines: int
    signs: tuple[Reason, ...]


def judge_messages(heard: Heard | Absent) -> GateResult:
    """Judge a whole log: one line that speaks of a fallback is a BREACH; a log that nobody has is INCONCLUSIVE."""
    if isinstance(heard, Absent):
        return result(MESSAGES, Outcome.INCONCLUSIVE, "messages_unheard", heard.reason)
    figures: dict[str, float | int | str] = {"lines": heard.lines, "fallback_lines": len(heard.signs)}
    if not heard.signs:
        text = f"no line of its log speaks of a fallback ({heard.lines} in all)"
        return result(MESSAGES, Outcome.PASS, "messages_clean", text, figures)
    return GateResult(gate=MESSAGES, outcome=Outcome.BREACH, reasons=heard.signs[:SIGNS_MAX], figures=figures)
