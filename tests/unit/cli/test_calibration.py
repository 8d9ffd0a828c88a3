"""What `calibrate` and `plan` tell from a stored baseline."""

import io
import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rollout.cli.commands.calibrate import render
from rollout.cli.forecast import Forecast, _costs, costed
from rollout.errors import EvidenceError
from rollout.files.load import load_policy, load_prompts
from rollout.model.evidence import Baseline, protocol_of
from rollout.model.inventory import Absent
from rollout.model.policy import CostModel
from rollout.model.snapshot import CapabilitySnapshot
from rollout.report.calibration import calibration_json, expectations, margin_rows, warnings

ROOT = Path(__file__).parents[3]
PROMPTS = load_prompts(ROOT / "examples/local/prompts-mixed.yaml")
STANDARD = load_policy(ROOT / "policies/standard.yaml")


def _policy(**latency):
    return STANDARD.model_copy(update={"latency": STANDARD.latency.model_copy(update=latency)})


def _baseline(*, noise=0.03, pairs=300, latency_s=None, **changed):
    rng = np.random.default_rng(1)
    ids = [one.id for one in PROMPTS.prompts]
    fields = {
        "schema": "rollout.baseline/v1",
        "release_digest": "sha256:" + "a" * 64,
        "snapshot": CapabilitySnapshot(schema="rollout.snapshot/v1", fields={}),
        "prompts_digest": PROMPTS.digest,
        "protocol": protocol_of(STANDARD),
        "made_at": 1.0,
        "made_by_run": "r000001-x",
        "aa_ratio": np.exp(rng.normal(0.0, noise, pairs)).tolist(),
        "aa_prompt_ids": [ids[number % len(ids)] for number in range(pairs)],
        "latency_s": {one: [0.5, 1.5] for one in ids} if latency_s is None else latency_s,
    }
    return Baseline(**(fields | changed))


def _told(policy=STANDARD, *, replicas=1, margins=(), **baseline):
    return costed(_baseline(**baseline), policy, PROMPTS, replicas=replicas, p50_ratios_max=margins)


@cache
def _quiet():
    return _told()


def _printed(told):
    out = io.StringIO()
    render(Console(file=out, width=120, soft_wrap=True), told)
    return out.getvalue()


def test_a_quiet_incumbent_needs_no_warning_and_its_report_says_what_to_expect():
    told = _told(margins=(1.02,))
    assert told.suffices
    assert warnings(told) == ()
    printed = _printed(told)
    assert printed.startswith("the budget of 400 pairs suffices for the margin x1.05")
    assert "an equal release is promoted after about" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_every_shape_of_prompt_has_its_noise():
    shapes = {f"{one.size} x{one.batch}" for one in PROMPTS.prompts}
    told = _quiet()
    assert {one.shape for one in told.calibration.shapes} == shapes
    assert sum(one.noise.pairs for one in told.calibration.shapes) == 300


def test_a_baseline_without_prompts_of_its_ratios_tells_the_noise_of_all_alone():
    told = _told(aa_prompt_ids=[])
    assert all(one.noise is None for one in told.calibration.shapes)
    assert told.suffices


def test_gpu_seconds_are_pairs_by_the_work_of_a_pair_by_the_gpus_of_an_instance():
    price = CostModel(currency="EUR", gpu_hour=2.0, gpus_per_instance=4.0)
    plain, dear = _quiet(), _told(STANDARD.model_copy(update={"cost": price}))
    equal = plain.calibration.own.equal
    assert plain.gpu_s(10.0, equal) == pytest.approx(10.0 * equal.requests_per_pair * 1.0)
    assert equal.requests_per_pair == pytest.approx(2.0, rel=0.05)
    assert dear.gpu_s(10.0, equal) == pytest.approx(4.0 * plain.gpu_s(10.0, equal))


def test_without_latencies_pairs_are_told_and_seconds_are_not():
    told = _told(latency_s={})
    assert isinstance(told.gpu_s(10.0, told.calibration.own.equal), Absent)
    assert "GPU" not in " ".join(expectations(told))
    assert calibration_json(told)["margins"][0]["effects"][0]["gpu_s_median"] is None


