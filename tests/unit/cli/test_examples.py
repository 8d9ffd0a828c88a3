"""The files that ship with the product, as the product itself reads them."""

from datetime import date
from pathlib import Path

import pytest

from rollout.cli.serve import serve
from rollout.files.json_schemas import schema_at
from rollout.files.load import (
    json_schema,
    load_admission,
    load_any,
    load_matrix,
    load_policy,
    load_prompts,
    load_release,
    load_stack,
)
from rollout.files.yaml_lines import read_yaml
from rollout.gates.latency import margins_of
from rollout.model.matrix import contradictions
from rollout.model.policy import LatencyMeasure, OnInconclusive
from rollout.serving.image_request import SIDE_MIN, SIDE_MULTIPLE, STEPS_MAX
from rollout.serving.options import ServeOptions
from rollout.stats.margins import PROFILES

TODAY = date(2026, 11, 1)
ROOT = Path(__file__).parents[3]
MATRIX = ROOT / "policies/matrix.yaml"
POLICIES = sorted(set((ROOT / "policies").glob("*.yaml")) - {MATRIX})
OPENED = ROOT / "examples/local/policies/int8.yaml"
RELEASES = sorted((ROOT / "examples/local/releases").glob("*.yaml"))
PROMPTS = sorted((ROOT / "examples/local").glob("prompts*.yaml"))
STACK = ROOT / "examples/local/stack.yaml"
ADMISSIONS = sorted((ROOT / "rollout/serving/policies").glob("*.yaml"))
GPU = ROOT / "examples/gpu"
GPU_RELEASES = sorted((GPU / "releases").glob("*.yaml"))
GPU_POLICY = GPU / "policies/gpu.yaml"
ALL = [
    *POLICIES,
    MATRIX,
    OPENED,
    *RELEASES,
    *PROMPTS,
    STACK,
    *GPU_RELEASES,
    GPU_POLICY,
    GPU / "prompts.yaml",
    GPU / "stack.yaml",
]

# Read by hand from rollout.serving.collectors: what a machine without a GPU collects on every run.
COLLECTED_ANYWHERE = {
    "model.unet.digest",
    "model.weights.digest",
    "policy.profile",
    "runtime.ort.graph_optimization",
    "runtime.ort.package",
    "runtime.ort.providers.actual",
    "runtime.ort.version",
}


def _name(path):
    return str(path.relative_to(ROOT))


def test_all_kinds_of_files_ship():
    assert {load_any(path, today=TODAY) for path in ALL} == {"policy", "release", "prompts", "stack", "matrix"}
    assert [path.stem for path in POLICIES] == ["local", "standard", "strict"]


