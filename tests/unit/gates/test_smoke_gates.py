"""The gates of `rollout smoke`: what was not seen clears a server of nothing."""

# ruff: noqa: S311 - draws of a simulation, with seeds, not secrets

import random
from dataclasses import replace
from datetime import date

import pytest

from rollout.gates.admission import SELF_TEST, Came, Start, judge_admission, refusals
from rollout.gates.messages import SIGNS_MAX, Heard, judge_messages
from rollout.gates.smoke import SmokeEvidence, Yardstick, fails, judge_smoke, latencies
from rollout.model.evidence import Baseline, Sample, SampleStatus, protocol_of
from rollout.model.inventory import Absent
from rollout.model.journal import SampleMeasured
from rollout.model.matrix import Matrix
from rollout.model.reasons import REASONS
from rollout.model.snapshot import CapabilitySnapshot, failed, ok
from rollout.model.verdict import Outcome, Reason

ACTUAL = "runtime.ort.providers.actual"
CUDA, CPU = ["CUDAExecutionProvider"], ["CPUExecutionProvider"]
SIGN = Reason(code="fallback_message", text="*** EP Error *** Falling back")


def snapshot(providers=CUDA, self_test=0.03):
    tested = ok(self_test, "a test") if self_test else failed("a test", "the clock broke")
    return CapabilitySnapshot(
        schema="rollout.snapshot/v1", fields={ACTUAL: ok(providers, "a test")}, measurements={SELF_TEST: tested}
    )


def samples(count=60, *, ratio=1.0, failing=0):
    luck = random.Random(5)
    return tuple(
        SampleMeasured(
            number=number,
            prompt_id=f"p{number % 3}",
            sample=Sample(
                status=SampleStatus.ERROR if number < failing else SampleStatus.OK,
                wall_s=0.1 * ratio * luck.lognormvariate(0, 0.05),
                detail="CUDA error 700" if number < failing else "",
            ),
        )
        for number in range(count)
    )


READY = Start(came=Came.READY, seconds=2.0, detail="", refusals=())
WHOLE = SmokeEvidence(
    start=READY,
    snapshot=snapshot(),
    snapshot_problem="",
    samples=samples(),
    heard=Heard(lines=3, signs=()),
    unfinished="",
)
UNSEEN = SmokeEvidence(
    start=Start(came=Came.UNSEEN, seconds=1.0, detail="interrupted by SIGTERM", refusals=()),
    snapshot=None,
    snapshot_problem="",
    samples=(),
    heard=Heard(lines=0, signs=()),
    unfinished="interrupted by SIGTERM",
)
FIRST = Yardstick(baseline=None, first=True, matrix=None)
NOTHING = Yardstick(baseline=None, first=False, matrix=None)


@pytest.fixture
def stored(policy):
    baseline = Baseline(
        schema="rollout.baseline/v1",
        release_digest="sha256:" + "0" * 64,
        snapshot=snapshot(),
        prompts_digest="sha256:" + "1" * 64,
        protocol=protocol_of(policy),
        made_at=1.0,
        made_by_run="smoke",
        aa_ratio=[],
        latency_s=latencies(samples()),
    )
    return Yardstick(baseline=baseline, first=False, matrix=None)


def judged(policy, evidence, yardstick):
    return judge_smoke(policy, evidence, yardstick, today=date(2026, 1, 1))


def outcomes(verdict):
    return {gate.gate: (gate.outcome.value, gate.reasons[0].code) for gate in verdict.gates}


def test_server_that_is_as_its_baseline_passes_every_gate(policy, stored):
    verdict = judged(policy, WHOLE, stored)
    assert verdict.outcome is Outcome.PASS
    assert list(outcomes(verdict)) == ["admission", "capabilities", "messages", "errors", "drift"]


def test_without_a_baseline_latency_is_undecided_and_so_is_the_whole(policy):
    verdict = judged(policy, WHOLE, NOTHING)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert outcomes(verdict)["drift"] == ("INCONCLUSIVE", "baseline_missing")


def test_first_measurement_passes_and_says_that_nothing_was_compared(policy):
    verdict = judged(policy, WHOLE, FIRST)
    assert verdict.outcome is Outcome.PASS
    assert "compared with nothing" in verdict.gates[-1].reasons[0].text


def test_first_measurement_that_later_ones_could_not_be_compared_with_is_undecided(policy):
    once = replace(WHOLE, samples=samples(3))
    assert outcomes(judged(policy, once, FIRST))["drift"] == ("INCONCLUSIVE", "baseline_too_short")


