"""What the server says of a path that it has left, over the real endpoints, without a process around them."""

import asyncio
import dataclasses
import time
from types import SimpleNamespace

import httpx
import pytest

from rollout.model.admission import Provider
from rollout.model.wire import (
    HEADER_GPU_MEMORY,
    HEADER_PROVIDER,
    HEADER_SNAPSHOT_DIGEST,
    PATH_HEALTH,
    PATH_IMAGES,
    PATH_METRICS,
    PATH_READY,
)
from rollout.serving.app import ImageServer, build_app
from rollout.serving.degradation import WINDOW, DegradedReason, admitted_pace
from rollout.serving.device_watch import STALE_S, DeviceSample, DeviceWatch
from rollout.serving.liveness import Liveness
from rollout.serving.options import SessionLifetime
from rollout.serving.readiness import Readiness
from rollout.serving.subject import SELF_TEST_REQUEST
from rollout.serving.template import Part
from rollout.serving.work_queue import WorkQueue

QUICK = {"prompt": "a red cat", "seed": 3, "num_inference_steps": 1, "size": "64x64"}


class Slow:
    """The engine, and a device time that a test decides."""

    def __init__(self, engine):
        self._engine = engine
        self._device_s = 0.0
        self.each_s = 0.01

    @property
    def device_s(self):
        self._device_s += self.each_s  # It is read before and after a picture.
        return self._device_s

    def __getattr__(self, name):
        return getattr(self._engine, name)


@pytest.fixture
def served(snapshot):
    queues = []

    def serve(engine, device_watch=None):
        readiness, liveness, queue = Readiness(), Liveness(), WorkQueue(limit=8)
        queues.append(queue)
        server = ImageServer(
            readiness=readiness, liveness=liveness, queue=queue, side_max=256, device_watch=device_watch
        )
        readiness.admit(engine, snapshot, pace=admitted_pace(snapshot, request=SELF_TEST_REQUEST, degraded_ratio=3.0))
        app = build_app(server, readiness=readiness, pod_uid="unit", lifespan=None)
        return SimpleNamespace(app=app, server=server, liveness=liveness)

    yield serve
    for queue in queues:
        queue.close()


def ask(served, method, path, **more):
    async def asked():
        transport = httpx.ASGITransport(served.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://unit") as client:
            return await client.request(method, path, **more)

    return asyncio.run(asked())


def get(served, path):
    return ask(served, "GET", path)


def draw(served):
    return ask(served, "POST", PATH_IMAGES, json=QUICK)


def degraded(served):
    lines = get(served, PATH_METRICS).text.splitlines()
    return {reason for reason in DegradedReason if f'rollout_degraded{{reason="{reason}"}} 1.0' in lines}


def test_a_good_answer_names_its_provider_and_nothing_is_degraded(served, model):
    good = served(model)
    answer = draw(good)
    assert answer.status_code == 200
    assert answer.headers[HEADER_PROVIDER] == "CPUExecutionProvider"
    assert HEADER_GPU_MEMORY not in answer.headers
    assert degraded(good) == set()


def test_a_session_on_other_providers_is_told_as_degraded_and_takes_the_readiness(served, model, options):
    admission = options.admission.model_copy(update={"providers": [Provider.CUDA]})
    lost = served(dataclasses.replace(model, options=dataclasses.replace(options, admission=admission)))
    answer = draw(lost)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "provider_lost")
    assert degraded(lost) == {DegradedReason.PROVIDER}
    ready = get(lost, PATH_READY)
    assert (ready.status_code, ready.json()["codes"]) == (503, ["provider_dropped"])
    assert get(lost, PATH_HEALTH).status_code == 200


def test_a_new_session_with_more_nodes_on_the_cpu_is_told_as_degraded(served, model, options):
    # The text encoder has fewer nodes than the UNet, so the UNet's new session has more of them on the CPU.
    shared = dict(model.shared) | {Part.UNET: model.shared[Part.TEXT]}
    fresh = dataclasses.replace(options, session=SessionLifetime.PER_REQUEST)
    moved = served(dataclasses.replace(model, options=fresh, shared=shared))
    answer = draw(moved)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "placement_lost")
    assert "opened anew" in answer.json()["error"]["message"]
    assert degraded(moved) == {DegradedReason.PLACEMENT}
    assert get(moved, PATH_READY).status_code == 503


def test_slow_requests_are_told_as_degraded_and_keep_the_readiness(served, model):
    engine = Slow(model)
    slow = served(engine)
    for _ in range(WINDOW):
        draw(slow)
    assert degraded(slow) == set()
    engine.each_s = 0.04
    for _ in range(WINDOW):
        draw(slow)
    assert degraded(slow) == {DegradedReason.LATENCY}
    assert get(slow, PATH_READY).status_code == 200
    engine.each_s = 0.01
    for _ in range(WINDOW):
        draw(slow)
    assert degraded(slow) == set()


def test_a_lost_device_fails_liveness_and_readiness_with_the_reason(served, model):
    lost = served(model)
    assert get(lost, PATH_HEALTH).json() == {"status": "alive"}
    lost.liveness.fail("device_changed: gpu.count was 1 and is 0")
    lost.server.lose_path(DegradedReason.DEVICE, "device_changed: gpu.count was 1 and is 0", code="device_changed")
    for path in (PATH_HEALTH, PATH_READY):
        answer = get(lost, path)
        assert answer.status_code == 503
        assert answer.json()["reason"] == "device_changed: gpu.count was 1 and is 0"
        assert HEADER_SNAPSHOT_DIGEST not in answer.headers
    assert get(lost, PATH_READY).json()["codes"] == ["device_changed"]
    assert degraded(lost) == {DegradedReason.DEVICE}
    assert "rollout_live 0.0" in get(lost, PATH_METRICS).text


def watch_with(sample):
    """A watch whose child said this and nothing else."""
    watch = object.__new__(DeviceWatch)
    watch._samples = [sample]
    return watch


def test_a_fresh_look_at_the_gpus_is_in_header_and_metrics(served, model):
    sample = DeviceSample(at=time.monotonic(), utilisation=(0.97, None), memory_used_bytes=(3 << 30, 1 << 30))
    watched = served(model, watch_with(sample))
    assert draw(watched).headers[HEADER_GPU_MEMORY] == str(4 << 30)
    lines = get(watched, PATH_METRICS).text.splitlines()
    assert 'rollout_gpu_memory_used_bytes{device="1"} 1.073741824e+09' in lines
    assert [one for one in lines if one.startswith("rollout_gpu_utilisation_ratio")] == [
        'rollout_gpu_utilisation_ratio{device="0"} 0.97'
    ]


def test_a_stale_look_at_the_gpus_is_no_look(served, model):
    sample = DeviceSample(at=time.monotonic() - STALE_S - 1, utilisation=(0.97,), memory_used_bytes=(3 << 30,))
    watched = served(model, watch_with(sample))
    assert HEADER_GPU_MEMORY not in draw(watched).headers
    assert "rollout_gpu" not in get(watched, PATH_METRICS).text
