"""The standing monitor: a few requests to what serves, now and then, and what they add up to.

It holds no lease, moves no traffic and opens no run. What it knows stands in `monitor.jsonl`, one line per look; the
newest line holds the detector's whole state, so a monitor that was killed goes on where it was. What it suspects, a
`verify` run decides.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from rollout.canary.interface import Target
from rollout.control.standing import Standing, left_over, load_run, standing
from rollout.control.world import World
from rollout.errors import ConfigError, EvidenceError, UnavailableError
from rollout.evidence.looks import LOOK_SCHEMA, Look, MonitorLog
from rollout.evidence.runs import run_ids
from rollout.flow.schedule import prompt_at
from rollout.gates.capabilities import judge_capabilities
from rollout.gates.drift import medians
from rollout.gates.latency import margins_of
from rollout.model.canonical import digest_json
from rollout.model.evidence import Baseline
from rollout.model.inventory import Absent, Instance
from rollout.model.journal import Phase, RunKind
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.verdict import Outcome
from rollout.model.waiver import day_of
from rollout.stats.detector import DetectorState, DriftDetector, relative

CAPABILITIES, GONE = "capabilities", "instances"
"""Alarms that need no statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is watched, and what it is measured by."""

    standing: Standing
    baseline: Baseline
    prompts: PromptSet
    typical_s: Mapping[str, float]
    yardstick: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What the requests of one look were."""

    ratios: tuple[float, ...] = ()
    alarm: str = ""
    note: str = ""
    warmed: tuple[str, ...] = ()
    confirmed: str = ""


