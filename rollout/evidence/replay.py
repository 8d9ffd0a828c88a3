"""Re-deriving verdicts: the same evidence gives the same verdict, bit for bit, on any machine, without a network."""

from dataclasses import dataclass
from pathlib import Path

from rollout.errors import EvidenceError, InvariantError
from rollout.evidence.bundle import check_bundle
from rollout.evidence.dossier import Dossier, open_dossier
from rollout.evidence.objects import ObjectStore
from rollout.evidence.runs import OBJECTS_NAME
from rollout.flow.run import CANARY, DRIFT, HISTORY, LOAD, RECHECK, Run, advance, begin
from rollout.gates.jury import Jury
from rollout.model.journal import (
    Event,
    HistoryStored,
    PairMeasured,
    PhaseEntered,
    Record,
    RunRequested,
    VerdictGiven,
    WindowsMeasured,
)
from rollout.model.verdict import Outcome, Verdict

_DEMANDED: dict[Event, tuple[str, ...]] = {
    Event.PROVEN: (CANARY,),
    Event.LOADED: (CANARY, LOAD),
    Event.SHIFTED: (CANARY, LOAD),
    Event.SOAKED: (CANARY, LOAD),
}
"""Verdicts that must stand as PASS before a rollout may say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A bundle that was read, checked and judged again.

    Attributes:
        run: The folded run.
        records: Its journal.
        judgements: How many judgements after single pairs were derived again, all equal.
        verdicts: The verdicts that end stages, derived again, all equal to the recorded ones.
        sealed: False for the bundle of a run that has not ended, or whose controller crashed.
    """

    run: Run
    records: tuple[Record, ...]
    dossier: Dossier
    judgements: int
    verdicts: tuple[Verdict, ...]
    sealed: bool


def replay(folder: Path, *, unfinished_ok: bool = False) -> Replayed:
    """Check every byte of a bundle and judge its evidence again.

    Raises:
        EvidenceError: A byte was changed, something is missing, or a verdict does not follow from the evidence.
    """
    records = check_bundle(folder, unfinished_ok=unfinished_ok)
    first = records[0].body
    if not isinstance(first, RunRequested):
        raise EvidenceError(f"{folder}: the journal does not begin with a request")
    dossier = open_dossier(ObjectStore(folder / OBJECTS_NAME), first)
    run = begin(records[0])
    jury = dossier.seat_jury(run)
    judgements, verdicts = 0, []
    for record in records[1:]:
        judgements += _heard(jury, record)
        if isinstance(record.body, VerdictGiven):
            verdicts.append(_same_verdict(dossier, jury, run, record.body, seq=record.seq))
        run = _advanced(run, record)
        if isinstance(record.body, HistoryStored):
            jury.use_history(dossier.baseline(record.body.baseline).history)
    return Replayed(
        run=run,
        records=records,
        dossier=dossier,
        judgements=judgements,
        verdicts=tuple(verdicts),
        sealed=run.sealed,
    )


def _advanced(run: Run, record: Record) -> Run:
    """Fold one record, and refuse a way that no rollout may take."""
    body = record.body
    demanded = _DEMANDED.get(body.event, ()) if isinstance(body, PhaseEntered) else ()
    for stage in demanded:
        given = run.verdicts.get(stage)
        if given is None or given.verdict.outcome is not Outcome.PASS:
            raise EvidenceError(f"record {record.seq}: {body.type} without a PASS of {stage}")
    try:
        return advance(run, record)
    except InvariantError as error:
        raise EvidenceError(f"record {record.seq}: {error}") from error


def _heard(jury: Jury, record: Record) -> int:
    body = record.body
    match body:
        case PairMeasured() if body.pair.stage != HISTORY:
            again = jury.hear(body.pair)
        case WindowsMeasured():
            again = jury.hear_windows(body.pair)
        case _:
            return 0
    if again != body.judgement:
        raise EvidenceError(f"record {record.seq}: the evidence gives {again}, the journal says {body.judgement}")
    return 1


def _same_verdict(dossier: Dossier, jury: Jury, run: Run, given: VerdictGiven, *, seq: int) -> Verdict:
    again = dossier.conclude(jury, run, given.verdict.stage)
    if given.verdict.stage not in {DRIFT, RECHECK} and given.fingerprint != run.fingerprint():
        raise EvidenceError(f"record {seq}: the verdict of {given.verdict.stage} holds for another candidate")
    if again != given.verdict:
        raise EvidenceError(f"record {seq}: the evidence gives {again}, the journal says {given.verdict}")
    return again
