"""A device that vanishes under a running server: the real collectors, the real process, a doubled driver."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))

from driver_builds import cuda_libraries, driver_double, nvml_double
from worlds import clean_environment, unbuildable

from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.wire import (
    HEADER_GPU_MEMORY,
    HEADER_SNAPSHOT_DIGEST,
    PATH_HEALTH,
    PATH_IMAGES,
    PATH_METRICS,
    PATH_READY,
)
from rollout.serving.device_watch import DeviceWatch
from rollout.serving.liveness import device_changes, read_devices

if reason := unbuildable():
    pytest.skip(reason, allow_module_level=True)
try:
    distribution("uvicorn")
except PackageNotFoundError:
    pytest.skip("uvicorn is not installed: pip install 'rollout[local]'", allow_module_level=True)

GPU_SERVER = Path(__file__).parents[1] / "doubles" / "gpu_server.py"

QUICK = {"prompt": "a red cat", "seed": 3, "num_inference_steps": 1, "size": "64x64"}
HEALTHY = {
    "CUDA_DOUBLE_CUINIT": "0",
    "CUDA_DOUBLE_DRIVER_VERSION": "13000",
    "NVML_DOUBLE_MEMORY_USED_MIB": "9000",
    "NVML_DOUBLE_UTILIZATION": "97",
}
GONE = {
    "the cgroup was lost": {"CUDA_DOUBLE_CUINIT": "999", "NVML_DOUBLE_INIT": "999"},
    "the GPU fell off the bus": {"CUDA_DOUBLE_CUINIT": "100", "NVML_DOUBLE_COUNT": "0"},
    "the driver was updated": {"CUDA_DOUBLE_CUINIT": "803", "NVML_DOUBLE_INIT": "18"},
    "another GPU took its place": {"NVML_DOUBLE_UUID": "GPU-2"},
    "NVML hangs": {"NVML_DOUBLE_HANG": "nvmlDeviceGetName"},
    "NVML crashes": {"NVML_DOUBLE_CRASH": "nvmlDeviceGetName"},
}
BUSY = {
    "busy and hot": {"NVML_DOUBLE_UTILIZATION": "3", "NVML_DOUBLE_TEMPERATURE_C": "88"},
    "fuller": {"NVML_DOUBLE_MEMORY_USED_MIB": "20000"},
}


@pytest.fixture
def environment(parts, tmp_path):
    for library in (*cuda_libraries(parts), driver_double(parts), nvml_double(parts)):
        if not (tmp_path / library.name).exists():
            (tmp_path / library.name).symlink_to(library)
    return {**clean_environment(), **HEALTHY, "LD_LIBRARY_PATH": str(tmp_path)}


@pytest.fixture
def healthy(environment, monkeypatch):
    """This process's own children see a healthy GPU."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return CapabilitySnapshot.model_validate(
        {"schema": "rollout.snapshot/v1", "fields": dict(read_devices(limit_s=30))}
    )


def change(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_healthy_gpu_is_read_and_does_not_change(healthy):
    assert healthy.fields["gpu.count"].value == 1
    assert device_changes(healthy, read_devices(limit_s=30)) == ()


@pytest.mark.parametrize("variables", GONE.values(), ids=GONE)
def test_a_device_that_is_gone_is_a_change(healthy, variables, monkeypatch):
    change(monkeypatch, variables)
    assert device_changes(healthy, read_devices(limit_s=3))


@pytest.mark.parametrize("variables", BUSY.values(), ids=BUSY)
def test_a_device_at_work_is_no_change(healthy, variables, monkeypatch):
    change(monkeypatch, variables)
    assert device_changes(healthy, read_devices(limit_s=30)) == ()


@pytest.mark.parametrize(
    ("variables", "utilisation"),
    [({}, (0.97,)), ({"NVML_DOUBLE_ERROR": "nvmlDeviceGetUtilizationRates:3"}, (None,))],
    ids=["whole", "split by MIG"],
)
@pytest.mark.usefixtures("healthy")
def test_the_watch_tells_how_busy_and_full_each_gpu_is_until_it_is_stopped(variables, utilisation, monkeypatch):
    change(monkeypatch, variables)
    watch = DeviceWatch()
    wait_for(lambda: watch.latest() is not None)
    sample = watch.latest()
    assert (sample.utilisation, sample.memory_used_bytes) == (utilisation, (9000 << 20,))
    watch.stop()
    assert watch._child.returncode == -signal.SIGKILL


@contextmanager
def serving(environment, cache):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(GPU_SERVER), str(cache)],
        env={**environment, "PORT": str(port)},
        stdin=subprocess.PIPE,
        text=True,
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
        try:
            wait_for(lambda: status(client, PATH_READY) == 200, limit_s=60)
            yield process, client
        finally:
            process.kill()
            process.communicate(timeout=30)


def status(client, path):
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0


def wait_for(condition, limit_s=30.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def test_a_server_whose_device_vanishes_fails_liveness_and_readiness(environment, tmp_path):
    with serving(environment, tmp_path / "cache") as (process, client):
        wait_for(lambda: "rollout_gpu_memory" in client.get(PATH_METRICS).text)
        answer = client.post(PATH_IMAGES, json=QUICK)
        assert answer.headers[HEADER_GPU_MEMORY] == str(9000 << 20)
        text = client.get(PATH_METRICS).text
        assert re.search(r'^rollout_gpu_utilisation_ratio{device="0"} 0.97$', text, re.MULTILINE)
        assert client.get(PATH_HEALTH).status_code == 200
        # Many looks, and none of them finds a change.
        time.sleep(2)
        assert client.get(PATH_HEALTH).status_code == client.get(PATH_READY).status_code == 200

        for name, value in GONE["the cgroup was lost"].items():
            process.stdin.write(f"{name}={value}\n")
        process.stdin.flush()
        wait_for(lambda: status(client, PATH_HEALTH) == 503)
        assert client.get(PATH_HEALTH).json()["reason"].startswith("device_changed: gpu.")
        ready = client.get(PATH_READY)
        assert (ready.status_code, ready.json()["reason"][:15]) == (503, "device_changed:")
        assert HEADER_SNAPSHOT_DIGEST not in ready.headers
        assert client.post(PATH_IMAGES, json=QUICK).status_code == 503
        text = client.get(PATH_METRICS).text
        assert 'rollout_degraded{reason="device"} 1.0' in text
        assert "rollout_live 0.0" in text


def test_a_server_whose_probe_hangs_ends_at_once_when_asked_and_leaves_no_child(environment, tmp_path):
    with serving(environment, tmp_path / "cache") as (process, client):
        wait_for(lambda: "rollout_gpu_memory" in client.get(PATH_METRICS).text)
        process.stdin.write("NVML_DOUBLE_HANG=nvmlDeviceGetName\n")
        process.stdin.flush()
        wait_for(lambda: hanging(process))
        children = psutil.Process(process.pid).children()
        assert any(runs(one, "rollout.serving.device_watch") for one in children)
        began = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=10) in (0, -signal.SIGTERM)
        assert time.monotonic() - began < 2
        wait_for(lambda: not any(one.is_running() for one in children), limit_s=5)


def hanging(process):
    """Tell whether a collector has taken longer than any that does not hang."""
    now = time.time()
    return any(
        runs(one, "rollout.serving.collectors.isolated") and now - one.create_time() > 2
        for one in psutil.Process(process.pid).children()
    )


def runs(process, module):
    try:
        return module in process.cmdline()
    except psutil.Error:  # It has just ended.
        return False
