"""Rollouts on a real GPU, behind a real Envoy: what lost its fast path does not get past its admission."""

from pathlib import Path

import pytest
import yaml
from e2e_stack import Stack, Users, end, free_port

from rollout.evidence.replay import replay
from rollout.evidence.runs import run_ids

EXAMPLES = Path(__file__).parents[2] / "examples" / "gpu"


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    policy = yaml.safe_load((EXAMPLES / "policies" / "gpu.yaml").read_text())
    made = Stack(root=tmp_path_factory.mktemp("stack"), port=free_port(), policy=policy | {"standby_s": 0.0})
    # Each start of a server takes a quarter of a minute, most of it the import of torch.
    made.policy |= {"load": None, "history": made.policy["history"] | {"pairs": 100, "blocks": 2}}
    made.prompts = yaml.safe_load((EXAMPLES / "prompts.yaml").read_text())
    ran = made.run("promote", "--bootstrap", EXAMPLES / "releases" / "blue.yaml", "--output", "json")
    try:
        assert ran.code == 0, ran.err
        yield made
    finally:
        end(made)


def promoted(stack, name):
    return stack.run("promote", EXAMPLES / "releases" / f"{name}.yaml", "--output", "json", timeout=500.0)


@pytest.mark.parametrize(
    ("release", "told"),
    [("cpu", "policy.profile: gpu -> development-cpu"), ("eager", "attention_not_fused")],
)
def test_release_without_its_fast_path_is_refused_at_its_admission(stack, release, told):
    ran = promoted(stack, release)
    assert ran.code == 3, (ran.out, ran.err)
    # A stack without fused attention refuses itself; one on the CPU is sound by its own profile, and is told apart.
    assert told in ran.out
    assert stack.weights() == {"blue": 100, "green": 0}


def test_sound_release_is_promoted_under_live_traffic_and_its_verdicts_are_derived_again(stack):
    with Users(stack.router, pictures=True) as users:
        ran = promoted(stack, "good")
    assert ran.code == 0, (ran.out, ran.err)
    assert users.failures == []
    assert stack.weights() == {"blue": 0, "green": 100}
    replay(stack.state / "runs" / run_ids(stack.state)[0])
