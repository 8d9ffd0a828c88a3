"""`rollout matrix`: what fits exits 0, what does not exits 3 with one line per reason, bad input exits 2."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rollout.cli.app import run
from rollout.errors import ConfigError
from rollout.files.load import load_labels, load_matrix
from rollout.model.reasons import REASONS
from rollout.model.snapshot import SNAPSHOT_SCHEMA, CapabilitySnapshot, failed, ok

SHIPPED = Path(__file__).parents[3] / "policies/matrix.yaml"
FIELDS = {
    "gpu.driver.version": "580.95.05",
    "gpu.driver.cuda_version": "13.0",
    "gpu.product": ["NVIDIA L4"],
    "gpu.compute_capability": ["8.9"],
    "runtime.ort.version": "1.31.1",
    "runtime.ort.package": ["onnxruntime-gpu 1.31.1"],
    "runtime.ort.cuda_version": "13.0",
    "runtime.cudnn.version": "9.15.0",
    "runtime.tensorrt.version": "10.13.3.9",
}
NODE = """\
apiVersion: v1
kind: Node
metadata:
  creationTimestamp: "2026-11-01T10:00:00Z"
  labels:
    kubernetes.io/os: linux
    nvidia.com/cuda.driver-version.full: 580.95.05
    nvidia.com/gpu.compute.major: "8"
    nvidia.com/gpu.compute.minor: "9"
    nvidia.com/gpu.product: NVIDIA-L4-SHARED
  name: gpu-1
"""
FREEZE = """\
onnxruntime-gpu==1.31.1
nvidia-cuda-runtime==13.0.96
nvidia-cudnn-cu13==9.15.0.57
tensorrt-cu13==10.13.3.9
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(SHIPPED.read_text())
    (tmp_path / "node.yaml").write_text(NODE)
    (tmp_path / "freeze.txt").write_text(FREEZE)
    (tmp_path / "s.json").write_text(_snapshot(FIELDS))
    return tmp_path


def _snapshot(fields):
    made = {key: value if hasattr(value, "status") else ok(value, "test") for key, value in fields.items()}
    return json.dumps(CapabilitySnapshot.model_validate({"schema": SNAPSHOT_SCHEMA, "fields": made}).to_json())


def _changed(folder, old, new, *, name="m.yaml"):
    text = (folder / name).read_text()
    assert text.count(old) == 1
    (folder / name).write_text(text.replace(old, new))


def test_what_fits_exits_0_and_says_against_what(capsys):
    assert run(["matrix", "check", "m.yaml"]) == 0
    assert capsys.readouterr().out == "fits matrix: its pins agree\n"
    given = ["--snapshot", "s.json", "--labels", "node.yaml", "--packages", "freeze.txt"]
    assert run(["matrix", "check", "m.yaml", *given]) == 0
    assert capsys.readouterr().out == "fits matrix: s.json, node.yaml, freeze.txt\n"


def test_what_does_not_fit_exits_3_with_one_line_per_reason_and_its_remedy(folder, capsys):
    _changed(folder, "10.13.3", "11.1.0")
    assert run(["matrix", "check", "m.yaml", "--packages", "freeze.txt", "--snapshot", "s.json"]) == 3
    expected = {
        "m.yaml: matrix_ort_build: onnxruntime-gpu 1.31.1 needs tensorrt 10, and 11.1.0 is pinned": "matrix_ort_build",
        "s.json: matrix_mismatch: runtime.tensorrt.version: wanted 11.1.0, found 10.13.3.9": "matrix_mismatch",
        "freeze.txt: matrix_mismatch: tensorrt-cu13: wanted 11.1.0, found 10.13.3.9": "matrix_mismatch",
    }
    lines = [f"{text}. {REASONS[code].remedy}" for text, code in expected.items()]
    assert capsys.readouterr().out.splitlines() == lines


