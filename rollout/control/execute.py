"""Taking one step. Every choice was made by the planner; this file only does it and reads back what became of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import assert_never

from rollout.canary.interface import Target
from rollout.control.world import World
from rollout.errors import EvidenceError, InvariantError, UnavailableError
from rollout.evidence.dossier import Dossier
from rollout.flow.run import CANARY, HISTORY, RECHECK, START
from rollout.flow.steps import (
    Deploy,
    MeasurePair,
    MeasureSample,
    MeasureWindows,
    ReadInstances,
    ReadLive,
    ReadSnapshots,
    Retire,
    Shift,
    Step,
    StopRouter,
    StoreBaseline,
    StoreHistory,
    WarmUp,
)
from rollout.flow.view import View, live_window
from rollout.gates.capabilities import fallen
from rollout.gates.jury import Jury
from rollout.gates.load import arrival_rate
from rollout.model.evidence import Baseline, Pair, history_of, protocol_of, reading_of
from rollout.model.inventory import Absent, Instance
from rollout.model.journal import (
    BaselineStored,
    Body,
    Deployed,
    HistoryStored,
    InstancesRead,
    LiveRead,
    PairMeasured,
    Retired,
    RouterStopped,
    RunKind,
    SampleMeasured,
    SnapshotsRead,
    TrafficShifted,
    WarmedUp,
    WindowsMeasured,
)
from rollout.model.load import LevelKind, LoadWindow, WindowPair, levels
from rollout.model.prompts import Prompt
from rollout.model.roles import Role
from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.waiver import day_of
from rollout.routers.interface import Router

QUEUE_ALLOWANCE_S = 1.0
"""Longest queue of a healthy candidate that has no live traffic: its own warm-up's last request, and little else."""


