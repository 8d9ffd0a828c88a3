"""`rollout smoke` in a clean process, with the real server: no router, no incumbent, no stack."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from e2e_stack import PROMPTS, QUICK_POLICY, Ran, Stack, free_port, wait_until
from troubled_server import EP_ERROR

from rollout.evidence.baselines import read_baseline
from rollout.model.release import Release

pytestmark = pytest.mark.slow

FAULTY = Path(__file__).with_name("faulty_server.py")
TROUBLED = Path(__file__).with_name("troubled_server.py")
MATRIX = Path(__file__).parents[2] / "policies" / "matrix.yaml"


class Smoke(Stack):
    """Releases, a policy and prompts in a folder; what runs is found by the temporary folder inside it."""

    @property
    def state(self) -> Path:
        return self.root / "temporary"

    def smoke(self, *words: object) -> Ran:
        return self.run("smoke", *words, *self.terms())

    def terms(self) -> list[object]:
        return ["--policy", "policy.yaml", "--prompts", "prompts.yaml", "--junit", "junit.xml", "--output", "json"]

    def outcomes(self, ran: Ran) -> dict[str, tuple[str, list[str]]]:
        return {
            one["gate"]: (one["outcome"], [reason["code"] for reason in one["reasons"]]) for one in ran.data["gates"]
        }

    def junit(self) -> dict[str, tuple[str, str]]:
        suite = ET.parse(self.root / "junit.xml").getroot()  # noqa: S314 - written a moment ago
        return {one.get("name"): (one[0].tag, one[0].text or one[0].get("message")) for one in suite}


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    """Whatever a test did, it leaves neither a process nor a folder behind."""
    one = made(tmp_path)
    monkeypatch.setenv("TMPDIR", str(one.state))
    yield one
    left = one.processes()
    for process in left:
        process.kill()
    assert left == []
    assert list(one.state.glob("rollout-*")) == []


def made(root):
    # The baseline is measured once, and what else the machine does meanwhile must decide nothing.
    policy = json.loads(json.dumps(QUICK_POLICY))
    policy["latency"] |= {"p50_ratio_max": 50.0, "tail_ratio_max": 50.0}
    prompts = PROMPTS | {"prompts": [one | {"steps": 1} for one in PROMPTS["prompts"]]}
    one = Smoke(root=root, port=free_port(), policy=policy, prompts=prompts)
    one.state.mkdir()
    return one


@pytest.fixture(scope="session")
def first(tmp_path_factory):
    """The baseline that a first measurement of the good release wrote."""
    one = made(tmp_path_factory.mktemp("first"))
    ran = one.smoke(one.release("good"), "--write-baseline", "base.json")
    assert ran.code == 0, (ran.out, ran.err)
    assert ran.data["baseline"] == read_baseline(one.root / "base.json").digest
    return one.root / "base.json"


@pytest.fixture
def measured(smoke, first):
    """A good release, and what it was measured to do."""
    smoke.release("good")
    shutil.copy(first, smoke.root / "base.json")
    return smoke


def test_first_measurement_is_the_baseline_that_the_next_release_passes_by(measured):
    stored = read_baseline(measured.root / "base.json")
    release = Release.model_validate(yaml.safe_load((measured.root / "good.yaml").read_text()))
    assert stored.baseline.release_digest == release.digest
    assert sum(map(len, stored.baseline.latency_s.values())) == QUICK_POLICY["drift"]["requests"]
    ran = measured.smoke(measured.release("next"), "--baseline", "base.json", "--requests", 40)
    assert ran.code == 0, (ran.out, ran.err)
    assert (ran.data["outcome"], ran.data["requests"]) == ("PASS", 40)
    assert ran.data["baseline"] == stored.digest
    assert ran.data["snapshot"] == stored.baseline.snapshot.digest
    assert ran.data["release"] != release.digest
    assert {kind for kind, _ in measured.junit().values()} == {"system-out"}
    assert list(measured.junit()) == ["admission", "capabilities", "messages", "errors", "drift"]


def test_slow_release_breaches_and_the_capability_that_explains_it_is_named(measured):
    # A session per request costs x20 in pictures of one step.
    measured.policy["latency"] |= {"p50_ratio_max": 4.0, "tail_ratio_max": 4.0}
    slow = measured.release("slow", "--session", "per-request")
    ran = measured.smoke(slow, "--baseline", "base.json")
    assert ran.code == 3, (ran.out, ran.err)
    assert measured.outcomes(ran)["drift"][0] == "BREACH"
    assert ran.data["suspects"][0]["difference"] == "runtime.ort.session_lifetime: shared -> per-request"
    assert measured.junit()["drift"][0] == "failure"


def test_lost_graph_optimisation_is_named_also_where_its_latency_is_within_the_margin(measured):
    ran = measured.smoke(measured.release("plain", "--graph-optimization", "disabled"), "--baseline", "base.json")
    assert ran.code == 0, (ran.out, ran.err)
    assert "runtime.ort.graph_optimization: all -> disabled" in measured.junit()["capabilities"][1]


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU, so the server is not refused")
def test_release_that_refuses_breaches_in_its_own_words(smoke):
    ran = smoke.smoke(smoke.release("gpu", command=["rollout", "serve", "--admission", "gpu"]))
    assert ran.code == 3, (ran.out, ran.err)
    outcome, codes = smoke.outcomes(ran)["admission"]
    assert (outcome, codes[0]) == ("BREACH", "libcuda_missing")
    kind, text = smoke.junit()["admission"]
    assert kind == "failure"
    assert "libcuda_missing: " in text
    assert "server: rollout serve: refused: " in ran.err
    assert smoke.junit()["drift"] == ("error", "not_reached: the server was not admitted")


@pytest.mark.parametrize("when", ["speaks-loading", "speaks-serving"])
def test_server_that_speaks_of_a_fallback_breaches(measured, when):
    speaking = measured.release("speaking", command=[sys.executable, str(TROUBLED), when])
    ran = measured.smoke(speaking, "--baseline", "base.json")
    assert ran.code == 3, (ran.out, ran.err)
    assert measured.outcomes(ran)["messages"] == ("BREACH", ["fallback_message"])
    assert measured.outcomes(ran)["admission"][0] == "PASS"
    assert EP_ERROR in measured.junit()["messages"][1]


def test_server_that_dies_breaches_with_its_last_words(smoke):
    ran = smoke.smoke(smoke.release("dying", command=[sys.executable, str(FAULTY), "exit"]))
    assert ran.code == 3, (ran.out, ran.err)
    assert smoke.outcomes(ran)["admission"] == ("BREACH", ["server_ended"])
    assert "no GPU here, giving up" in smoke.junit()["admission"][1]


def test_server_that_is_killed_while_it_serves_breaches(measured):
    dying = measured.release("dying", command=[sys.executable, str(TROUBLED), "dies-serving"])
    ran = measured.smoke(dying, "--baseline", "base.json", "--requests", 500)
    assert ran.code == 3, (ran.out, ran.err)
    assert measured.outcomes(ran)["admission"] == ("BREACH", ["server_ended"])
    assert "while it served: ended by signal 9" in measured.junit()["admission"][1]


@pytest.mark.parametrize(
    ("mode", "gate", "code"),
    [
        ("refuse", "errors", "error_rate_over_margin"),
        ("hang", "errors", "error_rate_over_margin"),
        ("never-ready", "admission", "server_never_ready"),
        ("garbage-snapshot", "capabilities", "snapshot_unreadable"),
    ],
)
def test_faulty_server_breaches_with_its_reason_and_in_time(measured, mode, gate, code):
    shown = measured.root / "shown.json"
    shown.write_text(json.dumps(read_baseline(measured.root / "base.json").baseline.snapshot.to_json()))
    measured.policy["deadlines"] |= {"request_s": 1.0, "ready_s": 2.0}
    faulty = measured.release(mode, command=[sys.executable, str(FAULTY), mode, str(shown)])
    began = time.monotonic()
    ran = measured.smoke(faulty, "--baseline", "base.json")
    assert ran.code == 3, (ran.out, ran.err)
    assert measured.outcomes(ran)[gate] == ("BREACH", [code])
    assert time.monotonic() - began < 20.0


def test_without_a_baseline_the_rest_is_shown_and_the_exit_code_says_undecided(smoke):
    ran = smoke.smoke(smoke.release("good"))
    assert ran.code == 4, (ran.out, ran.err)
    assert smoke.outcomes(ran)["drift"] == ("INCONCLUSIVE", ["baseline_missing"])
    assert {outcome for outcome, _ in smoke.outcomes(ran).values()} == {"PASS", "INCONCLUSIVE"}


def test_baseline_is_written_only_where_all_else_passes(smoke):
    smoke.policy["capabilities"]["required"].append("gpu.product")
    ran = smoke.smoke(smoke.release("good"), "--write-baseline", "base.json")
    assert ran.code == 3, (ran.out, ran.err)
    assert not (smoke.root / "base.json").exists()


def test_baseline_that_exists_is_not_replaced(measured):
    before = (measured.root / "base.json").read_bytes()
    ran = measured.smoke(measured.root / "good.yaml", "--write-baseline", "base.json")
    assert (ran.code, (measured.root / "base.json").read_bytes()) == (2, before)


def test_baseline_with_a_changed_byte_is_refused(measured):
    base = measured.root / "base.json"
    base.write_bytes(base.read_bytes().replace(b"0.0", b"0.1", 1))
    ran = measured.smoke(measured.root / "good.yaml", "--baseline", "base.json")
    assert ran.code == 4
    assert "base.json was changed" in ran.err
    assert ran.data["error"]["kind"] == "EvidenceError"
    assert measured.junit()["verdict"][0] == "error"


@pytest.mark.parametrize("differs", ["other prompts", "measure service, now wall"])
def test_baseline_that_was_measured_in_another_way_is_refused(measured, differs):
    if differs == "other prompts":
        measured.prompts["prompts"][0]["seed"] = 7
    else:
        measured.policy["latency"]["measure"] = "wall"
    ran = measured.smoke(measured.root / "good.yaml", "--baseline", "base.json")
    assert ran.code == 4
    assert differs in ran.err


def test_server_that_differs_from_the_matrix_breaches(smoke):
    ran = smoke.smoke(smoke.release("good"), "--matrix", MATRIX)
    assert ran.code == 3, (ran.out, ran.err)
    assert smoke.outcomes(ran)["matrix"][0] == "BREACH"


@pytest.mark.parametrize("moment", ["to prove itself", "measuring"])
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_and_proves_nothing(measured, moment, which):
    process = measured.start("smoke", "good.yaml", "--baseline", "base.json", "--requests", 100_000, *measured.terms())
    while moment not in process.stderr.readline():
        assert process.poll() is None
    wait_until(measured.processes)
    process.send_signal(which)
    out, err = process.communicate(timeout=20.0)
    assert process.returncode == 4, (out, err)
    assert measured.processes() == []
    assert json.loads(out)["outcome"] == "INCONCLUSIVE"
    assert measured.junit()["drift"] == ("error", measured.junit()["drift"][1])
    assert f"interrupted by {which.name}" in measured.junit()["drift"][1]


def test_running_server_is_proven_with_its_log_and_undecided_without(measured):
    port, log = free_port(), measured.root / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "rollout", "serve", "--admission", "development-cpu", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"RELEASE": "good"},
        )
    try:
        address = f"127.0.0.1:{port}"
        ran = measured.smoke("--server", address, "--log", log, "--baseline", "base.json")
        assert ran.code == 0, (ran.out, ran.err)
        ran = measured.smoke("--server", address, "--baseline", "base.json")
        assert ran.code == 4, (ran.out, ran.err)
        assert measured.outcomes(ran)["messages"] == ("INCONCLUSIVE", ["messages_unheard"])
        log.write_text(EP_ERROR)
        ran = measured.smoke("--server", address, "--log", log, "--baseline", "base.json")
        assert measured.outcomes(ran)["messages"] == ("BREACH", ["fallback_message"])
        assert server.poll() is None
    finally:
        server.terminate()
        server.wait()


def test_page_in_a_pipe_is_plain_and_fits_80_columns(measured):
    ran = measured.run("smoke", "good.yaml", "--baseline", "base.json", *measured.terms()[:4])
    assert ran.code == 0, (ran.out, ran.err)
    assert ran.out.splitlines()[0] == "PASS: admission, capabilities, messages, errors, drift"
    assert max(map(len, ran.out.splitlines())) <= 80
    assert ran.out.isascii()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["good.yaml", "--server", "localhost:1"],
        ["good.yaml", "--log", "x"],
        ["--server", "localhost:1", "--write-baseline", "x"],
        ["good.yaml", "--baseline", "x", "--write-baseline", "y"],
        ["good.yaml", "--requests", "19"],
        ["none.yaml"],
        ["good.yaml", "--write-baseline", "no/such/folder"],
        ["--server", "localhost:1", "--log", "none.log"],
    ],
)
def test_input_that_cannot_be_used_is_refused_before_anything_starts(smoke, words):
    smoke.release("good")
    ran = smoke.smoke(*words)
    assert ran.code == 2, (ran.out, ran.err)
    assert "waiting" not in ran.err
