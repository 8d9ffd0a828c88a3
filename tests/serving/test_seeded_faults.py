"""No seeded fault is admitted: a healthy GPU stack is built from doubles and facts, and broken in one place at a time.

The collectors of devices are real and read the doubles in their own processes. What a session proves on a GPU stands
here as facts: no GPU was at hand to prove it.
"""

import shutil
from datetime import date

import pytest
from driver_builds import driver_double, nvml_double

from rollout.files.load import load_admission
from rollout.model.admission import blocking
from rollout.model.matrix import Matrix, compare_snapshot
from rollout.model.snapshot import failed, ok, unavailable
from rollout.model.verdict import Reason
from rollout.model.waiver import Waiver
from rollout.serving.collectors.libraries import LIBRARIES
from rollout.serving.collectors.running import RunningCollectors
from rollout.serving.collectors.table import COLLECTORS
from rollout.serving.judge import judge
from rollout.serving.snapshot import build_snapshot

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
if shutil.which("gcc") is None:
    pytest.skip("gcc is not installed: the doubles cannot be built", allow_module_level=True)

TODAY = date(2026, 11, 26)
HEALTHY = {"CUDA_DOUBLE_CUINIT": "0"}
SOURCE = "seeded"
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

SESSION = {
    "policy.profile": "gpu",
    "runtime.engine": "ort",
    "model.weights.digest": "sha256:0",
    "runtime.ort.version": "1.31.1",
    "runtime.ort.package": ["onnxruntime-gpu 1.31.1"],
    "runtime.ort.cuda_version": "13.0",
    "packages.rivals": [],
    "runtime.ort.providers.actual": [CUDA, CPU],
    "runtime.ort.placement.cpu_ops": ["Cast", "Concat", "Gather", "Shape"],
    "runtime.ort.placement.cpu_share": 0.12,
    "runtime.ort.placement.cpu_time_share": 0.004,
    "runtime.ort.placement.memcpy_nodes": 2,
    "runtime.ort.binding.output_device": "cuda",
    "model.unet.attention.fused": True,
    "runtime.messages.fallback": [],
    "self_test.latency_s": 0.4,
    "self_test.utilisation": 0.93,
}

POLICY = load_admission("gpu").policy
MIG = POLICY.model_copy(update={"device": POLICY.device.model_copy(update={"mig_profile": "1g.5gb"})})
MEMORY = POLICY.model_copy(update={"device": POLICY.device.model_copy(update={"memory_bytes_min": 30 << 30})})
TWO = POLICY.model_copy(update={"device": POLICY.device.model_copy(update={"count_min": 2})})
TENSORRT = load_admission("tensorrt").policy
CACHE = POLICY.model_copy(update={"engine_cache": "engines"})
TORCH = {"runtime.engine": "diffusers", "runtime.torch.device": "cuda:0"}


@pytest.fixture(scope="module")
def library_path(parts):
    return f"{driver_double(parts).parent}:{nvml_double(parts).parent}"


@pytest.fixture
def collect(library_path, monkeypatch):
    """Read the machine through the real collectors, in a world of doubles."""

    def run(variables, limit_s=10.0):
        monkeypatch.setenv("LD_LIBRARY_PATH", library_path)
        for name, value in (HEALTHY | variables).items():
            monkeypatch.setenv(name, value)
        return [*RunningCollectors(COLLECTORS, limit_s=limit_s).results(), (LIBRARIES, LIBRARIES.read())]

    return run


def judged(collected, *, policy=POLICY, facts=None, matrix=None, failure=None):
    """Judge a stack: what was collected, and what its session proves."""
    shown = {
        name: value if hasattr(value, "status") else ok(value, SOURCE) for name, value in (facts or SESSION).items()
    }
    snapshot = build_snapshot(collected, {name: one for name, one in shown.items() if one is not ABSENT})
    versions = () if matrix is None else compare_snapshot(matrix, snapshot)
    return judge(policy, snapshot=snapshot, failure=failure, versions=versions, today=TODAY)


ABSENT = unavailable(SOURCE, "left out of the snapshot")


