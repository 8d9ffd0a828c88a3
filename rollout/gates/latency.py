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
from rollout.stats.margins import Margins, instance_margins
from rollout.stats.noise import block_pairs_for
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
        _paired_test(policy, aa_ratio, Question(must_prove=True, looks=1, pods=1))
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
        pods: Instances of the candidate, at least 1.
    """

    must_prove: bool
    looks: int
    pods: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pod:
    """One instance of several: its own pairs are heard for conviction and, apart from that, for its proof."""

    breach: PairedTest
    proof: PairedTest

    @property
    def tests(self) -> tuple[PairedTest, PairedTest]:
        return self.breach, self.proof


class LatencyTest:
    """The latency gate of one stage, fed pair by pair.

    Where the candidate has several instances, each is judged by its own pairs too, so that one slow replica is not
    averaged away.

    BREACH: all pairs together suffice, or those of any one instance. Half of the false rollback rate goes to the
    former, the other half is shared by the instances: by the union bound the sum is the rate, however the tests depend
    on each other.

    PASS: all pairs together exclude every margin, and the pairs of each instance exclude a median above the square of
    the margin, each at the full false promote rate: a conjunction is wrong no oftener than its weakest part
    (intersection-union). `instance_margins` says why the square.

    With one instance there is one test, at the full rates.
    """

    def __init__(self, *, policy: LatencyGate, aa_ratio: tuple[float, ...], question: Question) -> None:
        self._policy = policy
        self._question = question
        self._aa_ratio = aa_ratio
        self._problem = history_problem(policy, aa_ratio)
        share = 1.0 if question.pods == 1 else 0.5
        self._test = None if self._problem else _paired_test(policy, aa_ratio, question, share=share)
        self._pods: dict[str, _Pod] = {}
        self._unheard = () if self._problem or question.pods == 1 else self._new_pod().tests
        self._pairs = 0

    @property
    def stop_ratio(self) -> float:
        """The multiple of the incumbent's latency beyond which timing the candidate changes no verdict.

        It holds for whichever instance is asked next, also for one that was not asked before.
        """
        heard = (one for pod in self._pods.values() for one in pod.tests)
        tests = () if self._test is None else (self._test, *self._unheard, *heard)
        return max((one.stop_ratio for one in tests), default=math.inf)

    def hear(self, pair: Pair) -> None:
        """Take in the next pair; pairs after a test's decision change nothing about it."""
        self._pairs += 1
        if self._test is None:
            return
        tests = (self._test, *(self._pod(pair.candidate_uid).tests if self._question.pods > 1 else ()))
        for one in tests:
            if one.outcome is Outcome.INCONCLUSIVE:
                one.update(blue_s=pair.incumbent.latency_s, green_s=pair.candidate.latency_s)

    def _pod(self, uid: str) -> _Pod:
        if uid not in self._pods:
            self._pods[uid] = self._new_pod()
        return self._pods[uid]

    def _new_pod(self) -> _Pod:
        policy = self._policy
        loose = instance_margins(margins_of(policy))
        return _Pod(
            breach=_paired_test(policy, self._aa_ratio, self._question, share=0.5 / self._question.pods),
            proof=_paired_test(policy, self._aa_ratio, self._question, share=NEVER, margins=loose),
        )

    def _slow_pod(self) -> str:
        """Return the first instance that was convicted by its own pairs; empty while none was."""
        return next((uid for uid, one in self._pods.items() if one.breach.outcome is Outcome.BREACH), "")

    def _unproven_pods(self) -> tuple[str, ...]:
        """Return the instances whose own median is not proven yet, in words."""
        if self._question.pods == 1:
            return ()
        unseen = self._question.pods - len(self._pods)
        few = [f"{unseen} without a pair"] if unseen > 0 else []
        pass_at = 1.0 / self._policy.false_promote_rate
        return (*few, *(uid for uid, one in sorted(self._pods.items()) if one.proof.median_promote_max < pass_at))

    def _outcome(self) -> Outcome:
        if self._test is None:
            return Outcome.INCONCLUSIVE
        if self._slow_pod():
            return Outcome.BREACH
        if self._test.outcome is Outcome.PASS and self._unproven_pods():
            return Outcome.INCONCLUSIVE
        return self._test.outcome

    def result(self) -> GateResult:
        """Say what the pairs so far mean for this stage."""
        if self._test is None:
            return result(LATENCY, Outcome.INCONCLUSIVE, HISTORY_UNFIT, self._problem, {"pairs": self._pairs})
        outcome, slow = self._outcome(), self._slow_pod()
        if slow:
            judgement = self._pods[slow].breach.judgement()
            text = f"instance {slow} alone, {_words(judgement, self._policy)}"
            return result(LATENCY, outcome, "latency_over_margin", text, self._told(judgement))
        judgement = self._test.judgement()
        figures = self._told(judgement)
        if self._question.must_prove and self._test.outcome is Outcome.PASS and outcome is Outcome.INCONCLUSIVE:
            text = f"proven together, not yet for {', '.join(self._unproven_pods())}: {_words(judgement, self._policy)}"
            return result(LATENCY, outcome, "latency_undecided", text, figures)
        if self._question.must_prove or outcome is Outcome.BREACH:
            code = {
                Outcome.PASS: "latency_within_margins",
                Outcome.BREACH: "latency_over_margin",
                Outcome.INCONCLUSIVE: "latency_undecided",
            }[outcome]
            return result(LATENCY, outcome, code, _words(judgement, self._policy), figures)
        if judgement.pairs_used == 0:
            text = f"none of {self._pairs} pairs of this stage has a latency"
            return result(LATENCY, Outcome.INCONCLUSIVE, "latency_unmeasured", text, figures)
        text = f"nothing contradicts the canary: {_words(judgement, self._policy)}"
        return result(LATENCY, Outcome.PASS, "latency_uncontradicted", text, figures)

    def _told(self, judgement: Judgement) -> dict[str, float | int | str]:
        """Return the figures of one test, and of each instance where there are several."""
        figures = _figures(judgement, self._policy)
        for uid, one in sorted(self._pods.items()):
            figures[f"pod {uid} pairs"] = one.breach.pairs_used
            figures[f"pod {uid} median_e_promote_max"] = one.proof.median_promote_max
        return figures


def _paired_test(
    policy: LatencyGate,
    aa_ratio: tuple[float, ...],
    question: Question,
    *,
    share: float = 1.0,
    margins: Margins | None = None,
) -> PairedTest:
    """Return a test with this share of the stage's false rollback rate, by the policy's margins or by these."""
    ratio = np.array(aa_ratio)
    return PairedTest(
        aa_ratio=ratio,
        margins=margins or margins_of(policy),
        alpha=share * policy.false_rollback_rate / question.looks,
        beta=policy.false_promote_rate if question.must_prove else NEVER,
        block_pairs=block_pairs_for(ratio),
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
