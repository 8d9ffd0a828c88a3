"""The standing monitor: what it measures, when it keeps still, what it remembers across a crash."""

import json
import random
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rollout.control import monitor as module
from rollout.control.monitor import Monitor
from rollout.errors import ConfigError, ConflictError, EvidenceError, UnavailableError
from rollout.evidence import looks
from rollout.evidence.baselines import BaselineStore
from rollout.evidence.looks import LOG_BYTES_MAX, MonitorLog
from rollout.model.evidence import Baseline, Sample, SampleStatus, protocol_of
from rollout.model.inventory import Absent, Instance, SlotState
from rollout.model.journal import Phase, RunKind
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.roles import Address, Slot
from rollout.model.snapshot import CapabilitySnapshot, ok

RELEASE = "sha256:" + "a" * 64
MEDIANS = {"cat": 0.1, "sea": 0.3}
ROWS = [{"id": one, "text": one, "seed": 1, "steps": 4, "size": "64x64"} for one in (*MEDIANS, "new")]
PROMPTS = PromptSet.model_validate({"schema": "rollout.prompts/v1", "prompts": ROWS})
SHIPPED = Policy.model_validate(yaml.safe_load((Path(__file__).parents[3] / "policies" / "local.yaml").read_text()))
PROVIDERS = "runtime.ort.providers.actual"


def snapshot(provider="CUDAExecutionProvider"):
    return CapabilitySnapshot(schema="rollout.snapshot/v1", fields={PROVIDERS: ok([provider], "a test")})


@dataclass
class World:
    """A stack of two instances, as the monitor sees it; `lease` and `router` are not there to be touched."""

    state: Path
    ratio: float = 1.0
    failing: bool = False
    fallen: str = ""
    provider: str = "CUDAExecutionProvider"
    slot: SlotState | Absent = field(
        default_factory=lambda: SlotState(
            release_digest=RELEASE,
            generation=1,
            instances=tuple(
                Instance(uid=uid, address=Address(host="h", port=port), alive=True, ready=True, detail="")
                for port, uid in ((1, "one"), (2, "two"))
            ),
        )
    )
    left: object = None
    asked: list = field(default_factory=list)
    warmed: list = field(default_factory=list)
    time: float = 1000.0
    after_request: object = None

    def __post_init__(self):
        self.luck = random.Random(1)  # noqa: S311 - draws of a simulation
        self.baselines = BaselineStore(self.state / "baselines")
        self.platform = self.protocol = self.driver = self.clock = self
        self.signals = SimpleNamespace(interruptible=nullcontext, received="")

    def now(self):
        self.time += 1.0
        return self.time

    def observe(self):
        return {Slot.GREEN: self.slot, Slot.BLUE: Absent(reason="empty")}

    def fetch_snapshot(self, address, *, timeout_s):
        assert timeout_s > 0.0
        if self.fallen and address in {one.address for one in self.slot.instances if one.uid == self.fallen}:
            return snapshot("CPUExecutionProvider")
        if self.provider == "none":
            raise UnavailableError(f"{address} does not answer")
        return snapshot(self.provider)

    def warm_up(self, target, prompts, *, requests_per_shape):
        assert prompts.prompts
        assert requests_per_shape == SHIPPED.warmup_requests
        self.warmed.append(target.pod_uid)

    def noise(self):
        return self.luck.lognormvariate(0.0, 0.05)

    def measure_single(self, *, prompt, target):
        self.asked.append((prompt.id, target.pod_uid))
        if self.after_request:
            self.after_request()
        status = SampleStatus.ERROR if self.failing else SampleStatus.OK
        return Sample(status=status, wall_s=MEDIANS[prompt.id] * self.ratio * self.noise()), {}

    def store(self, **changed):
        made = Baseline(
            schema="rollout.baseline/v1",
            release_digest=RELEASE,
            snapshot=snapshot(),
            prompts_digest=PROMPTS.digest,
            protocol=protocol_of(SHIPPED),
            made_at=1.0,
            made_by_run="r000001-x",
            aa_ratio=[],
            latency_s={prompt: [median * self.noise() for _ in range(40)] for prompt, median in MEDIANS.items()},
        )
        self.baselines.put(made.model_copy(update=changed))


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = World(state=tmp_path)
    made.store()
    release = SimpleNamespace(name="sdxl", digest=RELEASE)
    monkeypatch.setattr(module, "standing", lambda _state: SimpleNamespace(serving=Slot.GREEN, release=release))
    monkeypatch.setattr(module, "left_over", lambda _state: made.left)
    return made


def watch(world, *, requests=5, accept=False, policy=SHIPPED):
    required = policy.capabilities.model_copy(update={"required": [PROVIDERS]})
    return Monitor(
        state=world.state,
        world=world,
        policy=policy.model_copy(update={"capabilities": required}),
        prompts=PROMPTS,
        requests=requests,
        accept_new_baseline=accept,
    )