def test_options_may_stand_several_times(folder, capsys):
    (folder / "old.yaml").write_text(NODE.replace("580.95.05", "535.183.01"))
    assert run(["matrix", "check", "m.yaml", "--labels", "node.yaml", "--labels", "old.yaml"]) == 3
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("old.yaml: matrix_mismatch: nvidia.com/cuda.driver-version.full: wanted branch 580, ")


def test_json_holds_what_the_lines_say(folder, capsys):
    (folder / "s.json").write_text(_snapshot({**FIELDS, "gpu.product": ["NVIDIA A10"]}))
    assert run(["matrix", "check", "m.yaml", "--snapshot", "s.json", "--output", "json"]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "matrix": "matrix",
        "fits": False,
        "reasons": [
            {
                "source": "s.json",
                "code": "matrix_mismatch",
                "text": "gpu.product: wanted NVIDIA-L4, found NVIDIA A10",
                "remedy": REASONS["matrix_mismatch"].remedy,
            }
        ],
        "settled": [],
    }


def test_packages_are_read_from_stdin(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(FREEZE.encode() + b"onnxruntime==1.31.1\n")))
    assert run(["matrix", "check", "m.yaml", "--packages", "-"]) == 3
    assert capsys.readouterr().out.startswith("-: matrix_ort_twice: packages: onnxruntime-gpu, onnxruntime hide")


def test_an_unknown_runtime_exits_3_until_a_server_that_fits_proves_it(folder, capsys):
    _changed(folder, "version: 1.31.1", "version: 1.99.0")
    assert run(["matrix", "check", "m.yaml"]) == 3
    assert "m.yaml: matrix_ort_unknown: not known here: " in capsys.readouterr().out
    new = {**FIELDS, "runtime.ort.version": "1.99.0", "runtime.ort.package": ["onnxruntime-gpu 1.99.0"]}
    (folder / "s.json").write_text(_snapshot({**new, "gpu.product": ["NVIDIA A10"]}))
    assert run(["matrix", "check", "m.yaml", "--snapshot", "s.json"]) == 3
    assert "proves" not in capsys.readouterr().out
    (folder / "s.json").write_text(_snapshot(new))
    assert run(["matrix", "check", "m.yaml", "--snapshot", "s.json"]) == 0
    assert "matrix_ort_unknown: not known here: " in capsys.readouterr().out
    assert run(["matrix", "check", "m.yaml", "--snapshot", "s.json", "--output", "json"]) == 0
    (settled,) = json.loads(capsys.readouterr().out)["settled"]
    assert settled["code"] == "matrix_ort_unknown"
    assert run(["matrix", "lock", "s.json"]) == 0


def test_a_contradiction_is_not_settled_by_a_server_that_fits(folder, capsys):
    _changed(folder, "version: 1.31.1", "version: 1.26.0")
    fields = {**FIELDS, "runtime.ort.version": "1.26.0", "runtime.ort.package": ["onnxruntime-gpu 1.26.0"]}
    (folder / "s.json").write_text(_snapshot(fields))
    assert run(["matrix", "check", "m.yaml", "--snapshot", "s.json"]) == 3
    assert capsys.readouterr().out.startswith("m.yaml: matrix_ort_build: ")


def test_a_locked_matrix_is_accepted_for_the_same_snapshot(folder, capsys):
    assert run(["matrix", "lock", "s.json", "--name", "prod"]) == 0
    text = capsys.readouterr().out
    (folder / "locked.yaml").write_text(text)
    assert run(["matrix", "check", "locked.yaml", "--snapshot", "s.json"]) == 0
    locked = load_matrix(Path("locked.yaml"))
    assert (locked.name, locked.driver.lowest, locked.tensorrt) == ("prod", "580.95.05", "10.13.3.9")
    assert list(yaml.safe_load(text)) == list(yaml.safe_load(SHIPPED.read_text()))


def test_lock_says_on_stderr_where_the_machine_contradicts_the_tables(folder, capsys):
    fields = {**FIELDS, "runtime.ort.version": "1.26.0", "runtime.ort.package": ["onnxruntime-gpu 1.26.0"]}
    (folder / "s.json").write_text(_snapshot(fields))
    assert run(["matrix", "lock", "s.json"]) == 3
    said = capsys.readouterr()
    assert yaml.safe_load(said.out)["onnxruntime"]["version"] == "1.26.0"
    assert said.err.startswith("locked: matrix_ort_build: onnxruntime-gpu 1.26.0 needs cuda 12, and 13.0 is pinned. ")


