"""The stages of a run, one row each: what was measured and what the gates concluded."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rollout.flow.run import ADMISSION, CANARY, DRIFT, HISTORY, LOAD, RECHECK, SOAK, Run, shift_stage
from rollout.model.evidence import LiveWindow, Pair, Sample, SampleStatus
from rollout.model.inventory import Absent
from rollout.model.journal import (
    Event,
    LiveRead,
    PairMeasured,
    PhaseEntered,
    Record,
    RunKind,
    SampleMeasured,
    TrafficShifted,
    VerdictGiven,
    WindowsMeasured,
)
from rollout.model.verdict import GateResult, Reason, Verdict
from rollout.report.figures import Estimate, estimated

LAST_SHIFT = shift_stage(100)
"""Every plan of shifts ends here, whatever steps it takes."""

PLANNED: Mapping[RunKind, tuple[str, ...]] = {
    RunKind.PROMOTE: (HISTORY, ADMISSION, CANARY, LOAD, LAST_SHIFT, SOAK),
    RunKind.BOOTSTRAP: (ADMISSION,),
    RunKind.VERIFY: (DRIFT,),
    RunKind.CALIBRATE: (HISTORY,),
    RunKind.ROLLBACK: (),
}
"""Stages that a run of each kind passes on its way to success, whatever its policy."""


_HISTORY_WHOLE = frozenset({Event.HISTORY_READY, Event.CALIBRATED})


class StageOutcome(StrEnum):
    """What became of a stage."""

    PASS = "PASS"  # noqa: S105 - not a password
    BREACH = "BREACH"
    INCONCLUSIVE = "INCONCLUSIVE"
    MEASURED = "measured"
    """The history: a yardstick, not judged itself."""
    INTERRUPTED = "interrupted"
    """It began, and no verdict was given."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage.

    Attributes:
        requests: Pairs, pairs of load windows, or single requests of a drift check.
        seconds: From the stage's first record to its last.
        p50: Median ratio of latencies, candidate over incumbent (over the baseline for a drift check).
        tail: Tail quantile of that ratio over the history's.
        incumbent_s: Median latency; infinite where most requests had no answer.
        candidate_s: The same of the candidate.
        candidate_stopped: Requests that the driver hung up on: already too late to change the verdict.
        psnr_db: Lowest over all pictures that were compared.
        gates: What each gate said last, also where no verdict was given.
        note: Why there is nothing here, or not all; empty where there is nothing to say.
    """

    stage: str
    outcome: StageOutcome
    requests: int
    seconds: float
    p50: Estimate | Absent
    tail: Estimate | Absent
    incumbent_s: float | Absent
    candidate_s: float | Absent
    incumbent_failed: int
    candidate_failed: int
    candidate_stopped: int
    psnr_db: float | Absent
    live: LiveWindow | Absent
    gates: tuple[GateResult, ...]
    reasons: tuple[Reason, ...]
    note: str


def stage_rows(run: Run, records: Sequence[Record]) -> tuple[StageRow, ...]:
    """Return a row for every stage that began and for every planned one that did not, in the order of the run."""
    spans = _spans(records)
    planned = PLANNED[run.request.kind]
    begun = [stage for stage in spans if stage not in planned]
    stages = sorted({*begun, *planned}, key=_place)
    measured = any(isinstance(one.body, PhaseEntered) and one.body.event in _HISTORY_WHOLE for one in records)
    return tuple(_row(run, stage, spans.get(stage), history_whole=measured) for stage in stages)


def _place(stage: str) -> tuple[int, int]:
    order = (HISTORY, ADMISSION, CANARY, LOAD, "shift", SOAK, DRIFT, RECHECK)
    kind, _, weight = stage.partition("-")
    return (order.index(kind) if kind in order else len(order), int(weight) if weight.isdecimal() else 0)


def _spans(records: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """Return when each stage's first and last record were written."""
    spans: dict[str, tuple[float, float]] = {}
    for record in records:
        stage = _stage_of(record)
        if stage:
            began, _ = spans.get(stage, (record.at, record.at))
            spans[stage] = (began, max(record.at, began))
    return spans


def _stage_of(record: Record) -> str:  # noqa: PLR0911 - one case for each kind of record
    match record.body:
        case PairMeasured(pair=pair):
            return pair.stage
        case WindowsMeasured():
            return LOAD
        case VerdictGiven(verdict=verdict):
            return verdict.stage
        case SampleMeasured():
            return DRIFT
        case LiveRead(stage=stage):
            return stage
        case TrafficShifted(stage=stage) if stage.startswith("shift-"):
            return stage
        case _:
            return ""


def _row(run: Run, stage: str, span: tuple[float, float] | None, *, history_whole: bool) -> StageRow:
    pairs = run.pairs.get(stage, ())
    given = run.verdicts.get(stage)
    so_far = run.load_judged if stage == LOAD else run.judged.get(stage)
    verdict = given.verdict if given is not None else so_far
    incumbent = [one.incumbent for one in pairs] or ([one.sample for one in run.samples] if stage == DRIFT else [])
    candidate = [one.candidate for one in pairs]
    unjudged = Absent(reason="the history is the yardstick" if stage == HISTORY else "no gate judged this stage")
    outcome = _outcome(run, stage, begun=span is not None, history_whole=history_whole)
    return StageRow(
        stage=stage,
        outcome=outcome,
        requests=sum(map(len, run.windows.values())) if stage == LOAD else len(incumbent),
        seconds=span[1] - span[0] if span else 0.0,
        p50=estimated(verdict, "p50_ratio") if verdict else unjudged,
        tail=estimated(verdict, "tail_ratio") if verdict else unjudged,
        incumbent_s=_median_latency(incumbent),
        candidate_s=_median_latency(candidate),
        incumbent_failed=_failed(incumbent),
        candidate_failed=_failed(candidate),
        candidate_stopped=sum(one.status is SampleStatus.STOPPED for one in candidate),
        psnr_db=_lowest_psnr(pairs),
        live=run.live.get(stage, Absent(reason="no live requests were counted")),
        gates=verdict.gates if verdict else (),
        reasons=_said(verdict),
        note=_note(run, stage, outcome),
    )


def _outcome(run: Run, stage: str, *, begun: bool, history_whole: bool) -> StageOutcome:
    if stage in run.verdicts:
        return StageOutcome(run.verdicts[stage].verdict.outcome.value)
    if not begun:
        return StageOutcome.SKIPPED
    return StageOutcome.MEASURED if stage == HISTORY and history_whole else StageOutcome.INTERRUPTED


def _said(verdict: Verdict | None) -> tuple[Reason, ...]:
    return verdict.reasons() if verdict else ()


def _note(run: Run, stage: str, outcome: StageOutcome) -> str:
    if outcome is StageOutcome.SKIPPED and stage == HISTORY and run.request.baseline is not None:
        return "a stored history was used"
    if outcome is StageOutcome.SKIPPED:
        return "the run ended before it" if run.terminal else "not reached yet"
    if outcome is StageOutcome.INTERRUPTED:
        return "the run left it without a verdict" if run.terminal else "under way"
    return ""


def _median_latency(samples: Sequence[Sample]) -> float | Absent:
    if not samples:
        return Absent(reason="no request was sent")
    return statistics.median_high(one.latency_s for one in samples)


def _failed(samples: Sequence[Sample]) -> int:
    return sum(one.failed for one in samples)


def _lowest_psnr(pairs: Sequence[Pair]) -> float | Absent:
    compared = [one.psnr_db for one in pairs if one.psnr_db is not None]
    return min(compared) if compared else Absent(reason="no picture was compared")