def test_too_small_a_budget_is_warned_of_with_the_gate_that_stays_open():
    told = _told(_policy(pairs_max=90), noise=0.11)
    assert not told.suffices
    assert len(warnings(told)) == 1
    assert "gate that stays open" in warnings(told)[0]


def test_a_margin_that_noise_can_never_decide_is_named():
    told = _told(_policy(pairs_max=40), margins=(1.02,))
    assert "on this noise the margin x1.05 can never be decided within 40 pairs" in warnings(told)[0]
    assert "margin x1.02 can never be decided within 40 pairs" in " ".join(_printed(told).split())
    assert margin_rows(told)[0][2] == ">40"


def test_replicas_that_together_need_more_than_the_budget_are_warned_of():
    needed = _told(noise=0.08, replicas=2).calibration.own.instance_pairs_p90
    assert needed < 60, "an instance proves the square of the margin, which takes few pairs"
    replicas = math.ceil(400 / needed) + 2
    told = _told(noise=0.08, replicas=replicas)
    assert not told.suffices
    assert warnings(told)[0].startswith(f"{replicas} replicas need")


def test_more_prompts_than_pairs_are_warned_of_and_promise_nothing():
    told = replace(_quiet(), prompts=500)
    assert not told.suffices
    assert "500 prompts cannot all be compared in latency.pairs_max 400 pairs" in warnings(told)[-1]
    assert told.promotion_pairs(told.calibration.own.equal) == (math.inf, math.inf)


def test_an_equal_release_is_never_promoted_before_every_prompt_was_compared():
    told = _quiet()
    many = type(told)(
        calibration=told.calibration, request_s=told.request_s, gpus=1.0, prompts=300, replicas=told.replicas
    )
    assert many.promotion_pairs(told.calibration.own.equal) == (300.0, 300.0)


def test_the_json_holds_no_number_that_json_has_not():
    told = _told(_policy(p50_ratio_max=1.01, pairs_max=60), noise=0.2, margins=(1.2,))
    json.dumps(calibration_json(told), allow_nan=False)


def test_a_history_that_is_too_short_is_refused_and_plan_says_how_many_are_missing():
    with pytest.raises(EvidenceError, match="60 are missing"):
        _told(pairs=40)
    found, warned = _costs(_baseline(pairs=40), STANDARD, PROMPTS, replicas=1)
    assert isinstance(found, Absent)
    assert "holds 40 of 300 pairs, 260 are missing" in warned[0]
    assert "60 are missing" in warned[1]


def test_plan_forecasts_from_a_shorter_history_and_says_what_it_lacks():
    found, warned = _costs(_baseline(pairs=200), STANDARD, PROMPTS, replicas=1)
    assert not isinstance(found, Absent)
    assert warned == ("the stored history holds 200 of 300 pairs, 100 are missing: promote measures it anew",)


@pytest.mark.parametrize(
    "stored",
    [
        Absent(reason="none"),
        _baseline(aa_ratio=[], aa_prompt_ids=[]),
        _baseline(prompts_digest="sha256:" + "c" * 64),
    ],
)
def test_plan_without_a_fitting_history_points_at_calibrate(stored):
    found, warned = _costs(stored, STANDARD, PROMPTS, replicas=1)
    assert isinstance(found, Absent)
    assert "rollout calibrate" in found.reason
    assert warned == ()


def test_a_plan_prints_what_to_expect_and_warns_but_does_not_refuse():
    found, warned = _costs(_baseline(noise=0.11), _policy(pairs_max=90), PROMPTS, replicas=1)
    plan = Forecast(release="good", steps=("deploy",), obstacles=(), notes=(), warnings=warned, costs=found)
    out = io.StringIO()
    plan.print(Console(file=out, width=120, soft_wrap=True))
    assert "  expect: an equal release is promoted after" in out.getvalue()
    assert "  warning: the budget of 90 pairs does not suffice" in out.getvalue()
    assert plan.exit == 0
    told = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert told["warnings"] == list(warned)
    assert told["forecast"]["suffices"] is False
