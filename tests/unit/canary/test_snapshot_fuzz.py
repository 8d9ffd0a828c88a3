"""Fuzzing of the snapshot reader: 3000 arbitrary bodies, 3000 damaged ones and 2000 JSON values; none crashes it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.canary.strict_json import parse_json
from rollout.model.snapshot import CapabilitySnapshot, ok, parse_snapshot, unavailable

GOOD = CapabilitySnapshot.model_validate(
    {
        "schema": "rollout.snapshot/v1",
        "fields": {
            "gpu.product": ok(["NVIDIA L4"], "NVML"),
            "gpu.count": ok(1, "NVML"),
            "gpu.mig": unavailable("NVML", "this device does not support it"),
            "model.unet.attention.fused": ok(True, "profile"),  # noqa: FBT003 - a JSON value
        },
        "measurements": {"self_test.latency_s": ok(0.25, "clock")},
    }
)
WIRE = json.dumps(GOOD.to_json()).encode()

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


def read(body):
    """Read a body as the canary's protocol does; a refusal is a ValueError."""
    data = parse_json(body)
    if not isinstance(data, dict):
        raise ValueError("no object")  # noqa: TRY004 - the reader's own refusal
    return parse_snapshot(data)


def read_or_refused(body):
    try:
        return read(body)
    except ValueError:
        return None


@settings(max_examples=3000, deadline=None)
@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_refused(body):
    assert read_or_refused(body) is None


@settings(max_examples=3000, deadline=None)
@given(st.integers(0, len(WIRE) - 1), st.binary(max_size=3), st.integers(0, 8))
def test_damaged_snapshot_is_refused_or_says_what_its_digest_says(place, inserted, removed):
    found = read_or_refused(WIRE[:place] + inserted + WIRE[place + removed :])
    # Measurements and the reason's words are outside the digest or inside it; whatever is read back holds its digest.
    assert found is None or found.digest == json.loads(WIRE)["digest"] or found.fields != GOOD.fields


@settings(max_examples=1000, deadline=None)
@given(JSON_VALUES)
def test_any_json_in_place_of_the_snapshot_is_refused(value):
    assert read_or_refused(json.dumps(value).encode()) is None


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(["schema", "digest", "fields", "measurements"]), JSON_VALUES)
def test_any_json_in_place_of_a_part_is_refused_or_equal(part, value):
    found = read_or_refused(json.dumps(GOOD.to_json() | {part: value}).encode())
    assert found is None or found.fields == GOOD.fields


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": "rollout.snapshot/v2"}, "schema"),
        ({"digest": "sha256:" + "0" * 64}, "claims digest"),
        ({"digest": None}, "claims digest"),
        ({"fields": {"a": {"value": float("nan"), "source": "s", "status": "ok"}}}, "NaN"),
        ({"fields": {"a": {"value": None, "source": "s", "status": "ok", "reason": ""}}}, "present exactly"),
        ({"fields": {"a": {"value": 1, "source": "s", "status": "fine", "reason": ""}}}, "status"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_lie_is_refused_with_what_is_wrong(change, told):
    with pytest.raises(ValueError, match=told):
        read(json.dumps(GOOD.to_json() | change).encode())
