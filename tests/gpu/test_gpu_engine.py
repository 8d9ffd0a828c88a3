"""The diffusers engine on a real GPU: the pictures of the CPU, and a snapshot that tells what computes them."""

import io
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from e2e_stack import free_port
from PIL import Image

from rollout.files.load import load_admission
from rollout.serving.engines.table import load_engine
from rollout.serving.options import Attention, EngineKind, GuidanceMode, Precision, ServeOptions
from rollout.serving.pipeline import PictureRequest, draw

REQUEST = PictureRequest(prompt="a fox in the snow", seed=3, steps=8, width=256, height=256, count=2)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return ServeOptions(
        port=1,
        pod_uid="gpu",
        cache=cache,
        engine=EngineKind.DIFFUSERS,
        admission=load_admission("gpu").policy,
        threads=4,
    )


@pytest.fixture(scope="module")
def fast(options):
    return load_engine(options)


def pictures(engine):
    drawn = draw(engine, REQUEST, cancelled=threading.Event()).pictures
    return [np.asarray(Image.open(io.BytesIO(one)), dtype=np.float64) for one in drawn]


def psnr_db(one, other):
    error = min(float(((a - b) ** 2).mean()) for a, b in zip(one, other, strict=True))
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def test_the_gpu_draws_what_the_cpu_draws(fast, options):
    slow = load_engine(replace(options, admission=load_admission("development-cpu").policy))
    assert psnr_db(pictures(fast), pictures(slow)) > 45


def test_the_gpu_draws_what_onnx_runtime_draws_on_the_cpu(fast, options):
    pytest.importorskip("onnxruntime")
    ort = load_engine(replace(options, engine=EngineKind.ORT, admission=load_admission("development-cpu").policy))
    assert psnr_db(pictures(fast), pictures(ort)) > 45


def test_the_same_request_draws_the_same_bytes(fast):
    assert psnr_db(pictures(fast), pictures(fast)) == 99.0


@pytest.mark.parametrize(
    "change",
    [{"attention": Attention.EAGER}, {"attention": Attention.SLICED}, {"guidance": GuidanceMode.TWO_CALLS}],
    ids=["eager", "sliced", "two-calls"],
)
def test_a_slower_release_draws_the_same_pictures(fast, options, change):
    assert psnr_db(pictures(fast), pictures(load_engine(replace(options, **change)))) > 45


def test_half_precision_draws_other_pictures_that_are_close(fast, options):
    half = load_engine(replace(options, precision=Precision.FP16))
    assert 35 < psnr_db(pictures(fast), pictures(half)) < 90


def test_the_snapshot_names_the_device_and_the_kernels(fast, cuda):
    fields = fast.fields()
    assert fields["runtime.torch.device"].value == "cuda:0"
    assert fields["runtime.torch.device.product"].value == cuda.cuda.get_device_name()
    assert fields["runtime.torch.device.memory_bytes"].value > 2**30
    assert fields["model.unet.attention.fused"].value is True
    assert any("scaled_dot_product" in one for one in fields["model.unet.attention.kernels"].value)


def test_attention_in_steps_is_told_as_not_fused(options):
    fields = load_engine(replace(options, attention=Attention.EAGER)).fields()
    assert fields["model.unet.attention.fused"].value is False
    assert fields["model.unet.attention.processors"].value == ["AttnProcessor"]


def test_a_server_that_finds_no_device_refuses_to_start(tmp_path):
    command = ["serve", "--engine", "diffusers", "--port", str(free_port()), "--cache", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "rollout", *map(str, command)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert "no_device" in done.stderr