def unfinished(kind=RunKind.PROMOTE):
    return SimpleNamespace(terminal=False, phase=Phase.CANARY, request=SimpleNamespace(kind=kind, run_id="r000009-x"))


def until_alarm(world, most=20):
    for _ in range(most):
        look = watch(world).look()
        if look.alarm:
            return look
    pytest.fail("no alarm")


def test_look_sends_its_requests_to_every_instance_with_prompts_that_the_baseline_knows(world):
    look = watch(world, requests=8).look()
    assert (look.requests, look.failed, look.alarm) == (8, 0, "")
    assert {uid for _, uid in world.asked} == {"one", "two"}
    assert {prompt for prompt, _ in world.asked} == {"cat", "sea"}
    assert look.p50_ratio == pytest.approx(1.0, abs=0.1)


def test_instance_is_warmed_up_once_and_not_again_by_a_later_monitor(world):
    watch(world).look()
    watch(world).look()
    assert world.warmed == ["one", "two"]


def test_quiet_incumbent_raises_no_alarm(world):
    assert [watch(world).look().alarm for _ in range(40)] == [""] * 40


def test_slower_incumbent_raises_an_alarm_within_a_few_looks_although_each_look_is_another_process(world):
    watch(world).look()
    world.ratio = 1.5
    look = until_alarm(world, most=6)
    assert look.evidence >= look.evidence_needed == SHIPPED.drift.false_alarm_requests


def test_failures_raise_an_alarm_and_have_no_ratio(world):
    world.failing = True
    look = until_alarm(world, most=4)
    assert look.failed == look.requests > 0
    assert look.p50_ratio is None


@pytest.mark.parametrize("provider", ["CPUExecutionProvider", "none"])
def test_lost_capability_raises_an_alarm_at_once(world, provider):
    world.provider = provider
    look = watch(world).look()
    assert (look.alarm, look.requests) == ("capabilities", 0)


def test_incumbent_that_is_gone_raises_an_alarm_at_once(world):
    world.slot = Absent(reason="nothing runs there")
    look = watch(world).look()
    assert look.alarm == "instances"
    assert "nothing runs there" in look.note


def test_look_is_skipped_while_a_rollout_is_unfinished(world):
    world.left = unfinished()
    look = watch(world).look()
    assert (look.requests, world.asked) == (0, [])
    assert "r000009-x is unfinished in phase canary" in look.note


def test_unfinished_drift_check_keeps_nobody_from_looking(world):
    world.left = unfinished(RunKind.VERIFY)
    assert watch(world).look().requests == 5


def test_requests_during_which_a_rollout_began_are_left_out(world):
    before = watch(world).look()
    world.after_request = lambda: setattr(world, "left", unfinished())
    look = watch(world).look()
    assert look.requests == 0
    assert look.detector == before.detector
    assert "left out" in look.note


def test_alarm_that_nobody_answered_is_raised_again_without_further_requests(world):
    world.ratio = 2.0
    until_alarm(world)
    asked = len(world.asked)
    again = watch(world).look()
    assert again.alarm
    assert len(world.asked) == asked


def test_cleared_alarm_begins_the_evidence_anew_and_another_stands(world):
    world.ratio = 2.0
    until_alarm(world)
    open_ = watch(world).settle("r000010-verify", outcome=Phase.UNDECIDED)
    assert (open_.run, open_.confirmed) == ("r000010-verify", "")
    assert watch(world).look().alarm
    cleared = watch(world).settle("r000011-verify", outcome=Phase.VERIFIED)
    assert (cleared.evidence, cleared.detector.requests) == (0.0, 0)
    world.ratio = 1.0
    assert not watch(world).look().alarm


def test_confirmed_alarm_stands_and_pages_nobody_again_until_a_drift_check_passes(world, monkeypatch):
    world.ratio = 2.0
    until_alarm(world)
    watch(world).settle("r000010-verify", outcome=Phase.DRIFTED)
    runs = ["r000010-verify", "r000009-good"]
    monkeypatch.setattr(module, "run_ids", lambda _state: tuple(runs))
    asked = len(world.asked)
    for _ in range(3):
        look = watch(world).look()
        assert (look.alarm, look.confirmed, look.requests) == ("", "r000010-verify", 0)
        assert "rollout verify" in look.note
    assert len(world.asked) == asked
    runs[:0] = ["r000013-other", "r000012-verify"]
    world.ratio = 1.0
    verified = SimpleNamespace(request=SimpleNamespace(kind=RunKind.VERIFY), phase=Phase.DRIFTED)
    rollout = SimpleNamespace(request=SimpleNamespace(kind=RunKind.PROMOTE), phase=Phase.ROLLED_BACK)
    monkeypatch.setattr(module, "load_run", lambda _state, run_id: verified if "verify" in run_id else rollout)
    assert watch(world).look().confirmed, "that check did not pass either"
    verified.phase = Phase.VERIFIED
    look = watch(world).look()
    assert (look.alarm, look.confirmed, look.requests) == ("", "", 5)


