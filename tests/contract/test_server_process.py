"""The reference server as a real process, over real HTTP."""

import base64
import fcntl
import io
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from rollout.files.load import load_admission
from rollout.model.snapshot import parse_snapshot
from rollout.model.wire import (
    HEADER_GPU_MEMORY,
    HEADER_POD_UID,
    HEADER_PROVIDER,
    HEADER_SNAPSHOT_DIGEST,
    PATH_CAPABILITIES,
    PATH_HEALTH,
    PATH_IMAGES,
    PATH_METRICS,
    PATH_READY,
    SERVER_TIMING,
)
from rollout.serving.degradation import WINDOW, DegradedReason

ROOT = Path(__file__).parents[2]
RULES = ROOT / "examples" / "prometheus" / "rollout-serving.rules.yaml"
PAGE = ROOT / "docs" / "serving-metrics.md"

QUICK = {"prompt": "a red cat", "seed": 3, "num_inference_steps": 2, "size": "64x64"}
LONG = {"prompt": "a red cat", "seed": 3, "num_inference_steps": 150, "size": "128x128"}
"""About a second of work."""
TESTED = {"prompt": "a red cat", "seed": 3, "num_inference_steps": 4, "size": "128x128"}
"""The shape that the self-test has measured."""
LATENCY = 'rollout_degraded{reason="latency"}'


@dataclass
class Server:
    process: subprocess.Popen
    url: str
    client: httpx.Client

    def wait_ready(self, timeout_s=30.0):
        """Poll until ready and return every distinct answer on the way."""
        seen = []
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                answer = self.client.get(PATH_READY)
            except httpx.TransportError:
                time.sleep(0.01)
                continue
            if not seen or seen[-1].text != answer.text:
                seen.append(answer)
            if answer.status_code == 200:
                return seen
            time.sleep(0.01)
        raise AssertionError(f"not ready: exit status {self.process.poll()}, answers {[one.text for one in seen]}")

    def draw(self, **fields):
        return self.client.post(PATH_IMAGES, json={**QUICK, **fields})

    def metric(self, name):
        line = re.search(rf"^{re.escape(name)} (\S+)$", self.client.get(PATH_METRICS).text, re.MULTILINE)
        return float(line.group(1)) if line else 0.0


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def serving(cache, *arguments, uid="pod-under-test", ready=True):
    port = free_port()
    command = [sys.executable, "-m", "rollout.cli.serve", "--admission", "development-cpu", "--cache", str(cache)]
    environment = {**os.environ, "PORT": str(port), "ROLLOUT_POD_UID": uid}
    process = subprocess.Popen([*command, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=60) as client:
        server = Server(process, url, client)
        try:
            if ready:
                server.wait_ready()
            yield server
        finally:
            process.kill()
            process.communicate(timeout=30)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def good(cache):
    with serving(cache) as server:
        yield server


def pixels(answer):
    assert answer.status_code == 200, answer.text
    png = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(png)), dtype=np.float64)


def psnr(one, other):
    error = float(((one - other) ** 2).mean())
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def timings(answer):
    pairs = re.findall(r"(\w+);dur=([\d.]+)", answer.headers[SERVER_TIMING])
    return {phase: float(duration_ms) for phase, duration_ms in pairs}


