"""Evidence for the gates, made by hand or drawn with a seed."""

# ruff: noqa: S311 - draws of a simulation, with seeds, not secrets

import math
import random

import pytest

from rollout.model.evidence import AaHistory, Pair, Sample, SampleStatus
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.roles import Role

SIGMA = 0.05
PROMPTS = ("p0", "p1", "p2")


@pytest.fixture(scope="session")
def policy():
    return Policy.model_validate(
        {
            "schema": "rollout.policy/v1",
            "name": "gates",
            "latency": {
                "measure": "service",
                "p50_ratio_max": 1.1,
                "tail_quantile": 0.9,
                "tail_ratio_max": 1.3,
                "slow_factor": 2.0,
                "slow_rate_rollback": 0.02,
                "slow_rate_promote": 0.1,
                "false_rollback_rate": 0.01,
                "false_promote_rate": 0.01,
                "pairs_max": 300,
            },
            "history": {"pairs": 120, "blocks": 3, "age_s_max": 604800},
            "warmup_requests": 1,
            "errors": {"rate_max": 0.05},
            "live": {"error_rate_max": 0.02, "requests_min": 50},
            "pictures": {"psnr_db_min": 45.0},
            "capabilities": {"required": ["runtime.ort.providers.actual"], "allowed_differences": [], "waivers": []},
            "shift": {"weights": [10, 100], "pairs_per_step": 3, "dwell_s": 1},
            "soak": {"pairs": 3, "seconds": 2},
            "load": None,
            "instances": {
                "cold_start_s_max": 30.0,
                "cold_start_ratio_max": 10.0,
                "restarts_max": 0,
                "memory_growth_ratio_max": 1.5,
            },
            "accuracy": None,
            "cost": None,
            "drift": {"requests": 60, "recheck_pairs_max": 200, "false_alarm_requests": 10000.0},
            "standby_s": 5,
            "on_inconclusive": "rollback",
            "approval": "none",
            "deadlines": {"request_s": 2.0, "ready_s": 10.0, "hold_s": 15.0, "rollback_s": 30.0, "run_s": 200.0},
        }
    )


@pytest.fixture(scope="session")
def prompts():
    rows = [{"id": one, "text": one, "seed": 1, "steps": 4, "size": "64x64"} for one in PROMPTS]
    return PromptSet.model_validate({"schema": "rollout.prompts/v1", "prompts": rows})


@pytest.fixture(scope="session")
def history():
    luck = random.Random(7)
    return AaHistory(
        ratio=tuple(luck.lognormvariate(0.0, SIGMA * math.sqrt(2.0)) for _ in range(120)), repeat_psnr_db=60.0
    )


@pytest.fixture(scope="session")
def sample():
    def make(latency_s=0.1, status="ok", detail=""):
        return Sample(status=SampleStatus(status), wall_s=latency_s, detail=detail)

    return make


@pytest.fixture(scope="session")
def pair(sample):
    """Make one pair; a status other than ok has no picture."""

    def make(number=0, *, stage="canary", ratio=1.0, old="ok", new="ok", psnr_db=60.0, flat=False):
        sound = old == new == "ok"
        return Pair(
            stage=stage,
            number=number,
            prompt_id=PROMPTS[number % len(PROMPTS)],
            first=Role.INCUMBENT,
            incumbent_uid="blue-1",
            candidate_uid="green-1",
            incumbent=sample(0.1, old, "" if old == "ok" else "the incumbent said no"),
            candidate=sample(0.1 * ratio, new, "" if new == "ok" else "the candidate said no"),
            psnr_db=psnr_db if sound else None,
            flat=flat,
        )

    return make


@pytest.fixture(scope="session")
def measured(pair):
    """Draw pairs of a candidate with this latency ratio."""

    def draw(count, *, ratio=1.0, seed=1, stage="canary", **changed):
        luck = random.Random(f"{seed}-{stage}")
        return [
            pair(number, stage=stage, ratio=ratio * luck.lognormvariate(0.0, SIGMA * math.sqrt(2.0)), **changed)
            for number in range(count)
        ]

    return draw