def test_one_instance_of_several_that_lost_a_capability_raises_an_alarm(world):
    world.fallen = "two"
    look = watch(world).look()
    assert look.alarm == "capabilities"
    assert "two" in look.note
    assert "one" not in look.note.split(":")[0]


def test_line_that_a_crash_cut_short_is_left_out_and_the_state_before_it_is_resumed(world):
    first = watch(world).look()
    watch(world).look()
    path = world.state / "monitor.jsonl"
    whole = path.read_bytes()
    line = whole.splitlines(keepends=True)[1]
    for cut in range(len(line)):
        path.write_bytes(whole[: len(whole) - len(line) + cut])
        assert MonitorLog(world.state).last() == first
    third = watch(world).look()
    assert (third.number, third.detector.requests) == (2, 10)
    assert [json.loads(one)["look"]["number"] for one in path.read_bytes().splitlines()] == [1, 2]


def test_changed_line_is_refused_and_says_where_it_is(world):
    watch(world).look()
    path = world.state / "monitor.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"requests":5', b'"requests":6', 1))
    with pytest.raises(EvidenceError, match=r"monitor.jsonl, line 1 was changed.*move it away"):
        watch(world).look()
    path.write_bytes(b"{}\n")
    with pytest.raises(EvidenceError, match=r"line 1, key look"):
        watch(world).look()


def test_log_is_bounded_and_the_state_survives_its_rotation(world, monkeypatch):
    monkeypatch.setattr(looks, "LOG_BYTES_MAX", 6000)
    numbers = [watch(world).look().number for _ in range(20)]
    assert numbers == list(range(1, 21))
    assert sum(path.stat().st_size for path in world.state.glob("monitor*.jsonl")) <= 12_000
    # A crash between the rotation and the first line of the new file.
    (world.state / "monitor.jsonl").replace(world.state / "monitor.1.jsonl")
    assert watch(world).look().number == 21
    assert LOG_BYTES_MAX >= 100_000


def test_state_of_another_baseline_is_refused_unless_a_new_one_is_accepted(world):
    watch(world).look()
    world.store(latency_s={prompt: [median] * 30 for prompt, median in MEDIANS.items()}, made_at=2.0)
    with pytest.raises(EvidenceError, match="--accept-new-baseline"):
        watch(world).look()
    look = watch(world, accept=True).look()
    assert (look.number, look.detector.requests) == (2, 5)
    assert "begun anew" in look.note
    assert watch(world).look().detector.requests == 10


def test_state_of_other_limits_is_refused(world):
    watch(world).look()
    narrower = SHIPPED.latency.model_copy(update={"p50_ratio_max": 1.05})
    with pytest.raises(EvidenceError, match="another baseline, policy"):
        watch(world, policy=SHIPPED.model_copy(update={"latency": narrower})).look()


def test_new_history_with_the_same_latencies_goes_on_with_the_same_state(world):
    watch(world).look()
    stored = world.baselines.get(RELEASE)
    world.baselines.put(stored.model_copy(update={"aa_ratio": [1.0] * 100, "made_at": 5.0}))
    assert watch(world).look().detector.requests == 10


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"latency_s": {}}, "holds no latencies"),
        ({"latency_s": {"cat": [0.1] * 5}}, "holds 5 latencies.*20 are needed"),
        ({"prompts_digest": "sha256:" + "d" * 64}, "measured with other prompts"),
    ],
)
def test_baseline_that_cannot_be_a_yardstick_is_refused(world, changed, said):
    world.store(**changed)
    with pytest.raises(EvidenceError, match=said):
        watch(world).look()


def test_release_without_a_baseline_is_refused(world):
    (world.state / "baselines" / f"{RELEASE[7:]}.json").unlink()
    with pytest.raises(EvidenceError, match="rollout calibrate"):
        watch(world).look()


def test_stack_on_which_nothing_serves_is_refused(world, monkeypatch):
    monkeypatch.setattr(module, "standing", lambda _state: Absent(reason="nothing was ever promoted here"))
    with pytest.raises(ConfigError, match="nothing was ever promoted"):
        watch(world).look()


def test_second_monitor_of_a_stack_is_kept_out(tmp_path):
    with MonitorLog(tmp_path).alone(), pytest.raises(ConflictError), MonitorLog(tmp_path).alone():
        pytest.fail("two monitors at once")
    with MonitorLog(tmp_path).alone():
        pass


def test_signal_during_a_look_leaves_out_what_it_had_measured(world):
    class Stop(Exception):  # noqa: N818 - stands for an event
        pass

    @contextmanager
    def interruptible():
        yield

    world.signals = SimpleNamespace(interruptible=interruptible, received="")
    first = watch(world).look()

    def stop():
        raise Stop

    world.after_request = stop
    with pytest.raises(Stop):
        watch(world).look()
    assert MonitorLog(world.state).last() == first