class Monitor:
    """Looks at what serves. The caller keeps time, and carries out the run that an alarm asks for.

    Args:
        state: The state folder; its log must be held alone.
        world: Wired without a router; its lease is not touched here.
        policy: Margins, error rate and the promised time between false alarms.
        prompts: What is sent, in shuffled cycles.
        requests: How many per look, at least 1.
        accept_new_baseline: Begin anew where the stored state belongs to another baseline, instead of refusing.
    """

    def __init__(
        self, *, state: Path, world: World, policy: Policy, prompts: PromptSet, requests: int, accept_new_baseline: bool
    ) -> None:
        self._state = state
        self._world = world
        self._policy = policy
        self._prompts = prompts
        self._requests = requests
        self._accept_new_baseline = accept_new_baseline
        self._log = MonitorLog(state)

    def look(self) -> Look:
        """Look once, and store what was found.

        While a rollout is unfinished nothing is sent. An alarm that no run has answered is raised again, without
        further requests. One that a run has confirmed stands, with nothing sent and nobody paged again, until a
        `verify` run passes, which begins the evidence anew, or something else serves.

        Raises:
            EvidenceError: There is no baseline to measure by, or the stored state is damaged or of another baseline.
            ConfigError: Nothing serves yet.
            PlatformError: The platform does not answer, or the disk failed.
            Interrupted: A signal came; what this look had measured is left out.
        """
        subject, last = self._subject(), self._log.last()
        anew = last is not None and last.yardstick != subject.yardstick
        if anew and not self._accept_new_baseline:
            raise EvidenceError(
                f"the monitor's state in {self._state} was measured by another baseline, policy or prompt set than now "
                "stands; `--accept-new-baseline` begins anew"
            )
        known = None if last is None or anew or self._passed_since(last) else last
        if known is not None and known.confirmed:
            note = f"confirmed by {known.confirmed} and not cleared since: `rollout verify` looks again"
            stands = _Measured(note=note, warmed=known.warmed, confirmed=known.confirmed)
            return self._store(subject, self._detector(subject, known.detector), stands, number=known.number + 1)
        detector = self._detector(subject, None if known is None else known.detector)
        warmed = () if known is None else known.warmed
        blocked = self._blocked()
        if blocked:
            measured = _Measured(note=blocked, warmed=warmed)
        else:
            measured = self._measure(subject, detector, warmed)
            blocked = self._blocked()
            if blocked:
                detector = self._detector(subject, None if known is None else known.detector)
                measured = _Measured(note=f"{blocked}; what was measured is left out", warmed=measured.warmed)
        if anew:
            note = "; ".join(filter(None, ("begun anew with another baseline", measured.note)))
            measured = replace(measured, note=note)
        return self._store(subject, detector, measured, number=1 if last is None else last.number + 1)

    def _passed_since(self, last: Look) -> bool:
        """Tell whether a drift check passed after the one that confirmed an alarm."""
        if not last.confirmed:
            return False
        later = takewhile(lambda run_id: run_id != last.confirmed, run_ids(self._state))
        runs = (load_run(self._state, run_id) for run_id in later)
        return any(run.request.kind is RunKind.VERIFY and run.phase is Phase.VERIFIED for run in runs)

    def settle(self, run_id: str, *, outcome: Phase) -> Look:
        """Store what became of an alarm: a cleared one begins the evidence anew, any other stands.

        Args:
            run_id: The `verify` run that answered it.
            outcome: How that ended: VERIFIED clears the alarm, DRIFTED confirms it, anything else leaves it open.

        Raises:
            EvidenceError: There was no look, or its line is damaged.
            PlatformError: The disk failed.
        """
        last = self._log.last()
        if last is None:
            raise EvidenceError(f"{run_id} answers an alarm, and the monitor's log in {self._state} holds no look")
        cleared, confirmed = outcome is Phase.VERIFIED, outcome is Phase.DRIFTED
        subject = self._subject()
        detector = self._detector(subject, None if cleared or last.yardstick != subject.yardstick else last.detector)
        answered = last.model_copy(
            update={
                "number": last.number + 1,
                "at": self._world.clock.now(),
                "yardstick": subject.yardstick,
                "requests": 0,
                "failed": 0,
                "p50_ratio": None,
                "evidence": detector.total,
                "alarm": "",
                "note": "cleared; the evidence begins anew" if cleared else "the alarm stands",
                "run": run_id,
                "confirmed": run_id if confirmed else "",
                "detector": detector.state,
            }
        )
        self._log.append(answered)
        return answered

    def _subject(self) -> _Subject:
        now = standing(self._state)
        if isinstance(now, Absent):
            raise ConfigError(now.reason)
        baseline = self._world.baselines.get(now.release.digest)
        if isinstance(baseline, Absent):
            raise EvidenceError(f"{now.release.name} serves and has no baseline; `rollout calibrate` measures one")
        if not baseline.measured_as(self._policy, self._prompts):
            raise EvidenceError(
                f"the baseline of {now.release.name} was measured with other prompts, or in another way, than the "
                "policy says now; `rollout calibrate` measures it anew"
            )
        typical_s = medians(baseline)
        prompts = [one for one in self._prompts.prompts if one.id in typical_s]
        if not prompts:
            raise EvidenceError(
                f"the baseline of {now.release.name} holds no latencies; `rollout calibrate` measures them"
            )
        gate = self._policy.latency
        return _Subject(
            standing=now,
            baseline=baseline,
            prompts=self._prompts.model_copy(update={"prompts": prompts}),
            typical_s=typical_s,
            yardstick=digest_json(
                {
                    "release": baseline.release_digest,
                    "prompts": baseline.prompts_digest,
                    "protocol": baseline.protocol,
                    "latency_s": baseline.latency_s,
                    "limits": [
                        *(gate.p50_ratio_max, gate.tail_quantile, gate.tail_ratio_max),
                        *(self._policy.errors.rate_max, self._policy.drift.false_alarm_requests),
                    ],
                }
            ),
        )

    def _detector(self, subject: _Subject, state: DetectorState | None) -> DriftDetector:
        return DriftDetector(
            baseline=relative(subject.baseline.latency_s),
            margins=margins_of(self._policy.latency),
            failure_rate_max=self._policy.errors.rate_max,
            false_alarm_requests=self._policy.drift.false_alarm_requests,
            state=state,
        )

    def _blocked(self) -> str:
        """Say which rollout is unfinished; empty where none is. A drift check is none."""
        left = left_over(self._state)
        if left is None or left.terminal or left.request.kind is RunKind.VERIFY:
            return ""
        return f"skipped: run {left.request.run_id} is unfinished in phase {left.phase}"

    def _measure(self, subject: _Subject, detector: DriftDetector, warmed: tuple[str, ...]) -> _Measured:
        slot = subject.standing.serving
        state = self._world.platform.observe()[slot]
        if isinstance(state, Absent) or not state.ready:
            why = state.reason if isinstance(state, Absent) else "; ".join(one.detail for one in state.instances)
            return _Measured(alarm=GONE, note=f"what serves in {slot} is not ready: {why}", warmed=warmed)
        lost = "; ".join(filter(None, (self._lost(subject, one) for one in state.instances)))
        if lost:
            return _Measured(alarm=CAPABILITIES, note=lost, warmed=warmed)
        ratios: list[float] = []
        targets = [Target(address=one.address, pod_uid=one.uid) for one in state.instances]
        with self._world.signals.interruptible():
            for one in targets:
                if one.pod_uid not in warmed:
                    self._world.driver.warm_up(one, subject.prompts, requests_per_shape=self._policy.warmup_requests)
            while len(ratios) < self._requests and not detector.alarm:
                number = detector.requests
                prompt = prompt_at(subject.prompts, run_id=subject.yardstick, stage="monitor", number=number)
                target = targets[number % len(targets)]
                sample, _ = self._world.driver.measure_single(prompt=prompt, target=target)
                ratios.append(sample.latency_s / subject.typical_s[prompt.id])
                detector.hear(ratios[-1])
        uids = tuple(one.pod_uid for one in targets)
        note = "" if ratios else "no run has answered this alarm yet"
        return _Measured(ratios=tuple(ratios), alarm=detector.alarm, note=note, warmed=uids)

    def _lost(self, subject: _Subject, instance: Instance) -> str:
        """Say which capability of the baseline an instance has lost; empty where none."""
        try:
            now = self._world.protocol.fetch_snapshot(instance.address, timeout_s=self._policy.deadlines.request_s)
            problem = ""
        except (EvidenceError, UnavailableError) as error:
            now, problem = None, str(error)
        gate = judge_capabilities(
            self._policy.capabilities,
            incumbent=subject.baseline.snapshot,
            candidate=now,
            problems={"candidate": problem},
            compared=True,
            today=day_of(self._world.clock.now()),
        )
        return f"{instance.uid}: {gate.reasons[0].text}" if gate.outcome is Outcome.BREACH else ""

    def _store(self, subject: _Subject, detector: DriftDetector, measured: _Measured, *, number: int) -> Look:
        answered = [one for one in measured.ratios if math.isfinite(one)]
        look = Look(
            schema=LOOK_SCHEMA,
            number=number,
            at=self._world.clock.now(),
            yardstick=subject.yardstick,
            requests=len(measured.ratios),
            failed=len(measured.ratios) - len(answered),
            p50_ratio=statistics.median(answered) if answered else None,
            evidence=detector.total,
            evidence_needed=detector.needed,
            alarm=measured.alarm,
            note=measured.note,
            run="",
            confirmed=measured.confirmed,
            warmed=measured.warmed,
            detector=detector.state,
        )
        self._log.append(look)
        return look