@pytest.fixture(scope="module")
def healthy(parts):
    """What the collectors find on a healthy machine, read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", f"{driver_double(parts).parent}:{nvml_double(parts).parent}")
        patch.setenv("CUDA_DOUBLE_CUINIT", "0")
        return [*RunningCollectors(COLLECTORS, limit_s=10.0).results(), (LIBRARIES, LIBRARIES.read())]


def test_healthy_gpu_stack_is_admitted(healthy):
    assert blocking(judged(healthy)) == ()
    assert blocking(judged(healthy, facts=SESSION | TORCH)) == ()


MIG_ON = {"NVML_DOUBLE_NAME": "NVIDIA H100 80GB HBM3", "NVML_DOUBLE_MIG": "1"}

MACHINE_FAULTS = {
    "NVML does not start": ({"NVML_DOUBLE_INIT": "999"}, "driver_failed"),
    "NVML: no permission": ({"NVML_DOUBLE_INIT": "4"}, "driver_failed"),
    "NVML: driver not loaded": ({"NVML_DOUBLE_INIT": "9"}, "driver_not_loaded"),
    "NVML: library and module differ": ({"NVML_DOUBLE_INIT": "18"}, "driver_mismatch"),
    "NVML hangs at its start": ({"NVML_DOUBLE_HANG": "nvmlInitWithFlags"}, "field_not_collected"),
    "NVML hangs in a name": ({"NVML_DOUBLE_HANG": "nvmlDeviceGetName"}, "field_not_collected"),
    "NVML crashes at its start": ({"NVML_DOUBLE_CRASH": "nvmlInitWithFlags"}, "field_not_collected"),
    "NVML crashes in a count": ({"NVML_DOUBLE_CRASH": "nvmlDeviceGetCount_v2"}, "field_not_collected"),
    "NVML tells no product": ({"NVML_DOUBLE_ERROR": "nvmlDeviceGetName:999"}, "field_not_collected"),
    "NVML tells no driver": ({"NVML_DOUBLE_ERROR": "nvmlSystemGetDriverVersion:999"}, "field_not_collected"),
    "NVML tells no capability": (
        {"NVML_DOUBLE_ERROR": "nvmlDeviceGetCudaComputeCapability:999"},
        "field_not_collected",
    ),
    "NVML tells no count": ({"NVML_DOUBLE_ERROR": "nvmlDeviceGetCount_v2:999"}, "too_few_devices"),
    "the GPU fell off the bus": ({"NVML_DOUBLE_ERROR": "nvmlDeviceGetName:15"}, "field_not_collected"),
    "CUDA_VISIBLE_DEVICES hides the GPU": ({"CUDA_DOUBLE_DEVICE_COUNT": "0"}, "too_few_devices"),
    "no GPU in NVML": ({"NVML_DOUBLE_COUNT": "0"}, "too_few_devices"),
    "MIG is on": (MIG_ON, "mig_profile_differs"),
    "stub of libcuda": ({"CUDA_DOUBLE_CUINIT": "34"}, "libcuda_stub"),
    "no device": ({"CUDA_DOUBLE_CUINIT": "100"}, "no_device"),
    "system not ready": ({"CUDA_DOUBLE_CUINIT": "802"}, "driver_failed"),
    "driver mismatch": ({"CUDA_DOUBLE_CUINIT": "803"}, "driver_mismatch"),
    "forward compatibility refused": ({"CUDA_DOUBLE_CUINIT": "804"}, "driver_mismatch"),
    "MIG not told": ({"NVML_DOUBLE_ERROR": "nvmlDeviceGetMigMode:999"}, "field_not_collected"),
    "a slice of a GPU": (MIG_ON | {"NVML_DOUBLE_MIG_PROFILES": "1g.10gb"}, "mig_profile_differs"),
    "driver out of memory": ({"CUDA_DOUBLE_CUINIT": "2"}, "driver_failed"),
    "unknown driver error": ({"CUDA_DOUBLE_CUINIT": "999"}, "driver_failed"),
    "driver too old": (
        {"CUDA_DOUBLE_DRIVER_VERSION": "12080", "NVML_DOUBLE_DRIVER": "570.172.08"},
        "driver_too_old",
    ),
    "impossible world": ({"NVML_DOUBLE_PCIE_GEN": "5", "NVML_DOUBLE_PCIE_GEN_MAX": "4"}, "field_not_collected"),
    "libcuda dies": ({"CUDA_DOUBLE_CUINIT": "no number"}, "field_not_collected"),
}


@pytest.mark.parametrize("name", MACHINE_FAULTS)
def test_fault_of_the_machine_is_never_admitted(name, collect):
    variables, code = MACHINE_FAULTS[name]
    found = blocking(judged(collect(variables, limit_s=1.5 if "HANG" in str(variables) else 10.0)))
    assert found
    assert code in {one.code for one in found}


SESSION_FAULTS = {
    "CUDA dropped": ({"runtime.ort.providers.actual": [CPU]}, "provider_dropped"),
    "CPU put first": ({"runtime.ort.providers.actual": [CPU, CUDA]}, "provider_dropped"),
    "another provider": ({"runtime.ort.providers.actual": ["ROCMExecutionProvider", CPU]}, "provider_dropped"),
    "no provider": ({"runtime.ort.providers.actual": []}, "provider_dropped"),
    "providers not read": ({"runtime.ort.providers.actual": failed(SOURCE, "boom")}, "field_not_collected"),
    "providers of another kind": ({"runtime.ort.providers.actual": CUDA}, "field_not_collected"),
    "convolution on the CPU": ({"runtime.ort.placement.cpu_ops": ["Shape", "NhwcConv"]}, "heavy_op_on_cpu"),
    "fused product on the CPU": ({"runtime.ort.placement.cpu_ops": ["FusedMatMul"]}, "heavy_op_on_cpu"),
    "attention on the CPU": ({"runtime.ort.placement.cpu_ops": ["MultiHeadAttention"]}, "heavy_op_on_cpu"),
    "operators not read": ({"runtime.ort.placement.cpu_ops": unavailable(SOURCE, "no profile")}, "field_not_collected"),
    "half of the nodes on the CPU": ({"runtime.ort.placement.cpu_share": 0.5}, "placement_on_cpu"),
    "node share not read": ({"runtime.ort.placement.cpu_share": ABSENT}, "field_not_collected"),
    "a tenth of the time on the CPU": ({"runtime.ort.placement.cpu_time_share": 0.1}, "placement_on_cpu"),
    "time share of another kind": ({"runtime.ort.placement.cpu_time_share": True}, "field_not_collected"),
    "output in host memory": ({"runtime.ort.binding.output_device": "cpu"}, "output_off_device"),
    "output not read": ({"runtime.ort.binding.output_device": failed(SOURCE, "boom")}, "field_not_collected"),
    "attention in steps": ({"model.unet.attention.fused": False}, "attention_not_fused"),
    "fused kernels turned off by the environment": (
        {"environment.variables": ["ORT_DISABLE_FLASH_ATTENTION=1"]},
        "attention_not_fused",
    ),
    "fused kernels turned off by an option": (
        {"runtime.ort.providers.options": ["CUDA.sdpa_kernel=16"]},
        "attention_not_fused",
    ),
    "attention not read": ({"model.unet.attention.fused": ABSENT}, "field_not_collected"),
    "fallback announced": ({"runtime.messages.fallback": ["Falling back to CPU"]}, "fallback_message"),
    "messages not read": ({"runtime.messages.fallback": ABSENT}, "field_not_collected"),
    "two packages": ({"packages.rivals": ["onnxruntime and onnxruntime-gpu"]}, "ort_packages_conflict"),
    "packages not read": ({"packages.rivals": failed(SOURCE, "boom")}, "field_not_collected"),
    "slow self-test": ({"self_test.latency_s": 12.0}, "self_test_slow"),
    "impossibly fast self-test": ({"self_test.latency_s": 0.0001}, "self_test_fast"),
    "self-test not timed": ({"self_test.latency_s": ABSENT}, "field_not_collected"),
    "idle GPU": ({"self_test.utilisation": 0.03}, "utilisation_low"),
    "utilisation not read": ({"self_test.utilisation": failed(SOURCE, "NVML gave no sample")}, "field_not_collected"),
    "engine unknown": ({"runtime.engine": "mystery"}, "field_not_collected"),
    "engine not told": ({"runtime.engine": ABSENT}, "field_not_collected"),
    "torch on the CPU": (TORCH | {"runtime.torch.device": "cpu"}, "provider_dropped"),
    "torch's device not read": (TORCH | {"runtime.torch.device": ABSENT}, "provider_dropped"),
    "torch partly on the CPU": (TORCH | {"runtime.torch.device": "cpu and cuda:0"}, "provider_dropped"),
    "torch built for a newer CUDA": (TORCH | {"runtime.torch.cuda.version": "14.0"}, "driver_too_old"),
    "weights not told": ({"model.weights.digest": ABSENT}, "field_not_collected"),
}


@pytest.mark.parametrize("name", SESSION_FAULTS)
def test_fault_of_the_session_is_never_admitted(name, healthy):
    facts, code = SESSION_FAULTS[name]
    found = blocking(judged(healthy, facts=SESSION | facts))
    assert code in {one.code for one in found}


DEMAND_FAULTS = {
    "torch where TensorRT is ordered": (TENSORRT, TORCH, "provider_dropped"),
    "whole GPU where a slice is demanded": (MIG, {}, "mig_profile_differs"),
    "GPU too small": (MEMORY, {}, "device_too_small"),
    "one GPU where two are demanded": (TWO, {}, "too_few_devices"),
    "engine cache changed": (
        CACHE,
        {"runtime.engine_cache.changes": ["the engine cache changed during warm-up: added x.engine"]},
        "engine_rebuilt",
    ),
    "engine cache not read": (CACHE, {}, "field_not_collected"),
}


@pytest.mark.parametrize("name", DEMAND_FAULTS)
def test_machine_that_misses_a_demand_is_never_admitted(name, healthy):
    policy, facts, code = DEMAND_FAULTS[name]
    assert code in {one.code for one in blocking(judged(healthy, policy=policy, facts=SESSION | facts))}


def test_refused_session_and_failed_self_test_are_never_admitted(healthy):
    for code in ("session_refused", "self_test_failed", "runtime_missing"):
        found = blocking(judged(healthy, failure=Reason(code=code, text="seeded")))
        assert [one.code for one in found] == [code]


# Torch may be installed where these tests run, and the matrix says that it is not used.
WITHOUT_TORCH = SESSION | {
    name: unavailable(SOURCE, "torch is not installed")
    for name in ("runtime.torch.version", "runtime.torch.cuda.version")
}


def test_machine_that_fits_its_matrix_is_admitted(healthy, matrix):
    assert blocking(judged(healthy, facts=WITHOUT_TORCH, matrix=matrix)) == ()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"driver": {"branches": [590], "lowest": "590.10"}}, "matrix_mismatch"),
        ({"onnxruntime": {"package": "onnxruntime-gpu", "version": "1.30.0"}}, "matrix_mismatch"),
        ({"gpus": {"products": ["NVIDIA-H100-80GB-HBM3"], "compute_capabilities": ["9.0"]}}, "matrix_mismatch"),
        ({"tensorrt": "10.13.3"}, "matrix_not_collected"),
    ],
    ids=str,
)
def test_machine_that_differs_from_its_matrix_is_never_admitted(healthy, matrix, change, code):
    other = Matrix.model_validate(matrix.model_dump(mode="json", by_alias=True) | change)
    assert {one.code for one in blocking(judged(healthy, facts=WITHOUT_TORCH, matrix=other))} == {code}


def test_no_waiver_helps_where_nothing_could_serve(healthy):
    waiver = Waiver(what="session_refused", who="me", why="a demonstration", until=date(2030, 1, 1))
    policy = POLICY.model_copy(update={"waivers": [waiver]})
    found = blocking(judged(healthy, policy=policy, failure=Reason(code="session_refused", text="seeded")))
    assert [one.code for one in found] == ["session_refused"]


def test_waived_fault_is_admitted_and_told(healthy):
    waiver = Waiver(what="attention_not_fused", who="me", why="a demonstration", until=date(2030, 1, 1))
    policy = POLICY.model_copy(update={"waivers": [waiver]})
    found = judged(healthy, policy=policy, facts=SESSION | {"model.unet.attention.fused": False})
    assert blocking(found) == ()
    assert [one.code for one in found if "until 2030-01-01" in one.text] == ["attention_not_fused"]


@pytest.mark.parametrize("name", ["runtime.torch.cuda.version", "packages.rivals"])
def test_what_the_engine_does_not_use_refuses_nobody(healthy, name):
    facts = {
        "runtime.torch.cuda.version": SESSION | {"runtime.torch.cuda.version": "14.0"},
        "packages.rivals": SESSION | TORCH | {"packages.rivals": ["onnxruntime and onnxruntime-gpu"]},
    }[name]
    assert blocking(judged(healthy, facts=facts)) == ()


def test_two_equal_slices_are_what_was_demanded(collect):
    policy = MIG.model_copy(update={"device": MIG.device.model_copy(update={"mig_profile": "1g.10gb"})})
    found = collect(MIG_ON | {"NVML_DOUBLE_MIG_PROFILES": "1g.10gb 1g.10gb"})
    assert blocking(judged(found, policy=policy)) == ()


def test_slice_of_a_gpu_is_admitted_where_the_policy_demands_it(collect):
    policy = MIG.model_copy(update={"device": MIG.device.model_copy(update={"mig_profile": "1g.10gb"})})
    found = collect(MIG_ON | {"NVML_DOUBLE_MIG_PROFILES": "1g.10gb"})
    assert blocking(judged(found, policy=policy)) == ()


@pytest.fixture
def matrix():
    return Matrix.model_validate(
        {
            "schema": "rollout.matrix/v1",
            "name": "seeded",
            "driver": {"branches": [580], "lowest": "580.65.06"},
            "cuda": "13.0",
            "cudnn": None,
            "onnxruntime": {"package": "onnxruntime-gpu", "version": "1.31.1"},
            "tensorrt": None,
            "torch": None,
            "base_image": None,
            "gpus": {"products": ["NVIDIA-L4"], "compute_capabilities": ["8.9"]},
        }
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"NVML_DOUBLE_GARBAGE": "nvmlDeviceGetName"},
        {"NVML_DOUBLE_COUNT": "8"},
        {"NVML_DOUBLE_CLOCK_EVENTS": "4"},
        {"NVML_DOUBLE_ECC": "0"},
        {"NVML_DOUBLE_TEMPERATURE_C": "80"},
    ],
    ids=str,
)
def test_what_is_harmless_is_not_refused(variables, collect):
    assert blocking(judged(collect(variables))) == ()
