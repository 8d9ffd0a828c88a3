"""The diffusers engine on the CPU, beside ONNX Runtime: one model, two runtimes, one picture."""

import dataclasses
import threading

import pytest

from rollout.errors import ConfigError
from rollout.files.load import load_admission
from rollout.model.snapshot import CapabilityStatus
from rollout.serving.failures import AdmissionError, WorkCancelledError
from rollout.serving.options import Attention, EngineKind, GuidanceMode, Precision
from rollout.serving.pipeline import PictureRequest, draw
from rollout.serving.self_test import run_self_test, warm_up
from rollout.serving.snapshot import release_fields
from rollout.serving.subject import PictureSubject
from rollout.serving.template import Part, load_template

torch = pytest.importorskip("torch", reason="the diffusers extra is not installed: make test-serving")
from rollout.serving.engines import diffusers as engines  # noqa: E402 - not before torch is known to be there

REQUEST = PictureRequest(prompt="a red cat", seed=3, steps=4, width=64, height=96, count=2)


@pytest.fixture(scope="module")
def torch_options(tmp_path_factory):
    from rollout.serving.options import ServeOptions  # noqa: PLC0415

    cache = tmp_path_factory.mktemp("model-cache")
    return ServeOptions(
        port=1,
        pod_uid="unit",
        cache=cache,
        admission=load_admission("development-cpu").policy,
        engine=EngineKind.DIFFUSERS,
    )


@pytest.fixture(scope="module")
def engine(torch_options):
    return engines.load_diffusers(torch_options)


def pictures(engine, **changes):
    return draw(engine, dataclasses.replace(REQUEST, **changes), cancelled=threading.Event()).pictures


def described(engine):
    return {**release_fields(engine.options), **engine.fields()}


def test_it_draws_the_pictures_of_onnx_runtime(engine, model, psnr):
    assert all(psnr(one, other) > 45 for one, other in zip(pictures(engine), pictures(model), strict=True))


def test_the_same_request_draws_the_same_bytes(engine):
    assert pictures(engine) == pictures(engine)


@pytest.mark.parametrize(
    "change",
    [{"attention": Attention.EAGER}, {"attention": Attention.SLICED}, {"guidance": GuidanceMode.TWO_CALLS}],
    ids=["eager", "sliced", "two-calls"],
)
def test_a_slower_release_draws_the_same_picture_under_another_snapshot(engine, torch_options, psnr, change):
    other = engines.load_diffusers(dataclasses.replace(torch_options, **change))
    assert psnr(pictures(engine)[0], pictures(other)[0]) > 45
    assert described(engine) != described(other)


def test_half_precision_draws_a_close_and_different_picture(engine, torch_options, psnr):
    half = engines.load_diffusers(dataclasses.replace(torch_options, precision=Precision.FP16))
    assert 35 < psnr(pictures(engine)[0], pictures(half)[0]) < 90


def test_the_snapshot_says_what_computes_and_how(proven, torch_options):
    proof = proven(torch_options)
    assert proof.admitted
    fields = proof.snapshot.fields
    assert fields["policy.profile"].value == "development-cpu"
    assert fields["runtime.torch.device"].value == "cpu"
    assert fields["model.unet.attention.fused"].value is True
    assert fields["model.unet.attention.processors"].value == ["AttnProcessor2_0"]
    assert fields["runtime.torch.device.product"].status is CapabilityStatus.UNAVAILABLE
    assert all(one.status is not CapabilityStatus.ERROR for one in fields.values())


@pytest.mark.parametrize("attention", [Attention.EAGER, Attention.SLICED])
def test_attention_in_steps_is_told_as_not_fused(torch_options, attention):
    loaded = engines.load_diffusers(dataclasses.replace(torch_options, attention=attention))
    assert loaded.fields()["model.unet.attention.fused"].value is False


def test_the_weights_are_those_of_the_other_engine(engine, model):
    assert engine.weights_digest == model.weights_digest


def test_it_passes_the_self_test(engine):
    subject = PictureSubject(engine=engine)
    test = run_self_test(subject, first=warm_up(subject), seconds=0.0, stopped=threading.Event())
    assert 0.0 < test.latency_s < 30.0


def test_cancelled_work_stops_between_steps(engine):
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(WorkCancelledError, match="before step 1 of 4"):
        draw(engine, REQUEST, cancelled=cancelled)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused(torch_options):
    with pytest.raises(AdmissionError, match="the policy asks for a GPU"):
        engines.load_diffusers(dataclasses.replace(torch_options, admission=load_admission("gpu").policy))


@pytest.mark.parametrize(("shown", "told"), [(0, "has no weights for unet"), (10**6, "without no.such.parameter")])
def test_weights_that_do_not_fit_the_networks_are_refused(shown, told):
    template = load_template()
    tensors = template.tensors[:shown]
    if shown:
        extra = dataclasses.replace(tensors[-1], name="unet/x", parameter="no.such.parameter")
        tensors = (*tensors, extra)
    network = engines.NETWORKS[Part.UNET]()
    with pytest.raises(ConfigError, match=told):
        engines._fill(network, Part.UNET, tensors, bytes(template.tensors[-1].offset + 10**6))
