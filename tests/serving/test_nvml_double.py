"""nvidia-ml-py, the real one, reads the double of NVML; worlds that cannot be end the process."""

import json
import shutil
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))

from driver_builds import nvml_double
from worlds import clean_environment

try:
    distribution("nvidia-ml-py")
except PackageNotFoundError:
    pytest.skip("nvidia-ml-py is not installed: pip install nvidia-ml-py", allow_module_level=True)
if shutil.which("gcc") is None:
    pytest.skip("gcc is not installed; NVML's double is compiled", allow_module_level=True)

READ = """
import json, sys
import pynvml
try:
    pynvml.nvmlInit()
except pynvml.NVMLError as error:
    print(json.dumps({"init": [type(error).__name__, error.value]}))
    sys.exit()
said = {
    "driver": pynvml.nvmlSystemGetDriverVersion(),
    "cuda": pynvml.nvmlSystemGetCudaDriverVersion_v2(),
    "count": pynvml.nvmlDeviceGetCount(),
}
device = pynvml.nvmlDeviceGetHandleByIndex(said["count"] - 1)
calls = {
    "name": pynvml.nvmlDeviceGetName,
    "uuid": pynvml.nvmlDeviceGetUUID,
    "capability": pynvml.nvmlDeviceGetCudaComputeCapability,
    "mig": pynvml.nvmlDeviceGetMigMode,
    "ecc": pynvml.nvmlDeviceGetEccMode,
    "pcie_gen": pynvml.nvmlDeviceGetCurrPcieLinkGeneration,
    "pcie_gen_max": pynvml.nvmlDeviceGetMaxPcieLinkGeneration,
    "pcie_width": pynvml.nvmlDeviceGetCurrPcieLinkWidth,
    "pcie_width_max": pynvml.nvmlDeviceGetMaxPcieLinkWidth,
    "clock_events": pynvml.nvmlDeviceGetCurrentClocksEventReasons,
    "power_mw": pynvml.nvmlDeviceGetPowerUsage,
    "power_limit_mw": pynvml.nvmlDeviceGetEnforcedPowerLimit,
    "persistence": pynvml.nvmlDeviceGetPersistenceMode,
    "compute_mode": pynvml.nvmlDeviceGetComputeMode,
    "remapped_rows": pynvml.nvmlDeviceGetRemappedRows,
    "temperature_c": lambda device: pynvml.nvmlDeviceGetTemperatureV(device, pynvml.NVML_TEMPERATURE_GPU),
    "utilization": lambda device: pynvml.nvmlDeviceGetUtilizationRates(device).gpu,
    "memory_mib": lambda device: pynvml.nvmlDeviceGetMemoryInfo(device, pynvml.nvmlMemory_v2).total >> 20,
    "used_mib": lambda device: pynvml.nvmlDeviceGetMemoryInfo(device).used >> 20,
}
for key, call in calls.items():
    try:
        said[key] = call(device)
    except pynvml.NVMLError as error:
        said[key] = type(error).__name__
print(json.dumps(said))
"""

AN_L4 = {
    "driver": "580.95.05",
    "cuda": 13000,
    "count": 1,
    "name": "NVIDIA L4",
    "uuid": "GPU-00000000-0000-0000-0000-000000000001",
    "capability": [8, 9],
    "mig": "NVMLError_NotSupported",
    "ecc": [1, 1],
    "pcie_gen": 4,
    "pcie_gen_max": 4,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "clock_events": 0,
    "power_mw": 18000,
    "power_limit_mw": 72000,
    "persistence": 1,
    "compute_mode": 0,
    "remapped_rows": [0, 0, 0, 0],
    "temperature_c": 45,
    "utilization": 0,
    "memory_mib": 23034,
    "used_mib": 0,
}


def run(parts: Path, *, timeout_s: float = 60, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**clean_environment(), **variables, "LD_LIBRARY_PATH": str(nvml_double(parts).parent)}
    command = [sys.executable, "-c", READ]
    return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=timeout_s)


