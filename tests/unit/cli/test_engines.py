"""`rollout engines`: the plan store from the command line."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from rollout.cli.app import run
from rollout.serving.options import Precision

_SPEC = importlib.util.spec_from_file_location(
    "rollout_test_plans", Path(__file__).parents[1] / "serving" / "plans" / "conftest.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
_PLANS = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _PLANS
_SPEC.loader.exec_module(_PLANS)

MODEL = "sha256:" + "a" * 64
KEY = ["--width", "512", "--height", "512", "--batch", "1", "--precision", "fp16", "--sm", "9.0"]


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / _PLANS.ENGINE_NAME
    path.write_bytes(_PLANS.plan_bytes())
    return path


@pytest.fixture
def rollout(store, capsys):
    def call(verb, *arguments):
        code = run(["engines", verb, *map(str, arguments), "--store", str(store)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture
def filled(rollout, plan):
    assert rollout("add", plan, "--model", MODEL, *KEY)[0] == 0
    return rollout


def test_added_plan_is_listed_with_its_key_and_verified(filled):
    code, out, _ = filled("list")
    assert code == 0
    assert "512x512, batch 1, fp16, TensorRT 10.9.0.34, sm90: " in out
    assert filled("verify")[:2] == (0, "sound: 1 plans, 0 findings\n")
    told = json.loads(filled("list", "--output", "json")[1])
    assert told["schema"] == "rollout.engines/v1"
    assert told["plans"][0]["key"] == _PLANS.key_of().model_dump(mode="json")
    assert told["plans"][0]["bytes"] == 500


def test_model_may_be_given_as_a_file(rollout, plan, tmp_path):
    path = tmp_path / "unet.onnx"
    path.write_bytes(_PLANS.context_bytes())
    assert rollout("add", plan, "--model", path, *KEY)[0] == 0
    assert json.loads(rollout("list", "--output", "json")[1])["plans"][0]["key"]["model"].startswith("sha256:")


def test_changed_byte_makes_verify_exit_3_and_says_where(filled, store):
    (path,) = (store / "objects").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    code, out, _ = filled("verify")
    assert code == 3
    assert "block plan_changed: " in out
    assert out.endswith("NOT sound: 1 plans, 1 findings\n")
    told = json.loads(filled("verify", "--output", "json")[1])
    assert (told["sound"], told["plans"], told["faults"][0]["code"]) == (False, 1, "plan_changed")
    assert filled("list")[0] == 0


def test_orphan_is_a_warning_that_prune_removes(filled, store):
    (store / "objects" / ("0" * 64)).write_bytes(b"12345")
    code, out, _ = filled("verify")
    assert code == 0
    assert "warn  plan_orphan" in out
    assert filled("prune", "--dry-run")[1].endswith("5 bytes would be freed\n")
    told = json.loads(filled("prune", "--output", "json")[1])
    assert (told["bytes_freed"], told["files"], told["dry_run"]) == (5, ["0" * 64], False)
    assert filled("verify")[1] == "sound: 1 plans, 0 findings\n"


def test_prune_keeps_the_named_tensorrt_and_refuses_to_empty_the_store(filled, plan):
    plan.write_bytes(_PLANS.plan_bytes("10.8.0.43"))
    assert filled("add", plan, "--model", MODEL, *KEY)[0] == 0
    code, out, _ = filled("prune", "--keep-tensorrt", "10.9.0.34")
    assert code == 0
    assert "removed key model aaaaaaaaaaaa, 512x512, batch 1, fp16, TensorRT 10.8.0.43, sm90" in out
    assert filled("prune", "--keep-tensorrt", "10.8.0.43")[0] == 2
    assert filled("prune", "--keep-tensorrt", "10.8")[0] == 2


def test_damaged_manifest_is_told_by_list_and_verify_and_stops_prune(filled, store):
    (path,) = (store / "manifests").iterdir()
    path.write_bytes(b"{")
    for verb, expected in (("list", 3), ("verify", 3), ("prune", 4)):
        code, out, err = filled(verb)
        assert code == expected
        assert "plan_manifest_damaged" in out + err


@pytest.mark.parametrize("verb", ["list", "verify", "prune"])
def test_folder_that_is_no_store_exits_2(rollout, store, verb):
    assert rollout(verb)[0] == 2
    store.write_text("")
    assert rollout(verb)[0] == 2


def test_foreign_file_is_bad_input_with_a_remedy(rollout, plan, store):
    plan.write_bytes(b"PK\x03\x04" + bytes(50))
    code, _, err = rollout("add", plan, "--model", MODEL, *KEY)
    assert code == 2
    assert "plan_foreign" in err
    assert ".engine, .plan" in err
    assert not store.exists()


@pytest.mark.parametrize(
    "wrong",
    [["--sm", "hopper"], ["--width", "0"], ["--precision", "fp8"], ["--model", "sha256:12"], ["--model", "nowhere"]],
)
def test_wrong_option_exits_2(rollout, plan, wrong):
    assert rollout("add", plan, "--model", MODEL, *KEY, *wrong)[0] == 2


def test_place_copies_the_plan_and_exits_3_with_the_nearest_where_there_is_none(filled, plan, tmp_path):
    asked = ["--model", MODEL, *KEY, "--to", tmp_path / "cache", "--tensorrt"]
    code, out, _ = filled("place", *asked, "10.9.0.34")
    assert code == 0
    assert Path(out.strip()).read_bytes() == plan.read_bytes()
    code, _, err = filled("place", *asked, "10.9.0.33")
    assert code == 3
    assert "plan_missing" in err
    assert "tensorrt 10.9.0.34 instead of 10.9.0.33" in err


def test_inspect_prints_a_header_or_the_ep_context(plan, tmp_path, capsys):
    assert run(["engines", "inspect", str(plan)]) == 0
    assert json.loads(capsys.readouterr().out)["tensorrt"] == "10.9.0.34"
    context = tmp_path / "m.onnx"
    context.write_bytes(
        _PLANS.context_bytes(
            {},
            {"embed_mode": 1, "ep_cache_context": _PLANS.plan_bytes()},
            {"embed_mode": 1, "ep_cache_context": b"other"},
            {"main_context": 0},
        )
    )
    assert run(["engines", "inspect", str(context)]) == 0
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert [one["engine"] for one in nodes] == ["beside", "inside", "inside", "shared with the main node"]
    assert (nodes[0]["hardware_architecture"], nodes[1]["tensorrt"]) == ("90", "10.9.0.34")
    assert "plan_foreign" in nodes[2]["fault"]
    context.write_bytes(b"no model")
    assert run(["engines", "inspect", str(context)]) == 2


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="This machine may be able to build.")
def test_build_on_a_machine_without_a_gpu_exits_5_and_says_what_is_missing(rollout, store, tmp_path):
    path = tmp_path / "unet.onnx"
    path.write_bytes(_PLANS.context_bytes())
    code, _, err = rollout("build", path, *KEY)
    assert code == 5
    assert "plan_build_impossible" in err
    assert not store.exists()


@pytest.mark.parametrize("dim", ["batch", "=2", "batch=0", "batch=x", "batch=-1"])
def test_wrong_dimension_exits_2(rollout, tmp_path, dim):
    path = tmp_path / "unet.onnx"
    path.write_bytes(_PLANS.context_bytes())
    assert rollout("build", path, *KEY, "--dim", dim)[0] == 2


def test_every_precision_of_the_server_can_be_asked_for():
    from rollout.cli.commands.engines import add  # noqa: PLC0415

    (option,) = (one for one in add.params if one.name == "precision")
    assert list(option.type.choices) == [one.value for one in Precision]
