"""Manifests and keys of the plan store."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rollout.errors import ConfigError
from rollout.serving.plans.faults import PlanError
from rollout.serving.plans.key import differing, parse_sm, parse_tensorrt
from rollout.serving.plans.manifest import MANIFEST_SCHEMA, PlanFile, PlanManifest, parse_manifest

HEX = "b" * 64


def _manifest(key_of, **changes):
    files = (PlanFile(name="x.engine", digest=f"sha256:{HEX}", size_bytes=5),)
    manifest = PlanManifest(schema=MANIFEST_SCHEMA, key=key_of(), files=files)
    return json.dumps({**json.loads(manifest.to_bytes()), **changes}).encode()


def test_manifest_survives_its_own_bytes(key_of):
    manifest = parse_manifest(_manifest(key_of), name="m")
    assert parse_manifest(manifest.to_bytes(), name="m") == manifest
    assert manifest.key == key_of()


@pytest.mark.parametrize("schema", ["rollout.engine-plan/v2", "", "x" * 5000])
def test_manifest_of_another_schema_is_unknown_not_damaged(key_of, schema):
    with pytest.raises(PlanError, match=r"plan_manifest_unknown: m has schema .{0,64}, this version knows"):
        parse_manifest(_manifest(key_of, schema=schema), name="m")


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": [{"name": "../x", "digest": f"sha256:{HEX}", "size_bytes": 5}]},
        {"files": [{"name": "x", "digest": f"sha256:{HEX[1:]}", "size_bytes": 5}]},
        {"files": [{"name": "x", "digest": f"sha256:../{HEX[3:]}", "size_bytes": 5}]},
        {"files": [{"name": "x", "digest": f"sha256:{HEX}", "size_bytes": -1}]},
        {"key": {}},
        {"extra": 1},
        {"schema": 1},
    ],
)
def test_manifest_with_a_wrong_value_is_damaged_and_the_key_is_named(key_of, changes):
    with pytest.raises(PlanError, match=rf"plan_manifest_damaged: m is damaged: {next(iter(changes))}"):
        parse_manifest(_manifest(key_of, **changes), name="m")


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (2**20 + 1), b'{"schema":NaN}']
)
def test_file_that_is_no_manifest_is_damaged(data):
    with pytest.raises(PlanError, match="plan_manifest_damaged"):
        parse_manifest(data, name="m")


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"batch": -1},
        {"precision": "fp8"},
        {"tensorrt": "10.9"},
        {"sm": "9.0"},
        {"model": "x"},
        {"sm": "90\n"},
    ],
)
def test_key_that_cannot_be_is_refused(key_of, change):
    with pytest.raises(ValidationError):
        key_of(**change)


def test_every_field_of_the_key_changes_its_digest(key_of):
    changes = {
        "model": "sha256:" + "c" * 64,
        "width": 64,
        "height": 64,
        "batch": 2,
        "precision": "fp32",
        "tensorrt": "10.8.0.43",
        "sm": "80+",
    }
    assert set(changes) == set(type(key_of()).model_fields)
    digests = {key_of().digest, *(key_of(**{field: value}).digest for field, value in changes.items())}
    assert len(digests) == 8
    assert differing(key_of(), key_of(sm="89", batch=2)) == ("batch 2 instead of 1", "sm 89 instead of 90")


@pytest.mark.parametrize(
    ("text", "sm"),
    [("90", "90"), ("9.0", "90"), ("sm_90", "90"), ("sm89", "89"), ("10.0", "100"), ("120", "120"), ("80+", "80+")],
)
def test_compute_capability_is_read_as_people_write_it(text, sm):
    assert parse_sm(text) == sm


@pytest.mark.parametrize("text", ["", "9", "hopper", "90a", "1234", "-90", "٩٠"])
def test_what_is_no_compute_capability_is_refused(text):
    with pytest.raises(ConfigError):
        parse_sm(text)


@pytest.mark.parametrize("text", ["10.9", "10.9.0.34\n", "10.9.0.34.1", "v10.9.0.34", "latest"])
def test_what_is_no_full_tensorrt_version_is_refused(text):
    with pytest.raises(ConfigError):
        parse_tensorrt(text)


def _parse_or_typed_error(data):
    try:
        parse_manifest(data, name="m")
    except PlanError as error:
        assert error.code in {"plan_manifest_damaged", "plan_manifest_unknown"}  # noqa: PT017 - either way is right


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_give_a_manifest_or_the_typed_error(data):
    _parse_or_typed_error(data)


@settings(max_examples=2000, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5),
    st.integers(0, 10**6),
    st.binary(max_size=5),
)
def test_mutated_manifest_gives_a_manifest_or_the_typed_error(key_of, changes, cut, extra):
    data = bytearray(_manifest(key_of))
    for at, value in changes:
        data[at % len(data)] = value
    at = cut % len(data)
    data[at:at] = extra
    _parse_or_typed_error(bytes(data))
    _parse_or_typed_error(bytes(data[:at]))


@settings(max_examples=1000, deadline=None)
@given(
    st.sampled_from(["schema", "key", "files"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_any_value_in_the_place_of_another_gives_a_manifest_or_the_typed_error(key_of, field, value):
    _parse_or_typed_error(_manifest(key_of, **{field: value}))
