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


def _info(meaning: str, remedy: str) -> Explained:
    return Explained(severity=Severity.INFO, meaning=meaning, remedy=remedy)


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
        "driver_not_loaded": _block(
            "NVML finds no NVIDIA kernel module on the node.",
            "Repair the node: its driver is not loaded. Cordon it until then.",
        ),
        "driver_failed": _block(
            "The driver refused to start, with a code that has no reason of its own here.",
            "Look the CUDA or NVML code up in the text, and at the node's kernel log for Xid errors.",
        ),
        "nvml_missing": _block(
            "libnvidia-ml.so.1 is not in the container, so nobody can tell what the GPUs are.",
            "Add `utility` to NVIDIA_DRIVER_CAPABILITIES.",
        ),
        "device_nodes_missing": _block(
            "No /dev/nvidia* node exists in the container.",
            "Ask for a GPU, and check the container runtime: nodes also vanish from running containers when systemd "
            "reloads (use the CDI mode or device nodes under /dev/char).",
        ),
        "too_few_devices": _block(
            "Fewer GPUs are visible than the policy demands.", "Ask for more, or correct `device.count_min`."
        ),
        "device_too_small": _block(
            "The smallest visible GPU has less memory than the policy demands.",
            "Schedule on the product that the policy is for.",
        ),
        "mig_profile_differs": _block(
            "The GPU is partitioned otherwise than the policy demands.",
            "Ask for the MIG resource of the profile, or correct `device.mig_profile`.",
        ),
        # Runtime and session.
        "ort_packages_conflict": _block(
            "Two distributions of ONNX Runtime are installed: they overwrite each other's files, and the CPU build may "
            "have won.",
            "Uninstall both, then install onnxruntime-gpu alone; `pip check` does not notice.",
        ),
        "runtime_missing": _block(
            "The runtime is not installed, or its library does not load.",
            "Install the extra that the text names; read the loader's words.",
        ),
        "provider_not_in_build": _block(
            "The runtime was built without the execution provider that the policy demands.",
            "Install the GPU build (onnxruntime-gpu, or torch with CUDA).",
        ),
        "cuda_libraries_missing": _block(
            "A CUDA library that the execution provider is linked to is not found.",
            "Use a base image with the CUDA version of the build, or install the nvidia-* wheels it names and preload "
            "them.",
        ),
        "tensorrt_missing": _block(
            "TensorRT's library, in the major version that the provider is linked to, is not found.",
            "Install that TensorRT: `rollout matrix check` tells which; the newest one is not it.",
        ),
        "provider_dropped": _block(
            "The session does not run on the providers that the policy demands or the incumbent has, in their order.",
            "Look at the runtime's own messages: without a strict session the next sign would be the latency.",
        ),
        "fallback_message": _block(
            "The runtime said that it falls back, or nobody can tell any more whether it did.",
            "Read the line; it names what could not be used.",
        ),
        "session_refused": _block(
            "The runtime refused to open the session.",
            "Read its text: the model is damaged, needs another provider, or an option is wrong.",
        ),
        "engine_provider_missing": _block(
            "The model holds an engine that was compiled for a provider which the session does not have.",
            "Name that provider in the policy, or ship the model's own graph.",
        ),
        "option_unknown": _block(
            "The session was asked for with an option or key that the runtime would ignore.",
            "Correct the spelling, or remove it.",
        ),
        "heavy_op_on_cpu": _block(
            "A heavy operator (convolution, matrix product, attention) runs on the CPU.",
            "Look for the kernel that the provider lacks: another opset, precision or layout may have it.",
        ),
        "placement_on_cpu": _block(
            "More of the graph runs on the CPU than the policy allows, or another part of it than the incumbent's.",
            "Compare `runtime.ort.placement.*` with the incumbent's: which operators moved?",
        ),
        "output_off_device": _block(
            "Outputs that were bound to the GPU lie in host memory, so that each step copies, or elsewhere than the "
            "incumbent's.",
            "Bind inputs and outputs by device, and check that the session runs on it.",
        ),
        "attention_not_fused": _block(
            "The UNet's attention is computed in steps instead of by one kernel, or is no longer proven not to be.",
            "Check attention processors, opset (23 exports native attention) and the runtime's fusion passes.",
        ),
        # Self-test and evidence.
        "self_test_failed": _block(
            "The warm self-test failed, drew a flat picture, or drew two pictures for one request.",
            "Run the server by hand with the same options; its text says which.",
        ),
        "self_test_slow": _block(
            "The warm self-test picture took longer than the policy's window.",
            "Compare the snapshot with the incumbent's (`rollout diff`); the fast path is likely lost.",
        ),
        "self_test_fast": _block(
            "The warm self-test picture was faster than the work it stands for can be.",
            "Check that the server draws with the model and the steps that it claims.",
        ),
        "utilisation_low": _block(
            "The GPU was hardly busy while the self-test drew.",
            "The work is done elsewhere, or another process holds the device back.",
        ),
        "field_not_collected": _block(
            "A fact that the policy needs could not be read. Not collected is not fine.",
            "Read the field's own reason; install what its collector needs.",
        ),
        "prover_died": _block(
            "The process that was to prove the stack died or did not answer.",
            "Libraries whose versions do not match can kill a process in the loader: read its last words.",
        ),
        "device_changed": _block(
            "The devices are no longer those that were admitted.",
            "Restart the pod on a sound node: devices vanish from running containers.",
        ),
        # What erodes.
        "packages_conflict": _warn("Two packages that install the same modules are both there.", "Keep one of them."),
        "memory_unlimited": _warn(
            "The container has no memory limit.", "Set resources.limits.memory: a leak then ends one pod and no node."
        ),
        "user_root": _warn("The server runs as root.", "Set runAsNonRoot and a USER in the image."),
        "compilers_in_image": _warn(
            "Compilers are on the path: the image is larger than it must be, and kernels may be built at load.",
            "Build in one stage, copy into a slim one.",
        ),
        "shm_small": _warn("Shared memory (/dev/shm) is small.", "Mount an emptyDir with medium Memory at /dev/shm."),
        "pcie_below_maximum": _warn(
            "The PCIe link runs below what slot and GPU can do.",
            "Idle GPUs lower the generation; under load it points to the slot or the board.",
        ),
        "clocks_throttled": _warn("The GPU's clocks are held down.", "Check cooling and power limit of the node."),
        "memory_rows_remapped": _warn(
            "The GPU waits for a reset to remap faulty memory rows, or remapping failed.",
            "Drain the node and reset the GPU; replace it if remapping failed.",
        ),
        # Differences between two snapshots.
        "profile_changed": _block(
            "One stack was admitted for production on GPUs, the other for development on a CPU.",
            "Start both with admission policies of one profile.",
        ),
        "engine_changed": _block(
            "Another runtime computes the pictures.",
            "Where that is meant, name `runtime.engine` and what follows from it in `allowed_differences` of this "
            "rollout's policy.",
        ),
        "runtime_package_changed": _block(
            "Another distribution or version of ONNX Runtime is installed.",
            "Where an upgrade is meant, waive `runtime.ort.package` for this rollout; else install what the incumbent "
            "has.",
        ),
        "driver_changed": _block(
            "The GPUs' driver is another one, or answers otherwise; patch versions count.",
            "Schedule both colours on nodes of one driver. Where the new one is meant, waive it until all have it.",
        ),
        "gpu_changed": _block(
            "Another GPU, another number of them, or none.",
            "Schedule both colours on the same product; a comparison between two says nothing about the release.",
        ),
        "gpu_settings_changed": _block(
            "The GPUs are set up otherwise: ECC, power limit, persistence, compute mode or PCIe link.",
            "Compare `nvidia-smi -q` of both nodes, and set them up alike.",
        ),
        "admission_policy_changed": _warn(
            "The stacks were admitted by policies of different names.",
            "Compare the two: the candidate may have had to prove less.",
        ),
        "cpu_operators_changed": _warn(
            "Other operators than the incumbent's run on the CPU; fusions rename them.",
            "Look for heavy ones. How much runs there tell the shares, and a heavy operator is refused at admission.",
        ),
        "placement_unmeasured": _warn(
            "Where nodes run after fusion was measured for the incumbent, and is not for the candidate.",
            "Sessions that live for one request are not profiled. Name the field in `capabilities.required` where it "
            "must be told.",
        ),
        "attention_changed": _warn(
            "Attention is computed by other kernels or processors, or in another number of steps.",
            "Compare `model.unet.attention.*` with what the release was meant to change.",
        ),
        "messages_changed": _warn(
            "What the runtime said while it loaded changed, and it speaks of no fallback any more.",
            "Nothing is to be done where the candidate was to mend that.",
        ),
        "precision_differs": _warn(
            "The model computes with another precision.",
            "The policy's section `accuracy` decides whether that is accepted, and by what pictures.",
        ),
        "model_changed": _warn(
            "The weights or a graph are others.",
            "Nothing is to be done where the release was to change the model.",
        ),
        "pipeline_changed": _warn(
            "Scheduler, guidance or prediction of the pipeline changed: pictures and time may too.",
            "Check the release's options.",
        ),
        "server_changed": _warn(
            "An option of the server changed, such as the length of its queue.",
            "Check the release's options; the load phase tells what it costs.",
        ),
        "tuning_changed": _warn(
            "The runtime is tuned otherwise: threads, arena, optimisation level, TF32 or options of a provider.",
            "`docs/causes.md` tells what each is known to cost; the gates for latency and load decide.",
        ),
        "version_changed": _warn(
            "A runtime, a library or a driver interface has another version.",
            "Check it against the version matrix (`rollout matrix check`).",
        ),
        "packages_changed": _warn(
            "Other packages are installed, or other versions of them.",
            "Compare the two images; pin what nobody meant to change.",
        ),
        "libraries_changed": _warn(
            "The process has mapped other GPU libraries.",
            "Compare `runtime.libraries` with the image: a library of the node may hide the image's own.",
        ),
        "engine_cache_changed": _warn(
            "The engine plans are others, or nobody watches any more whether they change.",
            "Check that the plans are those of this release (`rollout engines verify`).",
        ),
        "environment_changed": _warn(
            "Environment variables that change what the runtimes do are set otherwise.",
            "Compare the two releases; a variable that is set on the node or in the image belongs to neither.",
        ),
        "container_changed": _warn(
            "Processors, limits, shared memory, kernel or compilers of the container are others.",
            "Give both colours the same resources; a comparison between two sizes says little about the release.",
        ),
        "self_test_changed": _warn(
            "A result of the self-test is told as a capability, and differs.",
            "Tell what varies between instances among the snapshot's measurements.",
        ),
        "difference_unclassified": _warn(
            "A field differs that no rule of the product knows.",
            "Find out what it means; one that can cost speed belongs into rollout/gates/differences.py.",
        ),
        # The capability gate.
        "snapshot_unreadable": _block(
            "The candidate does not tell what it proves.",
            "Read the reason; `rollout snapshot HOST:PORT` asks again.",
        ),
        "incumbent_snapshot_unreadable": _block(
            "The incumbent, or its baseline, does not tell what it proves: nothing can be compared.",
            "Read the reason; `rollout calibrate` stores a baseline.",
        ),
        "capability_lost": _block(
            "A difference blocks, and no allowed difference and no waiver that holds lets it pass.",
            "`rollout diff` tells the difference's own code; that code's remedy helps.",
        ),
        "capability_changed": _warn(
            "Something differs and does not block, or was let pass.",
            "Read it; the text says who waived it, why and until when.",
        ),
        "field_waived": _info(
            "A required field was not collected, and a waiver lets that pass.",
            "Collect it before the waiver ends: the text says when that is.",
        ),
        "capabilities_equal": _info("No capability differs.", "Nothing is to be done."),
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
