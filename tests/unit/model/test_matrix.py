"""The version matrix: pins that contradict each other are found, and so is everything that differs from a pin."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rollout.errors import ConfigError
from rollout.model.matrix import (
    Matrix,
    compare_labels,
    compare_packages,
    compare_snapshot,
    contradictions,
    lock,
    product_name,
)
from rollout.model.matrix_facts import ARCHITECTURES, ORT_BUILDS, PRODUCT_CAPABILITY
from rollout.model.snapshot import SNAPSHOT_SCHEMA, CapabilitySnapshot, failed, ok, unavailable

PINS = {
    "schema": "rollout.matrix/v1",
    "name": "l4",
    "driver": {"branches": [580], "lowest": "580.65.06"},
    "cuda": "13.0",
    "cudnn": "9.15.0",
    "onnxruntime": {"package": "onnxruntime-gpu", "version": "1.31.1"},
    "tensorrt": "10.13.3",
    "torch": None,
    "base_image": None,
    "gpus": {"products": ["NVIDIA-L4"], "compute_capabilities": ["8.9"]},
}
FIELDS = {
    "gpu.driver.version": "580.95.05",
    "gpu.driver.cuda_version": "13.0",
    "gpu.product": ["NVIDIA L4", "NVIDIA L4"],
    "gpu.compute_capability": ["8.9", "8.9"],
    "runtime.ort.version": "1.31.1",
    "runtime.ort.package": ["onnxruntime-gpu 1.31.1"],
    "runtime.ort.cuda_version": "13.0",
    "runtime.cudnn.version": 91500,
    "runtime.tensorrt.version": "10.13.3.9",
}
TORCH = {
    **{key: value for key, value in FIELDS.items() if ".ort." not in key and "tensorrt" not in key},
    "runtime.torch.version": "2.13.0+cu130",
    "runtime.torch.cuda.version": "13.0",
}
LABELS = {
    "nvidia.com/cuda.driver-version.full": "580.95.05",
    "nvidia.com/gpu.product": "NVIDIA-L4",
    "nvidia.com/gpu.compute.major": "8",
    "nvidia.com/gpu.compute.minor": "9",
}
WHEELS = [
    "onnxruntime_gpu-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia_cudnn_cu13==9.15.0.57",
    "tensorrt-cu13==10.13.3.9.post1",
    "tensorrt_cu13_libs==10.13.3.9.post1",
    "numpy==2.3.4",
]
CUDA_IMAGE = "registry.example/nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04@sha256:" + 64 * "a"
TORCH_PINS = {"onnxruntime": None, "tensorrt": None, "torch": "2.13.0"}


def _matrix(**pins):
    return Matrix.model_validate(_body(pins))


def _body(pins):
    body = copy.deepcopy(PINS)
    for path, value in pins.items():
        *sections, key = path.split("__")
        section = body
        for one in sections:
            section = section[one]
        section[key] = value
    return body


def _snapshot(fields):
    made = {key: value if hasattr(value, "status") else ok(value, "test") for key, value in fields.items()}
    return CapabilitySnapshot.model_validate({"schema": SNAPSHOT_SCHEMA, "fields": made})


def _texts(reasons, code):
    assert {one.code for one in reasons} == {code}, reasons
    return [one.text for one in reasons]


# The file.


@pytest.mark.parametrize("key", [key for key in PINS if key != "schema"])
def test_every_key_must_be_written(key):
    body = {name: value for name, value in PINS.items() if name != key}
    with pytest.raises(ValidationError, match="Field required"):
        Matrix.model_validate(body)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cuda", "13"),
        ("cuda", 13.0),
        ("cudnn", "9.15"),
        ("driver__lowest", "580"),
        ("driver__branches", []),
        ("onnxruntime__version", "1.31"),
        ("onnxruntime__version", ">=1.31.1"),
        ("onnxruntime__package", "Onnxruntime_GPU"),
        ("tensorrt", "10"),
        ("torch", "2.13.0+cu130"),
        ("base_image", "nvidia/cuda:13.0.1-runtime-ubuntu24.04"),
        ("gpus__products", []),
        ("gpus__compute_capabilities", ["89"]),
    ],
)
def test_a_pin_that_leaves_room_is_refused(path, value):
    with pytest.raises(ValidationError):
        _matrix(**{path: value})


def test_a_matrix_without_a_runtime_is_refused():
    with pytest.raises(ValidationError, match="onnxruntime and torch must not both be null"):
        _matrix(onnxruntime=None)


# Contradictions.


@pytest.mark.parametrize(
    "pins",
    [
        {},
        {"cudnn": "9"},
        {"cudnn": None, "tensorrt": None},
        {"driver__branches": [580, 590]},
        {"base_image": CUDA_IMAGE},
        TORCH_PINS,
        {"cuda": "12.8", "cudnn": "9.1.0", "onnxruntime__version": "1.26.0", "tensorrt": "10.9.0"},
        {"cuda": "13.0", "gpus__products": ["Tesla-T4", "NVIDIA RTX A6000"], "gpus__compute_capabilities": ["7.5"]},
    ],
)
def test_pins_that_fit_have_no_contradiction(pins):
    assert contradictions(_matrix(**pins)) == ()


@pytest.mark.parametrize(
    ("pins", "code", "text"),
    [
        (
            {"driver": {"branches": [570, 580], "lowest": "570.86.15"}},
            "matrix_driver_cuda",
            "CUDA 13.0 needs a driver of branch 580 or later, and 570 is allowed",
        ),
        (
            {
                "driver": {"branches": [515], "lowest": "515.43.04"},
                "cuda": "12.8",
                "onnxruntime__version": "1.26.0",
            },
            "matrix_driver_cuda",
            "CUDA 12.8 needs a driver of branch 525 or later, and 515 is allowed",
        ),
        (
            {"driver__lowest": "590.44.01"},
            "matrix_driver_branch",
            "driver.lowest is 590.44.01, of none of the allowed branches 580",
        ),
        (
            {"driver": {"branches": [580, 590], "lowest": "590.44.01"}},
            "matrix_driver_branch",
            "driver.branches allows 580, and driver.lowest 590.44.01 excludes it",
        ),
        ({"cuda": "12.8"}, "matrix_ort_build", "onnxruntime-gpu 1.31.1 needs cuda 13, and 12.8 is pinned"),
        (
            {"cuda": "13.0", "onnxruntime__version": "1.26.0"},
            "matrix_ort_build",
            "onnxruntime-gpu 1.26.0 needs cuda 12, and 13.0 is pinned",
        ),
        (
            {"tensorrt": "11.1.0"},
            "matrix_ort_build",
            "onnxruntime-gpu 1.31.1 needs tensorrt 10, and 11.1.0 is pinned",
        ),
        (
            {"cuda": "12.8", "cudnn": "8.9.7", "onnxruntime__version": "1.22.0"},
            "matrix_ort_build",
            "onnxruntime-gpu 1.22.0 needs cudnn 9, and 8.9.7 is pinned",
        ),
        ({"onnxruntime__package": "onnxruntime"}, "matrix_ort_build", "onnxruntime has no CUDA provider"),
        (
            {"tensorrt": "10.13.0"},
            "matrix_library_cuda",
            "tensorrt 10.13.0 was not built for CUDA 13.0; the first that was is 10.13.2",
        ),
        (
            {"cudnn": "9.10.2"},
            "matrix_library_cuda",
            "cudnn 9.10.2 was not built for CUDA 13.0; the first that was is 9.12.0",
        ),
        (
            {"gpus": {"products": ["Tesla V100-SXM2-16GB"], "compute_capabilities": ["7.0"]}},
            "matrix_gpu_cuda",
            "CUDA 13.0 dropped compute capability 7.0; the last was 12",
        ),
        (
            {
                "cuda": "12.4",
                "onnxruntime__version": "1.22.0",
                "gpus": {"products": ["NVIDIA B200"], "compute_capabilities": ["10.0"]},
            },
            "matrix_gpu_cuda",
            "compute capability 10.0 needs CUDA 12.8, and 12.4 is pinned",
        ),
        (
            {"gpus__compute_capabilities": ["8.6"]},
            "matrix_gpu_capability",
            "NVIDIA-L4 has compute capability 8.9, and 8.6 is pinned",
        ),
        (
            {"gpus__products": ["NVIDIA L4", "NVIDIA-L4"]},
            "matrix_two_truths",
            "gpus.products: NVIDIA-L4 stands there 2 times",
        ),
        ({"driver__branches": [580, 580]}, "matrix_two_truths", "driver.branches: 580 stands there 2 times"),
        (
            {"gpus__compute_capabilities": ["8.9", "8.9"]},
            "matrix_two_truths",
            "gpus.compute_capabilities: 8.9 stands there 2 times",
        ),
        (
            {"cuda": "12.8", "onnxruntime__version": "1.26.0", "base_image": CUDA_IMAGE},
            "matrix_two_truths",
            "cuda is 12.8, and base_image is an image of CUDA 13.0",
        ),
        (
            {"onnxruntime__version": "1.99.0"},
            "matrix_ort_unknown",
            "not known here: which CUDA, cuDNN and TensorRT onnxruntime-gpu 1.99.0 needs",
        ),
        (
            {"onnxruntime__version": "1.31.0.dev20260101"},
            "matrix_ort_unknown",
            "not known here: which CUDA, cuDNN and TensorRT onnxruntime-gpu 1.31.0.dev20260101 needs",
        ),
        (
            {"onnxruntime__package": "onnxruntime-ours"},
            "matrix_ort_unknown",
            "not known here: which CUDA, cuDNN and TensorRT onnxruntime-ours 1.31.1 needs",
        ),
        (
            {**TORCH_PINS, "cuda": "14.0", "cudnn": None},
            "matrix_unknown",
            "not known here: which driver CUDA 14.0 needs",
        ),
        (
            {"gpus": {"products": ["NVIDIA X1"], "compute_capabilities": ["13.0"]}},
            "matrix_unknown",
            "not known here: which CUDA versions support compute capability 13.0",
        ),
    ],
)
def test_a_contradiction_is_found_and_nothing_else_is(pins, code, text):
    assert _texts(contradictions(_matrix(**pins)), code) == [text]


def test_the_tables_agree_with_one_another():
    """Every known GPU has an architecture, no two overlap, and later ONNX Runtimes never need an older CUDA."""
    for capability in PRODUCT_CAPABILITY.values():
        numbers = tuple(map(int, capability.split(".")))
        assert sum(one.lowest <= numbers <= one.highest for one in ARCHITECTURES) == 1
    majors = [build.cuda for _, build in sorted(ORT_BUILDS.items())]
    assert majors == sorted(majors)


# Snapshots.


def test_a_server_that_fits_has_no_reason_against_it():
    assert compare_snapshot(_matrix(), _snapshot(FIELDS)) == ()
    assert compare_snapshot(_matrix(**TORCH_PINS), _snapshot(TORCH)) == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (
            "gpu.driver.version",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (x)",
        ),
        ("gpu.driver.cuda_version", "13.1"),
        ("gpu.driver.cuda_version", 13010),
        ("gpu.product", "NVIDIA-L4-SHARED"),
        ("gpu.compute_capability", "8.9"),
        ("runtime.cudnn.version", "9.15.0"),
        ("runtime.cudnn.version", "91500"),
        ("runtime.tensorrt.version", "10.13.3"),
        ("runtime.ort.package", ["onnxruntime-gpu 1.31.1+ours"]),
    ],
)
def test_the_same_fact_in_another_spelling_fits(key, value):
    assert compare_snapshot(_matrix(), _snapshot({**FIELDS, key: value})) == ()


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("gpu.driver.version", "580.12.01", "wanted branch 580, 580.65.06 or later, found 580.12.01"),
        ("gpu.driver.version", "590.44.01", "wanted branch 580, 580.65.06 or later, found 590.44.01"),
        ("gpu.driver.version", "no driver", "wanted branch 580, 580.65.06 or later, found no driver"),
        ("gpu.driver.cuda_version", "12.8", "wanted 13.0 or later, for CUDA 13.0, found 12.8"),
        ("gpu.driver.cuda_version", "none", "wanted 13.0 or later, for CUDA 13.0, found none"),
        ("gpu.product", ["NVIDIA L4", "NVIDIA A10"], "wanted NVIDIA-L4, found NVIDIA A10"),
        ("gpu.compute_capability", ["8.9", "8.6"], "wanted 8.9, found 8.6"),
        ("runtime.ort.version", "1.31.0", "wanted 1.31.1, found 1.31.0"),
        (
            "runtime.ort.package",
            ["onnxruntime 1.31.1"],
            "wanted onnxruntime-gpu 1.31.1, found onnxruntime 1.31.1",
        ),
        ("runtime.ort.cuda_version", "13.1", "wanted 13.0, found 13.1"),
        ("runtime.cudnn.version", 91002, "wanted 9.15.0, found 91002"),
        ("runtime.cudnn.version", "8.9.7", "wanted 9.15.0, found 8.9.7"),
        ("runtime.tensorrt.version", "10.13.2.6", "wanted 10.13.3, found 10.13.2.6"),
        ("runtime.torch.version", "2.13.0", "wanted not used (null), found 2.13.0"),
    ],
)
def test_a_difference_names_key_wanted_and_found(key, value, text):
    assert _texts(compare_snapshot(_matrix(), _snapshot({**FIELDS, key: value})), "matrix_mismatch") == [
        f"{key}: {text}"
    ]


def test_a_torch_of_another_cuda_is_found():
    found = compare_snapshot(_matrix(**TORCH_PINS), _snapshot({**TORCH, "runtime.torch.cuda.version": "12.8"}))
    assert _texts(found, "matrix_mismatch") == ["runtime.torch.cuda.version: wanted 13.0, found 12.8"]


@pytest.mark.parametrize("key", FIELDS)
@pytest.mark.parametrize("how", ["absent", "unavailable", "failed", "empty"])
def test_a_pinned_field_that_was_not_collected_is_a_reason_whatever_the_cause(key, how):
    fields = dict(FIELDS)
    del fields[key]
    if how != "absent":
        fields[key] = {"unavailable": unavailable("x", "no"), "failed": failed("x", "no"), "empty": ok([], "x")}[how]
    (text,) = _texts(compare_snapshot(_matrix(), _snapshot(fields)), "matrix_not_collected")
    assert text.startswith(f"{key}: wanted ")


def test_a_part_that_is_not_used_may_be_silent_but_its_collector_may_not_fail():
    matrix = _matrix(tensorrt=None)
    fields = {key: value for key, value in FIELDS.items() if key != "runtime.tensorrt.version"}
    assert compare_snapshot(matrix, _snapshot(fields)) == ()
    assert compare_snapshot(matrix, _snapshot({**fields, "runtime.tensorrt.version": unavailable("x", "no")})) == ()
    broken = _snapshot({**fields, "runtime.tensorrt.version": failed("x", "no")})
    _texts(compare_snapshot(matrix, broken), "matrix_not_collected")


def test_two_distributions_of_onnxruntime_are_a_reason_of_their_own():
    fields = {**FIELDS, "runtime.ort.package": ["onnxruntime 1.31.1", "onnxruntime-gpu 1.31.1"]}
    assert _texts(compare_snapshot(_matrix(), _snapshot(fields)), "matrix_ort_twice") == [
        "runtime.ort.package: onnxruntime 1.31.1, onnxruntime-gpu 1.31.1 hide one another"
    ]


@pytest.mark.parametrize(
    ("packed", "pin"), [(91002, "9.10.2"), (90100, "9.1.0"), (8907, "8.9.7"), (91002, "9"), ("91002", "9")]
)
def test_cudnn_packed_into_one_number_is_read(packed, pin):
    assert compare_snapshot(_matrix(cudnn=pin), _snapshot({**FIELDS, "runtime.cudnn.version": packed})) == ()


# Names of GPUs.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA L4", "NVIDIA-L4"),
        ("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "NVIDIA-A100-SXM4-40GB"),
        ("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", "NVIDIA-A100-SXM4-40GB"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me-SHARED", "NVIDIA-H100-80GB-HBM3"),
        ("Tesla-T4-SHARED", "Tesla-T4"),
    ],
)
def test_spellings_of_a_gpu_are_one_name(text, name):
    assert product_name(text) == name


# Nodes.


@pytest.mark.parametrize(
    "driver",
    [
        {"nvidia.com/cuda.driver-version.full": "580.95.05"},
        {
            "nvidia.com/cuda.driver-version.major": "580",
            "nvidia.com/cuda.driver-version.minor": "95",
            "nvidia.com/cuda.driver-version.revision": "05",
        },
        {
            "nvidia.com/cuda.driver.major": "580",
            "nvidia.com/cuda.driver.minor": "95",
            "nvidia.com/cuda.driver.rev": "05",
        },
        {
            "nvidia.com/cuda.driver.major": "580",
            "nvidia.com/cuda.driver.minor": "126",
            "nvidia.com/cuda.driver.rev": "",
        },
    ],
)
def test_a_node_that_fits_has_no_reason_against_it_whatever_wrote_its_labels(driver):
    labels = {key: value for key, value in LABELS.items() if "driver" not in key}
    assert compare_labels(_matrix(), {**labels, **driver, "nvidia.com/gpu.product": "NVIDIA-L4-SHARED"}) == ()


@pytest.mark.parametrize(
    ("label", "value", "text"),
    [
        ("nvidia.com/cuda.driver-version.full", "570.86.15", "wanted branch 580, 580.65.06 or later, found 570.86.15"),
        ("nvidia.com/gpu.product", "NVIDIA-A10", "wanted NVIDIA-L4, found NVIDIA-A10"),
        ("nvidia.com/gpu.compute.major", "9", "wanted 8.9, found 9.9"),
    ],
)
def test_a_node_that_differs_is_found(label, value, text):
    found = compare_labels(_matrix(), {**LABELS, label: value})
    assert _texts(found, "matrix_mismatch") == [f"{label}: {text}"]


@pytest.mark.parametrize("label", LABELS)
def test_a_node_without_a_label_is_a_reason(label):
    labels = {key: value for key, value in LABELS.items() if key != label}
    assert len(_texts(compare_labels(_matrix(), labels), "matrix_not_collected")) == 1


# Packages.


def test_a_list_of_packages_that_fits_has_no_reason_against_it():
    assert compare_packages(_matrix(), WHEELS) == ()
    torch = ["torch==2.13.0+cu130", "nvidia-cuda-runtime==13.0.96", "nvidia-cudnn-cu13==9.15.0.57"]
    assert compare_packages(_matrix(**TORCH_PINS), torch) == ()


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("onnxruntime-gpu==1.31.0", ["onnxruntime-gpu: wanted 1.31.1, found 1.31.0"]),
        ("onnxruntime-gpu>=1.20", ["onnxruntime-gpu: wanted 1.31.1, found >=1.20"]),
        ("nvidia-cuda-runtime==12.8.90", ["nvidia-cuda-runtime: wanted 13, found 12.8.90"]),
        ("nvidia-cudnn-cu13==9.12.0.46", ["nvidia-cudnn-cu13: wanted 9.15.0, found 9.12.0.46"]),
        (
            "nvidia-cudnn-cu12==9.15.0.57",
            ["nvidia-cudnn-cu12: wanted a build for CUDA 13.0, found one for CUDA 12"],
        ),
        ("tensorrt==11.1.0", ["tensorrt: wanted 10.13.3, found 11.1.0"]),
        ("torch==2.13.0", ["torch: wanted not used (null), found 2.13.0"]),
        ("torch==2.13.0+cpu", ["torch: wanted not used (null), found 2.13.0+cpu"]),
    ],
)
def test_a_package_that_differs_is_found(line, texts):
    assert _texts(compare_packages(_matrix(), [*WHEELS, line]), "matrix_mismatch") == texts


@pytest.mark.parametrize("local", ["cu126", "cpu"])
def test_a_torch_built_for_another_cuda_is_found_by_its_local_version(local):
    wheels = [f"torch==2.13.0+{local}", "nvidia-cuda-runtime==13.0.96", "nvidia-cudnn-cu13==9.15.0.57"]
    assert _texts(compare_packages(_matrix(**TORCH_PINS), wheels), "matrix_mismatch") == [
        f"torch: wanted a build for CUDA 13.0, found 2.13.0+{local}"
    ]


@pytest.mark.parametrize(
    ("gone", "key"),
    [("onnxruntime", "onnxruntime-gpu"), ("nvidia-cuda", "cuda"), ("nvidia_cudnn", "cudnn"), ("tensorrt", "tensorrt")],
)
def test_a_pinned_package_that_is_absent_is_a_reason(gone, key):
    (text,) = _texts(
        compare_packages(_matrix(), [line for line in WHEELS if not line.startswith(gone)]), "matrix_not_collected"
    )
    assert text.startswith(f"{key}: wanted ")


def test_the_cpu_build_in_place_of_the_gpu_build_is_named():
    (text,) = _texts(compare_packages(_matrix(), ["onnxruntime==1.31.1", *WHEELS[1:]]), "matrix_not_collected")
    assert text.endswith("nothing was found: the list has onnxruntime instead")


def test_libraries_may_come_from_a_pinned_base_image_but_runtimes_may_not():
    matrix = _matrix(base_image=CUDA_IMAGE)
    assert compare_packages(matrix, WHEELS[:1]) == ()
    _texts(compare_packages(matrix, []), "matrix_not_collected")
    _texts(compare_packages(matrix, [*WHEELS[:1], "tensorrt==11.1.0"]), "matrix_mismatch")


def test_onnxruntime_beside_onnxruntime_gpu_is_a_reason():
    assert _texts(compare_packages(_matrix(), [*WHEELS, "onnxruntime==1.31.1"]), "matrix_ort_twice") == [
        "packages: onnxruntime-gpu, onnxruntime hide one another"
    ]


# Locking.

MACHINES = st.fixed_dictionaries(
    {
        "branch": st.sampled_from([580, 590, 615]),
        "patch": st.integers(10, 999),
        "cuda": st.sampled_from(["13.0", "13.1"]),
        "cudnn": st.sampled_from([91500, "9.15.0", "9.15.0.57", 92801, None]),
        "tensorrt": st.sampled_from(["10.13.3.9", "10.14.1", None]),
        "ort": st.sampled_from(["1.31.1", "1.27.0", "1.40.0.dev20260101", None]),
        "torch": st.sampled_from(["2.13.0+cu130", "2.13.0", "2.14.0.dev20260101+cu130"]),
        "gpus": st.lists(
            st.sampled_from(
                [("NVIDIA L4", "8.9"), ("NVIDIA H100 80GB HBM3", "9.0"), ("NVIDIA A100 MIG 1g.5gb", "8.0")]
            ),
            min_size=1,
            max_size=8,
        ),
        "with_torch": st.booleans(),
    }
)


def _machine(made):
    fields = {
        "gpu.driver.version": f"{made['branch']}.{made['patch']}.01",
        "gpu.driver.cuda_version": made["cuda"],
        "gpu.product": [product for product, _ in made["gpus"]],
        "gpu.compute_capability": [capability for _, capability in made["gpus"]],
        "runtime.cudnn.version": made["cudnn"] or unavailable("test", "no cuDNN in this build"),
    }
    if made["tensorrt"]:
        fields["runtime.tensorrt.version"] = made["tensorrt"]
    if made["ort"]:
        fields["runtime.ort.version"] = made["ort"]
        fields["runtime.ort.package"] = [f"onnxruntime-gpu {made['ort']}"]
        fields["runtime.ort.cuda_version"] = made["cuda"]
    if made["with_torch"] or not made["ort"]:
        fields["runtime.torch.version"] = made["torch"]
        fields["runtime.torch.cuda.version"] = made["cuda"]
    return _snapshot(fields)


@given(MACHINES)
def test_a_locked_matrix_accepts_its_own_machine(made):
    snapshot = _machine(made)
    assert compare_snapshot(lock(snapshot, name="locked"), snapshot) == ()


OTHER = {
    ("driver", "branches"): [999],
    ("driver", "lowest"): "999.10.10",
    ("cuda",): "14.9",
    ("cudnn",): "7.0.0",
    ("onnxruntime", "package"): "onnxruntime-other",
    ("onnxruntime", "version"): "0.0.1",
    ("tensorrt",): "7.0.0",
    ("torch",): "0.0.1",
    ("gpus", "products"): ["NVIDIA-X"],
    ("gpus", "compute_capabilities"): ["3.5"],
}


def _changes(body):
    """Return every matrix that differs from one in a single pin: set to something else, taken out, or put in."""
    changed = {}
    for (section, *part), value in OTHER.items():
        if part and body[section] is not None:
            changed[(section, *part)] = {**body, section: {**body[section], part[0]: value}}
        elif not part:
            changed[section,] = {**body, section: value}
    for section in ("cudnn", "onnxruntime", "tensorrt", "torch"):
        without = {**body, section: None}
        if body[section] is not None and (without["onnxruntime"] or without["torch"]):
            changed[section, "null"] = without
    return changed


@given(MACHINES)
def test_any_single_changed_pin_is_found(made):
    snapshot = _machine(made)
    for change, body in _changes(lock(snapshot, name="locked").model_dump(by_alias=True)).items():
        assert compare_snapshot(Matrix.model_validate(body), snapshot), change


@pytest.mark.parametrize("key", FIELDS)
def test_lock_refuses_a_machine_that_did_not_collect_what_is_needed_and_names_it(key):
    fields = {**FIELDS, "runtime.ort.providers.actual": ["TensorrtExecutionProvider"], key: failed("test", "broken")}
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        lock(_snapshot(fields), name="locked")


@pytest.mark.parametrize("key", ["runtime.cudnn.version", "runtime.tensorrt.version", "gpu.driver.cuda_version"])
def test_lock_takes_silence_for_no_proof_that_a_part_is_not_used(key):
    fields = {**FIELDS, "runtime.ort.providers.actual": ["TensorrtExecutionProvider", "CUDAExecutionProvider"]}
    del fields[key]
    with pytest.raises(ConfigError, match=f"{key}: not collected"):
        lock(_snapshot(fields), name="locked")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"runtime.ort.package": ["onnxruntime 1.31.1", "onnxruntime-gpu 1.31.1"]}, "hide one another"),
        ({"runtime.ort.package": ["onnxruntime-gpu 1.30.0"]}, "runtime.ort.package: wanted"),
        (
            {"runtime.torch.version": "2.13.0", "runtime.torch.cuda.version": "12.8"},
            "runtime.torch.cuda.version: wanted",
        ),
        ({"gpu.driver.version": "no driver"}, "driver.lowest: '' cannot be pinned"),
        ({"gpu.driver.cuda_version": "12.8"}, "gpu.driver.cuda_version: wanted"),
        ({"runtime.ort.cuda_version": "13"}, "cuda: '13' cannot be pinned"),
        ({"gpu.compute_capability": "Ada"}, "gpus.compute_capabilities.0: 'Ada' cannot be pinned"),
    ],
)
def test_lock_refuses_a_machine_at_odds_with_itself(fields, text):
    with pytest.raises(ConfigError) as caught:
        lock(_snapshot({**FIELDS, **fields}), name="locked")
    assert text in str(caught.value)


def test_lock_refuses_a_machine_without_a_runtime():
    with pytest.raises(ConfigError, match="neither was collected"):
        lock(_snapshot({key: value for key, value in FIELDS.items() if ".ort." not in key}), name="locked")