def wait_for(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def test_a_picture_has_the_size_asked_for_and_the_same_bytes_again(good):
    first, again = good.draw(size="96x64"), good.draw(size="96x64")
    assert pixels(first).shape == (64, 96, 3)
    assert first.json()["data"] == again.json()["data"]


def test_other_prompts_and_seeds_draw_other_pictures(good):
    plain = pixels(good.draw())
    assert psnr(plain, pixels(good.draw(prompt="a mountain lake"))) < 25
    assert psnr(plain, pixels(good.draw(seed=4))) < 25


def test_a_batch_answers_as_many_pictures(good):
    data = good.draw(n=3).json()["data"]
    assert len({item["b64_json"] for item in data}) == 3


def test_readiness_comes_after_snapshot_and_self_test(cache):
    with serving(cache, ready=False) as server:
        seen = server.wait_ready()
        snapshot = parse_snapshot(server.client.get(PATH_CAPABILITIES).json())
    assert [one.status_code for one in seen] == [503] * (len(seen) - 1) + [200]
    assert all(one.json()["reason"] for one in seen[:-1])
    assert all(HEADER_SNAPSHOT_DIGEST not in one.headers for one in seen[:-1])
    assert seen[-1].headers[HEADER_SNAPSHOT_DIGEST] == snapshot.digest
    assert snapshot.measurements["self_test.latency_s"].value > 0


def test_a_server_that_is_not_ready_refuses_pictures_but_is_alive(tmp_path):
    with held_lock(tmp_path) as release, serving(tmp_path, ready=False) as server:
        wait_for(lambda: _answers(server))
        assert server.client.get(PATH_HEALTH).status_code == 200
        assert server.client.get(PATH_CAPABILITIES).status_code == 503
        refused = server.draw()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "not_ready"
        assert HEADER_SNAPSHOT_DIGEST not in refused.headers
        release()
        server.wait_ready()
        assert server.draw().status_code == 200


def test_sigterm_ends_a_server_that_is_still_loading(tmp_path):
    with held_lock(tmp_path), serving(tmp_path, ready=False) as server:
        wait_for(lambda: _answers(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=10) in (0, -signal.SIGTERM)


@contextmanager
def held_lock(cache):
    """Keep every server with this cache loading until the yielded function is called."""
    (cache / "models").mkdir()
    with (cache / "models" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(lock, fcntl.LOCK_UN)


def _answers(server):
    try:
        return server.client.get(PATH_HEALTH).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PATH_HEALTH, 200),
        ("GET", PATH_READY, 200),
        ("GET", PATH_CAPABILITIES, 200),
        ("GET", PATH_METRICS, 200),
        ("GET", "/nowhere", 404),
        ("GET", PATH_IMAGES, 405),
        ("POST", PATH_IMAGES, 400),
    ],
)
def test_every_answer_names_instance_and_snapshot(good, method, path, status):
    answer = good.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers[HEADER_POD_UID] == "pod-under-test"
    assert answer.headers[HEADER_SNAPSHOT_DIGEST] == good.client.get(PATH_READY).json()["snapshot_digest"]


def test_server_timing_phases_add_up_to_the_total(good):
    started = time.perf_counter()
    answer = good.draw(num_inference_steps=8, size="128x128")
    outside_ms = (time.perf_counter() - started) * 1e3
    phases = timings(answer)
    assert list(phases) == ["queue", "text", "unet", "vae", "png", "device", "total"]
    parts_ms = sum(phases.values()) - phases["total"] - phases["device"]
    assert phases["device"] <= phases["text"] + phases["unet"] + phases["vae"]
    assert parts_ms <= phases["total"] <= outside_ms
    assert phases["total"] - parts_ms < 20
    assert phases["unet"] > phases["total"] / 2


def test_waiting_counts_as_queue_time_and_within_the_total(good):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(good.draw, **LONG)
        wait_for(lambda: good.metric("rollout_queue_depth") == 0 and not first.done())
        time.sleep(0.1)
        second = timings(good.draw())
        first.result()
    assert second["queue"] > 100
    assert second["total"] > second["queue"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (json.dumps({"prompt": ""}).encode(), 400, "prompt"),
        (json.dumps({**QUICK, "size": "65x64"}).encode(), 400, "size"),
        (json.dumps({**QUICK, "n": 99}).encode(), 400, "n"),
        (json.dumps({**QUICK, "surprise": 1}).encode(), 400, "surprise"),
        (json.dumps({**QUICK, "prompt": "x" * 70_000}).encode(), 413, None),
    ],
)
def test_bad_requests_are_answered_in_openais_error_form(good, body, status, param):
    answer = good.client.post(PATH_IMAGES, content=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_full_queue_answers_429_and_the_admitted_requests_still_finish(cache):
    with serving(cache, "--queue-limit", "1") as server, ThreadPoolExecutor(8) as pool:
        answers = [future.result() for future in [pool.submit(server.draw, num_inference_steps=60) for _ in range(6)]]
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [200, 200, 429, 429, 429, 429]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert server.draw().status_code == 200


def test_sigterm_finishes_everything_in_flight_and_refuses_new_connections(cache):
    with serving(cache) as server, ThreadPoolExecutor(3) as pool:
        flying = [pool.submit(server.draw, **LONG) for _ in range(3)]
        wait_for(lambda: server.metric("rollout_queue_depth") == 2)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: _refuses(server))
        assert not all(future.done() for future in flying)
        assert [future.result().status_code for future in flying] == [200, 200, 200]
        assert server.process.wait(timeout=30) in (0, -signal.SIGTERM)


def _refuses(server):
    try:
        httpx.get(server.url + PATH_HEALTH, timeout=5)
    except httpx.TransportError:
        return True
    return False


def _send_and_leave(server, fields):
    """Send a request, return the open socket."""
    body = json.dumps(fields).encode()
    connection = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    head = f"POST {PATH_IMAGES} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_a_client_that_leaves_stops_its_work_between_steps(cache):
    with serving(cache) as server:
        huge = {**LONG, "size": "256x256", "n": 8}  # Minutes of work, were it not cancelled.
        connection = _send_and_leave(server, huge)
        time.sleep(0.3)
        connection.close()
        wait_for(lambda: server.metric('rollout_image_requests_total{code="499"}') == 1)
        # One step of the abandoned work takes a fraction of a second, the whole of it about a minute.
        assert server.client.post(PATH_IMAGES, json=QUICK, timeout=10).status_code == 200
        assert server.metric("rollout_queue_depth") == 0


