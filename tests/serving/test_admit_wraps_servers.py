"""`rollout admit -- CMD`: a server that is not ours runs untouched where the stack is proven, and else never starts."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from admissions import admitted, standing
from causes import CAUSES
from worlds import WORLDS, Model, clean_environment

from rollout.files.load import load_admission

SERVER = Path(__file__).with_name("third_party.py")
FALLING = sorted(name for name in CAUSES if WORLDS[name].model is Model.PLAIN)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("model-cache")


@pytest.fixture
def placed(parts, tmp_path, request):
    return standing(WORLDS[request.param], root=tmp_path, parts=parts)


def server_command(port):
    words = ["-m", "uvicorn", "--app-dir", str(SERVER.parent), "--port", str(port), "--log-level", "warning"]
    return [sys.executable, *words, "third_party:app"]


@contextmanager
def running(command, environment):
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def answer(port, process, timeout_s=60.0):
    """Return what the server says once it answers."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/", timeout=5.0).json()
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError(f"no answer; exit status {process.poll()}")


@pytest.mark.parametrize("placed", FALLING, indirect=True)
def test_server_of_a_third_party_never_starts_where_the_stack_is_refused(placed, cache, tmp_path):
    started = tmp_path / "started"
    found = admitted(placed, cache=cache, command=("touch", str(started)))
    assert found.code == 78
    assert not started.exists()


@pytest.mark.parametrize("placed", ["no_device", "cuda_libraries_missing", "both_ort_packages"], indirect=True)
def test_without_admission_the_same_server_answers_from_the_cpu(placed, free_port):
    environment = {**placed.environment, "MODEL": str(placed.model)}
    with running(server_command(free_port), environment) as process:
        assert answer(free_port, process)["providers"] == ["CPUExecutionProvider"]


def test_admitted_server_answers_and_ends_by_the_signal_that_it_is_sent(parts, tmp_path, cache, free_port):
    placed = standing(WORLDS["libcuda_missing"], root=tmp_path, parts=parts)
    command = [*admit("development-cpu", cache), "--", *server_command(free_port)]
    with running(command, {**clean_environment(), "MODEL": str(placed.model)}) as process:
        assert answer(free_port, process)["total"] != 0.0
        command_line = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        assert "uvicorn" in command_line
        assert "admit" not in command_line
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in {0, -signal.SIGTERM}


