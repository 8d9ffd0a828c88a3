"""The header of a TensorRT plan."""

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollout.serving.plans.faults import PlanError
from rollout.serving.plans.header import HEADER_BYTES, MAGIC, PlanHeader, parse_header


def test_header_gives_serialization_and_tensorrt_version(plan_bytes):
    assert parse_header(plan_bytes("10.9.0.34"), name="x") == PlanHeader(serialization=239, tensorrt="10.9.0.34")


def test_header_alone_is_enough(plan_bytes):
    assert parse_header(plan_bytes(size=100)[:HEADER_BYTES], name="x").tensorrt == "10.9.0.34"


@pytest.mark.parametrize("size", [0, 1, 3, 4, 27])
def test_plan_shorter_than_its_header_is_truncated(plan_bytes, size):
    with pytest.raises(PlanError, match=rf"plan_truncated: x is {size} bytes"):
        parse_header(plan_bytes()[:size], name="x")


@pytest.mark.parametrize("data", [b"\x08\x0a" + bytes(40), b"ptrt" + bytes(40), b"\x7fELF" + bytes(40), b"v"])
def test_foreign_file_is_named_with_what_it_begins_with(data):
    with pytest.raises(PlanError, match=r"plan_foreign: x is no TensorRT plan"):
        parse_header(data, name="x")


def test_plan_without_a_tensorrt_version_is_foreign():
    with pytest.raises(PlanError, match="names no TensorRT version"):
        parse_header(MAGIC + bytes(40), name="x")


@settings(max_examples=3000, deadline=None)
@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: MAGIC + tail))
@example(b"")
def test_arbitrary_bytes_give_a_header_or_the_typed_error(data):
    try:
        header = parse_header(data, name="x")
    except PlanError as error:
        assert error.code in {"plan_truncated", "plan_foreign"}  # noqa: PT017 - either way is right
    else:
        assert data.startswith(MAGIC)
        assert len(data) >= HEADER_BYTES
        assert header.serialization == struct.unpack_from("<I", data, 4)[0]
        assert header.tensorrt == ".".join(str(part) for part in data[24:28])


@settings(max_examples=3000, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=5), st.integers(0, 100))
def test_mutated_plan_gives_a_header_or_the_typed_error(plan_bytes, changes, length):
    data = bytearray(plan_bytes(size=100))
    for at, value in changes:
        data[at] = value
    try:
        parse_header(bytes(data[:length]), name="x")
    except PlanError as error:
        assert error.code in {"plan_truncated", "plan_foreign"}  # noqa: PT017 - either way is right