def test_a_client_that_leaves_the_queue_frees_its_place(cache):
    with serving(cache, "--queue-limit", "1") as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.draw, **LONG)
        time.sleep(0.1)
        waiting = _send_and_leave(server, LONG)
        wait_for(lambda: server.metric("rollout_queue_depth") == 1)
        waiting.close()
        wait_for(lambda: server.metric("rollout_queue_depth") == 0)
        assert not running.done()
        assert server.draw().status_code == 200
        assert running.result().status_code == 200


def test_two_instances_of_one_release_agree_on_digest_and_picture(good, cache):
    with serving(cache, uid="another") as other:
        assert other.client.get(PATH_READY).json() == good.client.get(PATH_READY).json()
        assert other.draw().json()["data"] == good.draw().json()["data"]


def test_a_wrong_prediction_draws_a_wrong_picture_at_equal_latency(good, cache):
    asked = {"num_inference_steps": 8, "size": "128x128"}
    with serving(cache, "--prediction", "v_prediction") as wrong:
        pairs = [(good.draw(**asked), wrong.draw(**asked)) for _ in range(12)]
        assert wrong.client.get(PATH_READY).json() != good.client.get(PATH_READY).json()
    assert psnr(pixels(pairs[0][0]), pixels(pairs[0][1])) < 20
    ratio = statistics.median(timings(two)["unet"] / timings(one)["unet"] for one, two in pairs)
    assert 0.8 < ratio < 1.25


def test_health_answers_while_a_picture_is_drawn(good):
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(good.draw, **LONG)
        durations = []
        while not drawing.done():
            started = time.perf_counter()
            assert good.client.get(PATH_HEALTH).status_code == 200
            durations.append(time.perf_counter() - started)
    assert len(durations) > 20
    assert statistics.median(durations) < 0.02


def test_a_corrupt_cache_is_repaired_and_draws_the_same_picture(good, tmp_path):
    with serving(tmp_path):
        pass
    (path,) = (tmp_path / "models").glob("weights-*.bin")
    whole = path.read_bytes()
    path.write_bytes(b"\0" * len(whole))
    with serving(tmp_path) as repaired:
        assert repaired.draw().json()["data"] == good.draw().json()["data"]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--admission", "{hasty}"], "self_test_slow: the warm self-test picture took"),
        (["--admission", "{hanging}"], "prover_died: the proof did not end within 0.05 s"),
        (["--admission", "gpu"], "libcuda_missing: "),
        (["--cache", "/dev/null"], "model cache"),
    ],
)
def test_a_server_that_cannot_prove_its_stack_exits_78_with_one_line(cache, tmp_path, arguments, reason):
    hasty = tmp_path / "hasty.yaml"
    policy = load_admission("development-cpu").policy.model_dump(mode="json", by_alias=True)
    hasty.write_text(yaml.safe_dump(policy | {"self_test": policy["self_test"] | {"latency_s_max": 1e-6}}))
    hanging = tmp_path / "hanging.yaml"
    hanging.write_text(yaml.safe_dump(policy | {"proof_s": 0.05}))
    arguments = [one.format(hasty=hasty, hanging=hanging) for one in arguments]
    with serving(cache, *arguments, ready=False) as server:
        _, stderr = server.process.communicate(timeout=30)
        assert server.process.returncode == 78
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith("rollout serve: refused: ")
    assert reason in stderr


def test_a_taken_port_is_refused_with_one_line(good, cache):
    port = good.url.rsplit(":", 1)[1]
    with serving(cache, "--port", port, ready=False) as second:
        _, stderr = second.process.communicate(timeout=30)
        assert second.process.returncode == 78
    assert f"port {port}" in stderr
    assert len(stderr.splitlines()) == 1


def test_the_first_provider_and_profile_are_in_the_metrics(good):
    assert good.metric('rollout_provider_info{profile="development-cpu",provider="CPUExecutionProvider"}') == 1
    assert good.metric("rollout_ready") == 1


def test_an_answer_with_pictures_names_its_provider_and_no_memory_of_a_gpu_that_is_not_there(good):
    answer = good.draw()
    assert answer.headers[HEADER_PROVIDER] == "CPUExecutionProvider"
    assert HEADER_GPU_MEMORY not in answer.headers
    assert HEADER_PROVIDER not in good.draw(n=99).headers


