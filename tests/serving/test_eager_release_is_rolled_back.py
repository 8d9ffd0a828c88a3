"""A whole promotion on one machine, with torch in the servers: the release that lost fused attention does not get past.

Slow: each start of a server imports torch.
"""

import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="the diffusers extra is not installed: make test-serving")
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from e2e_stack import Stack, Users, end, free_port

TORCH = ("--engine", "diffusers")
FUSED = "model.unet.attention.fused"


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    made = Stack(root=tmp_path_factory.mktemp("stack"), port=free_port())
    made.policy["deadlines"] |= {"ready_s": 120.0, "rollback_s": 180.0, "run_s": 500.0}
    made.policy["instances"] |= {"cold_start_s_max": 120.0}
    made.policy["capabilities"] |= {"required": ["runtime.torch.device", "model.weights.digest"]}
    made.policy["history"] |= {"pairs": 100, "blocks": 1}
    # Larger than the other tests' pictures: attention in steps costs more, the more there is to attend to.
    made.prompts = {
        "schema": "rollout.prompts/v1",
        "prompts": [{"id": "sea", "text": "the sea at night", "seed": 2, "steps": 4, "size": "256x256"}],
    }
    ran = made.run("promote", "--bootstrap", made.release("blue", *TORCH), "--output", "json", timeout=300.0)
    try:
        assert ran.code == 0, ran.err
        yield made
    finally:
        end(made)


def test_eager_release_is_rolled_back_at_its_admission_with_the_cause_named(stack):
    with Users(stack.router) as users:
        ran = stack.run(
            "promote", stack.release("eager", *TORCH, "--attention", "eager"), "--output", "json", timeout=500.0
        )
    assert ran.code == 3, (ran.out, ran.err)
    (admission,) = [one for one in ran.data["stages"] if one["stage"] == "admission"]
    assert admission["outcome"] == "BREACH"
    assert f"{FUSED}: true -> false" in ran.out
    assert stack.weights() == {"blue": 100, "green": 0}
    assert users.failures == []


def test_where_the_policy_allows_the_difference_the_latency_convicts_and_names_it_as_the_cause(stack):
    stack.policy["capabilities"] |= {"allowed_differences": ["model.unet.attention.*"]}
    ran = stack.run(
        "promote", stack.release("allowed", *TORCH, "--attention", "eager"), "--output", "json", timeout=500.0
    )
    assert ran.code == 3, (ran.out, ran.err)
    assert "canary" in [one["stage"] for one in ran.data["stages"] if one["outcome"] == "BREACH"]
    assert ran.data["suspects"][0]["difference"].startswith("model.unet.attention."), ran.data["suspects"]
    assert stack.weights() == {"blue": 100, "green": 0}