def test_lock_refuses_a_machine_that_did_not_collect_everything(folder, capsys):
    (folder / "s.json").write_text(_snapshot({**FIELDS, "gpu.product": failed("NVML", "no")}))
    assert run(["matrix", "lock", "s.json"]) == 2
    assert capsys.readouterr().err == ("rollout: this snapshot cannot become a matrix:\n  gpu.product: not collected\n")


# Bad input.


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            'cuda: "13.0"',
            "cuda: 13.0",
            'm.yaml:13:1: cuda: must be a CUDA version, such as "13.0" (got 13.0); quote it: "13.0"',
        ),
        (
            'cudnn: "9.15.0"',
            "cudnn: 9",
            'm.yaml:15:1: cudnn: must be a major or a full version in quotes, such as "9" or "9.12.0" or null (got 9)',
        ),
        (
            "torch: null\n",
            "",
            'm.yaml:3:1: torch: missing; it must be a full version without "+...", such as "1.31.1" or null',
        ),
        (
            "torch: null\n",
            "torch: 2.13.0+cu130\n",
            (
                'm.yaml:21:1: torch: must be a full version without "+...", such as "1.31.1" or null '
                '(got "2.13.0+cu130")'
            ),
        ),
        (
            "branches: [580]",
            "branches: [r580]",
            'm.yaml:8:14: driver.branches[0]: must be a whole number of at least 100 and at most 9999 (got "r580")',
        ),
        (
            "base_image: null",
            "base_image: nvidia/cuda:13",
            (
                'm.yaml:23:1: base_image: must be an image by digest, "REPOSITORY@sha256:" and 64 hexadecimal digits '
                'or null (got "nvidia/cuda:13")'
            ),
        ),
        ("products:", "product:", "m.yaml:26:3: gpus.product: unknown key; did you mean products?"),
    ],
)
def test_a_fault_in_the_matrix_names_file_line_and_key(folder, capsys, old, new, line):
    _changed(folder, old, new)
    assert run(["matrix", "check", "m.yaml"]) == 2
    assert capsys.readouterr().err == f"rollout: {line}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "l.yaml:1:1: the file must hold a mapping of labels, or one Kubernetes Node that has labels"),
        ("kind: Node\nmetadata: {}\n", "l.yaml:1:1: the file must hold a mapping of labels"),
        ("a: b\nnvidia.com/gpu.compute.major: 8\n", "l.yaml:2:1: "),
        (NODE.replace('"8"', "8"), "l.yaml:8:5: "),
    ],
)
def test_labels_that_are_none_are_refused(folder, text, message):
    (folder / "l.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_labels(Path("l.yaml"))
    assert str(caught.value).startswith(message)


def test_a_plain_mapping_of_labels_and_a_node_in_json_are_read_alike(folder):
    labels = load_labels(Path("node.yaml"))
    (folder / "plain.yaml").write_text(yaml.safe_dump(dict(labels)))
    (folder / "node.json").write_text(json.dumps(yaml.safe_load(NODE)))
    assert load_labels(Path("plain.yaml")) == load_labels(Path("node.json")) == labels


def test_a_fault_in_a_list_of_packages_names_file_and_line(folder, capsys):
    (folder / "freeze.txt").write_text("torch==2.13.0\n-r more.txt\n")
    assert run(["matrix", "check", "m.yaml", "--packages", "freeze.txt"]) == 2
    assert capsys.readouterr().err.startswith("rollout: freeze.txt:2: included files are not read; ")


def test_a_missing_snapshot_is_bad_input(capsys):
    assert run(["matrix", "check", "m.yaml", "--snapshot", "no.json"]) == 2
    assert "neither a file nor HOST:PORT" in capsys.readouterr().err
