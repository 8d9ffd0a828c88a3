"""The capability gate."""

import pytest

from rollout.gates.capabilities import SEVERITIES, diff, judge_capabilities, reported
from rollout.model.policy import CapabilityGate
from rollout.model.snapshot import CapabilitySnapshot, failed, ok, unavailable
from rollout.model.verdict import Outcome, Severity

ACTUAL = "runtime.ort.providers.actual"
THREADS = "runtime.ort.threads.intra_op"
BASE = {ACTUAL: ["CUDAExecutionProvider", "CPUExecutionProvider"], "gpu.devices": ["A"], THREADS: 4}


def snapshot(**changed):
    """Return the base with some fields changed; None leaves a field out."""
    fields = {**BASE, **{key.replace("__", "."): value for key, value in changed.items()}}
    made = {
        key: ok(value, "a test") if isinstance(value, bool | int | float | str | list) else value
        for key, value in fields.items()
        if value is not None
    }
    return CapabilitySnapshot(schema="rollout.snapshot/v1", fields=made)


LOST = {"runtime__ort__providers__actual": ["CPUExecutionProvider"]}


def judge(candidate, incumbent=None, *, required=(ACTUAL,), allowed=(), compared=True, problems=None):
    return judge_capabilities(
        CapabilityGate(required=list(required), allowed_differences=list(allowed)),
        incumbent=incumbent,
        candidate=candidate,
        problems=problems or {},
        compared=compared,
    )


def codes(result):
    return result.outcome, [one.code for one in result.reasons]


def test_equal_snapshots_pass():
    assert codes(judge(snapshot(), snapshot())) == (Outcome.PASS, ["capabilities_equal"])


def test_candidate_that_cannot_be_read_breaches_with_the_reason():
    result = judge(None, snapshot(), problems={"candidate": "no answer in 5 s"})
    assert codes(result) == (Outcome.BREACH, ["snapshot_unreadable"])
    assert "no answer in 5 s" in result.reasons[0].text


def test_incumbent_that_cannot_be_read_is_inconclusive():
    result = judge(snapshot(), None, problems={"incumbent": "refused"})
    assert codes(result) == (Outcome.INCONCLUSIVE, ["incumbent_snapshot_unreadable"])


def test_missing_required_field_breaches_even_without_an_incumbent():
    for field in (None, unavailable("a test", "no GPU"), failed("a test", "collector crashed")):
        candidate = snapshot(runtime__ort__providers__actual=field)
        assert codes(judge(candidate, None)) == (Outcome.BREACH, ["field_not_collected"])
        assert codes(judge(candidate, None, compared=False)) == (Outcome.BREACH, ["field_not_collected"])


def test_required_field_that_neither_side_collects_is_not_fine():
    gone = snapshot(runtime__ort__providers__actual=unavailable("a test", "no GPU"))
    assert codes(judge(gone, gone))[0] is Outcome.BREACH


def test_first_stack_is_judged_by_its_required_fields_alone():
    assert codes(judge(snapshot(**LOST), None, compared=False)) == (Outcome.PASS, ["capabilities_equal"])


def test_lost_provider_breaches_and_names_both_values():
    result = judge(snapshot(**LOST), snapshot())
    assert codes(result) == (Outcome.BREACH, ["capability_lost"])
    assert [str(one) for one in reported(result)] == [
        f"{ACTUAL}: CUDAExecutionProvider, CPUExecutionProvider -> CPUExecutionProvider"
    ]


def test_order_of_providers_matters():
    swapped = snapshot(runtime__ort__providers__actual=BASE[ACTUAL][::-1])
    assert codes(judge(swapped, snapshot()))[0] is Outcome.BREACH


def test_light_difference_is_told_and_does_not_block():
    result = judge(snapshot(runtime__ort__threads__intra_op=1), snapshot())
    assert codes(result) == (Outcome.PASS, ["capability_changed"])
    assert result.figures == {"blocking": 0, "differences": 1}


@pytest.mark.parametrize("pattern", [ACTUAL, "runtime.ort.providers.*", "runtime.*"])
def test_allowed_difference_is_told_and_does_not_block(pattern):
    assert codes(judge(snapshot(**LOST), snapshot(), allowed=[pattern])) == (Outcome.PASS, ["capability_changed"])


@pytest.mark.parametrize("pattern", ["runtime.ort.providers", "runtime.ort.providers.actua", "gpu.*", "Runtime.*"])
def test_pattern_that_does_not_match_allows_nothing(pattern):
    assert codes(judge(snapshot(**LOST), snapshot(), allowed=[pattern]))[0] is Outcome.BREACH


def test_allowing_a_difference_does_not_allow_a_required_field_to_be_missing():
    candidate = snapshot(runtime__ort__providers__actual=None)
    assert codes(judge(candidate, snapshot(), allowed=["runtime.*"]))[0] is Outcome.BREACH


def test_blocking_reasons_come_first():
    result = judge(snapshot(**LOST, runtime__ort__threads__intra_op=1, gpu__devices=None), snapshot())
    assert codes(result)[1] == ["capability_lost", "capability_lost", "capability_changed"]


def test_field_on_one_side_only_is_a_difference():
    (one,) = diff(snapshot(), snapshot(gpu__devices=None))
    assert (one.key, one.before, one.after, one.severity) == ("gpu.devices", "A", "absent", Severity.BLOCK)
    (one,) = diff(snapshot(gpu__devices=None), snapshot())
    assert (one.before, one.after) == ("absent", "A")


def test_field_that_was_collected_and_no_longer_is_differs():
    (one,) = diff(snapshot(), snapshot(gpu__devices=failed("a test", "crashed")))
    assert (one.before, one.after) == ("A", "error")


def test_truth_and_one_are_not_the_same():
    assert diff(snapshot(runtime__ort__arena=True), snapshot(runtime__ort__arena=1))
    assert not diff(snapshot(runtime__ort__arena=True), snapshot(runtime__ort__arena=True))


def test_equal_digests_have_no_difference_and_different_ones_have_some():
    variants = [
        snapshot(),
        snapshot(**LOST),
        snapshot(gpu__devices=None),
        snapshot(runtime__ort__threads__intra_op=True),
        snapshot(runtime__ort__threads__intra_op="4"),
    ]
    for one in variants:
        for other in variants:
            assert bool(diff(one, other)) is (one.digest != other.digest)


@pytest.mark.parametrize(
    ("key", "severity"),
    [
        ("runtime.ort.providers.actual", Severity.BLOCK),
        ("runtime.ort.package", Severity.BLOCK),
        ("runtime.ort.placement.cpu_share", Severity.BLOCK),
        ("model.unet.attention.fused", Severity.BLOCK),
        ("policy.profile", Severity.BLOCK),
        ("gpu.driver.version", Severity.BLOCK),
        ("model.unet.attention.softmax_count", Severity.WARN),
        ("something.nobody.thought.of", Severity.WARN),
    ],
)
def test_severity_of_a_difference(key, severity):
    (one,) = diff(snapshot(), snapshot(**{key.replace(".", "__"): "another"}) if key not in BASE else snapshot(**LOST))
    assert one.severity is severity


def test_every_severity_pattern_is_heavier_than_the_default():
    assert all(severity is Severity.BLOCK for _, severity in SEVERITIES)
