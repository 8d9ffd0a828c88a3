"""One word and one sentence for how a run ended."""

from collections.abc import Mapping
from enum import StrEnum
from typing import assert_never

from rollout.flow.run import CANARY, DRIFT, HISTORY, RECHECK, Run
from rollout.gates.names import LATENCY
from rollout.model.inventory import Absent
from rollout.model.journal import Phase, RunKind
from rollout.model.roles import Role
from rollout.model.verdict import GateResult, Outcome, Verdict
from rollout.report import words
from rollout.report.figures import Estimate, estimate, gate_of, number


class Ending(StrEnum):
    """How a run ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    REFUSED = "refused"
    ROLLBACK_INCOMPLETE = "rollback incomplete"
    VERIFIED = "verified"
    DRIFTED = "drifted"
    UNDECIDED = "undecided"
    CALIBRATED = "calibrated"
    UNFINISHED = "unfinished"


_ENDINGS: Mapping[Phase, Ending] = {
    Phase.PROMOTED: Ending.PROMOTED,
    Phase.ROLLED_BACK: Ending.ROLLED_BACK,
    Phase.REFUSED: Ending.REFUSED,
    Phase.ROLLBACK_INCOMPLETE: Ending.ROLLBACK_INCOMPLETE,
    Phase.VERIFIED: Ending.VERIFIED,
    Phase.DRIFTED: Ending.DRIFTED,
    Phase.UNDECIDED: Ending.UNDECIDED,
    Phase.CALIBRATED: Ending.CALIBRATED,
}


def ending_of(run: Run) -> Ending:
    """Return the word for how a run ended; a run in any other phase has not ended."""
    return _ENDINGS.get(run.phase, Ending.UNFINISHED)


def is_wanted(ending: Ending, kind: RunKind) -> bool:
    """True when the run did what was asked of it."""
    if ending is Ending.ROLLED_BACK:
        return kind is RunKind.ROLLBACK
    return ending in {Ending.PROMOTED, Ending.VERIFIED, Ending.CALIBRATED}


def decisive_verdict(run: Run) -> Verdict | Absent:
    """Return the verdict that the end of the run rests on; Absent where something else ended it."""
    given = [one.verdict for one in run.verdicts.values()]
    if run.phase in {Phase.PROMOTED, Phase.VERIFIED}:
        proof = [one for one in given if one.stage in {CANARY, DRIFT, RECHECK}]
        return proof[-1] if proof else Absent(reason="nothing was compared")
    causes = set(run.causes)
    against = [one for one in given if one.outcome is not Outcome.PASS and set(one.reasons()) <= causes]
    return against[-1] if against else Absent(reason="no verdict ended the run")


def headline_of(run: Run, ending: Ending, decisive: Verdict | Absent, *, names: Mapping[Role, str]) -> str:
    """Return one sentence: what happened, after how much evidence, and the number that decided."""
    because = _because(run, decisive)
    evidence = _evidence(run, decisive)
    match ending:
        case Ending.PROMOTED if run.request.kind is RunKind.BOOTSTRAP:
            name = names.get(Role.CANDIDATE, "the first stack")
            return f"{name} serves from {run.request.candidate}, the first stack; there was nothing to compare it with"
        case Ending.PROMOTED:
            return f"promoted {names.get(Role.CANDIDATE, 'the candidate')}{evidence}: {because}"
        case Ending.ROLLBACK_INCOMPLETE:
            stuck = words.printable(run.causes[-1].text) if run.causes else "no reason was recorded"
            began = f"; it began with: {because}" if len(run.causes) > 1 else ""
            return f"rollback incomplete, a person is needed: {stuck}{began}"
        case Ending.CALIBRATED:
            pairs = len(run.pairs.get(HISTORY, ()))
            return f"calibrated: {pairs} pairs of {names.get(Role.INCUMBENT, 'the incumbent')} against itself"
        case Ending.UNFINISHED:
            so_far = f": {because}" if run.causes else ""
            return f"unfinished in phase {run.phase}{so_far}"
        case Ending.ROLLED_BACK | Ending.REFUSED | Ending.VERIFIED | Ending.DRIFTED | Ending.UNDECIDED:
            return f"{ending.value}{evidence}: {because}"
        case _:
            assert_never(ending)


def _evidence(run: Run, decisive: Verdict | Absent) -> str:
    if isinstance(decisive, Absent):
        return ""
    if decisive.stage == DRIFT:
        return f" after {_count(len(run.samples), 'request')}" if run.samples else ""
    pairs = len(run.pairs.get(decisive.stage, ()))
    where = "" if decisive.stage == CANARY else f" in {decisive.stage}"
    return f" after {_count(pairs, 'pair')}{where}" if pairs else where


def _count(number_of: int, thing: str) -> str:
    return f"{number_of} {thing}{'' if number_of == 1 else 's'}"


def _because(run: Run, decisive: Verdict | Absent) -> str:
    """Return the first reason; where that is latency, in the shortest words that hold the number."""
    if not isinstance(decisive, Absent):
        gate = gate_of(decisive, LATENCY)
        told = not isinstance(gate, Absent) and gate.outcome is decisive.outcome
        first = decisive.reasons()[0].code if decisive.reasons() else ""
        if told and not isinstance(gate, Absent) and gate.reasons[0].code == first:
            return _latency(run, gate)
    reasons = run.causes or (decisive.reasons() if isinstance(decisive, Verdict) else ())
    if isinstance(decisive, Verdict) and decisive.stage == RECHECK:
        # The causes still hold the alarm that the re-check answers.
        reasons = decisive.reasons()
    measured = (one for one in reasons if one.code.startswith(("latency_", "drift_")))
    first_reason = next(measured, next(iter(reasons), None))
    return words.printable(first_reason.text) if first_reason else "no reason was recorded"


def _latency(run: Run, gate: GateResult) -> str:
    undecided = "no decision; " if gate.outcome is Outcome.INCONCLUSIVE else ""
    if gate.outcome is Outcome.BREACH:
        lead = _leading_test(gate)
        tail = estimate(gate.figures, "tail_ratio")
        if lead == "tail" and isinstance(tail, Estimate):
            return f"tail latency {_told(tail)} of the history's{_allowed(tail)}"
        undecided = "too many slow requests; " if lead == "slow" else ""
    median = estimate(gate.figures, "p50_ratio")
    if isinstance(median, Absent):
        return words.printable(gate.reasons[0].text)
    return f"{undecided}median latency {_told(median)} of {run.request.incumbent}'s{_allowed(median)}"


def _leading_test(gate: GateResult) -> str:
    """Return the paired test to name: the median where its interval tells all, else the one with most evidence."""
    median = estimate(gate.figures, "p50_ratio")
    if isinstance(median, Estimate) and not isinstance(median.allowed, Absent) and median.lower > median.allowed:
        return "median"
    found = {name: number(gate.figures, f"{name}_e_rollback") for name in ("median", "tail", "slow")}
    return max(found, key=lambda name: value if not isinstance(value := found[name], Absent) else 0.0)


def _told(one: Estimate) -> str:
    return words.interval(one.value, lower=one.lower, upper=one.upper)


def _allowed(one: Estimate) -> str:
    return "" if isinstance(one.allowed, Absent) else f", allowed {words.ratio(one.allowed)}"
