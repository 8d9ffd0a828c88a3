"""The double of libcuda starts as told, refuses worlds that cannot be, and never computes."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))

from driver_builds import driver_double
from worlds import clean_environment

if shutil.which("gcc") is None:
    pytest.skip("gcc is not installed; the driver's double is compiled", allow_module_level=True)

START = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
version, started, name = ctypes.c_int(-1), driver.cuInit(0), ctypes.c_char_p()
driver.cuDriverGetVersion(ctypes.byref(version))
driver.cuGetErrorName(started, ctypes.byref(name))
print(started, version.value, (name.value or b"-").decode())
"""

COUNT = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
driver.cuInit(0)
count = ctypes.c_int(-1)
print(driver.cuDeviceGetCount(ctypes.byref(count)), count.value)
"""

COMPUTE = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
driver.cuInit(0)
call = ctypes.c_void_p()
driver.cuGetProcAddress_v2(b"cuMemAlloc", ctypes.byref(call), 3020, ctypes.c_uint64(0), None)
print(ctypes.CFUNCTYPE(ctypes.c_int)(call.value)())
"""


def run(parts: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**clean_environment(), **variables, "LD_LIBRARY_PATH": str(driver_double(parts).parent)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("0", "CUDA_SUCCESS"),
        ("100", "CUDA_ERROR_NO_DEVICE"),
        ("101", "CUDA_ERROR_INVALID_DEVICE"),
        ("802", "CUDA_ERROR_SYSTEM_NOT_READY"),
        ("803", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
        ("804", "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"),
        ("999", "CUDA_ERROR_UNKNOWN"),
    ],
)
def test_driver_starts_as_told(parts: Path, code: str, name: str):
    assert run(parts, START, CUDA_DOUBLE_CUINIT=code).stdout.split() == [code, "13000", name]


def test_stub_answers_every_call_with_one_code(parts: Path):
    assert run(parts, START, CUDA_DOUBLE_CUINIT="34").stdout.split() == ["34", "-1", "-"]
    assert run(parts, COUNT, CUDA_DOUBLE_CUINIT="34").stdout.split() == ["34", "-1"]


def test_nothing_is_known_of_devices_before_the_driver_started(parts: Path):
    assert run(parts, COUNT, CUDA_DOUBLE_CUINIT="0", CUDA_DOUBLE_DEVICE_COUNT="2").stdout.split() == ["0", "2"]
    assert run(parts, COUNT, CUDA_DOUBLE_CUINIT="100").stdout.split() == ["3", "-1"]


def test_work_on_a_device_ends_the_process(parts: Path):
    done = run(parts, COMPUTE, CUDA_DOUBLE_CUINIT="0")
    assert done.returncode == -signal.SIGABRT
    assert "cuMemAlloc was called: this driver is a double and cannot compute" in done.stderr


def test_work_on_a_driver_that_did_not_start_is_an_error_as_on_a_real_one(parts: Path):
    assert run(parts, COMPUTE, CUDA_DOUBLE_CUINIT="100").stdout.split() == ["3"]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"CUDA_DOUBLE_CUINIT": "35"}, "35 is an answer of the CUDA runtime"),
        ({"CUDA_DOUBLE_CUINIT": "500"}, "cuInit never returns 500"),
        ({"CUDA_DOUBLE_CUINIT": "no device"}, "is not a number"),
        ({"CUDA_DOUBLE_CUINIT": "0", "CUDA_DOUBLE_DEVICE_COUNT": "0"}, "a driver without a device does not start"),
        ({"CUDA_DOUBLE_CUINIT": "100", "CUDA_DOUBLE_DEVICE_COUNT": "1"}, "describes a device, but cuInit fails"),
        ({"CUDA_DOUBLE_DRIVER_VERSION": "13"}, "lies outside"),
        ({"CUDA_DOUBLE_DRIVER_VERSION": "13005"}, "is not 1000 * major + 10 * minor"),
        ({"CUDA_DOUBLE_CU_INIT": "34"}, "CUDA_DOUBLE_CU_INIT is not understood"),
    ],
)
def test_impossible_world_ends_the_process(parts: Path, variables: dict[str, str], reason: str):
    done = run(parts, START, **variables)
    assert done.returncode == -signal.SIGABRT
    assert reason in done.stderr
