import dataclasses
import io
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from rollout.errors import ConfigError
from rollout.files.load import load_admission
from rollout.serving import pipeline
from rollout.serving.engines.ort import load_ort
from rollout.serving.engines.ort_sessions import open_session
from rollout.serving.failures import AdmissionError, NonFiniteError, WorkCancelledError
from rollout.serving.fused_attention import with_fused_attention
from rollout.serving.options import Attention, GuidanceMode, Precision, Prediction, SessionLifetime
from rollout.serving.pipeline import PictureRequest, draw
from rollout.serving.self_test import run_self_test, warm_up
from rollout.serving.subject import PictureSubject
from rollout.serving.template import Part

REQUEST = PictureRequest(prompt="a red cat", seed=3, steps=4, width=64, height=64)
NEVER = threading.Event()


def _picture(model, **changes):
    return draw(model, dataclasses.replace(REQUEST, **changes), cancelled=NEVER).pictures[0]


def test_the_same_request_draws_the_same_bytes(model):
    assert _picture(model) == _picture(model)


def test_a_second_model_draws_the_same_bytes(model, options):
    assert _picture(load_ort(options)) == _picture(model)


@pytest.mark.parametrize("change", [{"prompt": "a mountain lake"}, {"seed": 4}], ids=["prompt", "seed"])
def test_another_request_draws_a_clearly_different_picture(model, psnr, change):
    assert psnr(_picture(model), _picture(model, **change)) < 22


def test_a_picture_is_neither_flat_nor_saturated(model):
    pixels = np.asarray(Image.open(io.BytesIO(_picture(model, width=128, height=128))))
    assert pixels.std() > 30
    assert ((pixels == 0) | (pixels == 255)).mean() < 0.15


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64), (64, 112), (256, 256)])
def test_a_picture_has_the_size_asked_for(model, width, height):
    assert Image.open(io.BytesIO(_picture(model, width=width, height=height, steps=1))).size == (width, height)


def test_a_batch_draws_consecutive_seeds(model, psnr):
    batch = draw(model, dataclasses.replace(REQUEST, count=3), cancelled=NEVER).pictures
    for index, picture in enumerate(batch):
        assert psnr(picture, _picture(model, seed=REQUEST.seed + index)) > 45


def test_a_batch_too_large_for_memory_is_drawn_in_groups(model, monkeypatch, psnr):
    whole = draw(model, dataclasses.replace(REQUEST, count=3), cancelled=NEVER).pictures
    monkeypatch.setattr(pipeline, "GROUP_PIXELS_MAX", 2 * 64 * 64)
    grouped = draw(model, dataclasses.replace(REQUEST, count=3), cancelled=NEVER).pictures
    assert all(psnr(one, other) > 45 for one, other in zip(whole, grouped, strict=True))


@pytest.mark.parametrize("session", SessionLifetime)
def test_device_time_is_what_the_runtime_took_of_its_phases(model, options, session):
    engine = dataclasses.replace(model, options=dataclasses.replace(options, session=session))
    drawing = draw(engine, REQUEST, cancelled=NEVER)
    phases_ms = sum(drawing.phase_ms.values()) - drawing.phase_ms["png"]
    assert 0 < 1e3 * drawing.device_s < phases_ms
    if (
        session is SessionLifetime.PER_REQUEST
    ):  # Opening a session is the host's work, and takes longer than running it.
        assert 1e3 * drawing.device_s < phases_ms / 2


def test_cancelled_work_stops_between_steps(model):
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(WorkCancelledError, match="before step 1 of 4"):
        draw(model, REQUEST, cancelled=cancelled)


def test_non_finite_weights_give_an_error_and_no_picture(model, options):
    poisoned = np.full(len(model.weights) // 4, np.nan, dtype="<f4").tobytes()
    shared = dict(model.shared)
    shared[Part.UNET] = open_session(model.graphs[Part.UNET], weights=poisoned, options=options, profile_prefix=None)
    with pytest.raises(NonFiniteError, match="UNet"):
        _picture(dataclasses.replace(model, shared=shared))


def test_fused_attention_draws_the_same_picture(model, options, psnr):
    fused = load_ort(dataclasses.replace(options, attention=Attention.SDPA))
    assert psnr(_picture(model), _picture(fused)) > 45


@pytest.mark.parametrize("op", ["Relu", "Softmax"])
def test_graph_whose_attention_is_not_known_is_refused_and_not_half_fused(op):
    nodes = [onnx.helper.make_node(op, ["x"], ["y"])]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in "xy"]
    graph = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])).SerializeToString()
    with pytest.raises(ConfigError, match="known here"):
        with_fused_attention(graph)


def test_a_wrong_prediction_type_draws_a_wrong_picture(model, options, psnr):
    wrong = load_ort(dataclasses.replace(options, prediction=Prediction.V_PREDICTION))
    assert psnr(_picture(model), _picture(wrong)) < 20


def test_int8_draws_a_visibly_close_but_different_picture(model, options, psnr):
    quantized = load_ort(dataclasses.replace(options, precision=Precision.INT8))
    assert 20 < psnr(_picture(model), _picture(quantized)) < 60


@pytest.mark.parametrize(
    "change",
    [{"guidance": GuidanceMode.TWO_CALLS}, {"session": SessionLifetime.PER_REQUEST}, {"arena": False}],
    ids=["two-calls", "per-request", "no-arena"],
)
def test_a_slower_release_draws_the_same_picture(model, options, psnr, change):
    assert psnr(_picture(model), _picture(load_ort(dataclasses.replace(options, **change)))) > 45


def test_a_damaged_graph_is_refused(model, options):
    with pytest.raises(AdmissionError, match="refused the session"):
        open_session(model.graphs[Part.UNET][:-100], weights=model.weights, options=options, profile_prefix=None)


def test_a_session_on_other_providers_is_refused(model, options, monkeypatch):
    production = dataclasses.replace(options, admission=load_admission("gpu").policy)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    # ONNX Runtime falls back to the CPU without an error here: the refusal is ours.
    with pytest.raises(AdmissionError, match=r"(?i)cuda") as refused:
        open_session(model.graphs[Part.TEXT], weights=model.weights, options=production, profile_prefix=None)
    assert refused.value.code in {"provider_not_in_build", "provider_dropped", "cuda_libraries_missing"}


def self_tested(engine, *, seconds):
    subject = PictureSubject(engine=engine)
    return run_self_test(subject, first=warm_up(subject), seconds=seconds, stopped=threading.Event())


def test_the_self_test_passes_on_the_good_release(model):
    test = self_tested(model, seconds=0.0)
    assert 0 < test.device_s < test.latency_s < 30


def test_the_self_test_goes_on_for_as_long_as_it_is_told(model):
    assert self_tested(model, seconds=0.3).repetitions > self_tested(model, seconds=0.0).repetitions == 1


def test_the_self_test_refuses_a_model_without_contrast(model, options):
    shared = dict(model.shared)
    zeros = bytes(len(model.weights))
    shared[Part.VAE] = open_session(model.graphs[Part.VAE], weights=zeros, options=options, profile_prefix=None)
    with pytest.raises(AdmissionError, match="flat picture"):
        self_tested(dataclasses.replace(model, shared=shared), seconds=0.0)
