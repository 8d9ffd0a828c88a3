"""The capability gate."""

from datetime import date

import pytest

from rollout.gates.capabilities import fallen, judge_capabilities
from rollout.gates.differences import diff, reported
from rollout.model.policy import CapabilityGate
from rollout.model.snapshot import CapabilitySnapshot, failed, ok, unavailable
from rollout.model.verdict import Outcome, Severity
from rollout.model.waiver import Waiver

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


TODAY = date(2026, 11, 1)


def gate(*, required=(ACTUAL,), allowed=(), waivers=()):
    return CapabilityGate(required=list(required), allowed_differences=list(allowed), waivers=list(waivers))


def judge(candidate, incumbent=None, *, compared=True, problems=None, **policy):
    return judge_capabilities(
        gate(**policy),
        incumbent=incumbent,
        candidate=candidate,
        problems=problems or {},
        compared=compared,
        today=TODAY,
    )


def waiver(what, until="2026-11-01"):
    return Waiver(what=what, who="ops", why="TICKET-1 (see there)", until=date.fromisoformat(until))


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


# Waivers.


@pytest.mark.parametrize("what", [ACTUAL, "runtime.ort.providers.*", "provider_dropped"])
def test_waived_difference_is_told_with_who_why_and_until_and_does_not_block(what):
    result = judge(snapshot(**LOST), snapshot(), waivers=[waiver(what)])
    assert codes(result) == (Outcome.PASS, ["capability_changed"])
    assert result.reasons[0].text == (
        f"{ACTUAL}: CUDAExecutionProvider, CPUExecutionProvider -> CPUExecutionProvider "
        "(waived until 2026-11-01 by ops: TICKET-1 (see there))"
    )
    (one,) = reported(result)
    assert (one.severity, one.after) == (Severity.INFO, "CPUExecutionProvider")
    assert one.note == "waived until 2026-11-01 by ops: TICKET-1 (see there)"
    assert str(one) == result.reasons[0].text


@pytest.mark.parametrize("what", ["gpu.*", "runtime.ort.providers", "driver_changed", "field_not_collected"])
def test_waiver_of_another_rule_waives_nothing(what):
    assert codes(judge(snapshot(**LOST), snapshot(), waivers=[waiver(what)]))[0] is Outcome.BREACH


def test_ended_waiver_does_not_help_and_the_reason_says_so():
    result = judge(snapshot(**LOST), snapshot(), waivers=[waiver(ACTUAL, "2026-10-31")])
    assert codes(result) == (Outcome.BREACH, ["capability_lost"])
    assert result.reasons[0].text.endswith(" -> CPUExecutionProvider (the waiver by ops ended 2026-10-31)")
    (one,) = reported(result)
    assert (one.severity, one.after) == (Severity.BLOCK, "CPUExecutionProvider")


def test_renewed_waiver_holds_beside_the_ended_one():
    waivers = [waiver(ACTUAL, "2026-12-31"), waiver("runtime.*", "2026-10-31")]
    assert codes(judge(snapshot(**LOST), snapshot(), waivers=waivers))[0] is Outcome.PASS


@pytest.mark.parametrize("compared", [True, False])
def test_required_field_that_was_not_collected_can_be_waived(compared):
    candidate = snapshot(runtime__ort__providers__actual=failed("a test", "collector crashed"))
    incumbent = snapshot() if compared else None
    result = judge(candidate, incumbent, compared=compared, waivers=[waiver(ACTUAL)])
    assert codes(result) == (Outcome.PASS, ["capability_changed", "field_waived"] if compared else ["field_waived"])
    assert result.reasons[-1].text == (
        f"{ACTUAL} is required and is error: collector crashed (waived until 2026-11-01 by ops: TICKET-1 (see there))"
    )


def test_waiver_of_a_required_field_that_ended_blocks_and_says_so():
    result = judge(snapshot(runtime__ort__providers__actual=None), None, waivers=[waiver(ACTUAL, "2026-10-31")])
    assert codes(result) == (Outcome.BREACH, ["field_not_collected"])
    assert result.reasons[0].text.endswith("is not in the snapshot (the waiver by ops ended 2026-10-31)")


def test_waived_field_does_not_pass_for_an_incumbent_that_cannot_be_read():
    candidate = snapshot(runtime__ort__providers__actual=None)
    assert codes(judge(candidate, None, waivers=[waiver(ACTUAL)]))[0] is Outcome.INCONCLUSIVE


def test_one_waiver_lets_nothing_else_pass():
    candidate = snapshot(**LOST, gpu__devices=None)
    result = judge(candidate, snapshot(), waivers=[waiver("gpu.*")])
    assert codes(result) == (Outcome.BREACH, ["capability_lost", "capability_changed"])
    assert [one.severity for one in reported(result)] == [Severity.BLOCK, Severity.INFO]


def test_incumbent_whose_loss_is_waived_is_a_yardstick_until_the_waiver_ends():
    policy = gate(waivers=[waiver(ACTUAL)])
    for today, text in ((TODAY, ""), (date(2026, 11, 2), "the waiver by ops ended 2026-11-01")):
        told = fallen(policy, proven=snapshot(), now=snapshot(**LOST), today=today)
        assert bool(told) is bool(text)
        assert text in told
