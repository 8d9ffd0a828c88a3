"""Servers that are not ours: an agent beside one, a wrapper around one, one look at a container; in real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from rollout.canary.openai_images import OpenAIImages
from rollout.errors import UnavailableError
from rollout.files.load import load_admission
from rollout.model.snapshot import parse_snapshot
from rollout.model.wire import (
    HEADER_POD_UID,
    HEADER_SNAPSHOT_DIGEST,
    PATH_CAPABILITIES,
    PATH_HEALTH,
    PATH_METRICS,
    PATH_READY,
)

ROLLOUT = [sys.executable, "-m", "rollout"]
EXAMPLE = Path(__file__).parents[2] / "examples/asgi"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def proving(cache):
    """Options under which this machine is admitted."""
    return ["--policy", "development-cpu", "--cache", str(cache)]


@pytest.fixture
def policy_file(tmp_path):
    def write(**changes):
        body = load_admission("development-cpu").policy.model_dump(mode="json", by_alias=True)
        path = tmp_path / "policy.yaml"
        path.write_text(yaml.safe_dump(body | changes))
        return str(path)

    return write


@contextmanager
def running(command, address, **environment):
    """Start a server, and yield its process and a client once it listens or has ended."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with httpx.Client(base_url=f"http://{address}", timeout=10, trust_env=False) as client:
        try:
            yield process, client
        finally:
            process.kill()
            process.communicate(timeout=30)


def wait_listening(process, client, limit_s=60.0):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return client.get(PATH_HEALTH)
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError(f"nobody listens: exit status {process.poll()}")


def agent_command(address, *options):
    return [*ROLLOUT, "snapshot", "--serve", "--host", address.host, "--port", str(address.port), *options]


def fetched(address):
    protocol = OpenAIImages()
    try:
        return protocol.fetch_snapshot(address, timeout_s=10)
    finally:
        protocol.close()


# One look.


