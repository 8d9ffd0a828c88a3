"""Building a plan: what is asked of ONNX Runtime, and what is refused without a GPU.

The runtime here is a double where a test needs one that has TensorRT's provider: no such machine was at hand.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from onnx import TensorProto, helper

from rollout.errors import ConfigError, RefusedError
from rollout.serving.options import Precision
from rollout.serving.plans.build import BuildOrder, build_plan, profile_shapes, provider_options
from rollout.serving.plans.faults import PlanBuildError, PlanError
from rollout.serving.plans.onnx_file import digest_model

TRT = "TensorrtExecutionProvider"


def _model(*inputs):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", [inputs[0][0]], ["y"])], "g", values, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


UNET = (("sample", ["batch", 4, "height", "width"]), ("timestep", []), ("states", ["batch", 77, 768]))


@pytest.fixture
def order(tmp_path):
    path = tmp_path / "unet.onnx"
    path.write_bytes(_model(("sample", [1, 4, 64, 64])).SerializeToString())
    return BuildOrder(model=path, width=512, height=512, batch=1, precision=Precision.FP16, sm="90")


@pytest.fixture
def runtime(monkeypatch, context_bytes, plan_bytes, engine_name):
    """An ONNX Runtime with TensorRT's provider, as its sources say it behaves; it remembers what it was asked."""
    seen = SimpleNamespace(config={}, providers=None, options={}, node={})

    def opened(_model, *, providers, provider_options, config):
        seen.providers, seen.options, seen.config = providers, provider_options, config
        context = Path(config["ep.context_file_path"])
        if seen.node is not None:
            context.write_bytes(context_bytes(seen.node))
            context.with_name(engine_name).write_bytes(plan_bytes())

    monkeypatch.setattr("rollout.serving.strict_session.open_strict_session", opened)
    return seen


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="This machine may be able to build.")
def test_real_onnx_runtime_on_a_machine_without_a_gpu_is_refused_by_what_is_missing(order, store):
    # The CPU's build of ONNX Runtime lacks the provider; the GPU's has it, lacks libraries and would fall back.
    missing = "provider_not_in_build: this ONNX Runtime|_missing: ONNX Runtime"
    with pytest.raises(PlanBuildError, match=f"plan_build_impossible: .*({missing})") as told:
        build_plan(order, store=store)
    assert isinstance(told.value, RefusedError)
    assert not store._folder.exists()


def test_missing_onnx_runtime_is_refused(order, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "rollout.serving.strict_session", None)
    with pytest.raises(PlanBuildError, match="plan_build_impossible: ONNX Runtime is missing"):
        build_plan(order, store=store)


def test_built_plan_is_stored_under_the_key_that_its_header_completes(order, store, runtime, key_of, engine_name):
    plan = build_plan(order, store=store)
    assert plan.key == key_of(model=digest_model(order.model))
    assert [file.name for file in plan.files] == ["model_ctx.onnx", engine_name]
    assert store.find(plan.key) == plan
    assert store.verify() == ()
    assert runtime.config["ep.context_enable"] == "1"
    assert runtime.config["ep.context_embed_mode"] == "0"
    assert runtime.config["session.disable_model_compile"] == "0"
    assert runtime.providers[0] == TRT
    assert runtime.options == {TRT: {"trt_engine_cache_enable": "1", "trt_fp16_enable": "1"}}


def test_provider_that_took_no_part_of_the_model_is_refused(order, store, runtime):
    runtime.node = None
    with pytest.raises(PlanBuildError, match="took no part"):
        build_plan(order, store=store)


def test_plan_built_on_another_gpu_than_ordered_is_refused(order, store, runtime):
    runtime.node = {"hardware_architecture": "80"}
    with pytest.raises(PlanError, match="plan_sm_mismatch"):
        build_plan(order, store=store)
    assert not store._folder.exists()


def test_open_dimensions_get_one_shape_for_the_whole_profile():
    shapes = profile_shapes(_model(*UNET), {"batch": 2, "height": 64, "width": 96})
    assert shapes == "sample:2x4x64x96,states:2x77x768"
    options = provider_options(Precision.FP32, shapes=shapes)
    assert {options[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")} == {shapes}


def test_dimension_without_a_name_is_given_by_input_and_axis():
    assert profile_shapes(_model(("x", [None, 3])), {"x:0": 5}) == "x:5x3"


def test_open_dimension_that_nobody_gave_is_refused_by_name():
    with pytest.raises(ConfigError, match="--dim: height or sample:2, width or sample:3"):
        profile_shapes(_model(*UNET), {"batch": 2})


def test_dimension_that_the_model_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="no open dimension heigth"):
        profile_shapes(_model(*UNET), {"batch": 2, "height": 64, "width": 96, "heigth": 1})


def test_fixed_model_needs_no_profile():
    assert profile_shapes(_model(("x", [1, 3])), {}) == ""


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        (Precision.FP32, set()),
        (Precision.FP16, {"trt_fp16_enable"}),
        (Precision.INT8, {"trt_int8_enable", "trt_fp16_enable"}),
    ],
)
def test_precision_becomes_the_providers_flags(precision, flags):
    assert set(provider_options(precision, shapes="")) == {"trt_engine_cache_enable", *flags}
