"""Sessions and containers that are not ours, with a real ONNX Runtime for GPUs on machines without their fast path."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))

from driver_builds import NVML_LIBRARY
from worlds import CPU, WORLDS, Place, impossible_here, place, unbuildable

from rollout.files.load import load_admission
from rollout.model.admission import AdmissionReport

PROBE = Path(__file__).parents[1] / "doubles/admission_probe.py"
EXIT_REFUSED = 78


@pytest.fixture
def placed(parts: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """The world that a test names."""
    world = WORLDS[request.param]
    if reason := unbuildable() or impossible_here(world):
        pytest.skip(reason)
    return place(world, root=tmp_path, parts=parts)


def policy_of(placed: Place, **changes: object) -> Path:
    """Write the policy for this world's own model: what a foreign server can meet of the policy `gpu`."""
    body = load_admission("gpu").policy.model_dump(mode="json", by_alias=True)
    foreign = {"attention_fused": False, "outputs_on_device": False}
    own = {"model": {"path": str(placed.model), "dimensions": {}}}
    path = placed.folder / "policy.yaml"
    path.write_text(yaml.safe_dump(body | foreign | own | changes))
    return path


def admission(placed: Place, recipe: str) -> AdmissionReport:
    """Admit a session in a process of its own."""
    report = placed.folder / "report.json"
    providers = ",".join(placed.world.providers)
    command = [sys.executable, str(PROBE), recipe, str(placed.model), providers, str(policy_of(placed)), str(report)]
    done = subprocess.run(command, env=placed.environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == EXIT_REFUSED, done.stderr
    return AdmissionReport.model_validate_json(report.read_text())


def blocking(report: AdmissionReport) -> list[str]:
    return [one.code for one in report.findings if one.severity == "block"]


@pytest.mark.parametrize(
    ("placed", "cause"),
    [
        ("no_device", "no_device"),
        ("driver_too_old", "driver_too_old"),
        ("stub_libcuda", "libcuda_stub"),
        ("libcuda_missing", "libcuda_missing"),
    ],
    indirect=["placed"],
)
def test_an_open_session_that_fell_back_in_silence_is_refused_with_the_machines_cause_first(placed: Place, cause: str):
    report = admission(placed, "open")
    assert report.snapshot is not None
    assert report.snapshot.fields["runtime.ort.providers.actual"].value == [CPU]
    assert blocking(report)[0] == cause
    assert "provider_dropped" in blocking(report)


@pytest.mark.parametrize("placed", ["cuda_libraries_missing"], indirect=True)
@pytest.mark.parametrize(("recipe", "heard"), [("open", "provider_dropped"), ("opener", "cuda_libraries_missing")])
def test_the_cause_that_only_the_load_tells_is_named_where_the_load_is_watched(placed: Place, recipe: str, heard: str):
    codes = blocking(admission(placed, recipe))
    assert heard in codes
    assert ("cuda_libraries_missing" in codes) is (recipe == "opener")


@pytest.mark.parametrize("placed", ["no_device", "cuda_libraries_missing"], indirect=True)
def test_a_strict_session_never_comes_to_be(placed: Place):
    report = admission(placed, "strict")
    assert report.snapshot is not None
    assert "runtime.ort.providers.actual" not in report.snapshot.fields
    assert placed.world.name in blocking(report)


@pytest.mark.parametrize(
    ("placed", "code"),
    [("no_device", "no_device"), ("cuda_libraries_missing", "cuda_libraries_missing")],
    indirect=["placed"],
)
def test_the_agent_exits_78_and_names_the_cause(placed: Place, code: str):
    command = [sys.executable, "-m", "rollout", "snapshot", "--policy", str(policy_of(placed))]
    done = subprocess.run(
        [*command, "--serve", "--port", str(free_port())],
        env=placed.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == EXIT_REFUSED
    assert f"block {code}: " in done.stderr


@pytest.mark.parametrize("placed", ["no_device"], indirect=True)
def test_the_agent_tells_that_a_device_library_vanished_while_it_ran(placed: Place):
    port = free_port()
    agent = subprocess.Popen(
        [
            *(sys.executable, "-m", "rollout", "snapshot", "--policy", str(policy_of(placed))),
            *("--serve", "--port", str(port), "--keep-serving-refusal", "--look-every", "1"),
        ],
        env=placed.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: asked(port, "/healthz")[0] == 200)
        assert asked(port, "/readyz")[1]["codes"][0] == "no_device"
        library = placed.folder / "lib" / NVML_LIBRARY
        target = library.readlink()
        library.unlink()
        wait_for(lambda: asked(port, "/healthz")[0] == 503)
        assert "gpu.nvml.init was 0 and is " in asked(port, "/healthz")[1]["changes"][0]
        assert asked(port, "/readyz")[1]["codes"][0] == "device_changed"
        library.symlink_to(target)
        wait_for(lambda: asked(port, "/healthz")[0] == 200)
    finally:
        agent.kill()
        agent.wait(timeout=30)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


def asked(port: int, path: str) -> tuple[int, dict]:
    """Return status and body; 0 where nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        return answer.code, json.load(answer)
    except OSError:
        return 0, {}


def wait_for(condition, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)
