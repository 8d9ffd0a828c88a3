"""What a promotion finds of its incumbent before anything is begun."""

from datetime import date
from types import SimpleNamespace

import pytest
import yaml

from rollout.control.open_run import Wish, _Cast, _fitting_baseline, begin
from rollout.errors import ConfigError, EvidenceError, RefusedError
from rollout.evidence.baselines import BaselineStore
from rollout.model.evidence import Baseline, protocol_of
from rollout.model.inventory import Instance, SlotState
from rollout.model.journal import RunKind
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.release import Release
from rollout.model.roles import Address, Slot
from rollout.model.snapshot import CapabilitySnapshot, ok
from rollout.model.waiver import Waiver

PROVIDERS, LEVEL = "runtime.ort.providers.actual", "runtime.ort.graph_optimization"
RELEASE = Release.model_validate({"schema": "rollout.release/v1", "name": "sdxl", "command": ["true"], "env": {}})
PROMPTS = PromptSet.model_validate(
    {
        "schema": "rollout.prompts/v1",
        "prompts": [{"id": "cat", "text": "a cat", "seed": 1, "steps": 4, "size": "64x64"}],
    }
)


def snapshot(provider="CUDAExecutionProvider", level="all"):
    fields = {PROVIDERS: ok([provider], "a test"), LEVEL: ok(level, "a test")}
    return CapabilitySnapshot(schema="rollout.snapshot/v1", fields=fields)


@pytest.fixture
def policy(pytestconfig):
    return Policy.model_validate(yaml.safe_load((pytestconfig.rootpath / "policies" / "local.yaml").read_text()))


@pytest.fixture
def found(tmp_path, policy):
    """Return what a promotion finds when the incumbent proves this today."""

    def find(today, *, allowed=(), kind=RunKind.PROMOTE):
        capabilities = policy.capabilities.model_copy(update={"allowed_differences": list(allowed)})
        changed = policy.model_copy(update={"capabilities": capabilities})
        store = BaselineStore(tmp_path / "baselines")
        store.put(
            Baseline(
                schema="rollout.baseline/v1",
                release_digest=RELEASE.digest,
                snapshot=snapshot(),
                prompts_digest=PROMPTS.digest,
                protocol=protocol_of(policy),
                made_at=1000.0,
                made_by_run="r000001-sdxl",
                aa_ratio=[1.0] * policy.history.pairs,
                latency_s={"cat": [0.1] * 20},
            )
        )
        instance = Instance(uid="one", address=Address(host="h", port=1), alive=True, ready=True, detail="")
        state = SlotState(release_digest=RELEASE.digest, generation=1, instances=(instance,))
        world = SimpleNamespace(
            baselines=store,
            platform=SimpleNamespace(observe=lambda: {Slot.BLUE: state}),
            protocol=SimpleNamespace(fetch_snapshot=lambda _address, *, timeout_s: today if timeout_s else None),
            clock=SimpleNamespace(now=lambda: 1001.0),
        )
        wish = Wish(
            kind=kind,
            stack="s",
            policy=changed,
            prompts=PROMPTS,
            release=RELEASE,
            stay=False,
            requested_by="a test",
            environment={},
        )
        roles = _Cast(incumbent=Slot.BLUE, release=RELEASE, incumbent_release=RELEASE, standby_until=None)
        return _fitting_baseline(world, roles, wish, now=world.clock.now())

    return find


def test_incumbent_that_proves_what_it_was_promoted_with_is_judged_by_its_history(found):
    assert found(snapshot()).aa_ratio


def test_incumbent_that_lost_its_fast_path_is_no_yardstick_and_the_promotion_does_not_begin(found):
    with pytest.raises(EvidenceError, match=r"CUDAExecutionProvider -> CPUExecutionProvider.*rollout calibrate"):
        found(snapshot("CPUExecutionProvider"))


def test_loss_that_the_policy_allows_or_that_does_not_block_only_costs_a_new_history(found):
    assert found(snapshot("CPUExecutionProvider"), allowed=["runtime.ort.providers.*"]) is None
    assert found(snapshot(level="basic")) is None


def test_drift_check_measures_by_the_baseline_whatever_is_proven_today(found):
    assert found(snapshot("CPUExecutionProvider"), kind=RunKind.VERIFY).aa_ratio


@pytest.fixture
def opened(tmp_path, policy):
    """Begin a first stack by a policy with one waiver; a platform that is asked for it refuses."""

    def open_(until, *, at):
        waiver = Waiver(what="gpu.driver.*", who="ops", why="a test", until=date.fromisoformat(until))
        capabilities = policy.capabilities.model_copy(update={"waivers": [waiver]})

        def check(_release):
            raise RefusedError("the platform was asked")

        world = SimpleNamespace(platform=SimpleNamespace(check=check), clock=SimpleNamespace(now=lambda: at))
        wish = Wish(
            kind=RunKind.BOOTSTRAP,
            stack="s",
            policy=policy.model_copy(update={"capabilities": capabilities}),
            prompts=PROMPTS,
            release=RELEASE,
            stay=False,
            requested_by="a test",
            environment={},
        )
        return begin(tmp_path, wish, world, generation=1)

    return open_


def test_run_is_not_begun_by_a_policy_whose_waiver_has_ended(opened, tmp_path):
    with pytest.raises(ConfigError) as caught:
        opened("1970-01-01", at=86400.0)
    assert str(caught.value) == (
        "capabilities.waivers[0]: the waiver of gpu.driver.* by ops ended 1970-01-01, today is 1970-01-02 in UTC: "
        "remove it, or have it renewed by who may"
    )
    assert list(tmp_path.iterdir()) == []


def test_waiver_holds_to_the_last_second_of_its_day(opened):
    with pytest.raises(RefusedError, match="the platform was asked"):
        opened("1970-01-01", at=86399.9)
