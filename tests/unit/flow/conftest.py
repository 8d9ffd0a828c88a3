"""A simulated world for the planner: slots, a router and a clock, without I/O and without waiting.

The world refuses what no world can be, and a watcher of its own checks the architecture's promises at every change of
traffic and of slots; neither uses any code of the flow room. The driver does what the controller's loop does.
"""

# ruff: noqa: S311 - draws of a simulation, with seeds, not secrets

import copy
import math
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from rollout.errors import RefusedError, RolloutError, UnavailableError
from rollout.flow.invariants import check
from rollout.flow.planner import plan
from rollout.flow.run import advance, fold
from rollout.flow.sight import Sight, looked
from rollout.flow.steps import CHANGES_WORLD, Act, Conclude, Enter, Finished, Wait
from rollout.flow.table import follow
from rollout.flow.view import View, live_window
from rollout.gates.jury import Jury
from rollout.model.canonical import digest_json
from rollout.model.evidence import Baseline, Pair, Sample, SampleStatus, history_of, reading_of
from rollout.model.inventory import Absent, Instance, Inventory, LiveCounters, RouterState, SlotState
from rollout.model.journal import (
    GENESIS,
    BaselineStored,
    CommandKind,
    CommandReceived,
    Deployed,
    HistoryStored,
    InstancesRead,
    LiveRead,
    PairMeasured,
    Phase,
    PhaseEntered,
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
    seal,
)
from rollout.model.load import LoadWindow, WindowPair
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.roles import Address, Role, Slot, Weights
from rollout.model.snapshot import CapabilitySnapshot, ok
from rollout.model.waiver import day_of

START = 1_000_000.0
DECISIONS_MAX = 20_000
SIGMA = 0.03
MEMORY_GROWS_AFTER_S = 5.0
PROMPTS = PromptSet.model_validate(
    {
        "schema": "rollout.prompts/v1",
        "prompts": [{"id": f"p{n}", "text": f"text {n}", "seed": n, "steps": 4, "size": "64x64"} for n in range(3)],
    }
)
POLICY: dict[str, Any] = {
    "schema": "rollout.policy/v1",
    "name": "simulated",
    "latency": {
        "measure": "service",
        "p50_ratio_max": 1.2,
        "tail_quantile": 0.75,
        "tail_ratio_max": 1.5,
        "slow_factor": 3.0,
        "slow_rate_rollback": 0.02,
        "slow_rate_promote": 0.3,
        "false_rollback_rate": 0.01,
        "false_promote_rate": 0.05,
        "pairs_max": 60,
    },
    "history": {"pairs": 120, "blocks": 3, "age_s_max": 604800},
    "warmup_requests": 1,
    "errors": {"rate_max": 0.05},
    "live": {"error_rate_max": 0.05, "requests_min": 5},
    "pictures": {"psnr_db_min": 40.0},
    "capabilities": {"required": ["runtime.ort.providers.actual"], "allowed_differences": [], "waivers": []},
    "shift": {"weights": [10, 50, 100], "pairs_per_step": 3, "dwell_s": 1},
    "soak": {"pairs": 3, "seconds": 2},
    "load": {
        "concurrencies": [4],
        "batches": [],
        "arrivals": ["poisson"],
        "arrival_share": 0.6,
        "window_s": 1.0,
        "windows_max": 12,
        "throughput_ratio_min": 0.7,
        "p95_ratio_max": 1.6,
        "error_rate_max": 0.05,
        "false_rollback_rate": 0.01,
        "false_promote_rate": 0.05,
        "seconds_max": 60.0,
        "requests_max": 100000,
        "cost_max": None,
    },
    "instances": {
        "cold_start_s_max": 30.0,
        "cold_start_ratio_max": 10.0,
        "restarts_max": 0,
        "memory_growth_ratio_max": 1.5,
    },
    "accuracy": None,
    "cost": None,
    "drift": {"requests": 60, "recheck_pairs_max": 60, "false_alarm_requests": 10000.0},
    "standby_s": 5,
    "on_inconclusive": "rollback",
    "approval": "none",
    "deadlines": {"request_s": 2.0, "ready_s": 10.0, "hold_s": 15.0, "rollback_s": 30.0, "run_s": 200.0},
}


class ImpossibleWorldError(AssertionError):
    """The controller, or the test, made a world that cannot be."""


class BrokenPromiseError(AssertionError):
    """The controller broke a promise of the architecture."""


def snapshot_of(**changed: Any) -> CapabilitySnapshot:
    fields = {"runtime.ort.providers.actual": ["CUDAExecutionProvider"], "runtime.ort.threads.intra_op": 4, **changed}
    return CapabilitySnapshot(
        schema="rollout.snapshot/v1", fields={key: ok(value, "simulated") for key, value in fields.items()}
    )


