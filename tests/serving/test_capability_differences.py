"""What two stacks prove differently is named, with how much it weighs."""

import dataclasses
import json
import subprocess
import sys
import threading
import warnings

import pytest
import yaml

from rollout.files.load import load_admission
from rollout.serving.engines.table import load_engine
from rollout.serving.options import Attention, EngineKind, GraphOptimization, ServeOptions
from rollout.serving.proof import Named, prove
from rollout.serving.snapshot import release_fields
from rollout.serving.subject import PictureSubject

FUSED = "model.unet.attention.fused"


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    admission = load_admission("development-cpu").policy
    return ServeOptions(port=1, pod_uid="diff", cache=tmp_path_factory.mktemp("cache"), admission=admission)


def differences(before, after):
    """Return what `rollout diff` says, by field, and its exit code."""
    command = [sys.executable, "-m", "rollout", "diff", str(before), str(after), "--output", "json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode in {0, 3}, ran.stderr
    found = {one["key"]: one for one in json.loads(ran.stdout)["differences"]}
    return ran.returncode, found


def proven(options, folder, name):
    """Prove a release as the server does and write its snapshot down."""
    proof = prove(
        options.admission,
        lambda: PictureSubject(engine=load_engine(options)),
        said=release_fields(options),
        named=Named(matrix=None, engine_cache=None),
        watch=None,
        stopped=threading.Event(),
    )
    path = folder / f"{name}.json"
    path.write_text(json.dumps(proof.snapshot.to_json()))
    return path


def test_eager_attention_differs_from_fused_attention_and_blocks(options, tmp_path):
    pytest.importorskip("diffusers", reason="the diffusers extra is not installed: make test-serving")
    torch_options = dataclasses.replace(options, engine=EngineKind.DIFFUSERS)
    fused = proven(torch_options, tmp_path, "sdpa")
    eager = proven(dataclasses.replace(torch_options, attention=Attention.EAGER), tmp_path, "eager")
    code, found = differences(fused, eager)
    assert code == 3
    assert set(found) == {FUSED, "model.unet.attention.kernels", "model.unet.attention.processors"}
    assert found[FUSED] | {"severity": "block", "before": "true", "after": "false"} == found[FUSED]
    assert found["model.unet.attention.processors"]["before"] == "AttnProcessor2_0"
    assert found["model.unet.attention.processors"]["after"] == "AttnProcessor"


def test_optimisation_left_off_differs_and_is_a_warning(options, tmp_path):
    optimised = proven(options, tmp_path, "all")
    off = proven(dataclasses.replace(options, graph_optimization=GraphOptimization.DISABLED), tmp_path, "disabled")
    code, found = differences(optimised, off)
    assert code == 0
    told = found["runtime.ort.graph_optimization"]
    assert (told["severity"], told["before"], told["after"]) == ("warn", "all", "disabled")
    assert "runtime.ort.placement.cpu_ops" in found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The UNet as the new exporter writes it, in the opset without native attention and in the one with it."""
    torch = pytest.importorskip("torch", reason="the diffusers extra is not installed: make test-serving")
    pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript: make test-serving")
    from rollout.serving.engines.torch_networks import TEXT_WIDTH, NoisePredictor  # noqa: PLC0415 - needs torch

    folder = tmp_path_factory.mktemp("exported")
    network = NoisePredictor().eval()
    feeds = (torch.zeros(2, 4, 16, 16), torch.zeros(2), torch.zeros(2, 77, TEXT_WIDTH))
    for opset in (18, 23):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(network, feeds, dynamo=True, opset_version=opset, verbose=False)
        program.save(folder / f"unet-{opset}.onnx")
    return folder


def test_opset_without_native_attention_differs_from_the_one_with_it_and_blocks(exported, tmp_path):
    snapshots = {}
    for opset in (18, 23):
        policy = load_admission("development-cpu").policy.model_dump(mode="json", by_alias=True)
        policy |= {"model": {"path": str(exported / f"unet-{opset}.onnx"), "dimensions": {}}}
        path = tmp_path / f"admission-{opset}.yaml"
        path.write_text(yaml.safe_dump(policy))
        report = tmp_path / f"report-{opset}.json"
        command = [sys.executable, "-m", "rollout", "admit", "--policy", str(path), "--report", str(report)]
        subprocess.run(command, capture_output=True, check=True)
        snapshots[opset] = tmp_path / f"snapshot-{opset}.json"
        snapshots[opset].write_text(json.dumps(json.loads(report.read_text())["snapshot"]))
    code, found = differences(snapshots[23], snapshots[18])
    assert code == 3
    assert found[FUSED] | {"severity": "block", "before": "true", "after": "false"} == found[FUSED]
    assert found["model.unet.attention.softmax_count"]["before"] == "0"
    assert int(found["model.unet.attention.softmax_count"]["after"]) > 0
