"""Why a stack is refused or warned about: one code for each reason, with what it means and what to do.

The codes are what machines read: exit reports, termination messages, JUnit, metrics. A code never changes its meaning.
`docs/reasons.md` is written from this table by `tools/write_reasons.py`; a test compares both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rollout.model.verdict import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What one reason code says."""

    severity: Severity
    meaning: str
    remedy: str


def _block(meaning: str, remedy: str) -> Explained:
    return Explained(severity=Severity.BLOCK, meaning=meaning, remedy=remedy)


def _warn(meaning: str, remedy: str) -> Explained:
    return Explained(severity=Severity.WARN, meaning=meaning, remedy=remedy)


REASONS: Mapping[str, Explained] = MappingProxyType(
    {
        # Device and driver.
        "no_device": _block(
            "The driver library loads, and finds no GPU.",
            "Ask for a GPU (nvidia.com/gpu, or --gpus), and check that NVIDIA_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES "
            "do not hide it.",
        ),
        "libcuda_missing": _block(
            "libcuda.so.1, the driver's own library, is not in the container.",
            "Run with the NVIDIA container runtime; it mounts the library from the node. Never install it in the image.",
        ),
        "libcuda_stub": _block(
            "The libcuda that is found first is the toolkit's stub for linking: every call fails.",
            "Take .../stubs out of LD_LIBRARY_PATH and out of the image.",
        ),
        "driver_too_old": _block(
            "The node's driver supports a lower CUDA version than the runtime was built for.",
            "Schedule on nodes with a newer driver (CUDA 13 needs 580 or later, CUDA 12 needs 525), or use the build "
            "for the older CUDA.",
        ),
        "driver_mismatch": _block(
            "The driver's library in the container and the kernel module on the node are of different versions.",
            "Restart the pod so that the libraries are mounted anew; reboot the node if a driver update is pending.",
        ),
        "driver_failed": _block(
            "The driver refused to start, with a code that has no reason of its own here.",
            "Look the CUDA or NVML code up in the text, and at the node's kernel log for Xid errors.",
        ),
        # The version matrix.
        "matrix_driver_branch": _block(
            "The matrix's lowest driver and its allowed driver branches exclude each other.",
            "Make driver.lowest a version of the lowest branch in driver.branches.",
        ),
        "matrix_driver_cuda": _block(
            "The matrix allows a driver that cannot run its CUDA version.",
            "Raise driver.lowest and drop the branches below it, or pin an older CUDA with the runtimes built for it.",
        ),
        "matrix_ort_build": _block(
            "The pinned ONNX Runtime was linked with another major of CUDA, cuDNN or TensorRT than is pinned: its "
            "provider would not load, and the CPU would compute in silence.",
            "Pin the major that the text names, or the ONNX Runtime that was built for yours.",
        ),
        "matrix_library_cuda": _block(
            "The pinned cuDNN or TensorRT was never built for the pinned CUDA.",
            "Pin the version that the text names, or a later one of the same major.",
        ),
        "matrix_gpu_cuda": _block(
            "The pinned CUDA has no kernels for a pinned compute capability.",
            "Take the GPU out of the matrix, or pin a CUDA that supports it.",
        ),
        "matrix_gpu_capability": _block(
            "A pinned product has a compute capability that the matrix does not list.",
            "Correct gpus.compute_capabilities or gpus.products.",
        ),
        "matrix_two_truths": _block(
            "The matrix says the same thing in two places.",
            "Take one of them out; where they differ, find out which one is true first.",
        ),
        "matrix_ort_unknown": _block(
            "Which CUDA, cuDNN and TensorRT this ONNX Runtime needs is not in the tables of this product.",
            "Prove it on a machine: a running server that fits the matrix in all else answers the question "
            "(`rollout matrix check MATRIX --snapshot HOST:PORT`).",
        ),
        "matrix_unknown": _block(
            "Whether these pins work together is not in the tables of this product.",
            "Look it up in NVIDIA's documents and add it, with its source, to rollout/model/matrix_facts.py.",
        ),
        "matrix_mismatch": _block(
            "A version, a GPU or a package is another one than the matrix says.",
            "Install or schedule what the matrix says. Where the new one is meant, change the matrix first and roll it "
            "out as a release.",
        ),
        "matrix_not_collected": _block(
            "Something is pinned, and what was looked at does not show it.",
            "Find out why the collector, the label or the package is missing; write null where the part is not used.",
        ),
        "matrix_ort_twice": _block(
            "Two distributions of ONNX Runtime are installed; the one installed last hides the other.",
            "Uninstall all of them, then install the one that the matrix names.",
        ),
    }
)
"""Code to explanation."""
