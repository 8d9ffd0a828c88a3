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
            "Run with the NVIDIA container runtime; it mounts the node's library. Never install it in the image.",
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
        # Engine plans.
        "plan_missing": _block(
            "No engine plan is stored for this model, resolution, batch, precision, TensorRT version and GPU.",
            "Run `rollout engines build` on a node with that GPU and TensorRT, or `rollout engines add`; never let the "
            "server build it at load.",
        ),
        "plan_build_impossible": _block(
            "An engine plan cannot be built here: a GPU, TensorRT or ONNX Runtime's TensorRT provider is missing or "
            "failed.",
            "Build on a node with the GPU of production, onnxruntime-gpu and the TensorRT that it was built for.",
        ),
        "engine_rebuilt": _block(
            "The engine cache folder changed during warm-up: the server built an engine at load.",
            "Ship the plan of this very key, mount the cache read-only, and set session.disable_model_compile.",
        ),
        "plan_foreign": _block(
            "A file that should be a TensorRT plan does not begin like one, or belongs to another provider.",
            "Add the serialized engine (.engine, .plan) or the EPContext model that names it.",
        ),
        "plan_truncated": _block(
            "An engine plan is shorter than its header, or than its manifest says.",
            "Add it to the store again from a whole copy.",
        ),
        "plan_changed": _block(
            "A stored file's bytes do not give the digest that is pinned in the manifest.",
            "Find out who writes into the store; add the plan again from a copy that is known to be good.",
        ),
        "plan_object_missing": _block(
            "A manifest, or an EPContext model, names a file that is not there.",
            "Add the plan to the store again with all files that belong to it.",
        ),
        "plan_tensorrt_mismatch": _block(
            "An engine plan was built by another TensorRT than its key says.",
            "Build it anew with the TensorRT of the image, or ask for the key of the TensorRT that built it.",
        ),
        "plan_sm_mismatch": _block(
            "An engine plan was built for another compute capability than its key says.",
            "Build it anew on the GPU that it shall serve.",
        ),
        "plan_exists": _block(
            "The store holds other bytes for this key; a pinned plan is never replaced in silence.",
            "Give --replace where the new plan shall take its place.",
        ),
        "plan_manifest_damaged": _block(
            "A manifest of the plan store cannot be read, or is not the one that its name promises.",
            "Add the plan again with --replace; the file is then written anew.",
        ),
        "plan_manifest_unknown": _block(
            "A manifest of the plan store has a schema that this version does not know.",
            "Use the version of rollout that wrote it, or newer.",
        ),
        "plan_orphan": _warn(
            "A file in the plan store is named by no manifest: a crash or a removed key left it.",
            "`rollout engines prune` removes it.",
        ),
        "onnx_foreign": _block(
            "A file that should be an ONNX model is none.",
            "Check the path, and that the download or the Git LFS file is whole.",
        ),
        "onnx_too_large": _block(
            "An ONNX file is larger than protobuf can hold.",
            "Keep the weights, or the engine (embed mode 0), in a file beside the model.",
        ),
        "onnx_path_unsafe": _block(
            "A model names a file by an absolute path or outside its own folder.",
            "Export the model anew with relative names; a model that reaches elsewhere may be an attack.",
        ),
        "ep_context_missing": _block(
            "An ONNX model holds no EPContext node: it is a model that a server would have to compile.",
            "Give the model that ONNX Runtime wrote with ep.context_enable.",
        ),
        "ep_context_damaged": _block(
            "An EPContext node lacks an attribute, or has one of a wrong kind.",
            "Let ONNX Runtime write the model anew.",
        ),
    }
)
"""Code to explanation."""
