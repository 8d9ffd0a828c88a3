"""A run as it is told while it happens: each record of the journal in a line or two."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from rollout.flow.run import CANARY, DRIFT, HISTORY, RECHECK, SOAK, Run
from rollout.flow.table import TERMINAL
from rollout.gates.names import LATENCY
from rollout.model.evidence import Pair, Sample, SampleStatus
from rollout.model.inventory import Absent
from rollout.model.journal import (
    BaselineStored,
    BundleSealed,
    CommandReceived,
    Deployed,
    HistoryStored,
    InstancesRead,
    LiveRead,
    PairMeasured,
    Phase,
    PhaseEntered,
    Record,
    Retired,
    RouterStopped,
    RunKind,
    RunRequested,
    SampleMeasured,
    SnapshotsRead,
    StepFailed,
    StepIntended,
    TrafficShifted,
    VerdictGiven,
    WarmedUp,
    WindowsMeasured,
)
from rollout.model.load import LoadWindow, WindowPair
from rollout.model.policy import Policy
from rollout.model.roles import Role
from rollout.model.verdict import Outcome, Reason, Verdict
from rollout.report import words
from rollout.report.figures import Estimate, Figures, estimate, gate_of, number

EARLY = frozenset({1, 2, 3, 5, 8})
EVERY = 10
"""Pairs are told densely at first, where a breach shows, and then in tens."""


class Tone(StrEnum):
    """How a line is meant."""

    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    WARNING = "warning"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line about a run; the text is printable."""

    text: str
    tone: Tone


def tell(record: Record, run: Run) -> tuple[Line, ...]:  # noqa: C901, PLR0911, PLR0912 - one case for each kind
    """Say what a record means; nothing for measurements that went as measurements go (`tell_measured` has those)."""
    match record.body:
        case RunRequested() as body:
            return _requested(body)
        case PhaseEntered() as body:
            return _entered(body, run)
        case StepFailed() as body:
            return _line(f"{body.step} failed ({body.error}): {body.message}", Tone.WARNING)
        case Deployed() as body:
            return _line(_deployed(body))
        case Retired() as body:
            return _line(f"{body.slot} emptied")
        case RouterStopped():
            return _line("router stopped")
        case SnapshotsRead() as body:
            return _snapshots(body)
        case WarmedUp() as body:
            return _warmed(body, run)
        case PairMeasured() as body:
            return _unusual(body.pair)
        case SampleMeasured() as body:
            return _failed(f"drift request {body.number + 1}", "incumbent", body.sample)
        case WindowsMeasured() as body:
            return _line(_windows(body.pair))
        case InstancesRead():
            return ()
        case HistoryStored():
            return _line(f"history complete: {len(run.pairs.get(HISTORY, ()))} pairs of the incumbent against itself")
        case TrafficShifted() as body:
            return _line(f"traffic read back: blue {body.blue} %, green {body.green} % ({body.stage})")
        case LiveRead() as body:
            window = body.window
            return _line(f"{body.stage}: {window.completed} live requests, {window.failed} failed")
        case VerdictGiven() as body:
            return _verdict(body.verdict)
        case CommandReceived() as body:
            why = f": {body.reason}" if body.reason else ""
            return _line(f"{body.command} said by {body.by}{why}", Tone.WARNING)
        case BaselineStored():
            return _line("baseline stored for later rollouts and drift checks")
        case BundleSealed():
            return _line("evidence sealed", Tone.QUIET)
        case StepIntended():
            return ()
        case _:
            assert_never(record.body)


def tell_measured(body: PairMeasured | SampleMeasured, *, of: str) -> Line:
    """Say what one measurement showed, and where the evidence stands after it.

    Args:
        body: The record.
        of: How many there will be at most, as "/200"; empty where that is not known.
    """
    if isinstance(body, SampleMeasured):
        took = words.milliseconds(body.sample.latency_s)
        return Line(text=words.printable(f"drift request {body.number + 1}{of}: {took}"), tone=Tone.QUIET)
    pair = body.pair
    told = f"{pair.stage} pair {pair.number + 1}{of}: {_compared(pair)}"
    gate = gate_of(body.judgement, LATENCY) if body.judgement else Absent(reason="the history is not judged")
    if not isinstance(gate, Absent):
        told += _standing(gate.figures)
    return Line(text=words.printable(told), tone=Tone.QUIET)


