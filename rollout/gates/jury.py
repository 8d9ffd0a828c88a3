"""The jury: hears evidence in the order of the journal and says what all gates of a stage say together.

It holds no clock and no randomness, so that the same journal gives the same verdicts, bit for bit, in the controller
and in `rollout explain`.
"""

from collections.abc import Mapping, Sequence
from datetime import date

from rollout.errors import EvidenceError
from rollout.gates.accuracy import judge_accuracy, precision_change
from rollout.gates.capabilities import judge_capabilities
from rollout.gates.drift import RecheckTest, judge_drift
from rollout.gates.errors import judge_errors, judge_requests
from rollout.gates.instances import judge_instances
from rollout.gates.latency import LatencyTest, Question
from rollout.gates.live import judge_live
from rollout.gates.load import LoadTests
from rollout.gates.names import LOAD, RECHECK
from rollout.gates.pictures import judge_pictures
from rollout.gates.result import result
from rollout.model.evidence import AaHistory, Baseline, LiveWindow, Pair
from rollout.model.journal import InstancesRead, SampleMeasured
from rollout.model.load import WindowPair
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.verdict import GateResult, Outcome, Verdict, combine


class Jury:
    """Judges one run.

    Args:
        policy: The run's policy.
        prompts: The run's prompts.
        history: The incumbent against itself; None until the run has one.
        proving_stage: The stage whose pairs must exclude every margin.
        later_stages: How many stages may contradict that proof.
        pods: Instances of the candidate, each of which is judged.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        prompts: PromptSet,
        history: AaHistory | None,
        proving_stage: str,
        later_stages: int,
        pods: int,
    ) -> None:
        self._policy = policy
        self._prompts = prompts
        self._history = history
        self._proving_stage = proving_stage
        self._later_stages = max(later_stages, 1)
        self._pods = pods
        self._change = ""
        self._load = None if policy.load is None else LoadTests(policy.load)
        self._recheck: RecheckTest | None = None
        self._latency: dict[str, LatencyTest] = {}
        self._pairs: dict[str, list[Pair]] = {}

    def use_history(self, history: AaHistory) -> None:
        """Take the A/A history that later pairs are judged by."""
        self._history = history

    def stop_ratio(self, stage: str) -> float:
        """Return the multiple of the incumbent's latency beyond which timing the candidate changes no verdict."""
        return self._test(stage).stop_ratio

    def hear(self, pair: Pair) -> Verdict:
        """Take in one pair and say what its stage means so far, live traffic aside."""
        if pair.stage == RECHECK:
            self._rechecking().hear(pair)
            return self.recheck()
        self._test(pair.stage).hear(pair)
        self._pairs.setdefault(pair.stage, []).append(pair)
        return combine(pair.stage, self._canary_gates(pair.stage))

    def hear_windows(self, pair: WindowPair) -> Verdict:
        """Take in one pair of load windows and say what the load phase means so far."""
        if self._load is None:
            raise EvidenceError("a load window was measured, and the policy demands no load phase")
        self._load.hear(pair)
        return combine(LOAD, self._load.results())

    def conclude(self, stage: str, *, live: LiveWindow | None, readings: Sequence[InstancesRead]) -> Verdict:
        """Say what a stage means; `live` counts only where the stage has live traffic."""
        starts = self._history.cold_start_s if self._history else ()
        instances = judge_instances(self._policy.instances, readings, known_starts=starts, stage=stage)
        if stage == LOAD:
            return combine(LOAD, (*self._load_gates(), instances))
        gates = (*self._canary_gates(stage), instances)
        if stage != self._proving_stage:
            gates = (*gates, judge_live(self._policy.live, live))
        return combine(stage, gates)

    def recheck(self) -> Verdict:
        """Say what the pairs of what serves against the earlier stack mean so far."""
        return combine(RECHECK, (self._rechecking().result(),))

    def admit(
        self,
        *,
        incumbent: CapabilitySnapshot | None,
        candidate: CapabilitySnapshot | None,
        problems: Mapping[str, str],
        compared: bool,
        today: date,
    ) -> Verdict:
        """Judge the capability snapshots, and note whether the precision of the arithmetic changes.

        `today` is the day on which the run was asked for, in UTC, and decides which waivers hold.
        """
        if incumbent is not None and candidate is not None:
            self._change = precision_change(incumbent, candidate)
        gate = judge_capabilities(
            self._policy.capabilities,
            incumbent=incumbent,
            candidate=candidate,
            problems=problems,
            compared=compared,
            today=today,
        )
        return combine("admission", (gate,))

    def drift(
        self,
        samples: tuple[SampleMeasured, ...],
        *,
        snapshot: CapabilitySnapshot | None,
        baseline: Baseline | None,
        problems: Mapping[str, str],
        today: date,
    ) -> Verdict:
        """Judge today's errors by the policy, today's latencies and capabilities against those stored at promotion."""
        capabilities = judge_capabilities(
            self._policy.capabilities,
            incumbent=baseline.snapshot if baseline else None,
            candidate=snapshot,
            problems={
                "candidate": problems.get("incumbent", "no snapshot"),
                "incumbent": "no baseline is stored",
            },
            compared=True,
            today=today,
        )
        errors = judge_requests(
            self._policy.errors, [one.sample for one in samples], alpha=self._policy.latency.false_rollback_rate
        )
        return combine("drift", (capabilities, errors, judge_drift(self._policy.latency, baseline, samples)))

    def _canary_gates(self, stage: str) -> tuple[GateResult, ...]:
        pairs = self._pairs.get(stage, [])
        proving = stage == self._proving_stage
        return (
            self._test(stage).result(),
            judge_errors(self._policy.errors, pairs, alpha=self._policy.latency.false_rollback_rate),
            self._judge_pictures(pairs, prompt_ids=[one.id for one in self._prompts.prompts] if proving else ()),
        )

    def _judge_pictures(self, pairs: Sequence[Pair], *, prompt_ids: Sequence[str]) -> GateResult:
        """Another precision draws other pictures: what they must show then is the accuracy gate's."""
        if self._change and not any(one.flat for one in pairs):
            return judge_accuracy(self._policy.accuracy, change=self._change, pairs=pairs, prompt_ids=prompt_ids)
        return judge_pictures(
            self._policy.pictures,
            pairs,
            repeat_psnr_db=self._history.repeat_psnr_db if self._history else None,
            prompt_ids=prompt_ids,
        )

    def _load_gates(self) -> tuple[GateResult, ...]:
        if self._load is None:
            return (result(LOAD, Outcome.PASS, "load_not_demanded", "the policy demands no load phase"),)
        return self._load.results()

    def _rechecking(self) -> RecheckTest:
        if self._recheck is None:
            if self._history is None:
                raise EvidenceError("an alarm cannot be checked again without an A/A history")
            self._recheck = RecheckTest(self._policy.latency, self._history.ratio)
        return self._recheck

    def _test(self, stage: str) -> LatencyTest:
        if stage not in self._latency:
            if self._history is None:
                raise EvidenceError(f"stage {stage} cannot be judged without an A/A history")
            proving = stage == self._proving_stage
            self._latency[stage] = LatencyTest(
                policy=self._policy.latency,
                aa_ratio=self._history.ratio,
                question=Question(must_prove=proving, looks=1 if proving else self._later_stages, pods=self._pods),
            )
        return self._latency[stage]
