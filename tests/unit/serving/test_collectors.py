"""The snapshot of the reference server, and the collectors that need no child."""

import dataclasses
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from rollout.model.snapshot import CapabilityStatus, parse_snapshot
from rollout.serving.collectors.container import _memory_limit
from rollout.serving.collectors.driver import read_nodes
from rollout.serving.collectors.environment import read_environment
from rollout.serving.collectors.table import COLLECTORS
from rollout.serving.options import (
    Attention,
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
    {"attention": Attention.SDPA},
    {"precision": Precision.INT8},
    {"precision": Precision.FP16},
    {"prediction": Prediction.V_PREDICTION},
    {"queue_limit": 63},
]


def test_two_instances_of_one_release_have_one_digest(snapshot, proven, options):
    other = proven(dataclasses.replace(options, pod_uid="other", port=2)).snapshot
    assert snapshot.digest == other.digest
    assert snapshot.measurements != other.measurements


def test_every_regression_has_a_digest_of_its_own(snapshot, proven, options):
    digests = {snapshot.digest}
    for change in REGRESSIONS:
        proof = proven(dataclasses.replace(options, **change))
        assert proof.admitted
        digests.add(proof.snapshot.digest)
    assert len(digests) == 1 + len(REGRESSIONS)


def test_the_snapshot_survives_the_wire(snapshot):
    assert parse_snapshot(snapshot.to_json()) == snapshot


def test_the_snapshot_says_what_the_session_does(snapshot):
    fields = snapshot.fields
    assert fields["runtime.ort.providers.actual"].value == ["CPUExecutionProvider"]
    assert fields["runtime.ort.placement.cpu_share"].value == 1.0
    assert {"Conv", "MatMul", "Softmax"} < set(fields["runtime.ort.placement.cpu_ops"].value)
    assert fields["runtime.ort.placement.memcpy_nodes"].value == 0
    assert fields["runtime.ort.binding.output_device"].value == "cpu"
    assert fields["runtime.ort.graph_optimization"].value == "all"
    assert fields["model.unet.attention.fused"].value is False
    assert fields["model.unet.attention.softmax_count"].value == 14
    assert fields["policy.profile"].value == "development-cpu"
    assert snapshot.measurements["runtime.ort.placement.cpu_time_share"].value == 1.0
    assert all(field.status is not CapabilityStatus.ERROR for field in fields.values())


def test_fused_attention_is_one_operator_and_no_softmax_is_left(proven, options):
    fields = proven(dataclasses.replace(options, attention=Attention.SDPA)).snapshot.fields
    assert fields["model.unet.attention.fused"].value is True
    assert fields["model.unet.attention.softmax_count"].value == 0
    assert "MultiHeadAttention" in fields["runtime.ort.placement.cpu_ops"].value


def test_a_session_for_each_request_has_no_profile_and_says_so(proven, options):
    fields = proven(dataclasses.replace(options, session=SessionLifetime.PER_REQUEST)).snapshot.fields
    assert fields["runtime.ort.placement.cpu_ops"].status is CapabilityStatus.UNAVAILABLE


def test_a_machine_without_gpu_says_so_and_does_not_pass_for_fine(tmp_path):
    assert read_nodes(tmp_path).status is CapabilityStatus.UNAVAILABLE


def test_gpu_device_nodes_are_named(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-caps-imex", "null"):
        (tmp_path / name).touch()
    assert read_nodes(tmp_path).value == ["nvidia0", "nvidia1", "nvidiactl"]


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
    field = _memory_limit(tmp_path)
    assert (field.status, field.value) == (status, value)


def test_every_field_of_the_snapshot_is_explained_on_its_page(snapshot):
    page = (Path(__file__).parents[3] / "docs" / "snapshot.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    explained = [name for row in rows for name in re.findall(r"`([a-z_0-9.*]+)`", row.split("|")[1])]
    promised = {name for one in COLLECTORS for name in one.promised}
    for name in {*snapshot.fields, *snapshot.measurements, *promised}:
        assert any(fnmatchcase(name, pattern) for pattern in explained), name


def test_secrets_in_the_environment_are_not_told():
    told = read_environment(
        {
            "NVIDIA_API_KEY_PROD": "nvapi-1",
            "TORCH_HUB_PASSWD": "x",
            "NVIDIA_NGC_CREDS": "x",
            "TRT_PAT": "x",
            "ORT_URL": "https://user:word@host/",
            "HOME": "/root",
            "CUDA_PATH": "/usr/local/cuda",
            "LD_LIBRARY_PATH": "/usr/lib",
            "CUDA_VISIBLE_DEVICES": "GPU-1",
        }
    )
    assert told["environment.variables"].value == ["CUDA_PATH=/usr/local/cuda", "LD_LIBRARY_PATH=/usr/lib"]
    assert told["environment.devices"].value == ["CUDA_VISIBLE_DEVICES=GPU-1"]