def is_told(body: PairMeasured | SampleMeasured) -> bool:
    """True for measurements that are worth a line: the first few, each tenth, and the one that decides a canary."""
    number_of = body.number if isinstance(body, SampleMeasured) else body.pair.number
    if number_of + 1 in EARLY or (number_of + 1) % EVERY == 0:
        return True
    if isinstance(body, SampleMeasured) or body.judgement is None:
        return False
    outcome = body.judgement.outcome
    return outcome is Outcome.BREACH or (outcome is Outcome.PASS and body.pair.stage == CANARY)


def _windows(pair: WindowPair) -> str:
    blue, green = pair.incumbent, pair.candidate
    failed = f", {green.failed} of {green.offered} candidate requests failed" if green.failed else ""
    rate = f" at {pair.rate_per_s:.3g}/s" if pair.rate_per_s else ""
    return (
        f"{pair.level}{rate}, window {pair.number + 1}: incumbent {blue.pictures_per_s:.3g}/s, P95 {_p95(blue)}; "
        f"candidate {green.pictures_per_s:.3g}/s, P95 {_p95(green)}{failed}"
    )


def _p95(window: LoadWindow) -> str:
    return "not in time" if window.p95_s is None else words.milliseconds(window.p95_s)


def stage_of(run: Run) -> str:  # noqa: PLR0911 - one case for each phase  # noqa: PLR0911 - one case for each phase
    """Return the stage whose measurements are under way; empty where there is none."""
    match run.phase:
        case Phase.HISTORY:
            return HISTORY
        case Phase.CANARY:
            return CANARY
        case Phase.RECHECK:
            return RECHECK
        case Phase.SHIFT:
            return run.shifted.stage if run.shifted is not None and run.request.kind is RunKind.PROMOTE else ""
        case Phase.SOAK:
            return SOAK
        case Phase.DRIFT:
            return DRIFT
        case _:
            return ""


def budget_of(policy: Policy, run: Run, stage: str) -> int:
    """Return the most measurements that a stage takes."""
    budgets = {
        HISTORY: policy.history.pairs,
        CANARY: policy.latency.pairs_max * run.budgets(CANARY),
        RECHECK: policy.drift.recheck_pairs_max,
        SOAK: policy.soak.pairs,
        DRIFT: policy.drift.requests,
    }
    return budgets.get(stage, policy.shift.pairs_per_step)


def standing_evidence(figures: Figures) -> tuple[tuple[str, float, float], ...]:
    """Return the e-values of a latency gate as name, value and what is needed.

    That for promotion is the weakest of the three paired gates, at its best; it is left out in a stage that need not
    prove anything again, where what is needed is out of reach.
    """
    found: list[tuple[str, float | Absent, float | Absent]] = [
        ("against", number(figures, "e_rollback"), number(figures, "e_rollback_needed"))
    ]
    proofs = [number(figures, f"{name}_e_promote_max") for name in ("median", "tail", "slow")]
    numbers = [one for one in proofs if not isinstance(one, Absent)]
    if len(numbers) == len(proofs):
        found.append(("for", min(numbers), number(figures, "e_promote_needed")))
    return tuple(
        (name, value, needed)
        for name, value, needed in found
        if not isinstance(value, Absent) and not isinstance(needed, Absent) and needed <= words.EVIDENCE_SHOWN_MAX
    )


def same_wait(one: Reason, other: Reason | None) -> bool:
    """True when two waits differ in nothing but the numbers that count down."""
    return other is not None and (one.code, _countless(one.text)) == (other.code, _countless(other.text))


def _countless(text: str) -> str:
    return re.sub(r"\d+", "", text)


def _line(text: str, tone: Tone = Tone.PLAIN) -> tuple[Line, ...]:
    return (Line(text=words.printable(text), tone=tone),)


def _requested(body: RunRequested) -> tuple[Line, ...]:
    match body.kind:
        case RunKind.PROMOTE:
            plan = f"promote what {body.candidate} will run; {body.incumbent} serves"
        case RunKind.BOOTSTRAP:
            plan = f"bring up the first stack in {body.candidate}"
        case RunKind.ROLLBACK:
            plan = f"send all traffic to {body.incumbent}"
        case RunKind.VERIFY:
            plan = f"check {body.incumbent} against its baseline; no traffic is moved"
        case RunKind.CALIBRATE:
            plan = f"measure {body.incumbent} against a second instance of itself; no traffic is moved"
    return _line(f"{body.run_id}: {plan}; asked for by {body.requested_by}")