@pytest.mark.parametrize(
    ("changed", "gate", "code"),
    [
        ({"samples": samples(ratio=2.0)}, "drift", "latency_drifted"),
        ({"samples": samples(failing=30)}, "errors", "error_rate_over_margin"),
        ({"snapshot": snapshot(CPU)}, "capabilities", "capability_lost"),
        ({"snapshot": None, "snapshot_problem": "not JSON"}, "capabilities", "snapshot_unreadable"),
        ({"heard": Heard(lines=1, signs=(SIGN,))}, "messages", "fallback_message"),
        ({"start": replace(READY, came=Came.ENDED, detail="signal 9")}, "admission", "server_ended"),
        ({"start": replace(READY, came=Came.LATE, detail="503")}, "admission", "server_never_ready"),
    ],
)
def test_one_gate_that_breaches_convicts_also_where_somebody_interrupted(policy, stored, changed, gate, code):
    for unfinished in ("", "interrupted by SIGTERM"):
        verdict = judged(policy, replace(WHOLE, unfinished=unfinished, **changed), stored)
        assert verdict.outcome is Outcome.BREACH
        assert outcomes(verdict)[gate] == ("BREACH", code)


@pytest.mark.parametrize("yardstick", [FIRST, NOTHING])
@pytest.mark.parametrize("seen", [WHOLE, replace(WHOLE, samples=samples(30)), replace(UNSEEN, start=READY), UNSEEN])
def test_what_was_interrupted_is_cleared_of_nothing(policy, stored, seen, yardstick):
    for one in (yardstick, stored):
        verdict = judged(policy, replace(seen, unfinished="interrupted by SIGTERM"), one)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert {outcomes(verdict)[gate][0] for gate in ("messages", "errors", "drift")} == {"INCONCLUSIVE"}


def test_server_without_a_self_test_is_undecided(policy, stored):
    for shown in (snapshot(self_test=None), snapshot().model_copy(update={"measurements": {}})):
        verdict = judged(policy, replace(WHOLE, snapshot=shown), stored)
        assert outcomes(verdict)["admission"] == ("INCONCLUSIVE", "self_test_unmeasured")
        assert verdict.outcome is Outcome.INCONCLUSIVE


def test_log_that_nobody_has_is_undecided(policy, stored):
    verdict = judged(policy, replace(WHOLE, heard=Absent(reason="give --log")), stored)
    assert outcomes(verdict)["messages"] == ("INCONCLUSIVE", "messages_unheard")
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_server_that_differs_from_the_matrix_breaches(policy, stored):
    matrix = Matrix.model_validate(
        {
            "schema": "rollout.matrix/v1",
            "name": "l4",
            "driver": {"branches": [580], "lowest": "580.65.06"},
            "cuda": "13.0",
            "cudnn": None,
            "onnxruntime": {"package": "onnxruntime-gpu", "version": "1.31.1"},
            "tensorrt": None,
            "torch": None,
            "base_image": None,
            "gpus": {"products": ["NVIDIA-L4"], "compute_capabilities": ["8.9"]},
        }
    )
    verdict = judged(policy, WHOLE, replace(stored, matrix=matrix))
    assert outcomes(verdict)["matrix"][0] == "BREACH"
    unseen = judged(policy, UNSEEN, replace(stored, matrix=matrix))
    assert outcomes(unseen)["matrix"] == ("INCONCLUSIVE", "not_reached")


def test_measuring_ends_where_failures_have_decided_and_not_before(policy):
    assert not fails(policy, samples(1, failing=1))
    assert fails(policy, samples(10, failing=10))


def test_baseline_holds_only_requests_that_ended_well():
    assert sum(map(len, latencies(samples(60, failing=7)).values())) == 53


def test_signs_are_told_up_to_a_limit_and_all_are_counted():
    many = Heard(lines=500, signs=tuple(Reason(code=SIGN.code, text=str(number)) for number in range(100)))
    told = judge_messages(many)
    assert len(told.reasons) == SIGNS_MAX
    assert told.figures["fallback_lines"] == 100


def test_refusal_is_told_reason_by_reason_whatever_its_texts_hold():
    log = (
        "Traceback; not a refusal: x\n"
        "rollout serve: refused: libcuda_missing: libcuda.so.1: cannot open; see: the image; "
        "provider_dropped: got CPUExecutionProvider; field_not_collected: gpu.product: no NVML\n"
    )
    assert [(one.code, one.text) for one in refusals(log)] == [
        ("libcuda_missing", "libcuda.so.1: cannot open; see: the image"),
        ("provider_dropped", "got CPUExecutionProvider"),
        ("field_not_collected", "gpu.product: no NVML"),
    ]


def test_every_known_code_is_understood_in_a_refusal():
    log = "rollout serve: refused: " + "; ".join(f"{code}: why" for code in REASONS)
    assert [one.code for one in refusals(log)] == list(REASONS)


def test_refusal_of_a_wrapped_server_is_understood():
    log = (
        "rollout: refused by policy gpu\n  block no_device: the driver finds none\n        Ask for one.\n  warn  x: y\n"
    )
    assert [(one.code, one.text) for one in refusals(log)] == [("no_device", "the driver finds none")]


def test_refusal_without_a_code_is_told_in_the_servers_words():
    found = tuple(refusals("rollout serve: refused: cannot listen on 127.0.0.1 port 80: denied"))
    assert [(one.code, one.text) for one in found] == [("server_refused", "cannot listen on 127.0.0.1 port 80: denied")]
    told = judge_admission(Start(came=Came.ENDED, seconds=1.0, detail="exit status 78", refusals=found), None)
    assert (told.outcome, told.reasons) == (Outcome.BREACH, found)
