"""EPContext nodes, read without the provider that wrote them."""

import sys

import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, load_model_from_string
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as OrtNotImplemented

from rollout.errors import ConfigError
from rollout.serving.plans.ep_context import Beside, Embedded, EpContext, Shared, ep_contexts, read_ep_contexts
from rollout.serving.plans.faults import PlanError
from rollout.serving.plans.names import fault_of_name
from rollout.serving.plans.onnx_file import digest_model, external_names, load_onnx, parse_onnx


def _read(data):
    return ep_contexts(parse_onnx(data, name="x"), name="x")


def _read_all(data):
    model = parse_onnx(data, name="x")
    assert all(isinstance(name, str) for name in external_names(model, name="x"))
    return ep_contexts(model, name="x")


def test_every_attribute_is_read(context_bytes, engine_name):
    (found,) = _read(context_bytes({"ep_sdk_version": "10.9", "partition_name": "p0"}))
    assert found == EpContext(
        compiled=Beside(name=engine_name),
        source="TensorrtExecutionProvider",
        sdk_version="10.9",
        hardware_architecture="90",
        onnx_model_filename="unet.onnx",
        partition_name="p0",
    )


def test_embedded_engine_is_given_whole(context_bytes, plan_bytes):
    (found,) = _read(context_bytes({"embed_mode": 1, "ep_cache_context": plan_bytes()}))
    assert found.compiled == Embedded(data=plan_bytes())


def test_node_that_shares_the_main_nodes_engine_needs_none(context_bytes):
    found = _read(context_bytes({}, {"main_context": 0, "embed_mode": None, "ep_cache_context": None}))
    assert found[1].compiled == Shared()


def test_node_inside_a_branch_is_found(context_bytes):
    inner = load_model_from_string(context_bytes()).graph
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([branch], "g", [], []))
    assert len(_read(model.SerializeToString())) == 2


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x.engine",
        "a/../../x",
        "C:\\x",
        "C:x",
        "a\\b",
        "",
        " ",
        "a//b",
        "a/",
        "a\0b",
        "x..engine",
        ".",
    ],
)
def test_engine_outside_the_models_folder_is_refused(context_bytes, name):
    with pytest.raises(PlanError, match="onnx_path_unsafe"):
        _read(context_bytes({"ep_cache_context": name}))
    assert fault_of_name(name)


@pytest.mark.parametrize("name", ["x.engine", "./x.engine", "sub/x_sm90.engine"])
def test_engine_inside_the_models_folder_is_allowed(context_bytes, name):
    assert _read(context_bytes({"ep_cache_context": name}))[0].compiled == Beside(name=name)


@pytest.mark.parametrize(
    "attributes",
    [
        {"embed_mode": None},
        {"embed_mode": 2},
        {"embed_mode": "1"},
        {"ep_cache_context": None},
        {"ep_cache_context": 7},
        {"ep_cache_context": b"\xff\xfe"},
        {"main_context": 3},
        {"source": 1.5},
        {"hardware_architecture": 90},
    ],
)
def test_node_with_a_missing_or_wrong_attribute_is_damaged(context_bytes, attributes):
    with pytest.raises(PlanError, match="ep_context_damaged"):
        _read(context_bytes(attributes))


def test_attribute_given_twice_is_damaged(context_bytes):
    model = load_model_from_string(context_bytes())
    model.graph.node[0].attribute.append(helper.make_attribute("embed_mode", 1))
    with pytest.raises(PlanError, match="embed_mode twice"):
        _read(model.SerializeToString())


def test_model_without_an_ep_context_node_is_one_that_a_server_would_compile():
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    with pytest.raises(PlanError, match="ep_context_missing"):
        _read(helper.make_model(graph).SerializeToString())


def test_operator_of_that_name_in_another_domain_is_none(context_bytes):
    model = load_model_from_string(context_bytes())
    model.graph.node[0].domain = "elsewhere"
    with pytest.raises(PlanError, match="ep_context_missing"):
        _read(model.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"ftrt" + bytes(100), b"version https://git-lfs.github.com/spec/v1\n", b"\x08"])
def test_file_that_is_no_onnx_is_foreign(tmp_path, data):
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(PlanError, match="onnx_foreign"):
        read_ep_contexts(path)


def test_file_over_the_limit_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # Sparse: nothing this large is written.
    with pytest.raises(PlanError, match="onnx_too_large"):
        load_onnx(path)


def test_missing_onnx_package_is_said_with_what_to_install(monkeypatch, context_bytes):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"rollout\[local\]"):
        parse_onnx(context_bytes(), name="x")


def test_onnx_runtime_without_tensorrt_refuses_an_ep_context_model(context_bytes, plan_bytes):
    data = context_bytes({"embed_mode": 1, "ep_cache_context": plan_bytes()})
    with pytest.raises(OrtNotImplemented, match=r"NOT_IMPLEMENTED.*not compatible with any execution provider"):
        ort.InferenceSession(data, providers=["CPUExecutionProvider"])


def test_digest_of_a_model_covers_weights_beside_it(tmp_path):
    def model(name, weights):
        folder = tmp_path / name
        folder.mkdir()
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="w.bin")
        graph = helper.make_graph([], "g", [], [], initializer=[tensor])
        (folder / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
        (folder / "w.bin").write_bytes(weights)
        return folder / "m.onnx"

    one, same, other = model("one", b"abcd"), model("same", b"abcd"), model("other", b"abce")
    assert one.read_bytes() == other.read_bytes()
    assert digest_model(one) == digest_model(same) != digest_model(other)
    (tmp_path / "one" / "w.bin").unlink()
    with pytest.raises(PlanError, match="plan_object_missing"):
        digest_model(one)


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", ""])
def test_model_whose_weights_lie_elsewhere_is_refused(tmp_path, context_bytes, location):
    path = tmp_path / "m.onnx"
    model = load_model_from_string(context_bytes(external="w.bin"))
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PlanError, match=r"onnx_path_unsafe|onnx_foreign"):
        digest_model(path)


@pytest.mark.parametrize("text", [b"w.bin", b"EPContext", b"com.microsoft", b"embed_mode", b"TensorrtExec"])
def test_text_that_is_not_utf8_is_refused(context_bytes, text):
    data = context_bytes(external="w.bin")
    assert text in data
    with pytest.raises(PlanError, match=r"onnx_foreign|ep_context_missing|ep_context_damaged"):
        _read_all(data.replace(text, b"\xff" * len(text)))


CODES = {"onnx_foreign", "onnx_path_unsafe", "ep_context_missing", "ep_context_damaged"}


def _read_or_typed_error(data):
    try:
        assert _read_all(data)
    except PlanError as error:
        assert error.code in CODES  # noqa: PT017 - either way is right


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_give_nodes_or_the_typed_error(data):
    _read_or_typed_error(data)


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.integers(0, 10**6),
    st.binary(max_size=8),
)
def test_mutated_model_gives_nodes_or_the_typed_error(context_bytes, changes, cut, extra):
    data = bytearray(context_bytes({}, {"embed_mode": 1, "ep_cache_context": b"ftrt"}, external="w.bin"))
    for at, value in changes:
        data[at % len(data)] = value
    at = cut % len(data)
    data[at:at] = extra
    _read_or_typed_error(bytes(data))
    _read_or_typed_error(bytes(data[:at]))