def test_command_runs_with_its_own_arguments_environment_and_folder(cache, tmp_path):
    ask = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"
    words = ["--probe", "a b", "--output=json", "--", "é"]
    environment = {**os.environ, "PRIVATE": "x y"}
    ran = subprocess.run(
        [*admit("development-cpu", cache), "--", sys.executable, "-c", ask, *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout) == [words, environment, str(tmp_path)]


@pytest.mark.parametrize(("script", "code"), [("exit 37", 37), ("kill -s USR1 $$", -signal.SIGUSR1)])
def test_end_of_the_command_is_the_end_that_is_seen(cache, script, code):
    command = [*admit("development-cpu", cache), "--", "sh", "-c", script]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_command_that_does_not_exist_ends_as_a_shell_would_end(cache):
    ran = subprocess.run([*admit("development-cpu", cache), "--", "no-such-server"], capture_output=True, check=False)
    assert ran.returncode == 127


def test_init_container_without_a_command_ends_with_0_or_78(cache):
    admitted_code = subprocess.run(admit("development-cpu", cache), capture_output=True, check=False).returncode
    refused_code = subprocess.run(admit("gpu", cache), capture_output=True, check=False).returncode
    assert (admitted_code, refused_code) == (0, 78)


def test_refusal_is_written_where_kubernetes_looks_and_fits_there(cache, tmp_path):
    log, report = tmp_path / "termination-log", tmp_path / "report.json"
    log.touch()
    ran = subprocess.run(
        [*admit("gpu", cache), "--termination-log", str(log), "--report", str(report)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(log.read_text())
    assert ran.returncode == 78
    assert said["findings"][0]["code"] == "libcuda_missing"
    assert len(log.read_bytes()) <= 4096
    assert len(json.loads(report.read_text())["findings"]) == len(said["findings"]) + said["left_out"]
    assert "libcuda_missing: " in ran.stderr


def test_report_that_cannot_be_written_is_told_before_the_proof(cache, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    command = [*admit("gpu", cache), "--report", str(blocked / "report.json")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "cannot be written" in ran.stderr


def test_folder_of_the_report_is_made(cache, tmp_path):
    report = tmp_path / "run" / "rollout" / "report.json"
    subprocess.run([*admit("development-cpu", cache), "--report", str(report)], capture_output=True, check=True)
    assert json.loads(report.read_text())["admitted"]


def test_termination_log_that_cannot_be_written_changes_no_refusal(cache):
    ran = subprocess.run(
        [*admit("gpu", cache), "--termination-log", "/proc/version"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 78
    assert "libcuda_missing" in ran.stderr


def test_module_in_the_working_folder_is_none_of_the_provers(cache, tmp_path):
    (tmp_path / "pydantic.py").write_text("raise SystemExit('not this one')")
    command = [str(Path(sys.executable).with_name("rollout")), *admit("development-cpu", cache)[3:]]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_command_ignores_no_signal_that_python_ignores(cache):
    ask = "grep SigIgn /proc/self/status"
    command = [*admit("development-cpu", cache), "--", "sh", "-c", ask]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]
    assert int(told, 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0


def test_probe_is_content_while_the_devices_are_those_that_were_admitted(cache, tmp_path):
    report = tmp_path / "report.json"
    subprocess.run([*admit("development-cpu", cache), "--report", str(report)], capture_output=True, check=True)
    probe = [*admit("development-cpu", cache), "--report", str(report), "--probe"]
    assert subprocess.run(probe, capture_output=True, check=False).returncode == 0


def test_probe_refuses_when_the_devices_changed(parts, cache, tmp_path):
    placed = standing(WORLDS["no_device"], root=tmp_path, parts=parts)
    report = tmp_path / "report.json"
    subprocess.run([*admit("development-cpu", cache), "--report", str(report)], capture_output=True, check=True)
    probe = [*admit("development-cpu", cache), "--report", str(report), "--probe", "--output", "json"]
    ran = subprocess.run(probe, env=placed.environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 78
    assert {one["code"] for one in json.loads(ran.stderr)["findings"]} == {"device_changed"}


@pytest.mark.parametrize("content", ["", "{", '{"schema": "rollout.admission-report/v2"}'])
def test_probe_without_a_usable_report_is_a_mistake_and_no_verdict(tmp_path, content):
    report = tmp_path / "report.json"
    report.write_text(content)
    ran = subprocess.run(
        [*admit("development-cpu", tmp_path), "--report", str(report), "--probe"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert str(report) in ran.stderr


def test_own_model_of_the_policy_is_what_is_proven(parts, tmp_path):
    placed = standing(WORLDS["libcuda_missing"], root=tmp_path, parts=parts)
    policy = load_admission("development-cpu").policy.model_dump(mode="json", by_alias=True)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(policy | {"model": {"path": str(placed.model), "dimensions": {}}}))
    report = tmp_path / "report.json"
    subprocess.run(
        [*admit(path, tmp_path), "--report", str(report)], env=clean_environment(), capture_output=True, check=True
    )
    fields = json.loads(report.read_text())["snapshot"]["fields"]
    assert fields["runtime.ort.placement.cpu_share"]["value"] == 1.0
    assert fields["model.weights.digest"]["value"].startswith("sha256:")


def test_model_that_is_no_onnx_is_refused_and_not_crashed_on(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x00\x01no model" * 100)
    policy = load_admission("development-cpu").policy.model_dump(mode="json", by_alias=True)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(policy | {"model": {"path": "broken.onnx", "dimensions": {}}}))
    ran = subprocess.run(
        [*admit(path, tmp_path), "--output", "json"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 78
    assert json.loads(ran.stderr)["findings"][0]["code"] == "session_refused"


def admit(policy, cache):
    return [sys.executable, "-m", "rollout", "admit", "--policy", str(policy), "--cache", str(cache)]
