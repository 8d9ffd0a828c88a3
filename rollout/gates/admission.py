"""The admission gate: a server that became ready by proving itself, or its own words on why it did not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from rollout.gates.names import ADMISSION
from rollout.gates.result import result
from rollout.model.reasons import REASONS
from rollout.model.snapshot import Capability, CapabilitySnapshot
from rollout.model.verdict import GateResult, Outcome, Reason

SELF_TEST = "self_test.latency_s"
"""The measurement that a server of the admission protocol shows once its self-test ended well."""

_CODE = f"(?:{'|'.join(REASONS)})"
# Texts hold semicolons and colons of their own; only a known code begins the next reason.
_REASON = re.compile(rf"(?:^|; )({_CODE}): (.*?)(?=; {_CODE}: |$)")
_SERVE = re.compile(r"^rollout serve: refused: (.+)$")
_ADMIT = re.compile(rf"^ +block +({_CODE}: .+)$")


class Came(StrEnum):
    """How far a server came."""

    READY = "ready"
    LATE = "late"
    """The deadline passed."""
    ENDED = "ended"
    """By itself, before it was ready or later."""
    UNSEEN = "unseen"
    """Somebody interrupted the wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a server came up.

    Attributes:
        seconds: Until it was ready, or for how long it was waited for.
        detail: Why it is not ready, or how it ended; empty where it is.
        refusals: Its own words on why it refused.
    """

    came: Came
    seconds: float
    detail: str
    refusals: tuple[Reason, ...]


def refusals(log: str) -> Iterator[Reason]:
    """Yield the reasons for which `rollout serve` or `rollout admit` refused, as its log tells them."""
    for line in log.splitlines():
        said = _SERVE.match(line) or _ADMIT.match(line)
        if said is None:
            continue
        found = [Reason(code=code, text=text) for code, text in _REASON.findall(said[1])]
        yield from found or [Reason(code="server_refused", text=said[1])]


def judge_admission(start: Start, snapshot: CapabilitySnapshot | None) -> GateResult:
    """Judge the start: to end, or never to become ready, is a BREACH; to show no self-test proves nothing."""
    figures: dict[str, float | int | str] = {"start_s": round(start.seconds, 3)}
    match start.came:
        case Came.ENDED:
            said = start.refusals or (Reason(code="server_ended", text=start.detail),)
            return GateResult(gate=ADMISSION, outcome=Outcome.BREACH, reasons=said, figures=figures)
        case Came.LATE:
            text = f"not ready after {start.seconds:.1f} s: {start.detail}"
            return result(ADMISSION, Outcome.BREACH, "server_never_ready", text, figures)
        case Came.UNSEEN:
            return result(ADMISSION, Outcome.INCONCLUSIVE, "readiness_unseen", start.detail, figures)
        case Came.READY:
            return _judge_self_test(start, snapshot, figures)
        case _:
            assert_never(start.came)


def _judge_self_test(
    start: Start, snapshot: CapabilitySnapshot | None, figures: dict[str, float | int | str]
) -> GateResult:
    tested = None if snapshot is None else snapshot.measurements.get(SELF_TEST)
    if tested is None or not isinstance(tested.value, int | float):
        text = f"ready after {start.seconds:.1f} s, but {SELF_TEST} {_missing(tested)}"
        return result(ADMISSION, Outcome.INCONCLUSIVE, "self_test_unmeasured", text, figures)
    text = f"ready after {start.seconds:.1f} s; warm self-test {1000 * tested.value:.3g} ms"
    return result(ADMISSION, Outcome.PASS, "admitted", text, figures | {"self_test_s": tested.value})


def _missing(field: Capability | None) -> str:
    return "is not among its measurements" if field is None else f"is {field.status}: {field.reason}"
