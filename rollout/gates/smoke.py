"""What one server by itself amounts to: the gates of `rollout smoke`, heard together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from rollout.gates.admission import Start, judge_admission
from rollout.gates.capabilities import judge_capabilities
from rollout.gates.drift import judge_drift
from rollout.gates.errors import judge_requests
from rollout.gates.matrix import judge_matrix
from rollout.gates.messages import Heard, judge_messages
from rollout.gates.names import CAPABILITIES, DRIFT, MATRIX
from rollout.gates.result import result
from rollout.model.evidence import Baseline, SampleStatus
from rollout.model.inventory import Absent
from rollout.model.journal import SampleMeasured
from rollout.model.matrix import Matrix
from rollout.model.policy import Policy
from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.verdict import GateResult, Outcome, Reason, Verdict, combine
from rollout.stats.detector import relative

SMOKE = "smoke"
"""The stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeEvidence:
    """What was seen of one server.

    Attributes:
        start: How it came up.
        snapshot: None where it was not read.
        snapshot_problem: Why it could not be read; empty also where nobody came so far.
        samples: The requests measured, after the warm-up.
        heard: Its log; Absent where nobody has it.
        unfinished: Why less was seen than was to be seen; empty where all was.
    """

    start: Start
    snapshot: CapabilitySnapshot | None
    snapshot_problem: str
    samples: tuple[SampleMeasured, ...]
    heard: Heard | Absent
    unfinished: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What the server is measured by.

    Attributes:
        baseline: None where there is none.
        first: True where this very measurement is to become one, so that there is nothing to compare.
        matrix: None where the caller pins no versions; there is no such gate then.
    """

    baseline: Baseline | None
    first: bool
    matrix: Matrix | None


def judge_smoke(policy: Policy, evidence: SmokeEvidence, yardstick: Yardstick, *, today: date) -> Verdict:
    """Judge one server by itself, against its baseline and its matrix.

    `today`, in UTC, decides which waivers hold. What was seen of a server until somebody interrupted may convict it,
    and clears it of nothing.
    """
    gates = [
        judge_admission(evidence.start, evidence.snapshot),
        _capabilities(policy, evidence, yardstick.baseline, today=today),
    ]
    if yardstick.matrix is not None:
        gates.append(_matrix(evidence, yardstick.matrix))
    served = (judge_messages(evidence.heard), _errors(policy, evidence.samples), _drift(policy, evidence, yardstick))
    return combine(SMOKE, (*gates, *(_whole(one, evidence.unfinished) for one in served)))


def fails(policy: Policy, samples: Sequence[SampleMeasured]) -> bool:
    """Tell whether so many requests failed that no further one changes the verdict."""
    return _errors(policy, samples).outcome is Outcome.BREACH


def latencies(samples: Sequence[SampleMeasured]) -> Mapping[str, list[float]]:
    """Return the latencies of the requests that ended well, by prompt, as a baseline holds them."""
    found: dict[str, list[float]] = {}
    for one in samples:
        if one.sample.status is SampleStatus.OK:
            found.setdefault(one.prompt_id, []).append(one.sample.latency_s)
    return found


def _capabilities(policy: Policy, evidence: SmokeEvidence, baseline: Baseline | None, *, today: date) -> GateResult:
    if evidence.snapshot is None and not evidence.snapshot_problem:
        return _not_reached(CAPABILITIES, evidence)
    return judge_capabilities(
        policy.capabilities,
        incumbent=None if baseline is None else baseline.snapshot,
        candidate=evidence.snapshot,
        problems={"candidate": evidence.snapshot_problem},
        compared=baseline is not None,
        today=today,
    )


def _matrix(evidence: SmokeEvidence, matrix: Matrix) -> GateResult:
    return _not_reached(MATRIX, evidence) if evidence.snapshot is None else judge_matrix(matrix, evidence.snapshot)


def _errors(policy: Policy, samples: Sequence[SampleMeasured]) -> GateResult:
    return judge_requests(policy.errors, [one.sample for one in samples], alpha=policy.latency.false_rollback_rate)


def _drift(policy: Policy, evidence: SmokeEvidence, yardstick: Yardstick) -> GateResult:
    if not evidence.samples:
        return _not_reached(DRIFT, evidence)
    if yardstick.baseline is not None:
        return judge_drift(policy.latency, yardstick.baseline, evidence.samples)
    if not yardstick.first:
        text = "there is no baseline to compare with; `rollout smoke --write-baseline FILE` measures one"
        return result(DRIFT, Outcome.INCONCLUSIVE, "baseline_missing", text)
    return _first(evidence)


def _first(evidence: SmokeEvidence) -> GateResult:
    """Accept a first measurement that later ones can be compared with."""
    found = latencies(evidence.samples)
    typical = [float(np.median(values)) for values in found.values()]
    if not len(relative(found)):
        text = "no prompt ended well twice, so that nothing could be compared with this; send more requests"
        return result(DRIFT, Outcome.INCONCLUSIVE, "baseline_too_short", text)
    text = (
        f"a first measurement, compared with nothing: {len(evidence.samples)} requests, "
        f"medians from {1000 * min(typical):.3g} to {1000 * max(typical):.3g} ms"
    )
    return result(DRIFT, Outcome.PASS, "first_measurement", text, {"requests": len(evidence.samples)})


def _not_reached(gate: str, evidence: SmokeEvidence) -> GateResult:
    return result(gate, Outcome.INCONCLUSIVE, "not_reached", evidence.unfinished or "it was not measured")


def _whole(gate: GateResult, unfinished: str) -> GateResult:
    """Take back a PASS that rests on less than was to be seen."""
    if not unfinished or gate.outcome is not Outcome.PASS:
        return gate
    cut = Reason(code="cut_short", text=unfinished)
    return gate.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "reasons": (cut, *gate.reasons)})