def described(step: Step) -> dict[str, str | int]:
    """Return a step's arguments in words, for the journal."""
    return {
        one.name: value if isinstance(value := getattr(step, one.name), int | str) else str(value)
        for one in fields(step)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One step in its surroundings."""

    world: World
    dossier: Dossier
    view: View
    jury: Callable[[], Jury]

    def take(self, step: Step) -> Body:  # noqa: C901, PLR0911, PLR0912 - one case for each kind
        """Take the step and return the record of what was read back.

        Raises:
            ConflictError: The lease was lost; nothing was changed.
            PlatformError: The step failed; it may have been taken in part.
            Interrupted: A signal ended a measurement; nothing was changed.
        """
        match step:
            case Deploy():
                return self._deploy(step)
            case Retire():
                self.world.platform.retire(step.slot)
                return Retired(slot=step.slot)
            case Shift():
                return self._shift(step)
            case StopRouter():
                self._router().stop()
                return RouterStopped()
            case ReadSnapshots():
                return self._read_snapshots(step)
            case WarmUp():
                return self._warm_up(step)
            case MeasurePair():
                return self._measure_pair(step)
            case MeasureWindows():
                return self._measure_windows(step)
            case MeasureSample():
                return self._measure_sample(step)
            case ReadInstances():
                return self._read_instances(step)
            case ReadLive():
                return LiveRead(stage=step.stage, window=live_window(self.view))
            case StoreHistory():
                return HistoryStored(baseline=self._store(self._history()))
            case StoreBaseline():
                return BaselineStored(baseline=self._store(self._promoted()))
            case _:
                assert_never(step)

    def _deploy(self, step: Deploy) -> Deployed:
        release = self.dossier.release if step.purpose == "candidate" else self.dossier.incumbent_release
        if release is None:
            raise InvariantError("the first stack of all has no incumbent to deploy")
        state = self.world.platform.deploy(step.slot, release, restart=step.restart)
        return Deployed(
            slot=step.slot,
            purpose=step.purpose,
            block=step.block,
            release_digest=state.release_digest,
            pod_uids=tuple(one.uid for one in state.instances),
        )

    def _shift(self, step: Shift) -> TrafficShifted:
        targets = {}
        for slot in step.targets:
            state = self.view.inventory.slots[slot]
            if isinstance(state, Absent):
                raise InvariantError(f"{slot} is to be a target and is empty: {state.reason}")
            living = [one for one in state.instances if one.alive]
            ready = [one for one in living if one.ready]
            if not living:
                raise InvariantError(f"{slot} is to be a target and nothing in it is alive")
            targets[slot] = tuple(one.address for one in ready or living)
        seen = self._router().apply(weights=step.weights, targets=targets)
        return TrafficShifted(
            stage=step.stage,
            blue=seen.weights.blue,
            green=seen.weights.green,
            targets={slot.value: [str(one) for one in addresses] for slot, addresses in seen.targets.items()},
            version=seen.version,
            epoch=seen.epoch,
            counters={slot.value: [one.completed, one.failed] for slot, one in seen.counters.items()},
        )

    def _read_snapshots(self, step: ReadSnapshots) -> SnapshotsRead:
        found: dict[str, str] = {}
        digests: dict[str, str] = {}
        uids: dict[str, list[str]] = {}
        problems: dict[str, str] = {}
        for role in step.roles:
            # Not inside: a lease that cannot be renewed says nothing of the role.
            self.world.lease.renew()
            try:
                snapshot = self._one_snapshot(role)
            except (EvidenceError, UnavailableError) as error:
                problems[role.value] = str(error)
                continue
            found[role.value] = self.dossier.objects.put_json(snapshot.to_json())
            digests[role.value] = snapshot.digest
            uids[role.value] = [one.uid for one in self._instances(role)]
        return SnapshotsRead(snapshots=found, snapshot_digests=digests, pod_uids=uids, problems=problems)

    def _one_snapshot(self, role: Role) -> CapabilitySnapshot:
        """Read every instance's snapshot; instances of one release must prove the same."""
        deadline = self.dossier.policy.deadlines.request_s
        read = [self.world.protocol.fetch_snapshot(one.address, timeout_s=deadline) for one in self._instances(role)]
        digests = sorted({one.digest for one in read})
        if len(digests) > 1:
            raise EvidenceError(f"instances of one release prove different capabilities: {', '.join(digests)}")
        return read[0]

    def _warm_up(self, step: WarmUp) -> WarmedUp:
        instances, sent, failed = self._instances(step.role), 0, 0
        with self.world.signals.interruptible():
            for one in instances:
                counts = self.world.driver.warm_up(
                    self._target(step.role, one),
                    self.dossier.prompts,
                    requests_per_shape=self.dossier.policy.warmup_requests,
                    between=self.world.lease.renew,
                )
                sent, failed = sent + counts.sent, failed + counts.failed
        uids = tuple(one.uid for one in instances)
        return WarmedUp(role=step.role, pod_uids=uids, requests=sent, failed=failed)

    def _measure_pair(self, step: MeasurePair) -> PairMeasured:
        history = step.stage == HISTORY
        unstopped = step.stage in {HISTORY, RECHECK}
        incumbents, candidates = self._instances(Role.INCUMBENT), self._instances(Role.CANDIDATE)
        candidate = candidates[step.number % len(candidates)]
        # The other role goes round more slowly, so that no two instances are compared with each other only.
        incumbent = incumbents[step.number // len(candidates) % len(incumbents)]
        with self.world.signals.interruptible():
            pair, pictures = self.world.driver.measure_pair(
                prompt=self._prompt(step.prompt_id),
                stage=step.stage,
                number=step.number,
                first=step.first,
                targets={
                    Role.INCUMBENT: self._target(Role.INCUMBENT, incumbent),
                    Role.CANDIDATE: self._target(Role.CANDIDATE, candidate),
                },
                give_up_factor=math.inf if unstopped else self.jury().stop_ratio(step.stage),
                queue_allowance_s=self._queue_allowance_s(step.stage),
            )
        self._keep(pictures)
        return PairMeasured(pair=pair, judgement=None if history else self.jury().hear(pair))

    def _measure_windows(self, step: MeasureWindows) -> WindowsMeasured:
        demand, run = self.dossier.policy.load, self.view.run
        if demand is None:
            raise InvariantError("the policy demands no load phase")
        level = next(one for one in levels(demand) if one.name == step.level)
        rate_per_s = arrival_rate(demand, run.windows) if level.kind is LevelKind.ARRIVALS else 0.0
        seed = f"{run.request.run_id} {level.name} {step.number}"
        windows: dict[Role, LoadWindow] = {}
        with self.world.signals.interruptible():
            for role in (step.first, step.first.other):
                self.world.lease.renew()
                windows[role], samples = self.world.load.measure_window(
                    level=level,
                    rate_per_s=rate_per_s,
                    seconds=demand.window_s,
                    targets=[self._target(role, one) for one in self._instances(role)],
                    prompts=self.dossier.prompts,
                    seed=seed,
                )
                self.dossier.objects.put_bytes(samples, ".json")
        pair = WindowPair(
            level=level.name,
            number=step.number,
            first=step.first,
            rate_per_s=rate_per_s,
            incumbent=windows[Role.INCUMBENT],
            candidate=windows[Role.CANDIDATE],
        )
        return WindowsMeasured(pair=pair, judgement=self.jury().hear_windows(pair))

    def _read_instances(self, step: ReadInstances) -> InstancesRead:
        readings = [
            reading_of(one, cold_start_s=self.view.cold_start_s(one.uid) if step.stage == START else None)
            for one in self._instances(Role.CANDIDATE)
        ]
        return InstancesRead(stage=step.stage, role=Role.CANDIDATE, readings=tuple(readings))

    def _measure_sample(self, step: MeasureSample) -> SampleMeasured:
        instances = self._instances(Role.INCUMBENT)
        with self.world.signals.interruptible():
            sample, pictures = self.world.driver.measure_single(
                prompt=self._prompt(step.prompt_id),
                target=self._target(Role.INCUMBENT, instances[step.number % len(instances)]),
            )
        self._keep(pictures)
        return SampleMeasured(number=step.number, prompt_id=step.prompt_id, sample=sample)

    def _queue_allowance_s(self, stage: str) -> float:
        """A candidate with live traffic may queue for as long as a request may take at all."""
        return QUEUE_ALLOWANCE_S if stage == CANARY else self.dossier.policy.deadlines.request_s

    def _history(self) -> Baseline:
        pairs = self.view.run.pairs.get(HISTORY, ())
        history = history_of(pairs)
        if self.dossier.incumbent_release is None:
            raise InvariantError("the first stack of all has no history")
        made = Baseline(
            schema="rollout.baseline/v1",
            release_digest=self.dossier.incumbent_release.digest,
            snapshot=self._one_snapshot(Role.INCUMBENT),
            prompts_digest=self.dossier.prompts.digest,
            protocol=protocol_of(self.dossier.policy),
            made_at=self.view.now,
            made_by_run=self.view.run.request.run_id,
            aa_ratio=list(history.ratio),
            aa_prompt_ids=[one.prompt_id for one in pairs if one.sound],
            repeat_psnr_db=history.repeat_psnr_db,
            latency_s=_latencies([one for one in pairs if one.sound], Role.INCUMBENT),
            cold_start_s=list(self.view.run.twin_starts_s),
        )
        earlier = self.world.baselines.get(made.release_digest)
        calibrated = self.view.run.request.kind is RunKind.CALIBRATE
        if calibrated or isinstance(earlier, Absent) or not earlier.latency_s or not earlier.measured_like(made):
            return made
        policy, today = self.dossier.policy.capabilities, day_of(self.view.run.requested_at)
        problem = fallen(policy, proven=earlier.snapshot, now=made.snapshot, today=today)
        if problem:
            raise EvidenceError(problem)
        # What drift is measured by stays what it was at promotion: a new history must not make slowness the standard.
        return made.model_copy(update={"latency_s": earlier.latency_s, "yardstick_ratio": earlier.yardstick_ratio})

    def _promoted(self) -> Baseline:
        """Join what the candidate was measured to do with the A/A history its release may have from earlier."""
        pairs = [one for stage in self.view.run.judged for one in self.view.run.pairs[stage] if one.sound]
        snapshot = self.dossier.snapshot(self.view.run, Role.CANDIDATE)
        if snapshot is None:
            raise InvariantError("a candidate without a snapshot was promoted")
        made = Baseline(
            schema="rollout.baseline/v1",
            release_digest=self.dossier.release.digest,
            snapshot=snapshot,
            prompts_digest=self.dossier.prompts.digest,
            protocol=protocol_of(self.dossier.policy),
            made_at=self.view.now,
            made_by_run=self.view.run.request.run_id,
            aa_ratio=[],
            yardstick_ratio=list(self._yardstick()),
            latency_s=_latencies(pairs, Role.CANDIDATE),
            cold_start_s=[
                reading.cold_start_s
                for read in self.view.run.readings
                for reading in read.readings
                if reading.cold_start_s is not None
            ],
        )
        earlier = self.world.baselines.get(made.release_digest)
        if isinstance(earlier, Absent) or not earlier.comparable(made):
            return made
        kept = ("aa_ratio", "aa_prompt_ids", "repeat_psnr_db", "made_at")
        return made.model_copy(update={name: getattr(earlier, name) for name in kept})

    def _yardstick(self) -> tuple[float, ...]:
        used = self.view.run.history
        return () if used is None else self.dossier.baseline(used).yardstick

    def _store(self, baseline: Baseline) -> str:
        digest = self.dossier.objects.put_json(baseline.model_dump(mode="json", by_alias=True))
        with self.world.lease.hold():
            self.world.baselines.put(baseline)
        return digest

    def _keep(self, pictures: Mapping[str, bytes]) -> None:
        for data in pictures.values():
            self.dossier.objects.put_bytes(data, ".png")

    def _instances(self, role: Role) -> tuple[Instance, ...]:
        state = self.view.slot(role)
        if isinstance(state, Absent):
            raise UnavailableError(f"the {role} is gone: {state.reason}")
        return state.instances

    def _target(self, role: Role, instance: Instance) -> Target:
        known = self.view.run.snapshots
        digest = known.snapshot_digests.get(role.value, "") if known else ""
        return Target(address=instance.address, pod_uid=instance.uid, snapshot_digest=digest)

    def _prompt(self, prompt_id: str) -> Prompt:
        return next(one for one in self.dossier.prompts.prompts if one.id == prompt_id)

    def _router(self) -> Router:
        if self.world.router is None:
            raise InvariantError("this command has no router and cannot move traffic")
        return self.world.router


def _latencies(pairs: list[Pair], role: Role) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for one in pairs:
        sample = one.incumbent if role is Role.INCUMBENT else one.candidate
        found.setdefault(one.prompt_id, []).append(sample.latency_s)
    return found
