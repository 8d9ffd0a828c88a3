"""What CUDA's driver and NVML answer with: result codes, and versions in one number."""

from enum import IntEnum


class CudaResult(IntEnum):
    """Results of the driver's calls; source: CUresult in cuda.h."""

    SUCCESS = 0
    STUB_LIBRARY = 34
    NO_DEVICE = 100
    SYSTEM_DRIVER_MISMATCH = 803
    COMPAT_NOT_SUPPORTED_ON_DEVICE = 804


class NvmlResult(IntEnum):
    """Results of NVML's calls; source: nvmlReturn_t in nvml.h."""

    SUCCESS = 0
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    LIB_RM_VERSION_MISMATCH = 18


def unpacked(number: int) -> tuple[int, int]:
    """Return major and minor of a CUDA version in one number: 13010 is 13.1."""
    return number // 1000, number % 1000 // 10