def test_device_time_is_counted_by_provider(good):
    counted = 'rollout_device_seconds_{}{{provider="CPUExecutionProvider"}}'
    count, total_s = good.metric(counted.format("count")), good.metric(counted.format("sum"))
    device_ms = timings(good.draw())["device"]
    assert good.metric(counted.format("count")) == count + 1
    assert good.metric(counted.format("sum")) - total_s == pytest.approx(device_ms / 1e3, abs=1e-5)


def test_the_metrics_name_version_and_admitted_snapshot(good):
    digest = good.client.get(PATH_READY).json()["snapshot_digest"]
    assert re.search(rf'rollout_build_info{{snapshot_digest="{digest}",version="[\d.]+"}} 1.0', metrics(good))


def metrics(server):
    return server.client.get(PATH_METRICS).text


def test_waiting_behind_others_does_not_slow_a_request_down_in_device_time(cache):
    """Eight clients of one server: each waits for seven others, and the device works as it does for one."""
    with serving(cache) as server, ThreadPoolExecutor(8) as pool:
        pace, total = [], []
        for _ in range(3):  # One client and eight in turns, so that a busy machine slows both.
            alone = [timings(server.draw(**TESTED))["total"] for _ in range(WINDOW)]
            alone_ratio = server.metric("rollout_device_time_ratio")
            crowded = list(pool.map(lambda _: timings(server.draw(**TESTED))["total"], range(2 * WINDOW)))
            pace.append(server.metric("rollout_device_time_ratio") / alone_ratio)
            total.append(statistics.median(crowded) / statistics.median(alone))
    assert statistics.median(total) > 4
    assert statistics.median(pace) < 2


def test_a_server_that_gets_a_quarter_of_a_core_is_degraded_until_it_has_it_back(cache):
    with serving(cache) as server:
        if not any(share_of_a_core(server) > 0.95 for _ in range(40)):
            pytest.skip("others keep this machine so busy that a quarter of a core is no news to the server")
        assert server.metric(LATENCY) == 0
        with throttled(server.process):
            for _ in range(WINDOW):
                server.draw(**TESTED)
        assert server.metric(LATENCY) == 1
        assert server.client.get(PATH_READY).status_code == 200
        wait_for(lambda: at_pace(server), timeout_s=60)
        assert server.metric(LATENCY) == 0


def share_of_a_core(server):
    """Return how much of the time the server runs that it wants to, a little more for what it does beside."""
    process = psutil.Process(server.process.pid)
    before_s = sum(process.cpu_times()[:2])
    device_s = sum(timings(server.draw(**TESTED))["device"] for _ in range(WINDOW)) / 1e3
    return (sum(process.cpu_times()[:2]) - before_s) / device_s


def at_pace(server):
    """Draw, and tell whether enough requests were compared and found as fast as admitted."""
    return server.draw(**TESTED).status_code == 200 and server.metric("rollout_device_time_ratio") < 2.5


@contextmanager
def throttled(process, *, runs_s=0.005, period_s=0.02):
    """Let a process run for a quarter of the time, as a CPU quota does."""
    ended = threading.Event()

    def turn():
        while not ended.wait(runs_s):
            process.send_signal(signal.SIGSTOP)
            ended.wait(period_s - runs_s)
            process.send_signal(signal.SIGCONT)

    turning = threading.Thread(target=turn)
    turning.start()
    try:
        yield
    finally:
        ended.set()
        turning.join()


def test_the_alerts_name_metrics_and_reasons_that_the_server_exposes(good):
    good.draw()
    exposed = {sample.name for family in text_string_to_metric_families(metrics(good)) for sample in family.samples}
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    asked = {name for rule in rules for name in re.findall(r"\brollout_\w+", rule["expr"])}
    assert {"rollout_degraded", "rollout_ready", "rollout_live"} <= asked <= exposed
    reasons = {
        one for rule in rules for words in re.findall(r'reason=~?"([^"]+)"', rule["expr"]) for one in words.split("|")
    }
    assert reasons == set(DegradedReason)
    for rule in rules:
        assert re.fullmatch(r"rollout_\w+(\{[^{}]*\})? == [01]", rule["expr"])
        assert {"summary", "description"} <= rule["annotations"].keys()


def test_the_page_lists_every_header_and_metric_with_its_labels(good):
    good.draw()
    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)$", PAGE.read_text(), re.MULTILINE))
    for name in (HEADER_POD_UID, HEADER_SNAPSHOT_DIGEST, HEADER_PROVIDER, HEADER_GPU_MEMORY, SERVER_TIMING):
        assert name in rows
    assert set(timings(good.draw())) <= set(re.findall(r"`(\w+)`", rows[SERVER_TIMING]))
    for family in text_string_to_metric_families(metrics(good)):
        if family.name.endswith("_created"):  # When a counter began, which Prometheus' library adds by itself.
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels <= set(re.findall(r"`(\w+)`", rows[name].split("|")[0])), name