def _entered(body: PhaseEntered, run: Run) -> tuple[Line, ...]:
    wanted = run.request.kind is RunKind.ROLLBACK
    tone = {
        Phase.PROMOTED: Tone.GOOD,
        Phase.VERIFIED: Tone.GOOD,
        Phase.ROLLBACK: Tone.PLAIN if wanted else Tone.BAD,
        Phase.ROLLED_BACK: Tone.GOOD if wanted else Tone.WARNING,
        Phase.REFUSED: Tone.BAD,
        Phase.ROLLBACK_INCOMPLETE: Tone.BAD,
        Phase.DRIFTED: Tone.BAD,
        Phase.UNDECIDED: Tone.WARNING,
        Phase.CALIBRATED: Tone.GOOD,
        Phase.RECHECK: Tone.WARNING,
    }.get(body.phase, Tone.PLAIN)
    name = body.phase.value.replace("_", " ")
    said = name.upper() if body.phase in TERMINAL else f"phase {name}"
    known = any(set(body.reasons) <= set(one.verdict.reasons()) for one in run.verdicts.values())
    because = () if known else _because(body.reasons, tone)
    return (*_line(f"{said} ({body.event.value.replace('_', ' ')})", tone), *because)


def _because(reasons: tuple[Reason, ...], tone: Tone) -> tuple[Line, ...]:
    return tuple(one for reason in reasons for one in _line(f"- {reason.code}: {reason.text}", tone))


def _deployed(body: Deployed) -> str:
    count = len(body.pod_uids)
    instances = f"{count} instance{'' if count == 1 else 's'}"
    if body.purpose == "twin":
        return f"second instance of the incumbent started in {body.slot}, block {body.block + 1} ({instances})"
    return f"{body.purpose} started in {body.slot} ({instances})"


def _warmed(body: WarmedUp, run: Run) -> tuple[Line, ...]:
    twin = body.role is Role.CANDIDATE and run.phase is Phase.HISTORY
    name = "second instance" if twin else body.role.value
    tone = Tone.WARNING if body.failed else Tone.PLAIN
    return _line(f"{name} warmed up: {body.requests} requests, {body.failed} failed", tone)


def _snapshots(body: SnapshotsRead) -> tuple[Line, ...]:
    read = _line(f"capabilities read: {', '.join(sorted(body.snapshots))}") if body.snapshots else ()
    problems = (one for role, why in body.problems.items() for one in _line(f"{role}: {why}", Tone.WARNING))
    return (*read, *problems)


def _verdict(verdict: Verdict) -> tuple[Line, ...]:
    tone = {Outcome.PASS: Tone.GOOD, Outcome.BREACH: Tone.BAD, Outcome.INCONCLUSIVE: Tone.WARNING}[verdict.outcome]
    return (*_line(f"{verdict.stage}: {verdict.outcome}", tone), *_because(verdict.reasons(), tone))


def _unusual(pair: Pair) -> tuple[Line, ...]:
    name = f"{pair.stage} pair {pair.number + 1} (prompt {pair.prompt_id})"
    flat = _line(f"{name}: the candidate's picture is black or of one colour", Tone.BAD) if pair.flat else ()
    return (*_failed(name, "incumbent", pair.incumbent), *_failed(name, "candidate", pair.candidate), *flat)


def _failed(name: str, role: str, sample: Sample) -> tuple[Line, ...]:
    if not sample.failed:
        return ()
    detail = f": {sample.detail}" if sample.detail else ""
    return _line(f"{name}: {role} {sample.status} after {words.milliseconds(sample.wall_s)}{detail}", Tone.WARNING)


def _compared(pair: Pair) -> str:
    if {pair.incumbent.status, pair.candidate.status} == {SampleStatus.OK}:
        return words.ratio(pair.candidate.latency_s / pair.incumbent.latency_s)
    if pair.candidate.status is SampleStatus.STOPPED:
        return f"candidate stopped at {words.milliseconds(pair.candidate.wall_s)}, too slow to matter"
    return f"incumbent {pair.incumbent.status}, candidate {pair.candidate.status}"


def _standing(figures: Figures) -> str:
    told = ""
    median = estimate(figures, "p50_ratio")
    if isinstance(median, Estimate):
        allowed = "" if isinstance(median.allowed, Absent) else f" of {words.ratio(median.allowed)} allowed"
        told += f"; median {words.interval(median.value, lower=median.lower, upper=median.upper)}{allowed}"
    evidence = standing_evidence(figures)
    if evidence:
        parts = (f"{name} {words.evidence(value)} of {words.evidence(needed)}" for name, value, needed in evidence)
        told += f"; evidence {', '.join(parts)}"
    return told