def test_one_look_prints_the_snapshot_and_nothing_else_on_stdout(proving):
    done = subprocess.run([*ROLLOUT, "snapshot", *proving], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert parse_snapshot(json.loads(done.stdout)).fields["policy.profile"].value == "development-cpu"
    assert done.stderr.startswith("rollout: admitted by policy development-cpu\n")


def test_a_container_that_is_refused_exits_78_and_still_shows_what_it_is(proving, policy_file):
    hasty = policy_file(self_test={"seconds": 0, "latency_s_min": 0, "latency_s_max": 1e-6, "utilisation_min": None})
    command = [*ROLLOUT, "snapshot", *proving, "--policy", hasty]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert parse_snapshot(json.loads(done.stdout)).measurements["self_test.latency_s"].value > 0
    assert "block self_test_slow: " in done.stderr


def test_a_proof_that_does_not_end_prints_no_snapshot(proving):
    command = [*ROLLOUT, "snapshot", *proving, "--timeout", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert "block prover_died: " in done.stderr


@pytest.mark.parametrize("ending", [(0, signal.SIGTERM), (2, signal.SIGTERM), (2, signal.SIGKILL)])
@pytest.mark.parametrize("command", [["snapshot"], ["admit"], ["snapshot", "--serve"]])
def test_however_a_program_ends_that_proves_its_prover_ends_too(cache, free_address, policy_file, command, ending):
    after_s, how = ending
    endless = {"seconds": 600, "latency_s_min": 0, "latency_s_max": 30, "utilisation_min": None}
    options = ["--policy", policy_file(self_test=endless, proof_s=700), "--cache", str(cache)]
    port = ["--port", str(free_address.port)] if "--serve" in command else []
    with running([*ROLLOUT, *command, *options, *port], free_address) as (process, _):
        asking, deadline = psutil.Process(process.pid), time.monotonic() + 30
        while not (provers := asking.children()):
            assert time.monotonic() < deadline, "no prover was started"
        time.sleep(after_s)  # At once it is not a Python program yet; later it is in its self-test.
        process.send_signal(how)
        try:
            status = process.wait(timeout=10)
            assert psutil.wait_procs(provers, timeout=10)[1] == []
        finally:
            for one in provers:
                if one.is_running():
                    one.kill()
        assert status == (0 if (how, "--serve" in command) == (signal.SIGTERM, True) else -how)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["127.0.0.1:1", "--policy", "gpu"], "--policy is about this container"),
        (["127.0.0.1:1", "--serve", "--port", "1"], "is about this container"),
        (["--keep-serving-refusal"], "--keep-serving-refusal is about the agent: give --serve"),
        (["--serve"], "--serve needs a --port"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, told):
    done = subprocess.run([*ROLLOUT, "snapshot", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert told in done.stderr


# The agent.


def test_the_agent_answers_what_it_proved_until_sigterm(proving, free_address):
    with running(agent_command(free_address, *proving), free_address, ROLLOUT_POD_UID="beside") as (process, client):
        assert wait_listening(process, client).json() == {"status": "alive"}
        snapshot = fetched(free_address)
        assert client.get(PATH_READY).json() == {"status": "ready", "snapshot_digest": snapshot.digest}
        for path, status in ((PATH_CAPABILITIES, 200), (PATH_METRICS, 200), ("/nowhere", 404)):
            answer = client.get(path)
            assert answer.status_code == status
            assert answer.headers[HEADER_POD_UID] == "beside"
            assert answer.headers[HEADER_SNAPSHOT_DIGEST] == snapshot.digest
        assert "\nrollout_ready 1\n" in client.get(PATH_METRICS).text
        assert client.post(PATH_READY).status_code == 501
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert process.stdout.read() == ""


def test_the_agent_and_one_look_at_the_same_container_do_not_differ(proving, free_address, tmp_path):
    looked = subprocess.run([*ROLLOUT, "snapshot", *proving], capture_output=True, text=True, check=True)
    (tmp_path / "look.json").write_text(looked.stdout)
    with running(agent_command(free_address, *proving), free_address) as (process, client):
        wait_listening(process, client)
        compared = [*ROLLOUT, "diff", str(free_address), str(tmp_path / "look.json"), "--output", "json"]
        done = subprocess.run(compared, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"differences": []}


def test_the_agent_goes_on_looking_at_the_devices(proving, free_address):
    with running(agent_command(free_address, *proving, "--look-every", "1"), free_address) as (process, client):
        wait_listening(process, client)
        agent, deadline = psutil.Process(process.pid), time.monotonic() + 20
        while not any("collectors.isolated" in " ".join(one) for one in _commands_of(agent)):
            assert time.monotonic() < deadline, "no collector was started"
        assert client.get(PATH_READY).status_code == 200


def _commands_of(process):
    for child in process.children():
        try:
            yield child.cmdline()
        except psutil.Error:
            continue


def test_an_agent_that_is_refused_exits_78_and_never_listened(free_address, cache):
    command = agent_command(free_address, "--policy", "gpu", "--cache", str(cache))
    with running(command, free_address) as (process, client):
        with pytest.raises(AssertionError, match="exit status 78"):
            wait_listening(process, client)
        assert "rollout: refused by policy gpu" in process.communicate()[1]


def test_an_agent_that_keeps_serving_a_refusal_is_alive_and_never_ready(free_address, cache):
    command = agent_command(free_address, "--policy", "gpu", "--cache", str(cache), "--keep-serving-refusal")
    with running(command, free_address) as (process, client):
        assert wait_listening(process, client).status_code == 200
        answer = client.get(PATH_READY)
        assert answer.status_code == 503
        assert "libcuda_missing" in answer.json()["codes"]
        assert HEADER_SNAPSHOT_DIGEST not in answer.headers
        assert "\nrollout_ready 0\n" in client.get(PATH_METRICS).text
        with pytest.raises(UnavailableError, match="status 503"):
            fetched(free_address)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0


def test_a_taken_port_is_told_before_anything_is_proven(proving, free_address):
    with running(agent_command(free_address, *proving), free_address) as (process, client):
        wait_listening(process, client)
        second = subprocess.run(
            agent_command(free_address, *proving), capture_output=True, text=True, check=False, timeout=60
        )
        assert second.returncode == 2
        assert (
            second.stderr == f"rollout: cannot listen on 127.0.0.1 port {free_address.port}: [Errno 98] Address "
            "already in use\n"
        )


# The wrapper, in the example.


@contextmanager
def example(address, tmp_path, **environment):
    serving = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLE), "server:app", "--log-level", "warning"]
    command = [*serving, "--host", address.host, "--port", str(address.port)]
    with running(command, address, PROFILE_PREFIX=str(tmp_path / "profile"), **environment) as (process, client):
        yield process, client


def test_the_example_serves_its_own_answers_and_its_proof(free_address, tmp_path):
    with example(free_address, tmp_path, ROLLOUT_POD_UID="theirs") as (process, client):
        wait_listening(process, client)
        snapshot = fetched(free_address)
        assert snapshot.fields["runtime.ort.providers.actual"].value == ["CPUExecutionProvider"]
        assert client.get(PATH_READY).json()["snapshot_digest"] == snapshot.digest
        answer = client.post("/double", json=[[1, 2, 3, -4]])
        assert answer.json() == [[2, 4, 6, 0]]
        assert answer.headers[HEADER_POD_UID] == "theirs"
        assert answer.headers[HEADER_SNAPSHOT_DIGEST] == snapshot.digest
        itself = [*ROLLOUT, "diff", str(free_address), str(free_address), "--output", "json"]
        done = subprocess.run(itself, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"differences": []}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)


def test_the_example_does_not_listen_where_it_is_not_admitted(free_address, tmp_path):
    with example(free_address, tmp_path, POLICY="gpu") as (process, client):
        with pytest.raises(AssertionError, match="exit status 1"):
            wait_listening(process, client)
        assert "NotAdmittedError: libcuda_missing: " in process.communicate()[1]
