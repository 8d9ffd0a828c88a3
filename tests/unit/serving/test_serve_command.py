import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rollout.cli.serve import serve
from rollout.files.load import load_admission
from rollout.model.admission import Profile
from rollout.serving import options


@pytest.fixture
def captured(monkeypatch):
    """Replace the server by a recorder of its options; everything before it is real."""
    seen = []
    monkeypatch.setattr("rollout.serving.process.run_server", lambda made: seen.append(made) or 0)
    for name in ("PORT", "ROLLOUT_POD_UID"):
        monkeypatch.delenv(name, raising=False)
    return seen


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("engine", options.EngineKind),
        ("attention", options.Attention),
        ("graph_optimization", options.GraphOptimization),
        ("guidance", options.GuidanceMode),
        ("execution", options.ExecutionMode),
        ("session", options.SessionLifetime),
        ("precision", options.Precision),
        ("prediction", options.Prediction),
        ("arena_strategy", options.ArenaStrategy),
    ],
)
def test_the_command_offers_exactly_the_choices_of_the_server(option, choices):
    (parameter,) = [one for one in serve.params if one.name == option]
    assert list(parameter.type.choices) == [choice.value for choice in choices]


@pytest.mark.parametrize(
    ("name", "precision"), [("gpu", options.Precision.FP16), ("development-cpu", options.Precision.FP32)]
)
def test_the_commands_defaults_are_the_good_release_of_a_profile(captured, monkeypatch, tmp_path, name, precision):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CliRunner().invoke(serve, ["--port", "7000", "--pod-uid", "a", "--admission", name]).exit_code == 0
    admission = load_admission(name).policy
    made = options.ServeOptions(
        port=7000, pod_uid="a", cache=tmp_path / "rollout", admission=admission, precision=precision
    )
    assert captured == [made]


def test_the_cpu_is_used_only_where_it_is_asked_for(captured):
    CliRunner().invoke(serve, ["--port", "7000"])
    assert captured[0].admission.profile is Profile.GPU


def test_port_and_uid_come_from_the_environment(captured):
    result = CliRunner().invoke(serve, [], env={"PORT": "7001", "ROLLOUT_POD_UID": "green-0"})
    assert result.exit_code == 0
    assert (captured[0].port, captured[0].pod_uid) == (7001, "green-0")


def test_a_relative_xdg_cache_is_ignored(captured, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    CliRunner().invoke(serve, ["--port", "7000"])
    assert captured[0].cache == Path.home() / ".cache" / "rollout"


@pytest.mark.parametrize("arguments", [[], ["--port", "0"], ["--port", "1", "--guidance", "none"]])
def test_bad_usage_exits_2(captured, arguments):
    assert CliRunner().invoke(serve, arguments).exit_code == 2
    assert captured == []


def test_naming_the_command_loads_no_server():
    probe = "import sys, rollout.cli.serve; print([m for m in ('numpy','onnxruntime','uvicorn') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--engine", "diffusers", "--arena", "off"], "engine diffusers does not know --arena"),
        (["--engine", "diffusers", "--precision", "int8"], "engine diffusers does not know --precision int8"),
        (["--attention", "sliced"], "engine ort does not know --attention sliced under profile gpu"),
        (
            ["--admission", "development-cpu", "--tf32", "off", "--gpu-memory-limit", "9"],
            "engine ort does not know --gpu-memory-limit, --tf32 under profile development-cpu",
        ),
    ],
)
def test_an_option_that_the_engine_would_ignore_is_refused(captured, arguments, told):
    result = CliRunner().invoke(serve, ["--port", "7000", *arguments])
    assert result.exit_code == 2
    assert told in result.output
    assert captured == []
