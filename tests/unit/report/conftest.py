"""Journals of whole runs, written by hand and judged by the real gates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml

from rollout.flow.run import CANARY, DRIFT, HISTORY, LOAD, Run, advance, fold
from rollout.gates.capabilities import judge_capabilities
from rollout.gates.errors import judge_errors
from rollout.gates.latency import LatencyTest, Question
from rollout.gates.live import judge_live
from rollout.gates.pictures import judge_pictures
from rollout.gates.result import result
from rollout.model.evidence import LiveWindow, Pair, Sample, SampleStatus
from rollout.model.journal import (
    GENESIS,
    BaselineStored,
    Body,
    CommandKind,
    CommandReceived,
    Deployed,
    Event,
    HistoryStored,
    LiveRead,
    PairMeasured,
    Phase,
    PhaseEntered,
    Record,
    Retired,
    RunKind,
    RunRequested,
    SampleMeasured,
    SnapshotsRead,
    StepFailed,
    StepIntended,
    TrafficShifted,
    VerdictGiven,
    WarmedUp,
    seal,
)
from rollout.model.policy import Policy
from rollout.model.roles import Role, Slot
from rollout.model.snapshot import SNAPSHOT_SCHEMA, CapabilitySnapshot, ok
from rollout.model.verdict import Outcome, Reason, Verdict, combine
from rollout.model.waiver import day_of

ROOT = Path(__file__).parents[3]
START = 1_767_323_045.0  # 2026-01-02 03:04:05 UTC
TODAY = day_of(START)
NAMES = {Role.INCUMBENT: "sdxl-7", Role.CANDIDATE: "sdxl-8"}
MARKUP = "the server said [red]no[/red] | `x` <b>\n::error::\x1b[31m"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def fixed_policy() -> Policy:
    """The shipped policy with the margins that the numbers in these tests rest on, whatever it says today."""
    shipped = Policy.model_validate(yaml.safe_load((ROOT / "policies" / "local.yaml").read_text()))
    margins = {
        "p50_ratio_max": 1.15,
        "tail_quantile": 0.9,
        "tail_ratio_max": 1.3,
        "slow_factor": 2.0,
        "slow_rate_rollback": 0.02,
        "slow_rate_promote": 0.1,
        "false_rollback_rate": 0.01,
        "false_promote_rate": 0.01,
        "pairs_max": 200,
    }
    return shipped.model_copy(
        update={
            "latency": shipped.latency.model_copy(update=margins),
            "history": shipped.history.model_copy(update={"pairs": 100}),
            "shift": shipped.shift.model_copy(update={"pairs_per_step": 4}),
            "soak": shipped.soak.model_copy(update={"pairs": 4}),
            "pictures": shipped.pictures.model_copy(update={"psnr_db_min": 45.0}),
            "errors": shipped.errors.model_copy(update={"rate_max": 0.01}),
            "live": shipped.live.model_copy(update={"error_rate_max": 0.01, "requests_min": 0}),
            "capabilities": shipped.capabilities.model_copy(update={"allowed_differences": []}),
        }
    )


def snapshot(**changed: str) -> CapabilitySnapshot:
    values = {"runtime.ort.graph_optimization": "all", "runtime.ort.version": "1.20.1"} | {
        key.replace("__", "."): value for key, value in changed.items()
    }
    return CapabilitySnapshot(schema=SNAPSHOT_SCHEMA, fields={key: ok(value, "test") for key, value in values.items()})


SLOWER = snapshot(runtime__ort__graph_optimization="disabled")


@dataclass
class Book:
    """A journal being written; each record comes a second after the one before."""

    policy: Policy = field(default_factory=fixed_policy)
    records: list[Record] = field(default_factory=list)
    judged: dict[str, Verdict] = field(default_factory=dict)
    _tests: dict[str, LatencyTest] = field(default_factory=dict)
    _pairs: dict[str, list[Pair]] = field(default_factory=dict)
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def add(self, *bodies: Body) -> "Book":
        for body in bodies:
            prev = self.records[-1].hash if self.records else GENESIS
            count = len(self.records)
            self.records.append(seal(seq=count, at=START + count, generation=3, prev=prev, body=body))
        return self

    def run(self) -> Run:
        return fold(self.records)

    def steps(self) -> list[tuple[Record, Run]]:
        """Each record with the run after it, as the loop tells its listener."""
        run, told = fold(self.records[:1]), [(self.records[0], fold(self.records[:1]))]
        for record in self.records[1:]:
            run = advance(run, record)
            told.append((record, run))
        return told

    def enter(self, phase: Phase, event: Event, *reasons: Reason) -> "Book":
        return self.add(PhaseEntered(phase=phase, event=event, reasons=reasons))

    def request(self, kind: RunKind, *, run_id: str = "r000003-sdxl-8", baseline: str | None = None) -> "Book":
        first = kind is RunKind.BOOTSTRAP
        return self.add(
            RunRequested(
                run_id=run_id,
                kind=kind,
                stack="sdxl",
                incumbent=Slot.GREEN if first else Slot.BLUE,
                candidate=Slot.BLUE if first else Slot.GREEN,
                policy=digest(1),
                prompts=digest(2),
                release=digest(4) if kind is RunKind.VERIFY else digest(3),
                incumbent_release=None if first else digest(4),
                baseline=baseline,
                standby_until=None,
                requested_by="alice@host:42",
                environment={},
            )
        )

    def history(self, count: int = 12) -> "Book":
        self.enter(Phase.HISTORY, Event.ACCEPTED)
        self.add(
            Deployed(slot=Slot.GREEN, purpose="twin", release_digest=digest(4), pod_uids=("twin-1",)),
            WarmedUp(role=Role.CANDIDATE, pod_uids=("twin-1",), requests=3, failed=0),
        )
        for number in range(count):
            pair = self._pair(HISTORY, number, 1.0)
            self.add(PairMeasured(pair=pair, judgement=None))
        return self.add(HistoryStored(baseline=digest(5)), Retired(slot=Slot.GREEN))

    def admitted(self, candidate: CapabilitySnapshot, *, event: Event, first: bool = False) -> "Book":
        slot = Slot.BLUE if first else Slot.GREEN
        self.enter(Phase.DEPLOY, event)
        self.add(
            StepIntended(step="Deploy", args={"slot": slot.value, "purpose": "candidate"}),
            Deployed(slot=slot, purpose="candidate", release_digest=digest(3), pod_uids=("pod-1",)),
        )
        self.enter(Phase.ADMIT, Event.READY)
        self.add(self._snapshots(candidate))
        gate = judge_capabilities(
            self.policy.capabilities.model_copy(update={"required": ["runtime.ort.version"]}),
            incumbent=None if first else snapshot(),
            candidate=candidate,
            problems={},
            compared=not first,
            today=TODAY,
        )
        self._conclude(combine("admission", (gate,)))
        self.enter(Phase.WARMUP, Event.ADMITTED)
        return self.add(WarmedUp(role=Role.CANDIDATE, pod_uids=("pod-1",), requests=3, failed=0))

    def canary(self, ratio: float, *, limit: int = 200, conclude: bool = True) -> "Book":
        """Pairs until the gates decide, or until the limit."""
        self.enter(Phase.CANARY, Event.WARM)
        for _ in range(limit):
            self.pair(CANARY, ratio)
            if self.judged[CANARY].outcome is not Outcome.INCONCLUSIVE:
                break
        if conclude:
            self._conclude(self.judged[CANARY])
        return self

    def shift(self, weight: int, *, ratio: float = 0.9) -> "Book":
        stage = f"shift-{weight}"
        self.add(
            StepIntended(step="Shift", args={"stage": stage}),
            TrafficShifted(
                stage=stage,
                blue=100 - weight,
                green=weight,
                targets={"blue": ["127.0.0.1:1"], "green": ["127.0.0.1:2"]},
                version=stage,
                epoch="e1",
                counters={"blue": [0, 0], "green": [0, 0]},
            ),
        )
        return self.watch(stage, ratio=ratio)

    def watch(self, stage: str, *, ratio: float = 0.9) -> "Book":
        for _ in range(4):
            self.pair(stage, ratio)
        window = LiveWindow(completed=40, failed=0)
        self.add(LiveRead(stage=stage, window=window))
        gates = (*self.judged[stage].gates, judge_live(self.policy.live, window))
        return self._conclude(combine(stage, gates))

    def pair(self, stage: str, ratio: float, **candidate: object) -> "Book":
        number = len(self._pairs.setdefault(stage, []))
        pair = self._pair(stage, number, ratio, **candidate)
        self._pairs[stage].append(pair)
        self._test(stage).hear(pair)
        gates = (
            self._test(stage).result(),
            judge_errors(self.policy.errors, self._pairs[stage], alpha=0.01),
            judge_pictures(self.policy.pictures, self._pairs[stage], repeat_psnr_db=60.0, prompt_ids=("p-0", "p-1")),
        )
        self.judged[stage] = combine(stage, gates)
        return self.add(PairMeasured(pair=pair, judgement=self.judged[stage]))

    def say(self, command: CommandKind, reason: str) -> "Book":
        return self.add(CommandReceived(id=f"c{len(self.records)}", command=command, by="bob@host", reason=reason))

    def roll_back(self, event: Event, *reasons: Reason) -> "Book":
        self.enter(Phase.ROLLBACK, event, *reasons)
        self.add(StepIntended(step="Retire", args={"slot": "green"}), Retired(slot=Slot.GREEN))
        return self.enter(Phase.ROLLED_BACK, Event.RESTORED)

    def drift(self, outcome: Outcome, code: str, text: str) -> "Book":
        self.enter(Phase.DRIFT, Event.CHECK)
        self.add(
            SnapshotsRead(
                snapshots={"incumbent": digest(8)},
                snapshot_digests={"incumbent": digest(8)},
                pod_uids={"incumbent": ["pod-0"]},
                problems={},
            )
        )
        for number in range(20):
            sample = Sample(status=SampleStatus.OK, wall_s=0.5, server_s=0.49)
            self.add(SampleMeasured(number=number, prompt_id="p-0", sample=sample))
        capabilities = judge_capabilities(
            self.policy.capabilities.model_copy(update={"required": []}),
            incumbent=snapshot(),
            candidate=snapshot() if outcome is Outcome.PASS else SLOWER,
            problems={},
            compared=True,
            today=TODAY,
        )
        figures = {"p50_ratio": 1.2, "p50_ratio_lower": 1.17, "p50_ratio_upper": 1.25}
        return self._conclude(combine(DRIFT, (capabilities, result("drift", outcome, code, text, figures))))

    def no_load(self) -> "Book":
        """The policy demands no load phase."""
        gate = result(LOAD, Outcome.PASS, "load_not_demanded", "the policy demands no load phase")
        return self._conclude(combine(LOAD, (gate,)))

    def _conclude(self, verdict: Verdict) -> "Book":
        return self.add(VerdictGiven(verdict=verdict, fingerprint="f"))

    def _snapshots(self, candidate: CapabilitySnapshot) -> SnapshotsRead:
        digests = {"incumbent": snapshot().digest, "candidate": candidate.digest}
        uids = {"incumbent": ["pod-0"], "candidate": ["pod-1"]}
        return SnapshotsRead(snapshots=digests, snapshot_digests=digests, pod_uids=uids, problems={})

    def _pair(self, stage: str, number: int, ratio: float, **candidate: object) -> Pair:
        base = 0.5 * float(np.exp(self._rng.normal(0.0, 0.02)))
        other = base * ratio * float(np.exp(self._rng.normal(0.0, 0.02)))
        return Pair(
            stage=stage,
            number=number,
            prompt_id=f"p-{number % 2}",
            first=Role.INCUMBENT,
            incumbent_uid="blue-1",
            candidate_uid="green-1",
            incumbent=Sample(status=SampleStatus.OK, wall_s=base, server_s=base - 0.002),
            candidate=Sample(
                **{"status": SampleStatus.OK, "wall_s": other, "server_s": other - 0.002} | candidate  # type: ignore[arg-type]
            ),
            psnr_db=58.0,
        )

    def _test(self, stage: str) -> LatencyTest:
        if stage not in self._tests:
            aa = np.exp(np.random.default_rng(1).normal(0.0, 0.03, 300))
            proving = stage == CANARY
            question = Question(must_prove=proving, looks=1 if proving else 4, pods=1)
            self._tests[stage] = LatencyTest(
                policy=self.policy.latency, aa_ratio=tuple(float(one) for one in aa), question=question
            )
        return self._tests[stage]


def promotion() -> Book:
    book = Book().request(RunKind.PROMOTE).history()
    book.admitted(snapshot(runtime__ort__version="1.21.0"), event=Event.HISTORY_READY).canary(0.8)
    book.enter(Phase.LOAD, Event.PROVEN).no_load().enter(Phase.SHIFT, Event.LOADED).shift(10).shift(50).shift(100)
    book.enter(Phase.SOAK, Event.SHIFTED).watch("soak").add(BaselineStored(baseline=digest(9)))
    return book.enter(Phase.PROMOTED, Event.SOAKED)


def latency_rollback(ratio: float = 1.42) -> Book:
    book = Book().request(RunKind.PROMOTE, baseline=digest(5)).enter(Phase.HISTORY, Event.ACCEPTED)
    book.admitted(SLOWER, event=Event.HISTORY_READY).canary(ratio)
    return book.roll_back(Event.BREACHED, *book.judged[CANARY].reasons())


def inconclusive() -> Book:
    book = Book().request(RunKind.PROMOTE).history()
    book.admitted(snapshot(), event=Event.HISTORY_READY).canary(1.15, limit=12)
    return book.roll_back(Event.UNDECIDED, *book.judged[CANARY].reasons())


def abort() -> Book:
    book = Book().request(RunKind.PROMOTE, baseline=digest(5)).enter(Phase.HISTORY, Event.ACCEPTED)
    book.admitted(snapshot(), event=Event.HISTORY_READY).canary(1.0, limit=4, conclude=False)
    book.say(CommandKind.ABORT, MARKUP)
    return book.roll_back(Event.ABORTED, Reason(code="aborted", text=f"aborted by bob@host: {MARKUP}"))


def refused() -> Book:
    reason = Reason(code="traffic_not_on_incumbent", text="the router sends 60/40, not all to blue")
    return Book().request(RunKind.PROMOTE).enter(Phase.REFUSED, Event.REFUSED, reason)


def bootstrap() -> Book:
    book = Book().request(RunKind.BOOTSTRAP, run_id="r000001-bootstrap-sdxl-7")
    book.admitted(snapshot(), event=Event.FIRST, first=True).enter(Phase.SHIFT, Event.FIRST)
    book.add(
        TrafficShifted(
            stage="bootstrap", blue=100, green=0, targets={}, version="1", epoch="e1", counters={"blue": [0, 0]}
        )
    )
    return book.enter(Phase.PROMOTED, Event.FIRST)


def verified() -> Book:
    text = "median latency x1.02 [0.98, 1.06] of the baseline, allowed x1.15"
    book = Book().request(RunKind.VERIFY, run_id="r000004-verify-sdxl-8", baseline=digest(5))
    book.drift(Outcome.PASS, "latency_as_baseline", text)
    return book.enter(Phase.VERIFIED, Event.CONFIRMED, *book.run().verdicts[DRIFT].verdict.reasons())


def drifted() -> Book:
    text = "median latency x1.2 [1.17, 1.25] of the baseline, allowed x1.15"
    book = Book().request(RunKind.VERIFY, run_id="r000005-verify-sdxl-8", baseline=digest(5))
    book.drift(Outcome.BREACH, "latency_drifted", text)
    return book.enter(Phase.DRIFTED, Event.DRIFTED, *book.run().verdicts[DRIFT].verdict.reasons())


def stuck() -> Book:
    book = Book().request(RunKind.PROMOTE, baseline=digest(5)).enter(Phase.HISTORY, Event.ACCEPTED)
    book.enter(Phase.DEPLOY, Event.HISTORY_READY)
    book.add(StepFailed(step="Deploy", error="UnavailableError", message=MARKUP))
    book.enter(Phase.ROLLBACK, Event.LOST, Reason(code="router_lost", text="the router is gone"))
    book.add(StepIntended(step="Shift", args={"stage": "rollback"}))
    return book.enter(Phase.ROLLBACK_INCOMPLETE, Event.STUCK, Reason(code="rollback_incomplete", text="after 60 s: no"))


def died_before_any_gate() -> Book:
    book = Book().request(RunKind.PROMOTE, baseline=digest(5)).enter(Phase.HISTORY, Event.ACCEPTED)
    book.enter(Phase.DEPLOY, Event.HISTORY_READY)
    return book.roll_back(Event.BREACHED, Reason(code="candidate_died", text="the candidate ended: exit 137"))


def requested_rollback() -> Book:
    book = Book().request(RunKind.ROLLBACK, run_id="r000006-rollback-sdxl-7")
    return book.roll_back(Event.RESTORE, Reason(code="rollback_requested", text="asked for by alice@host:42"))


def unfinished() -> Book:
    book = Book().request(RunKind.PROMOTE, baseline=digest(5)).enter(Phase.HISTORY, Event.ACCEPTED)
    return book.admitted(SLOWER, event=Event.HISTORY_READY).canary(1.0, limit=5, conclude=False)


STORIES: dict[str, Callable[[], Book]] = {
    "promotion": promotion,
    "latency_rollback": latency_rollback,
    "inconclusive": inconclusive,
    "abort": abort,
    "refused": refused,
    "bootstrap": bootstrap,
    "verified": verified,
    "drifted": drifted,
    "stuck": stuck,
    "died_before_any_gate": died_before_any_gate,
    "requested_rollback": requested_rollback,
    "unfinished": unfinished,
}
_WRITTEN: dict[str, Book] = {}


def story(name: str) -> Book:
    """A finished journal; written once, read by many tests."""
    if name not in _WRITTEN:
        _WRITTEN[name] = STORIES[name]()
    return _WRITTEN[name]


@pytest.fixture(name="story")
def _story() -> Callable[[str], Book]:
    return story


@pytest.fixture(params=sorted(STORIES))
def every_story(request: pytest.FixtureRequest) -> Book:
    return story(str(request.param))


@pytest.fixture(name="names")
def _names() -> dict[Role, str]:
    return NAMES


@pytest.fixture
def new_book() -> Callable[[], Book]:
    return Book


@pytest.fixture
def latency_story() -> Callable[[float], Book]:
    return latency_rollback


@pytest.fixture(name="markup")
def _markup() -> str:
    return MARKUP


@pytest.fixture
def names_of_stories() -> Sequence[str]:
    return sorted(STORIES)
