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
    }
)
"""Code to explanation."""