def test_library_reads_a_whole_gpu(parts: Path):
    assert json.loads(run(parts).stdout) == AN_L4


@pytest.mark.parametrize(
    ("variables", "change"),
    [
        ({"NVML_DOUBLE_DRIVER": "535.183.06"}, {"driver": "535.183.06", "cuda": 12020}),
        (
            {"NVML_DOUBLE_COUNT": "4"},
            {"count": 4, "uuid": "GPU-00000000-0000-0000-0000-000000000004"},
        ),
        ({"NVML_DOUBLE_UUID": "GPU-1"}, {"uuid": "GPU-1"}),
        ({"NVML_DOUBLE_PCIE_GEN": "1", "NVML_DOUBLE_PCIE_WIDTH": "8"}, {"pcie_gen": 1, "pcie_width": 8}),
        ({"NVML_DOUBLE_CLOCK_EVENTS": "0x48"}, {"clock_events": 0x48}),
        ({"NVML_DOUBLE_MEMORY_USED_MIB": "9000", "NVML_DOUBLE_MEMORY_RESERVED_MIB": "500"}, {"used_mib": 9500}),
        ({"NVML_DOUBLE_POWER_MW": "71000"}, {"power_mw": 71000}),
        (
            {"NVML_DOUBLE_TEMPERATURE_C": "88", "NVML_DOUBLE_UTILIZATION": "97"},
            {"temperature_c": 88, "utilization": 97},
        ),
        ({"NVML_DOUBLE_ECC": "0", "NVML_DOUBLE_PERSISTENCE": "0"}, {"ecc": [0, 0], "persistence": 0}),
        ({"NVML_DOUBLE_COMPUTE_MODE": "3"}, {"compute_mode": 3}),
        ({"NVML_DOUBLE_REMAPPED_ROWS": "1,2,1,0"}, {"remapped_rows": [1, 2, 1, 0]}),
        ({"NVML_DOUBLE_ERROR": "nvmlDeviceGetName:15"}, {"name": "NVMLError_GpuIsLost"}),
        ({"NVML_DOUBLE_ERROR": "nvmlDeviceGetEccMode:4"}, {"ecc": "NVMLError_NoPermission"}),
    ],
)
def test_library_reads_what_the_double_is_told(parts: Path, variables: dict[str, str], change: dict[str, object]):
    assert json.loads(run(parts, **variables).stdout) == AN_L4 | change


def test_product_brings_what_it_can(parts: Path):
    hopper = json.loads(run(parts, NVML_DOUBLE_NAME="NVIDIA H100 80GB HBM3", NVML_DOUBLE_MIG="1").stdout)
    assert (hopper["capability"], hopper["memory_mib"], hopper["pcie_gen_max"]) == ([9, 0], 81559, 5)
    assert (hopper["mig"], hopper["utilization"]) == ([1, 1], "NVMLError_NotSupported")
    turing = json.loads(run(parts, NVML_DOUBLE_NAME="Tesla T4").stdout)
    assert (turing["capability"], turing["remapped_rows"]) == ([7, 5], "NVMLError_NotSupported")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("4", "NVMLError_NoPermission"),
        ("9", "NVMLError_DriverNotLoaded"),
        ("17", "NVMLError_OperatingSystem"),
        ("18", "NVMLError_LibRmVersionMismatch"),
        ("28", "NVMLError_GpuNotFound"),
        ("999", "NVMLError_Unknown"),
    ],
)
def test_library_raises_what_the_driver_fails_with(parts: Path, code: str, kind: str):
    assert json.loads(run(parts, NVML_DOUBLE_INIT=code).stdout) == {"init": [kind, int(code)]}


def test_call_that_hangs_never_returns(parts: Path):
    nvml_double(parts)
    with pytest.raises(subprocess.TimeoutExpired):
        run(parts, timeout_s=1, NVML_DOUBLE_HANG="nvmlDeviceGetName")


def test_call_that_crashes_ends_the_process(parts: Path):
    assert run(parts, NVML_DOUBLE_CRASH="nvmlDeviceGetName").returncode == -signal.SIGSEGV