@dataclass
class Release:
    """How the instances of a release behave."""

    name: str
    ratio: float = 1.0
    sigma: float = SIGMA
    error_rate: float = 0.0
    live_error_rate: float = 0.0
    psnr_db: float = 60.0
    flat: bool = False
    ready_after_s: float = 1.0
    dies_after_s: float = math.inf
    load_ratio: float = 1.0
    """How many times slower it is besides, under load."""
    memory_growth: float = 1.0
    """Memory after the warm-up grows by this factor."""
    replicas: int = 1
    snapshot: CapabilitySnapshot | None = field(default_factory=snapshot_of)

    @property
    def digest(self) -> str:
        return digest_json({"release": self.name})


@dataclass
class Server:
    """One instance."""

    uid: str
    address: Address
    release: Release
    started_at: float
    dead: bool = False
    hung: bool = False


@dataclass
class SimulatedRouter:
    weights: dict[Slot, int]
    targets: dict[Slot, tuple[Address, ...]]
    epoch: str
    version: int = 0
    completed: Counter = field(default_factory=Counter)
    failed: Counter = field(default_factory=Counter)
    answers: bool = True


class SimulatedWorld:
    """Two slots, a router, live traffic and a clock."""

    def __init__(self, *, seed: int = 1, live_per_s: float = 20.0) -> None:
        self.now = START
        self.seed = seed
        self.live_per_s = live_per_s
        self.slots: dict[Slot, list[Server] | None] = dict.fromkeys(Slot)
        self.router: SimulatedRouter | None = None
        self.uids: set[str] = set()
        self.made = 0
        self.broken: dict[str, list[tuple[str, type[RolloutError]]]] = {}
        """Step name to failures to come: ("before" | "after" the change, error)."""

    # What a controller can do.

    def observe(self) -> dict[Slot, SlotState | Absent]:
        return {slot: self._state(slot) for slot in Slot}

    def read(self) -> RouterState:
        router = self.router
        if router is None or not router.answers:
            raise UnavailableError("the router does not answer")
        return RouterState(
            weights=Weights(blue=router.weights[Slot.BLUE], green=router.weights[Slot.GREEN]),
            generation=1,
            version=str(router.version),
            targets=dict(router.targets),
            counters={
                slot: LiveCounters(completed=router.completed[slot], failed=router.failed[slot], active=0)
                for slot in Slot
            },
            epoch=router.epoch,
        )

    def deploy(self, slot: Slot, release: Release, *, restart: tuple[str, ...] = ()) -> SlotState | Absent:
        standing = [one for one in self.slots[slot] or () if one.release.digest == release.digest]
        kept = [one for one in standing if not self._is_dead(one) and one.uid not in restart]
        self.slots[slot] = [*kept, *(self.new_server(slot, release) for _ in range(release.replicas - len(kept)))]
        self.pass_time(0.3)
        return self._state(slot)

    def retire(self, slot: Slot) -> None:
        self.slots[slot] = None
        self.pass_time(0.3)

    def apply(self, weights: Weights, targets: dict[Slot, tuple[Address, ...]]) -> RouterState:
        for slot in Slot:
            if weights.of(slot) and not targets.get(slot):
                raise ImpossibleWorldError(f"{slot} was to take traffic and has no target")
            known = {one.address for one in self.slots[slot] or ()}
            if not known.issuperset(targets.get(slot, ())):
                raise ImpossibleWorldError(f"{targets[slot]} are not addresses of {slot}")
        if self.router is None:
            self.start_router()
        if not self.router.answers:
            raise UnavailableError("the router does not answer")
        self.router.weights = {slot: weights.of(slot) for slot in Slot}
        self.router.targets = {slot: tuple(found) for slot, found in targets.items() if found}
        self.router.version += 1
        self.pass_time(0.05)
        return self.read()

    # What can happen.

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with live traffic."""
        self.now += seconds
        if self.router is None or not self.router.answers:
            return
        for slot, weight in self.router.weights.items():
            luck = random.Random(f"{self.seed}-{self.now}-{slot}")
            sent = _whole(seconds * self.live_per_s * weight / 100.0, luck)
            lost = self.slots[slot][0].release.live_error_rate if self._serves(slot) else 1.0
            self.router.completed[slot] += sent
            self.router.failed[slot] += min(sent, _whole(sent * lost, luck))

    def new_server(self, slot: Slot, release: Release) -> Server:
        self.made += 1
        server = Server(
            uid=f"{slot}-{self.made}",
            address=Address(host="sim", port=self.made),
            release=release,
            started_at=self.now,
        )
        if server.uid in self.uids:
            raise ImpossibleWorldError(f"two instances have the uid {server.uid}")
        self.uids.add(server.uid)
        return server

    def start_router(self) -> None:
        self.made += 1
        self.router = SimulatedRouter(weights={Slot.BLUE: 100, Slot.GREEN: 0}, targets={}, epoch=f"epoch-{self.made}")

    def kill(self, slot: Slot) -> None:
        for one in self.slots[slot] or ():
            one.dead = True

    def kill_one(self, slot: Slot) -> None:
        for one in (self.slots[slot] or ())[:1]:
            one.dead = True

    def lose(self, slot: Slot) -> None:
        """Take a slot away, record and all."""
        self.slots[slot] = None

    def hang(self, slot: Slot, *, hung: bool = True) -> None:
        for one in self.slots[slot] or ():
            one.hung = hung

    def replace(self, slot: Slot) -> None:
        if self.slots[slot]:
            release = self.slots[slot][0].release
            self.slots[slot] = [self.new_server(slot, release) for _ in range(release.replicas)]
            for fresh in self.slots[slot]:
                fresh.started_at = -math.inf

    def restart_router(self) -> None:
        if self.router is not None:
            weights, targets = self.router.weights, self.router.targets
            self.start_router()
            self.router.weights, self.router.targets = weights, targets

    def reweigh(self, *, blue: int) -> None:
        if self.router is not None:
            self.router.weights = {Slot.BLUE: blue, Slot.GREEN: 100 - blue}

    def ready(self, slot: Slot) -> bool:
        state = self._state(slot)
        return isinstance(state, SlotState) and state.ready

    def standing(self, slot: Slot, *, ready: bool) -> list[Server]:
        """Return the servers of a slot that are alive, or those of them that are ready."""
        seen = [(one, self._instance(one)) for one in self.slots[slot] or ()]
        return [one for one, state in seen if (state.ready if ready else state.alive)]

    def server(self, slot: Slot, uid: str) -> Server:
        found = [one for one in self.slots[slot] or () if one.uid == uid]
        if not found:
            raise ImpossibleWorldError(f"nobody in {slot} has the uid {uid}")
        return found[0]

    def answer(self, server: Server, *, key: str) -> Sample:
        """Answer one canary request."""
        luck = random.Random(f"{self.seed}-{key}")
        latency = 0.05 * server.release.ratio * luck.lognormvariate(0.0, server.release.sigma)
        if self._is_dead(server):
            return Sample(status=SampleStatus.ERROR, wall_s=0.001, detail="connection refused")
        if server.hung or latency > POLICY["deadlines"]["request_s"]:
            self.pass_time(POLICY["deadlines"]["request_s"])
            return Sample(status=SampleStatus.TIMEOUT, wall_s=POLICY["deadlines"]["request_s"], detail="no answer")
        self.pass_time(latency)
        if luck.random() < server.release.error_rate:
            return Sample(status=SampleStatus.ERROR, wall_s=latency, detail="answered 500")
        digest = server.release.snapshot.digest if server.release.snapshot else ""
        return Sample(status=SampleStatus.OK, wall_s=latency, pod_uid=server.uid, snapshot_digest=digest)

    def carry(self, server: Server, *, seconds: float, key: str) -> LoadWindow:
        """Answer under load for a while."""
        luck = random.Random(f"{self.seed}-{key}")
        self.pass_time(seconds)
        nobody = self._is_dead(server) or server.hung
        latency = 0.2 * server.release.ratio * server.release.load_ratio * luck.lognormvariate(0.0, SIGMA)
        offered = 20
        completed = 0 if nobody else round(offered * (1.0 - server.release.error_rate))
        return LoadWindow(
            seconds=seconds if nobody else offered * latency / 4.0,
            offered=offered,
            completed=completed,
            failed=offered - completed,
            answered=completed,
            pictures=completed,
            busy_s=seconds,
            p50_s=None if nobody else latency,
            p95_s=None if nobody else 1.1 * latency,
            p99_s=None if nobody else 1.2 * latency,
            samples=digest_json(key),
            detail="connection refused" if nobody else "",
        )

    def _is_dead(self, one: Server) -> bool:
        return one.dead or self.now - one.started_at > one.release.dies_after_s

    def _serves(self, slot: Slot) -> bool:
        live = {one.address for one in self.slots[slot] or () if not one.hung and not self._is_dead(one)}
        return bool(live & set(self.router.targets.get(slot, ())))

    def _state(self, slot: Slot) -> SlotState | Absent:
        servers = self.slots[slot]
        if servers is None:
            return Absent(reason=f"nothing is deployed in {slot}")
        return SlotState(
            release_digest=servers[0].release.digest,
            generation=1,
            instances=tuple(self._instance(one) for one in servers),
        )

    def _instance(self, one: Server) -> Instance:
        dead = self._is_dead(one)
        late = self.now - one.started_at < one.release.ready_after_s
        detail = "ended" if dead else "hangs" if one.hung else "still loading" if late else ""
        grown = one.release.memory_growth if self.now - one.started_at > MEMORY_GROWS_AFTER_S else 1.0
        memory = Absent(reason="it has ended") if dead else round(1e9 * grown)
        return Instance(
            uid=one.uid,
            address=one.address,
            alive=not dead,
            ready=not detail,
            detail=detail,
            memory_bytes=memory,
        )


def _whole(count: float, luck: random.Random) -> int:
    """Return a whole number with this mean."""
    return int(count) + (luck.random() < count % 1.0)


class Watcher:
    """Checks the promises on its own, from records and world alone.

    `calm` is True while nothing has gone wrong by itself; then the promises hold at every moment, and otherwise
    whenever the controller moves something.
    """

    def __init__(self) -> None:
        self.calm = True
        self.ready_before: set[str] = set()

    def before_deploy(self, world: SimulatedWorld, records: list, slot: Slot, purpose: str) -> None:
        request, phase = records[0].body, phase_of(records)
        if slot is request.incumbent and (phase is not Phase.ROLLBACK or purpose != "incumbent"):
            raise BrokenPromiseError(f"the incumbent was deployed anew in {phase}")
        if slot is request.candidate and world.router is not None and world.router.weights[slot] > 0:
            raise BrokenPromiseError("a slot was swapped under traffic")
        self.ready_before = {one.uid for one in world.standing(slot, ready=True)}

    def after_deploy(self, world: SimulatedWorld, slot: Slot, purpose: str) -> None:
        left = {one.uid for one in world.slots[slot] or ()}
        if purpose == "incumbent" and not left.issuperset(self.ready_before):
            raise BrokenPromiseError("a ready instance of the incumbent was ended")

    def before_retire(self, world: SimulatedWorld, records: list, slot: Slot) -> None:
        request = records[0].body
        if slot is request.incumbent:
            raise BrokenPromiseError("the incumbent was retired")
        if world.router is not None and world.router.answers and world.router.weights[slot] > 0:
            raise BrokenPromiseError("a slot was retired under traffic")
        if request.standby_until is not None and world.now < request.standby_until and world.ready(slot):
            raise BrokenPromiseError("the standby was retired before its time")

    def before_shift(self, world: SimulatedWorld, records: list, weights: Weights) -> None:
        request = records[0].body
        for slot in Slot:
            if weights.of(slot) == 0 or world.ready(slot):
                continue
            back = slot is request.incumbent and phase_of(records) is Phase.ROLLBACK
            other = world.standing(request.candidate, ready=True)
            # Back with the incumbent: to those of it that are ready, or to whoever lives where nobody else is ready.
            if not back or not world.standing(slot, ready=bool(other)):
                raise BrokenPromiseError(f"traffic was sent to {slot}, which is not ready")
        self._proven(world, records, {slot: weights.of(slot) for slot in Slot})

    def after_turn(self, world: SimulatedWorld, records: list) -> None:
        if world.router is None:
            return
        if sum(world.router.weights.values()) != 100:
            raise BrokenPromiseError(f"the weights are {world.router.weights}")
        if not self.calm:
            return
        for slot, weight in world.router.weights.items():
            if weight and not world.ready(slot):
                raise BrokenPromiseError(f"{slot} takes traffic and is not ready")
        self._proven(world, records, world.router.weights)

    def at_the_end(self, world: SimulatedWorld, records: list) -> None:
        request, phase = records[0].body, phase_of(records)
        serving = {Phase.PROMOTED: request.candidate, Phase.ROLLED_BACK: request.incumbent}.get(phase)
        if phase is Phase.ROLLED_BACK and world.slots[request.candidate] is not None:
            raise BrokenPromiseError("rolled back, and the candidate still stands")
        if serving is None or (request.kind is RunKind.BOOTSTRAP and phase is Phase.ROLLED_BACK):
            return
        if not world.ready(serving) or world.router is None or world.router.weights[serving] != 100:
            raise BrokenPromiseError(f"ended {phase}, and {serving} does not serve")
        if set(world.router.targets[serving]) != {one.address for one in world.slots[serving]}:
            raise BrokenPromiseError(f"ended {phase}, and the router does not know {serving}'s instances")

    def _proven(self, world: SimulatedWorld, records: list, weights: dict[Slot, int]) -> None:
        request = records[0].body
        share = weights[request.candidate]
        if share == 0 or request.kind is RunKind.ROLLBACK:
            return
        uids = sorted(one.uid for one in world.slots[request.candidate] or ())
        # A rollback reads the incumbent only, and what it reads admits nobody.
        read = [one.body for one in records if isinstance(one.body, SnapshotsRead)]
        snapshot = read[0].snapshot_digests.get("candidate", "") if read else ""
        present = digest_json({"release": request.release, "snapshot": snapshot, "pod_uids": uids})
        verdicts = {
            one.body.verdict.stage: (one.body.verdict.outcome.value, one.body.fingerprint)
            for one in records
            if isinstance(one.body, VerdictGiven)
        }
        bootstrap = request.kind is RunKind.BOOTSTRAP
        earlier = () if bootstrap else tuple(one for one in POLICY["shift"]["weights"] if one < share)
        for stage in ("admission", *(() if bootstrap else ("canary", "load")), *(f"shift-{one}" for one in earlier)):
            if verdicts.get(stage) != ("PASS", present):
                raise BrokenPromiseError(f"{share} per cent on the candidate, and {stage} says {verdicts.get(stage)}")


def phase_of(records: list) -> Phase:
    entered = [one.body.phase for one in records if isinstance(one.body, PhaseEntered)]
    return entered[-1] if entered else Phase.PREFLIGHT


class CrashError(Exception):
    """The controller ended here."""


class Simulation:
    """One run, driven as the controller's loop drives it."""

    def __init__(
        self,
        *,
        kind: RunKind = RunKind.PROMOTE,
        candidate: Release | None = None,
        incumbent: Release | None = None,
        own_history: bool = False,
        standby_s: float | None = None,
        older: Release | None = None,
        seed: int = 1,
        live_per_s: float = 20.0,
        **changes: Any,
    ) -> None:
        self.policy = Policy.model_validate(merged(POLICY, changes))
        self.releases = {
            Role.INCUMBENT: incumbent or Release(name="old"),
            Role.CANDIDATE: candidate or Release(name="new"),
        }
        self.older = older or Release(name="older")
        self.objects: dict[str, Any] = {}
        self.watcher = Watcher()
        self.world = SimulatedWorld(seed=seed, live_per_s=live_per_s)
        self.commands: list[CommandReceived] = []
        self.on_record: list[Any] = []
        self.waits: Counter = Counter()
        self.decisions = 0
        slots = self._stand(kind, standby_s)
        request = RunRequested(
            run_id=f"run-{seed}",
            kind=kind,
            stack="pictures",
            incumbent=slots[Role.INCUMBENT],
            candidate=slots[Role.CANDIDATE],
            policy=digest_json("policy"),
            prompts=PROMPTS.digest,
            release=self.releases[Role.CANDIDATE].digest,
            incumbent_release=None if kind is RunKind.BOOTSTRAP else self.releases[Role.INCUMBENT].digest,
            baseline=None if own_history or kind is RunKind.BOOTSTRAP else self._stored_baseline(seed),
            standby_until=None if standby_s is None else START + standby_s,
            requested_by="a test",
            environment={},
        )
        self.records = [seal(seq=0, at=self.world.now, generation=1, prev=GENESIS, body=request)]
        self._begin()

    def _stand(self, kind: RunKind, standby_s: float | None) -> dict[Role, Slot]:
        """Set up what stands before the run."""
        world, old = self.world, self.releases[Role.INCUMBENT]
        if kind is RunKind.BOOTSTRAP:
            return {Role.INCUMBENT: Slot.GREEN, Role.CANDIDATE: Slot.BLUE}
        world.slots[Slot.BLUE] = [world.new_server(Slot.BLUE, old) for _ in range(old.replicas)]
        world.pass_time(5.0)
        if kind is RunKind.ROLLBACK:
            new = self.releases[Role.CANDIDATE]
            world.slots[Slot.GREEN] = [world.new_server(Slot.GREEN, new) for _ in range(new.replicas)]
            world.pass_time(5.0)
        if standby_s is not None:
            world.slots[Slot.GREEN] = [world.new_server(Slot.GREEN, self.older)]
        on_green = kind is RunKind.ROLLBACK
        addresses = {slot: tuple(one.address for one in world.slots[slot]) for slot in Slot if world.slots[slot]}
        world.apply(Weights(blue=0 if on_green else 100, green=100 if on_green else 0), addresses)
        return {Role.INCUMBENT: Slot.BLUE, Role.CANDIDATE: Slot.GREEN}

    def _stored_baseline(self, seed: int) -> str:
        luck = random.Random(f"{seed}-history")
        ratios = [luck.lognormvariate(0.0, SIGMA * math.sqrt(2.0)) for _ in range(120)]
        latencies = {one.id: [0.05 * luck.lognormvariate(0.0, SIGMA) for _ in range(40)] for one in PROMPTS.prompts}
        return self._put_baseline(ratios, 60.0, latencies)

    def _put_baseline(self, ratios: list[float], psnr_db: float | None, latencies: dict[str, list[float]]) -> str:
        baseline = Baseline(
            schema="rollout.baseline/v1",
            release_digest=self.releases[Role.INCUMBENT].digest,
            snapshot=snapshot_of(),
            prompts_digest=PROMPTS.digest,
            protocol={},
            made_at=START,
            made_by_run="earlier",
            aa_ratio=ratios,
            repeat_psnr_db=psnr_db,
            latency_s=latencies,
        )
        digest = digest_json(baseline.model_dump(mode="json", by_alias=True))
        self.objects[digest] = baseline
        return digest

    def _begin(self) -> None:
        """Start a controller on what the journal says."""
        self.run, self.sight = fold(self.records), Sight()
        baseline = self.objects[self.run.history] if self.run.history else None
        history = baseline.history if baseline else None
        if baseline and self.run.request.kind is RunKind.VERIFY:
            history = replace(history, ratio=baseline.yardstick)
        self.jury = Jury(
            policy=self.policy,
            prompts=PROMPTS,
            history=history,
            proving_stage="canary",
            later_stages=len(self.policy.shift.weights) + 1,
            pods=self.releases[Role.CANDIDATE].replicas,
        )
        if "admission" in self.run.verdicts:
            self._verdict("admission")
        for stage in self.run.judged:
            for pair in self.run.pairs[stage]:
                self.jury.hear(pair)
        for pairs in self.run.windows.values():
            for windows in pairs:
                self.jury.hear_windows(windows)

    def resumed(self, records: list, world: SimulatedWorld) -> "Simulation":
        """Return another controller that finds this journal and this world."""
        other = copy.copy(self)
        other.records, other.world = list(records), copy.deepcopy(world)
        other.watcher, other.commands, other.on_record = copy.copy(self.watcher), [], []
        other.waits, other.decisions = Counter(), 0
        other._begin()
        return other

    # Driving.

    def say(self, command: CommandKind) -> None:
        number = len(self.commands) + len(self.run.commands)
        self.commands.append(CommandReceived(id=f"c{number}", command=command, by="somebody", reason="a test"))

    def to_the_end(self, *, decisions_max: int = DECISIONS_MAX) -> Phase:
        while not self.run.terminal:
            self.turn()
            if self.decisions > decisions_max:
                raise AssertionError(f"still in {self.run.phase} after {decisions_max} decisions: {self.waits}")
        self.watcher.at_the_end(self.world, self.records)
        return self.run.phase

    def until(self, phase: Phase) -> "Simulation":
        """Go on until this phase has been entered; fails when the run ends before."""
        while self.run.phase is not phase:
            if self.run.terminal:
                raise AssertionError(f"ended {self.run.phase} before {phase}: {self.codes()}")
            self.turn()
        return self

    def until_pair(self, stage: str, count: int = 1) -> "Simulation":
        while len(self.run.pairs.get(stage, ())) < count:
            if self.run.terminal:
                raise AssertionError(f"ended {self.run.phase} before a pair of {stage}: {self.codes()}")
            self.turn()
        return self

    def codes(self) -> list[str]:
        return [one.code for one in self.run.causes]

    def turn(self) -> None:
        self.decisions += 1
        for command in self.commands:
            self._append(command)
        self.commands = []
        view = self._look()
        decision = plan(view)
        match decision:
            case Wait():
                self.waits[decision.reason.code] += 1
                self.world.pass_time(decision.seconds)
            case Enter():
                phase = follow(self.run.phase, decision.event)
                self._append(PhaseEntered(phase=phase, event=decision.event, reasons=decision.reasons))
            case Conclude():
                fingerprint = "" if decision.stage in {"drift", "recheck"} else self.run.fingerprint()
                self._append(VerdictGiven(verdict=self._verdict(decision.stage), fingerprint=fingerprint))
            case Act():
                self._act(view, decision.step)
            case Finished():
                raise AssertionError("the planner ended a run that is not terminal")
        self.watcher.after_turn(self.world, self.records)

    def _look(self) -> View:
        try:
            router = Absent(reason="no router") if self.run.request.kind is RunKind.VERIFY else self.world.read()
        except UnavailableError as error:
            router = Absent(reason=str(error))
        inventory, now = Inventory(slots=self.world.observe(), router=router), self.world.now
        self.sight = looked(self.sight, inventory.slots, deployed_at=self.run.deployed_at, now=now)
        return View(policy=self.policy, prompts=PROMPTS, run=self.run, inventory=inventory, sight=self.sight, now=now)

    def _act(self, view: View, step: Any) -> None:
        name = type(step).__name__
        if isinstance(step, CHANGES_WORLD):
            check(view, step)
            self._append(StepIntended(step=name, args={}))
        when, error = next(iter(self.world.broken.get(name, ())), ("", None))
        if when:
            self.world.broken[name].pop(0)
        try:
            if when == "before":
                raise error(f"{name} broke before it began")
            body = getattr(self, f"_{name}")(view, step)
            if when == "after":
                raise error(f"{name} broke when it was done")
        except (UnavailableError, RefusedError) as raised:
            self._append(StepFailed(step=name, error=type(raised).__name__, message=str(raised)))
            self.world.pass_time(0.2)
            return
        for listener in self.on_record:
            listener(self, "done but not journaled")
        self._append(body)

    def _append(self, body: Any) -> None:
        last = self.records[-1]
        record = seal(seq=last.seq + 1, at=self.world.now, generation=1, prev=last.hash, body=body)
        self.records.append(record)
        self.run = advance(self.run, record)
        if isinstance(body, HistoryStored):
            self.jury.use_history(self.objects[body.baseline].history)
        for listener in self.on_record:
            listener(self, "journaled")

    def _verdict(self, stage: str) -> Any:
        problems = self.run.snapshots.problems if self.run.snapshots else {}
        read = {role: self._stored_snapshot(role) for role in Role}
        today = day_of(self.run.requested_at)
        if stage == "admission":
            return self.jury.admit(
                incumbent=read[Role.INCUMBENT],
                candidate=read[Role.CANDIDATE],
                problems=problems,
                compared=self.run.request.kind is not RunKind.BOOTSTRAP,
                today=today,
            )
        if stage == "drift":
            baseline = self.objects[self.run.history] if self.run.history else None
            return self.jury.drift(
                self.run.samples, snapshot=read[Role.INCUMBENT], baseline=baseline, problems=problems, today=today
            )
        if stage == "recheck":
            return self.jury.recheck()
        return self.jury.conclude(stage, live=self.run.live.get(stage), readings=self.run.readings)

    def _stored_snapshot(self, role: Role) -> CapabilitySnapshot | None:
        digest = self.run.snapshots.snapshots.get(role.value) if self.run.snapshots else None
        return self.objects[digest] if digest else None

    # The steps, as the controller takes them.

    def _Deploy(self, _view: View, step: Any) -> Deployed:  # noqa: N802 - named after the step
        role = Role.CANDIDATE if step.purpose == "candidate" else Role.INCUMBENT
        self.watcher.before_deploy(self.world, self.records, step.slot, step.purpose)
        state = self.world.deploy(step.slot, self.releases[role], restart=step.restart)
        self.watcher.after_deploy(self.world, step.slot, step.purpose)
        return Deployed(
            slot=step.slot,
            purpose=step.purpose,
            block=step.block,
            release_digest=state.release_digest,
            pod_uids=tuple(one.uid for one in state.instances),
        )

    def _Retire(self, _view: View, step: Any) -> Retired:  # noqa: N802
        self.watcher.before_retire(self.world, self.records, step.slot)
        self.world.retire(step.slot)
        return Retired(slot=step.slot)

    def _Shift(self, view: View, step: Any) -> TrafficShifted:  # noqa: N802
        targets = {}
        for slot in step.targets:
            living = [one for one in view.inventory.slots[slot].instances if one.alive]
            targets[slot] = tuple(one.address for one in [one for one in living if one.ready] or living)
        self.watcher.before_shift(self.world, self.records, step.weights)
        seen = self.world.apply(step.weights, targets)
        return TrafficShifted(
            stage=step.stage,
            blue=seen.weights.blue,
            green=seen.weights.green,
            targets={slot.value: [str(one) for one in found] for slot, found in seen.targets.items()},
            version=seen.version,
            epoch=seen.epoch,
            counters={slot.value: [one.completed, one.failed] for slot, one in seen.counters.items()},
        )

    def _StopRouter(self, _view: View, _step: Any) -> RouterStopped:  # noqa: N802
        self.world.router = None
        return RouterStopped()

    def _ReadSnapshots(self, view: View, step: Any) -> SnapshotsRead:  # noqa: N802
        self.world.pass_time(0.05)
        found: dict[str, CapabilitySnapshot] = {}
        uids, problems = {}, {}
        for role in step.roles:
            servers = [self.world.server(self.run.slot(role), one.uid) for one in view.slot(role).instances]
            snapshot = servers[0].release.snapshot
            if snapshot is None or servers[0].hung or servers[0].dead:
                problems[role.value] = "no answer"
                continue
            found[role.value] = snapshot
            self.objects[digest_json(snapshot.to_json())] = snapshot
            uids[role.value] = [one.uid for one in servers]
        return SnapshotsRead(
            snapshots={role: digest_json(one.to_json()) for role, one in found.items()},
            snapshot_digests={role: one.digest for role, one in found.items()},
            pod_uids=uids,
            problems=problems,
        )

    def _WarmUp(self, view: View, step: Any) -> WarmedUp:  # noqa: N802
        uids = tuple(one.uid for one in view.slot(step.role).instances)
        key = f"warm-{uids}"
        samples = [self.world.answer(self.world.server(self.run.slot(step.role), uid), key=key) for uid in uids]
        failed = sum(one.status is not SampleStatus.OK for one in samples)
        return WarmedUp(role=step.role, pod_uids=uids, requests=len(uids), failed=failed)

    def _MeasurePair(self, view: View, step: Any) -> PairMeasured:  # noqa: N802
        history = step.stage == "history"
        stop = math.inf if step.stage in {"history", "recheck"} else self.jury.stop_ratio(step.stage)
        samples: dict[Role, Sample] = {}
        asked = {role: view.slot(role).instances[step.number % len(view.slot(role).instances)].uid for role in Role}
        for role in (step.first, step.first.other):
            server = self.world.server(self.run.slot(role), asked[role])
            samples[role] = self.world.answer(server, key=f"{step.stage}-{step.number}-{role}")
        one, other = samples[Role.INCUMBENT], samples[Role.CANDIDATE]
        sound = one.status is SampleStatus.OK and other.status is SampleStatus.OK
        if sound and step.first is Role.INCUMBENT and other.latency_s > stop * one.latency_s:
            other = Sample(status=SampleStatus.STOPPED, wall_s=stop * one.latency_s)
        drawn = sound and other.status is SampleStatus.OK
        release = self.world.slots[self.run.slot(Role.CANDIDATE)][0].release
        pair = Pair(
            stage=step.stage,
            number=step.number,
            prompt_id=step.prompt_id,
            first=step.first,
            incumbent_uid=asked[Role.INCUMBENT],
            candidate_uid=asked[Role.CANDIDATE],
            incumbent=one,
            candidate=other,
            psnr_db=release.psnr_db if drawn else None,
            flat=release.flat and drawn,
        )
        return PairMeasured(pair=pair, judgement=None if history else self.jury.hear(pair))

    def _MeasureWindows(self, view: View, step: Any) -> WindowsMeasured:  # noqa: N802
        windows = {}
        for role in (step.first, step.first.other):
            server = self.world.server(self.run.slot(role), view.slot(role).instances[0].uid)
            windows[role] = self.world.carry(server, seconds=1.0, key=f"{step.level}-{step.number}-{role}")
        pair = WindowPair(
            level=step.level,
            number=step.number,
            first=step.first,
            rate_per_s=0.0,
            incumbent=windows[Role.INCUMBENT],
            candidate=windows[Role.CANDIDATE],
        )
        return WindowsMeasured(pair=pair, judgement=self.jury.hear_windows(pair))

    def _ReadInstances(self, view: View, step: Any) -> InstancesRead:  # noqa: N802
        start = step.stage == "start"
        readings = [
            reading_of(one, cold_start_s=view.cold_start_s(one.uid) if start else None)
            for one in view.slot(Role.CANDIDATE).instances
        ]
        return InstancesRead(stage=step.stage, role=Role.CANDIDATE, readings=tuple(readings))

    def _MeasureSample(self, view: View, step: Any) -> SampleMeasured:  # noqa: N802
        server = self.world.server(self.run.slot(Role.INCUMBENT), view.slot(Role.INCUMBENT).instances[0].uid)
        sample = self.world.answer(server, key=f"sample-{step.number}")
        return SampleMeasured(number=step.number, prompt_id=step.prompt_id, sample=sample)

    def _ReadLive(self, view: View, step: Any) -> LiveRead:  # noqa: N802
        return LiveRead(stage=step.stage, window=live_window(view))

    def _StoreHistory(self, _view: View, _step: Any) -> HistoryStored:  # noqa: N802
        history = history_of(self.run.pairs["history"])
        return HistoryStored(baseline=self._put_baseline(list(history.ratio), history.repeat_psnr_db, {}))

    def _StoreBaseline(self, _view: View, _step: Any) -> BaselineStored:  # noqa: N802
        return BaselineStored(baseline=self._put_baseline([], None, {}))


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {**value, **changes[key]} if isinstance(changes.get(key), dict) else changes.get(key, value)
        for key, value in base.items()
    }


@pytest.fixture(scope="session")
def simulate() -> type[Simulation]:
    return Simulation


@pytest.fixture(scope="session")
def release() -> type[Release]:
    return Release


@pytest.fixture(scope="session")
def snapshot():
    return snapshot_of


@pytest.fixture(scope="session")
def broken_promise() -> type[BrokenPromiseError]:
    return BrokenPromiseError


@pytest.fixture(scope="session")
def vary():
    """Return a copy of a frozen value with some fields changed."""
    return replace
