import dataclasses

import pytest

from rollout.model.snapshot import CapabilityStatus, parse_snapshot
from rollout.serving import collectors
from rollout.serving.collectors import collect_snapshot, with_self_test
from rollout.serving.engines.ort import load_ort
from rollout.serving.options import (
    ExecutionMode,
    GraphOptimization,
    GuidanceMode,
    Precision,
    Prediction,
    SessionLifetime,
)

REGRESSIONS = [
    {"graph_optimization": GraphOptimization.EXTENDED},
    {"graph_optimization": GraphOptimization.BASIC},
    {"graph_optimization": GraphOptimization.DISABLED},
    {"arena": False},
    {"guidance": GuidanceMode.TWO_CALLS},
    {"threads": 2},
    {"spinning": True},
    {"execution": ExecutionMode.PARALLEL},
    {"session": SessionLifetime.PER_REQUEST},
    {"precision": Precision.INT8},
    {"prediction": Prediction.V_PREDICTION},
    {"queue_limit": 63},
]


def test_two_instances_of_one_release_have_one_digest(model, options):
    other = load_ort(dataclasses.replace(options, pod_uid="other", port=2))
    one, two = collect_snapshot(model, load_s=0.1), collect_snapshot(other, load_s=0.2)
    assert one.digest == two.digest
    assert one.measurements != two.measurements


def test_every_regression_has_a_digest_of_its_own(model, options):
    digests = {collect_snapshot(model, load_s=0).digest}
    for change in REGRESSIONS:
        digests.add(collect_snapshot(load_ort(dataclasses.replace(options, **change)), load_s=0).digest)
    assert len(digests) == 1 + len(REGRESSIONS)


def test_the_self_test_latency_does_not_change_the_digest(model):
    snapshot = collect_snapshot(model, load_s=0.1)
    tested = with_self_test(snapshot, latency_s=0.05)
    assert tested.digest == snapshot.digest
    assert tested.measurements["self_test.latency_s"].value == 0.05


def test_the_snapshot_survives_the_wire(model):
    snapshot = collect_snapshot(model, load_s=0.1)
    assert parse_snapshot(snapshot.to_json()) == snapshot


def test_the_snapshot_says_what_the_session_does(model):
    fields = collect_snapshot(model, load_s=0.1).fields
    assert fields["runtime.ort.providers.actual"].value == ["CPUExecutionProvider"]
    assert fields["runtime.ort.placement.cpu_share"].value == 1.0
    assert fields["runtime.ort.graph_optimization"].value == "all"
    assert fields["model.unet.attention.fused"].value is False
    assert fields["model.unet.attention.softmax_count"].value == 14
    assert fields["policy.profile"].value == "development-cpu"
    assert all(field.status is not CapabilityStatus.ERROR for field in fields.values())


def test_a_machine_without_gpu_says_so_and_does_not_pass_for_fine(tmp_path):
    fields = collectors._gpu_fields(tmp_path)
    assert {field.status for field in fields.values()} == {CapabilityStatus.UNAVAILABLE}


def test_gpu_device_nodes_are_named(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert collectors._gpu_fields(tmp_path)["gpu.devices"].value == ["nvidia0", "nvidia1"]


@pytest.mark.parametrize(
    ("text", "status", "value"),
    [
        ("max\n", CapabilityStatus.UNAVAILABLE, None),
        ("9223372036854771712\n", CapabilityStatus.UNAVAILABLE, None),
        ("1073741824\n", CapabilityStatus.OK, 1 << 30),
        ("nonsense\n", CapabilityStatus.ERROR, None),
    ],
)
def test_the_memory_limit_is_read_or_its_absence_explained(tmp_path, text, status, value):
    (tmp_path / "memory.max").write_text(text)
    field = collectors._memory_limit(tmp_path)
    assert (field.status, field.value) == (status, value)
