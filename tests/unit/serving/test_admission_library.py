"""Admission as a call in somebody else's program, and the wrapper around its server."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import yaml
from onnx import TensorProto, helper

from rollout.errors import ConfigError
from rollout.files.load import load_admission
from rollout.model.admission import AdmissionReport
from rollout.model.canonical import digest_bytes
from rollout.model.snapshot import CapabilityStatus, ok, parse_snapshot
from rollout.model.wire import HEADER_POD_UID, HEADER_SNAPSHOT_DIGEST, PATH_CAPABILITIES, PATH_READY
from rollout.serving.admission import NotAdmittedError, admit, open_strict_session, with_capabilities
from rollout.serving.liveness import device_changes
from rollout.serving.subject import load_model

CPU = "CPUExecutionProvider"
DIGEST = digest_bytes(b"a model")

needs_another_provider = pytest.mark.skipif(
    "AzureExecutionProvider" not in ort.get_available_providers(),
    reason="this build of ONNX Runtime has no second provider that a machine without a GPU can move a session to",
)


@pytest.fixture(scope="module")
def model():
    """y = relu(x), with a free dimension."""
    shape = ["rows", 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.fixture
def session(model):
    return ort.InferenceSession(model, providers=[CPU])


@pytest.fixture
def proof(session):
    return {"session": session, "dimensions": {"rows": 2}, "model_digest": DIGEST}


@pytest.fixture
def policy_file(tmp_path):
    def write(**changes):
        body = load_admission("development-cpu").policy.model_dump(mode="json", by_alias=True)
        path = tmp_path / "policy.yaml"
        path.write_text(yaml.safe_dump(body | changes))
        return str(path)

    return write


def codes(refused):
    return {one.code for one in refused.value.report.findings if one.severity == "block"}


def test_session_that_shows_what_the_policy_demands_is_admitted(proof):
    admitted = admit("development-cpu", **proof, requested=[CPU])
    fields = admitted.report.snapshot.fields
    assert admitted.report.admitted
    assert admitted.session is proof["session"]
    assert fields["runtime.ort.providers.actual"].value == [CPU]
    assert fields["runtime.ort.providers.requested"].value == [CPU]
    assert fields["model.weights.digest"].value == DIGEST


def test_two_proofs_of_one_session_have_one_digest(proof):
    first, second = (admit("development-cpu", **proof).report.snapshot.digest for _ in range(2))
    assert first == second


def test_a_load_that_nobody_timed_has_no_duration_and_nobody_claims_to_have_listened(proof):
    snapshot = admit("development-cpu", **proof).report.snapshot
    assert snapshot.measurements["load.duration_s"].status is CapabilityStatus.UNAVAILABLE
    assert "loaded before" in snapshot.fields["runtime.messages.fallback"].source


def test_what_opens_the_session_is_timed_and_heard(model, proof):
    def opened():
        os.write(1, b"CUDA failure 100: no CUDA-capable device is detected\n")
        return open_strict_session(model, providers=[CPU])

    with pytest.raises(NotAdmittedError) as refused:
        admit("development-cpu", **{**proof, "session": opened})
    assert codes(refused) == {"no_device"}
    assert refused.value.report.snapshot.measurements["load.duration_s"].value > 0


def test_a_session_that_does_not_open_is_a_refusal(proof):
    opener = {**proof, "session": lambda: ort.InferenceSession(b"no model")}
    with pytest.raises(NotAdmittedError, match="session_refused: the session could not be opened"):
        admit("development-cpu", **opener)


def test_a_model_that_nobody_names_is_refused_where_the_policy_wants_its_digest(proof):
    with pytest.raises(NotAdmittedError, match=r"model\.weights\.digest is error: the program did not say"):
        admit("development-cpu", **{**proof, "model_digest": ""})


def test_a_session_on_the_cpu_is_refused_by_a_policy_for_gpus(proof):
    with pytest.raises(NotAdmittedError) as refused:
        admit("gpu", **proof)
    assert "provider_dropped" in codes(refused)
    assert refused.value.report.snapshot is not None


def test_own_feeds_are_what_the_self_test_runs_on(proof):
    del proof["dimensions"]
    assert admit("development-cpu", **proof, feeds={"x": np.ones((3, 4), np.float32)}).report.admitted
    with pytest.raises(NotAdmittedError, match="the self-test failed"):
        admit("development-cpu", **proof, feeds={"z": np.ones((3, 4), np.float32)})
    with pytest.raises(NotAdmittedError, match="NaN or infinity"):
        admit("development-cpu", **proof, feeds={"x": np.full((3, 4), np.inf, np.float32)})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dimensions": None}, "free dimension 'rows'"),
        ({"feeds": {}}, "feeds or dimensions"),
        ({"model_digest": "abc"}, "sha256: and 64"),
    ],
)
def test_a_call_that_cannot_be_understood_is_no_refusal(proof, changes, told):
    with pytest.raises(ConfigError, match=told):
        admit("development-cpu", **{**proof, **changes})


def test_dimensions_of_the_policys_model_are_used_where_none_are_given(proof, policy_file):
    policy = policy_file(model={"path": "elsewhere.onnx", "dimensions": {"rows": 2}})
    assert admit(policy, **{**proof, "dimensions": None}).report.admitted


def test_an_engine_cache_is_watched_only_where_the_load_is(model, proof, policy_file, tmp_path):
    (tmp_path / "plans").mkdir()
    policy = policy_file(engine_cache="plans")
    with pytest.raises(ConfigError, match="give what opens the session"):
        admit(policy, **proof)

    def compiling():
        (tmp_path / "plans/new.engine").write_bytes(b"compiled just now")
        return open_strict_session(model, providers=[CPU])

    with pytest.raises(NotAdmittedError) as refused:
        admit(policy, **{**proof, "session": compiling})
    assert codes(refused) == {"engine_rebuilt"}


def test_a_demand_whose_file_cannot_be_found_is_not_dropped(proof):
    policy = load_admission("development-cpu").policy.model_copy(update={"matrix": "matrix.yaml"})
    with pytest.raises(ConfigError, match="give the path of the policy"):
        admit(policy, **proof)


def test_a_matrix_that_the_policy_names_takes_part(proof, policy_file, tmp_path):
    matrix = Path(__file__).parents[3] / "policies/matrix.yaml"
    (tmp_path / "matrix.yaml").write_bytes(matrix.read_bytes())
    with pytest.raises(NotAdmittedError) as refused:
        admit(policy_file(matrix="matrix.yaml"), **proof)
    assert any(one.startswith("matrix_") for one in codes(refused))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "not valid YAML|not YAML|expected"),
        ("profile: gpu", "schema: missing"),
        ("[]", "must hold a mapping"),
        ("{schema: rollout.admission/v1, attention_fused: true, attention_fused: false}", "twice"),
    ],
)
def test_a_faulty_policy_is_refused_with_its_name_and_its_key(tmp_path, proof, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"mine.yaml:.*({told})"):
        admit(str(path), **proof)


def test_a_missing_policy_is_refused(proof):
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such file"):
        admit("nowhere.yaml", **proof)


def test_the_policys_own_model_is_profiled_so_that_its_placement_can_be_proven(model, tmp_path, policy_file):
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    policy = load_admission(str(policy_file(model={"path": "model.onnx", "dimensions": {"rows": 2}}))).policy
    subject = load_model(policy, path=path)
    subject.work()
    fields = subject.fields()
    assert fields["runtime.ort.placement.cpu_ops"].value == ["Relu"]
    assert not Path(subject.profiles.name).exists()


# What is known since.


@needs_another_provider
def test_a_session_that_was_moved_once_stays_refused(proof):
    admitted = admit("development-cpu", **proof)
    assert admitted.recheck().admitted
    proof["session"].set_providers(["AzureExecutionProvider", CPU])
    lost = admitted.recheck()
    assert not lost.admitted
    assert lost.findings[0].code == "provider_dropped"
    assert admitted.recheck() is lost
    proof["session"].set_providers([CPU])
    assert admitted.recheck() is lost
    assert admitted.report is lost


# The wrapper.


async def host(scope, _receive, send):
    """An application that knows /, and /own/readyz."""
    if scope["type"] != "http":
        await send({"type": f"{scope['type']}.seen"})
        return
    known = scope["path"] in {"/", "/own/readyz"}
    headers = [(b"x-host", b"1"), (HEADER_SNAPSHOT_DIGEST.encode().title(), b"sha256:forged")]
    await send({"type": "http.response.start", "status": 200 if known else 404, "headers": headers})
    await send({"type": "http.response.body", "body": scope["method"].encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b" host"})


def got(app, path, *, method="GET", **scope):
    """Return status, body and headers of an answer."""
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": "http", "method": method, "path": path, **scope}, None, send))
    start, *bodies = sent
    headers = [(name.decode().lower(), value.decode()) for name, value in start["headers"]]
    assert len(dict(headers)) == len(headers)
    return start["status"], b"".join(one["body"] for one in bodies), dict(headers)


@pytest.fixture
def admitted(proof):
    return admit("development-cpu", **proof)


def test_wrapper_adds_its_paths_and_names_instance_and_snapshot_on_every_answer(admitted):
    app = with_capabilities(host, admitted, pod_uid="pod-1")
    digest = admitted.report.snapshot.digest
    status, body, _ = got(app, PATH_CAPABILITIES)
    assert (status, parse_snapshot(json.loads(body)).digest) == (200, digest)
    assert json.loads(got(app, PATH_READY)[1]) == {"status": "ready", "snapshot_digest": digest}
    for path, expected in (("/", 200), ("/nowhere", 404), (PATH_READY, 200), (PATH_CAPABILITIES, 200)):
        status, _, headers = got(app, path)
        assert status == expected
        assert (headers[HEADER_POD_UID], headers[HEADER_SNAPSHOT_DIGEST]) == ("pod-1", digest)


def test_wrapper_leaves_all_else_to_the_application(admitted):
    app = with_capabilities(host, admitted)
    assert got(app, "/")[:2] == (200, b"GET host")
    assert got(app, "/")[2]["x-host"] == "1"
    for path in (PATH_CAPABILITIES, PATH_READY):
        assert got(app, path, method="POST")[:2] == (404, b"POST host")
    for kind in ("lifespan", "websocket"):
        sent = []

        async def send(message, sent=sent):
            sent.append(message)

        asyncio.run(app({"type": kind, "path": PATH_READY}, None, send))
        assert sent == [{"type": f"{kind}.seen"}]


def test_readiness_of_the_application_is_replaced_only_where_that_is_asked_for(admitted):
    async def lazy(scope, _receive, send):
        await host({**scope, "path": "/"}, _receive, send)

    assert got(with_capabilities(lazy, admitted), PATH_READY)[1] == b"GET host"
    assert b"ready" in got(with_capabilities(lazy, admitted, ready_path=PATH_READY), PATH_READY)[1]
    elsewhere = with_capabilities(host, admitted, ready_path="/own/readyz")
    assert b"ready" in got(elsewhere, "/own/readyz")[1]
    assert got(elsewhere, PATH_READY)[:2] == (404, b"GET host")
    with pytest.raises(ConfigError, match="slash"):
        with_capabilities(host, admitted, ready_path="readyz")


def test_wrapper_is_found_below_the_prefix_that_a_proxy_strips(admitted):
    app = with_capabilities(host, admitted)
    assert got(app, f"/api{PATH_CAPABILITIES}", root_path="/api")[0] == 200


@needs_another_provider
def test_a_session_that_was_moved_takes_readiness_snapshot_and_digest_with_it(admitted, proof):
    app = with_capabilities(host, admitted)
    proof["session"].set_providers(["AzureExecutionProvider", CPU])
    admitted.recheck()
    for path in (PATH_READY, PATH_CAPABILITIES):
        status, body, headers = got(app, path)
        assert (status, json.loads(body)["codes"]) == (503, ["provider_dropped"])
        assert HEADER_SNAPSHOT_DIGEST not in headers
        assert headers[HEADER_POD_UID]
    assert HEADER_SNAPSHOT_DIGEST not in got(app, "/")[2]


def test_a_refusal_can_be_served_too(proof):
    with pytest.raises(NotAdmittedError) as refused:
        admit("gpu", **proof)
    status, body, headers = got(with_capabilities(host, refused.value.report), PATH_READY)
    assert (status, set(json.loads(body)["codes"])) == (503, codes(refused))
    assert HEADER_SNAPSHOT_DIGEST not in headers


def test_a_report_that_admits_without_a_snapshot_makes_nobody_ready(admitted):
    hollow = admitted.report.model_copy(update={"snapshot": None})
    app = with_capabilities(host, hollow)
    assert got(app, PATH_READY)[0] == got(app, PATH_CAPABILITIES)[0] == 503
    assert HEADER_SNAPSHOT_DIGEST not in got(app, "/")[2]


def test_the_report_that_rollout_admit_writes_can_be_wrapped(admitted):
    written = admitted.report.model_dump_json(by_alias=True)
    app = with_capabilities(host, AdmissionReport.model_validate_json(written))
    assert got(app, PATH_READY)[2][HEADER_SNAPSHOT_DIGEST] == admitted.report.snapshot.digest


def test_the_name_of_the_instance_is_the_platforms(admitted, monkeypatch):
    monkeypatch.setenv("ROLLOUT_POD_UID", "green-0")
    assert got(with_capabilities(host, admitted), "/")[2][HEADER_POD_UID] == "green-0"
    monkeypatch.delenv("ROLLOUT_POD_UID")
    uids = {got(with_capabilities(host, admitted), "/")[2][HEADER_POD_UID] for _ in range(2)}
    assert len(uids) == 2


def test_the_wrapper_and_the_agent_import_neither_a_runtime_nor_a_server():
    probe = (
        "import sys\n"
        "for one in ('onnxruntime', 'starlette', 'uvicorn', 'prometheus_client'): sys.modules[one] = None\n"
        "import rollout.serving.asgi, rollout.serving.agent\n"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


# The agent's memory.


def test_an_agent_is_ready_only_while_the_devices_are_those_of_the_proof(admitted, monkeypatch):
    from rollout.serving import agent  # noqa: PLC0415

    report = admitted.report
    now = {**report.snapshot.fields, **report.snapshot.measurements}
    monkeypatch.setattr(agent, "read_devices", lambda *, limit_s: dict(now))  # noqa: ARG005
    standing = agent.Standing(report, limit_s=1)
    standing.look()
    assert standing.report.admitted
    before, now["gpu.count"] = now["gpu.count"], ok(7, "a test")
    standing.look()
    assert not standing.report.admitted
    assert standing.report.findings[0].code == "device_changed"
    assert standing.changes == device_changes(report.snapshot, now)
    now["gpu.count"] = before
    standing.look()
    assert standing.report is report