@pytest.mark.parametrize("path", [*POLICIES, OPENED, GPU_POLICY, *RELEASES, *GPU_RELEASES], ids=_name)
def test_a_shipped_file_carries_the_name_of_its_file(path):
    loaded = load_policy(path) if "policies" in path.parts else load_release(path)
    assert loaded.name == path.stem


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_every_shipped_file_says_what_it_is_for(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_every_key_of_a_shipped_file_stands_in_its_json_schema(path):
    text = path.read_text()
    schema = json_schema(load_any(path, today=TODAY))
    for key in read_yaml(text, name=path.name).places:
        assert schema_at(schema, key), key


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_the_margins_of_the_statistics(name):
    assert margins_of(load_policy(ROOT / f"policies/{name}.yaml").latency) == PROFILES[name]


@pytest.mark.parametrize("path", POLICIES, ids=_name)
def test_a_shipped_policy_can_be_kept(path):
    """The history is long enough for the tail, one failure is bearable, and holds end before the run does."""
    policy = load_policy(path)
    assert policy.latency.measure is LatencyMeasure.SERVICE
    assert policy.history.pairs * (1 - policy.latency.tail_quantile) >= policy.latency.tail_quantile
    assert policy.history.pairs >= 100
    assert policy.history.blocks >= 4
    assert policy.live.requests_min * policy.live.error_rate_max in {0, 1}
    assert policy.deadlines.hold_s < policy.deadlines.run_s
    assert policy.deadlines.rollback_s < policy.deadlines.run_s


def test_strict_demands_no_less_than_standard():
    strict, standard = (load_policy(ROOT / f"policies/{name}.yaml") for name in ("strict", "standard"))
    assert strict.on_inconclusive is OnInconclusive.HOLD
    assert set(strict.capabilities.required) > set(standard.capabilities.required) > {"gpu.devices"}
    assert strict.pictures.psnr_db_min >= standard.pictures.psnr_db_min
    assert strict.errors.rate_max <= standard.errors.rate_max
    assert strict.shift.pairs_per_step >= standard.shift.pairs_per_step
    assert strict.soak.pairs >= standard.soak.pairs
    assert strict.live.requests_min > standard.live.requests_min > 0


def test_the_local_policy_demands_only_what_every_machine_can_prove():
    assert set(load_policy(ROOT / "policies/local.yaml").capabilities.required) == COLLECTED_ANYWHERE


def test_the_shipped_matrix_agrees_with_itself_and_its_keys_are_documented():
    matrix = load_matrix(MATRIX)
    assert matrix.name == MATRIX.stem
    assert contradictions(matrix) == ()
    assert (matrix.onnxruntime.package, matrix.onnxruntime.version) == ("onnxruntime-gpu", "1.31.1")
    text = (ROOT / "docs/matrix.md").read_text()
    for key in read_yaml(MATRIX.read_text(), name="matrix").places:
        name = ".".join(one for one in key if isinstance(one, str))
        assert f"`{name}`" in text or any(part.startswith(f"`{name}.") for part in text.split()), name


def test_the_policy_that_accepts_int8_is_the_local_one_but_for_that():
    local, opened = load_policy(ROOT / "policies/local.yaml"), load_policy(OPENED)
    assert local.accuracy is None
    assert opened.accuracy is not None
    assert opened.accuracy.precisions == ["int8"]
    prompts = load_prompts(ROOT / "examples/local/prompts.yaml").prompts
    assert opened.accuracy.prompts_min <= len(prompts)
    assert opened.model_copy(update={"name": "local", "accuracy": None}) == local


def test_the_stack_of_the_demo_names_files_that_exist():
    loaded = load_stack(STACK)
    assert load_policy(loaded.policy).name == "local"
    assert load_prompts(loaded.prompts).prompts
    assert loaded.state == ROOT / ".rollout/local-demo"


@pytest.mark.parametrize("path", PROMPTS, ids=_name)
def test_the_reference_server_can_draw_every_prompt(path):
    good = ServeOptions(port=1, pod_uid="good", cache=Path(), admission=load_admission("development-cpu").policy)
    for prompt in load_prompts(path).prompts:
        assert prompt.steps <= STEPS_MAX
        for side in map(int, prompt.size.split("x")):
            assert SIDE_MIN <= side <= good.side_max
            assert side % SIDE_MULTIPLE == 0


def test_the_demo_warms_one_shape_and_the_mixed_set_three():
    shapes = {path.stem: len(load_prompts(path).shapes()) for path in PROMPTS}
    assert shapes == {"prompts": 1, "prompts-mixed": 3}


@pytest.mark.parametrize("path", [*RELEASES, *GPU_RELEASES], ids=_name)
def test_the_reference_server_takes_the_options_of_every_release(path, monkeypatch):
    monkeypatch.setenv("PORT", "8000")
    command = load_release(path).command
    assert command[:2] == ["rollout", "serve"]
    serve.make_context("serve", command[2:])


def test_blue_and_good_are_one_stack_and_two_releases():
    blue, good = (load_release(ROOT / f"examples/local/releases/{name}.yaml") for name in ("blue", "good"))
    assert blue.command == good.command
    assert blue.digest != good.digest


def test_no_two_releases_are_the_same():
    assert len({load_release(path).digest for path in RELEASES}) == len(RELEASES)


def test_every_mistake_differs_from_blue_in_one_option_and_parallel_in_its_default_spinning_too():
    for path in RELEASES:
        options = load_release(path).command[4::2]
        expected = {"blue": 0, "good": 0, "parallel": 2}.get(path.stem, 1)
        assert len(options) == expected, path.stem


def test_every_key_of_a_policy_is_documented():
    text = (ROOT / "docs/policy.md").read_text()
    places = set(read_yaml(OPENED.read_text(), name="policy").places)
    sections = {key[:-1] for key in places if key and not isinstance(key[-1], int)}
    for key in places - sections:
        assert isinstance(key[-1], int) or f"`{'.'.join(key)}`" in text, key


@pytest.mark.parametrize("path", ADMISSIONS, ids=_name)
def test_every_key_of_a_shipped_admission_policy_stands_in_the_table_of_its_page(path):
    """A nested key stands in the row of its section; `schema` is the same in every kind of file."""
    rows = [line for line in (ROOT / "docs/admission.md").read_text().splitlines() if line.startswith("| `")]
    explained = {line.split("`")[1]: line for line in rows}
    keys = {key for key in read_yaml(path.read_text(), name=path.name).places if key and isinstance(key[-1], str)}
    for key in keys - {("schema",), ("name",)}:
        assert f"`{key[-1]}`" in explained.get(key[0], ""), key


def test_no_key_of_an_admission_policy_is_left_out_of_its_page():
    rows = [line for line in (ROOT / "docs/admission.md").read_text().splitlines() if line.startswith("| `")]
    known = set(json_schema("admission")["properties"])
    assert {line.split("`")[1] for line in rows} == known - {"schema", "name"}
