import pytest

from rollout.canary.server_timing import parse_server_timing
from rollout.errors import EvidenceError


def test_queue_and_total_are_read_among_other_entries():
    declared = parse_server_timing('queue;dur=1.5, text;dur=3, cdn;desc="a, b; total;dur=9", total;dur=20.25')
    assert declared.queue_s == pytest.approx(0.0015)
    assert declared.total_s == pytest.approx(0.02025)


@pytest.mark.parametrize("header", ["", "unet;dur=3", "Queue;dur=3", " , ,", "x;total;dur=1"])
def test_what_is_not_declared_is_absent(header):
    declared = parse_server_timing(header)
    assert declared.queue_s is None
    assert declared.total_s is None


def test_device_time_that_overlaps_other_phases_changes_neither_queue_nor_total():
    phases = "queue;dur=2, text;dur=1, unet;dur=5, vae;dur=1, png;dur=1"
    plain = parse_server_timing(f"{phases}, total;dur=10.5")
    assert parse_server_timing(f"{phases}, device;dur=6.9, total;dur=10.5") == plain


def test_the_order_of_parameters_and_spaces_do_not_matter():
    assert parse_server_timing('queue ; desc="in line" ; dur = "7"').queue_s == pytest.approx(0.007)


def test_a_queue_of_zero_is_declared():
    assert parse_server_timing("queue;dur=0, total;dur=0.0").queue_s == 0.0


@pytest.mark.parametrize(
    ("header", "claim"),
    [
        ("queue;dur=nan", "not a number"),
        ("queue;dur=inf", "not a number"),
        ("queue;dur=1_0", "not a number"),
        ("queue;dur=", "not a number"),
        ("queue;dur=1e999", "not a number"),
        ("queue;dur=-1", "negative"),
        ("total;dur=-0.5", "negative"),
        ("queue", "without a duration"),
        ('queue;desc="x"', "without a duration"),
        ("queue;dur=1, queue;dur=2", "twice"),
        ("queue;dur=5, total;dur=4", "in a total"),
    ],
)
def test_a_declaration_that_cannot_be_true_is_refused(header, claim):
    with pytest.raises(EvidenceError, match=claim):
        parse_server_timing(header)
