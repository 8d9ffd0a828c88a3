"""What is known about which parts of a GPU stack work together. Every entry names where it was read.

What is not in these tables is unknown, and whoever asks must say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

Numbers = tuple[int, ...]
"""The leading numbers of a version: "10.13.3.9.post1" is (10, 13, 3, 9)."""

DRIVER_BRANCH_MIN: Mapping[int, int] = MappingProxyType({11: 450, 12: 525, 13: 580})
"""CUDA major to the lowest driver branch that runs any minor of it.

Source: NVIDIA, CUDA Compatibility, "Minor Version Compatibility", table 1.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrtBuild:
    """The majors that one build of ONNX Runtime was linked with."""

    cuda: int
    cudnn: int
    tensorrt: int


# Source of 1.17 and 1.18: ONNX Runtime's pages "CUDA Execution Provider" and "TensorRT Execution Provider",
# requirements (CUDA 11.8 and cuDNN 8 are what PyPI has of them).
_ORT_1_17 = OrtBuild(cuda=11, cudnn=8, tensorrt=8)
_ORT_1_18 = OrtBuild(cuda=11, cudnn=8, tensorrt=10)
# Source of 1.19 and 1.20: the same pages ("CUDA 12.x becomes the default version" in PyPI with 1.19). Of 1.21 to 1.26:
# the wheels' own metadata, which ask for nvidia-cuda-runtime-cu12 and nvidia-cudnn-cu12~=9.0 (1.21.0, 1.22.0, 1.23.2,
# 1.24.4, 1.25.1 and 1.26.0 were read). TensorRT: the page up to 1.22; from 1.23 on it is inferred, because 1.22 and
# 1.31.1 both need libnvinfer.so.10.
_ORT_CUDA_12 = OrtBuild(cuda=12, cudnn=9, tensorrt=10)
# Source: the metadata of the wheels 1.27.0, 1.28.0, 1.29.0, 1.30.0 and 1.31.1 (nvidia-cuda-runtime~=13.0 and
# nvidia-cudnn-cu13~=9.0), and for 1.31.1 the libraries that its providers need: libcublas.so.13, libcudart.so.13,
# libcudnn.so.9, libnvinfer.so.10.
_ORT_CUDA_13 = OrtBuild(cuda=13, cudnn=9, tensorrt=10)

ORT_GPU = "onnxruntime-gpu"
ORT_BUILDS: Mapping[Numbers, OrtBuild] = MappingProxyType(
    {
        (1, 17): _ORT_1_17,
        (1, 18): _ORT_1_18,
        **dict.fromkeys(((1, minor) for minor in range(19, 27)), _ORT_CUDA_12),
        **dict.fromkeys(((1, minor) for minor in range(27, 32)), _ORT_CUDA_13),
    }
)
"""Major and minor of the releases of `onnxruntime-gpu` in PyPI."""

# Source of both sets: the distributions that diffusers looks for where it imports `onnxruntime` (its import_utils.py);
# the module's CPU, DirectML and OpenVINO builds have no CUDA provider (ONNX Runtime, "Install ONNX Runtime").
ORT_WITHOUT_CUDA = frozenset({"onnxruntime", "onnxruntime-directml", "onnxruntime-openvino", "ort-nightly-directml"})
ORT_DISTRIBUTIONS = ORT_WITHOUT_CUDA | {ORT_GPU, "onnxruntime-rocm", "onnxruntime-training", "ort-nightly-gpu"}
"""They all install the module `onnxruntime`; the one installed last hides the others."""

LIBRARY_MIN: Mapping[tuple[str, int], Numbers] = MappingProxyType(
    {
        # Source: TensorRT 10.13.2 release notes, "Added support for CUDA 13.0"; the first tensorrt-cu13 in PyPI.
        ("tensorrt", 13): (10, 13, 2),
        # Source: cuDNN's support matrix has no CUDA 13 up to 9.10.2; the first nvidia-cudnn-cu13 in PyPI is 9.12.0.
        ("cudnn", 13): (9, 12, 0),
    }
)
"""Library and CUDA major to the first version of the library that was built for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A range of compute capabilities and the CUDA versions that have kernels for it.

    Within one major, kernels for a lower minor run on a higher one, so the first CUDA is that of the major.
    """

    lowest: Numbers
    highest: Numbers
    cuda_first: Numbers
    cuda_major_last: int | None


# Source: NVIDIA driver documentation, "CUDA Toolkit, Driver, and Architecture Matrix".
ARCHITECTURES = (
    Architecture(lowest=(3, 5), highest=(3, 7), cuda_first=(6, 0), cuda_major_last=11),  # Kepler.
    Architecture(lowest=(5, 0), highest=(5, 3), cuda_first=(6, 5), cuda_major_last=12),  # Maxwell.
    Architecture(lowest=(6, 0), highest=(6, 2), cuda_first=(8, 0), cuda_major_last=12),  # Pascal.
    Architecture(lowest=(7, 0), highest=(7, 2), cuda_first=(9, 0), cuda_major_last=12),  # Volta.
    Architecture(lowest=(7, 5), highest=(7, 5), cuda_first=(10, 0), cuda_major_last=None),  # Turing.
    Architecture(lowest=(8, 0), highest=(8, 9), cuda_first=(11, 0), cuda_major_last=None),  # Ampere and Ada.
    Architecture(lowest=(9, 0), highest=(9, 0), cuda_first=(11, 8), cuda_major_last=None),  # Hopper.
    Architecture(lowest=(10, 0), highest=(10, 3), cuda_first=(12, 8), cuda_major_last=None),  # Blackwell.
    Architecture(lowest=(12, 0), highest=(12, 1), cuda_first=(12, 8), cuda_major_last=None),  # Blackwell.
)

PRODUCT_CAPABILITY: Mapping[str, str] = MappingProxyType(
    {
        # Source: developer.nvidia.com/cuda-gpus, data centre column.
        "A2": "8.6",
        "A10": "8.6",
        "A16": "8.6",
        "A30": "8.0",
        "A40": "8.6",
        "A100": "8.0",
        "B200": "10.0",
        "B300": "10.3",
        "GB200": "10.0",
        "GB300": "10.3",
        "GH200": "9.0",
        "H100": "9.0",
        "H200": "9.0",
        "L4": "8.9",
        "L40": "8.9",
        "L40S": "8.9",
        "T4": "7.5",
        # Source: developer.nvidia.com/cuda-legacy-gpus.
        "P4": "6.1",
        "P40": "6.1",
        "P100": "6.0",
        "V100": "7.0",
    }
)
"""Model, the word after "NVIDIA" or "Tesla" in a product's name, to its compute capability."""