def test_garbage_comes_before_the_answers(parts: Path):
    stdout = run(parts, NVML_DOUBLE_GARBAGE="nvmlDeviceGetName").stdout
    with pytest.raises(UnicodeDecodeError):
        stdout.decode()
    assert json.loads(stdout.splitlines()[-1]) == AN_L4


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"NVML_DOUBLE_DRIVER": "570.172.08", "NVML_DOUBLE_CUDA": "13000"}, "driver 570.172.08 brings CUDA 12080"),
        ({"NVML_DOUBLE_CUDA": "12080"}, "never says 12080"),
        ({"NVML_DOUBLE_CUDA": "13000", "CUDA_DOUBLE_DRIVER_VERSION": "12080"}, "NVML and libcuda are of one driver"),
        ({"NVML_DOUBLE_NAME": "NVIDIA L4", "NVML_DOUBLE_COMPUTE_CAPABILITY": "90"}, "has compute capability 89"),
        ({"NVML_DOUBLE_NAME": "NVIDIA Imaginary"}, "give its compute capability and memory"),
        ({"NVML_DOUBLE_MEMORY_MIB": "80000"}, "NVIDIA L4 has 23034 MiB"),
        ({"NVML_DOUBLE_MEMORY_USED_MIB": "23035"}, "more memory is used and reserved than there is"),
        ({"NVML_DOUBLE_PCIE_GEN": "5"}, "the PCIe link runs above its maximum"),
        ({"NVML_DOUBLE_PCIE_WIDTH": "16", "NVML_DOUBLE_PCIE_WIDTH_MAX": "8"}, "the PCIe link runs above its maximum"),
        ({"NVML_DOUBLE_PCIE_WIDTH": "3"}, "1, 2, 4, 8 or 16 lanes"),
        ({"NVML_DOUBLE_MIG": "1"}, "NVIDIA L4 has no such mode"),
        ({"NVML_DOUBLE_NAME": "NVIDIA H200", "NVML_DOUBLE_MIG": "1", "NVML_DOUBLE_UTILIZATION": "3"}, "in MIG mode"),
        ({"NVML_DOUBLE_NAME": "NVIDIA GeForce RTX 3090", "NVML_DOUBLE_ECC": "1"}, "has no such mode"),
        ({"NVML_DOUBLE_NAME": "NVIDIA GeForce RTX 3090", "NVML_DOUBLE_FORWARD_COMPAT": "1"}, "cuInit returns 804"),
        ({"NVML_DOUBLE_COUNT": "2", "NVML_DOUBLE_UUID": "GPU-1"}, "names one GPU"),
        ({"NVML_DOUBLE_REMAPPED_ROWS": "0,0,1,0"}, "no remapping is pending"),
        ({"NVML_DOUBLE_INIT": "12"}, "leave the double out"),
        ({"NVML_DOUBLE_INIT": "3"}, "nvmlInit never returns 3"),
        ({"NVML_DOUBLE_INIT": "9", "NVML_DOUBLE_HANG": "nvmlDeviceGetName"}, "is never reached"),
        ({"NVML_DOUBLE_HANG": "nvmlDeviceGetNmae"}, "no call named nvmlDeviceGetNmae"),
        ({"NVML_DOUBLE_ERROR": "nvmlDeviceGetName"}, "is not call:code"),
        ({"NVML_DOUBLE_ERROR": "nvmlDeviceGetName:12345"}, "12345 is no error of NVML"),
        ({"NVML_DOUBLE_UTILISATION": "50"}, "NVML_DOUBLE_UTILISATION is not understood"),
        ({"NVML_DOUBLE_TEMPERATURE_C": "warm"}, "is not a number"),
    ],
)
def test_impossible_world_ends_the_process(parts: Path, variables: dict[str, str], reason: str):
    done = run(parts, **variables)
    assert done.returncode == -signal.SIGABRT
    assert reason in done.stderr.decode()
