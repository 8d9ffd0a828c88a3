"""The latency gate: paired ratios against the margins, decided sequentially."""

import math
from dataclasses import dataclass

import numpy as np

from rollout.errors import EvidenceError
from rollout.gates.names import LATENCY
from rollout.gates.result import result
from rollout.model.evidence import Pair
from rollout.model.policy import LatencyGate
from rollout.model.verdict import GateResult, Outcome
from rollout.stats.margins import Margins
from rollout.stats.paired import Estimate, Judgement, PairedTest, Unmeasured

HISTORY_UNFIT = "history_unfit"
"""Code of the reason that no pair can help: the A/A history cannot be a yardstick for this policy."""

NEVER = 1e-300
"""False promote rate of a stage that has nothing to promote: its test never ends with PASS, so that a candidate that
becomes slow late in a long soak is still heard."""


def margins_of(policy: LatencyGate) -> Margins:
    """Return the margins that a policy states."""
    return Margins(
        p50_ratio_max=policy.p50_ratio_max,
        tail_quantile=policy.tail_quantile,
        tail_ratio_max=policy.tail_ratio_max,
        slow_factor=policy.slow_factor,
        slow_rate_rollback=policy.slow_rate_rollback,
        slow_rate_promote=policy.slow_rate_promote,
    )


def history_problem(policy: LatencyGate, aa_ratio: tuple[float, ...]) -> str:
    """Say why ratios of the incumbent against itself cannot be the yardstick of this policy; empty when they can."""
    try:
        _paired_test(policy, aa_ratio, Question(must_prove=True, looks=1))
    except EvidenceError as error:
        return str(error)
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the pairs of a stage are asked.

    Attributes:
        must_prove: True for the canary, which must exclude every margin; False for a later stage, which must only not
            contradict the canary's proof.
        looks: Stages of this kind in one rollout; they share the false rollback rate.
    """

    must_prove: bool
    looks: int


class LatencyTest:
    """The latency gate of one stage, fed pair by pair."""

    def __init__(self, *, policy: LatencyGate, aa_ratio: tuple[float, ...], question: Question) -> None:
        self._policy = policy
        self._question = question
        self._problem = history_problem(policy, aa_ratio)
        self._test = None if self._problem else _paired_test(policy, aa_ratio, question)
        self._outcome = Outcome.INCONCLUSIVE
        self._pairs = 0

    @property
    def stop_ratio(self) -> float:
        """The multiple of the incumbent's latency beyond which timing the candidate changes no verdict."""
        return math.inf if self._test is None else self._test.stop_ratio

    def hear(self, pair: Pair) -> None:
        """Take in the next pair; pairs after the decision change nothing."""
        self._pairs += 1
        if self._test is not None and self._outcome is Outcome.INCONCLUSIVE:
            decided = self._test.update(blue_s=pair.incumbent.latency_s, green_s=pair.candidate.latency_s)
            self._outcome = decided

    def result(self) -> GateResult:
        """Say what the pairs so far mean for this stage."""
        if self._test is None:
            return result(LATENCY, Outcome.INCONCLUSIVE, HISTORY_UNFIT, self._problem, {"pairs": self._pairs})
        judgement = self._test.judgement()
        figures = _figures(judgement, self._policy)
        if self._question.must_prove or self._outcome is Outcome.BREACH:
            code = {
                Outcome.PASS: "latency_within_margins",
                Outcome.BREACH: "latency_over_margin",
                Outcome.INCONCLUSIVE: "latency_undecided",
            }[self._outcome]
            return result(LATENCY, self._outcome, code, _words(judgement, self._policy), figures)
        if judgement.pairs_used == 0:
            text = f"none of {self._pairs} pairs of this stage has a latency"
            return result(LATENCY, Outcome.INCONCLUSIVE, "latency_unmeasured", text, figures)
        text = f"nothing contradicts the canary: {_words(judgement, self._policy)}"
        return result(LATENCY, Outcome.PASS, "latency_uncontradicted", text, figures)


def _paired_test(policy: LatencyGate, aa_ratio: tuple[float, ...], question: Question) -> PairedTest:
    return PairedTest(
        aa_ratio=np.array(aa_ratio),
        margins=margins_of(policy),
        alpha=policy.false_rollback_rate / question.looks,
        beta=policy.false_promote_rate if question.must_prove else NEVER,
    )


def _figures(judgement: Judgement, policy: LatencyGate) -> dict[str, float | int | str]:
    figures: dict[str, float | int | str] = {
        "pairs_used": judgement.pairs_used,
        "pairs_void": judgement.pairs_void,
        "e_rollback": judgement.e_rollback,
        "e_rollback_needed": judgement.e_rollback_needed,
        "e_promote_needed": judgement.e_promote_needed,
        "p50_ratio_max": policy.p50_ratio_max,
        "tail_ratio_max": policy.tail_ratio_max,
    }
    for gate in judgement.gates:
        figures[f"{gate.name.value}_e_rollback"] = gate.e_rollback
        figures[f"{gate.name.value}_e_promote_max"] = gate.e_promote_max
    for name, estimate in (("p50_ratio", judgement.p50_ratio), ("tail_ratio", judgement.tail_ratio)):
        if isinstance(estimate, Estimate):
            figures[name] = estimate.value
            figures[f"{name}_lower"] = estimate.bounds.lower
            figures[f"{name}_upper"] = estimate.bounds.upper
    return figures


def _words(judgement: Judgement, policy: LatencyGate) -> str:
    tail = f"P{100 * policy.tail_quantile:g}"
    return (
        f"{judgement.pairs_used} pairs: median ratio {_interval(judgement.p50_ratio)}, allowed "
        f"x{policy.p50_ratio_max:g}; {tail} of the ratio {_interval(judgement.tail_ratio)} of the history's, allowed "
        f"x{policy.tail_ratio_max:g}"
    )


def _interval(estimate: Estimate | Unmeasured) -> str:
    if isinstance(estimate, Unmeasured):
        return "unmeasured"
    return f"x{estimate.value:.3g} [{estimate.bounds.lower:.3g}, {estimate.bounds.upper:.3g}]"
