"""The plan that a server needs is taken from the store by its key; what is missing or wrong refuses the server."""

import dataclasses

import pytest

from rollout.files.load import load_admission
from rollout.model.snapshot import ok, unavailable
from rollout.serving.engines import ort_plans
from rollout.serving.engines.ort import load_ort
from rollout.serving.failures import AdmissionError
from rollout.serving.model_cache import load_weights
from rollout.serving.options import Precision
from rollout.serving.plans.onnx_file import digest_model
from rollout.serving.template import WEIGHTS_LOCATION, Part, load_template

FOUND = {
    "tensorrt": ok("10.9.0", "getInferLibVersion"),
    "capabilities": ok(["9.0"], "NVML"),
}


@pytest.fixture
def release(options):
    policy = load_admission("tensorrt").policy
    return dataclasses.replace(options, admission=policy, precision=Precision.FP16, side_max=512)


@pytest.fixture
def stored(store, tmp_path, plan_bytes, context_bytes, engine_name):
    """Store a plan under a key and return the key."""

    def put(key):
        folder = tmp_path / f"built-{key.digest[7:15]}"
        folder.mkdir()
        name = engine_name.replace("sm90", f"sm{key.sm}")
        (folder / name).write_bytes(plan_bytes(key.tensorrt))
        node = {"hardware_architecture": key.sm, "ep_cache_context": name}
        (folder / "model_ctx.onnx").write_bytes(context_bytes(node))
        store.add(key, folder / "model_ctx.onnx")
        return key

    return put


def test_key_of_the_reference_model_is_that_of_its_files(release, tmp_path):
    template = load_template()
    (tmp_path / "unet.onnx").write_bytes(template.graphs[Part.UNET])
    (tmp_path / WEIGHTS_LOCATION).write_bytes(load_weights(template, cache=release.cache))
    key = ort_plans.wanted_key(template, release, **FOUND)
    assert key.model == digest_model(tmp_path / "unet.onnx")
    assert (key.width, key.height, key.batch, key.precision, key.sm) == (512, 512, 1, Precision.FP16, "90")


def test_plan_of_any_build_of_the_same_tensorrt_is_placed(release, store, stored, tmp_path, engine_name):
    wanted = ort_plans.wanted_key(load_template(), release, **FOUND)
    stored(wanted.model_copy(update={"tensorrt": "10.9.0.34"}))
    target = tmp_path / "placed"
    target.mkdir()
    placed = ort_plans.place(store, wanted, folder=target)
    assert placed == target / "model_ctx.onnx"
    assert (target / engine_name).is_file()


@pytest.mark.parametrize(
    "change", [{"sm": "89"}, {"tensorrt": "10.8.0.34"}, {"width": 256}, {"precision": Precision.FP32}], ids=str
)
def test_plan_for_something_else_blocks_with_the_key_that_was_wanted(release, store, stored, tmp_path, change):
    wanted = ort_plans.wanted_key(load_template(), release, **FOUND)
    stored(wanted.model_copy(update={"tensorrt": "10.9.0.34"} | change))
    with pytest.raises(AdmissionError, match="512x512, batch 1, fp16") as refused:
        ort_plans.place(store, wanted, folder=tmp_path)
    assert refused.value.code == "plan_missing"


def test_damaged_plan_blocks_with_its_own_code(release, store, stored, tmp_path):
    wanted = ort_plans.wanted_key(load_template(), release, **FOUND)
    stored(wanted.model_copy(update={"tensorrt": "10.9.0.34"}))
    for path in (store._folder / "objects").iterdir():
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AdmissionError) as refused:
        ort_plans.place(store, wanted, folder=tmp_path)
    assert refused.value.code in {"plan_changed", "plan_truncated"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tensorrt": unavailable("dlopen", "no libnvinfer")}, "tensorrt_missing"),
        ({"capabilities": unavailable("nvmlInit", "no NVML")}, "field_not_collected"),
    ],
)
def test_machine_that_cannot_be_named_gets_no_plan(release, change, code):
    with pytest.raises(AdmissionError) as refused:
        ort_plans.wanted_key(load_template(), release, **FOUND | change)
    assert refused.value.code == code


def test_release_without_a_store_names_the_key_that_it_wants(release, monkeypatch):
    read = {"runtime.tensorrt.version": FOUND["tensorrt"], "gpu.compute_capability": FOUND["capabilities"]}
    monkeypatch.setattr(ort_plans, "read_isolated", lambda _collector, *, limit_s: read)  # noqa: ARG005 - its signature
    with pytest.raises(AdmissionError, match=r"--plans; wanted is model .*TensorRT 10\.9\.0\.0, sm90") as refused:
        load_ort(release)
    assert refused.value.code == "plan_missing"
