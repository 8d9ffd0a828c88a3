"""Differences between two snapshots: their codes, their weight, and how long lists are told."""

import pytest

from rollout.gates.differences import CODES, UNKNOWN, diff
from rollout.model.reasons import REASONS
from rollout.model.snapshot import CapabilitySnapshot, ok, unavailable
from rollout.model.verdict import Severity


def snapshot(**fields):
    told = {key.replace("__", "."): one if hasattr(one, "status") else ok(one, "a test") for key, one in fields.items()}
    return CapabilitySnapshot(schema="rollout.snapshot/v1", fields=told)


def difference(key, before, after):
    (found,) = diff(*(snapshot(**{key: one} if one is not None else {}) for one in (before, after)))
    return found


@pytest.mark.parametrize(
    ("key", "before", "after", "code"),
    [
        ("policy.profile", "gpu", "development-cpu", "profile_changed"),
        ("policy.admission", "gpu", "tensorrt", "admission_policy_changed"),
        ("runtime.engine", "ort", "diffusers", "engine_changed"),
        ("runtime.ort.providers.actual", ["CUDAExecutionProvider"], ["CPUExecutionProvider"], "provider_dropped"),
        ("runtime.ort.providers.options", ["CUDA.use_tf32=1"], ["CUDA.use_tf32=0"], "tuning_changed"),
        ("runtime.torch.device", "cuda:0", "cpu", "provider_dropped"),
        ("runtime.torch.device.product", "NVIDIA L4", "NVIDIA T4", "gpu_changed"),
        ("runtime.ort.package", ["onnxruntime-gpu 1.31.1"], ["onnxruntime 1.31.1"], "runtime_package_changed"),
        ("runtime.ort.placement.cpu_share", 0.01, 0.2, "placement_on_cpu"),
        ("runtime.ort.placement.cpu_ops", ["Shape"], ["Gather"], "cpu_operators_changed"),
        ("runtime.ort.placement.memcpy_nodes", 0, 4, "placement_on_cpu"),
        ("runtime.ort.placement.memcpy_nodes", 0, None, "placement_on_cpu"),
        ("runtime.ort.placement.memcpy_nodes", 0, unavailable("a test", "not profiled"), "placement_unmeasured"),
        ("runtime.ort.placement.cpu_ops", ["Conv"], unavailable("a test", "not profiled"), "placement_unmeasured"),
        ("runtime.ort.binding.output_device", "cuda", "cpu", "output_off_device"),
        ("runtime.messages.fallback", [], ["EP Error"], "fallback_message"),
        ("runtime.messages.fallback", [], None, "fallback_message"),
        ("runtime.messages.fallback", ["EP Error"], [], "messages_changed"),
        ("model.unet.attention.fused", True, False, "attention_not_fused"),
        ("model.unet.attention.fused", True, unavailable("a test", "unknown"), "attention_not_fused"),
        ("model.unet.attention.fused", False, True, "attention_changed"),
        ("model.unet.attention.softmax_count", 0, 32, "attention_changed"),
        ("gpu.driver.version", "580.65.06", "580.82.07", "driver_changed"),
        ("gpu.libcuda.init", 0, 803, "driver_changed"),
        ("gpu.libcuda.stub", False, True, "libcuda_stub"),
        ("gpu.nvml.init", 0, 9, "driver_changed"),
        ("gpu.product", ["NVIDIA L4"], ["NVIDIA T4"], "gpu_changed"),
        ("gpu.ecc", ["on"], ["off"], "gpu_settings_changed"),
        ("gpu.something.new", 1, 2, "gpu_changed"),
        ("packages.rivals", [], ["onnxruntime and onnxruntime-gpu"], "ort_packages_conflict"),
        ("packages.rivals", [], ["nvidia-ml-py and pynvml"], "packages_conflict"),
        ("packages.versions", ["numpy 1.26"], ["numpy 2.0"], "packages_changed"),
        ("runtime.libraries", ["libcudnn.so.9.1"], ["libcudnn.so.9.2"], "libraries_changed"),
        ("runtime.cudnn.version", 90100, 90200, "version_changed"),
        ("runtime.torch.cuda.version", "12.8", "13.0", "version_changed"),
        ("runtime.ort.cuda_version", "12.8", unavailable("a test", "a build without CUDA"), "version_changed"),
        ("runtime.engine_cache.digest", "a", "b", "engine_cache_changed"),
        ("runtime.engine_cache.changes", [], ["built anew"], "engine_rebuilt"),
        ("runtime.ort.graph_optimization", "all", "disabled", "tuning_changed"),
        ("runtime.ort.threads.spinning", False, True, "tuning_changed"),
        ("runtime.torch.tf32.matmul", True, False, "tuning_changed"),
        ("environment.variables", [], ["CUDA_LAUNCH_BLOCKING=1"], "environment_changed"),
        ("container.memory.limit_bytes", 1, 2, "container_changed"),
        ("container.user.root", False, True, "user_root"),
        ("model.precision", "fp32", "int8", "precision_differs"),
        ("model.weights.digest", "a", "b", "model_changed"),
        ("pipeline.guidance", "batched", "two-calls", "pipeline_changed"),
        ("server.queue_limit", 64, 1, "server_changed"),
        ("self_test.latency_s", 0.1, 0.2, "self_test_changed"),
        ("runtime.ort.something.new", 1, 2, UNKNOWN),
        ("something.nobody.thought.of", 1, 2, UNKNOWN),
    ],
)
def test_every_difference_has_a_code_and_its_severity(key, before, after, code):
    found = difference(key, before, after)
    assert (found.code, found.severity) == (code, REASONS[code].severity)


def test_what_no_rule_knows_is_a_warning():
    assert REASONS[UNKNOWN].severity is Severity.WARN


def test_every_rule_can_be_reached():
    """A rule that an earlier one hides would promise a code that nobody ever reads."""
    for field, value, code in CODES:
        after = value.replace("*", "x").replace("?", "x").replace("x and x", "a and b")
        told = {"absent": None, "unavailable": unavailable("a test", "not here")}.get(after, after)
        found = difference(field.replace("*", "other"), "before", told)
        assert found.code == code, field


def test_long_lists_are_told_by_what_is_not_in_both():
    before = [f"package-{number} 1.0" for number in range(40)]
    after = [*before[1:], "numpy 2.0"]
    found = difference("packages.versions", before, after)
    assert (found.before, found.after) == ("package-0 1.0, [39 alike]", "numpy 2.0, [39 alike]")
    assert difference("packages.versions", before, before[1:]).after == "[39 alike]"


def test_short_lists_and_lists_in_another_order_are_told_whole():
    found = difference("runtime.ort.providers.actual", ["A", "B", "C"], ["C"])
    assert (found.before, found.after) == ("A, B, C", "C")
    order = list("abcdef")
    assert difference("x.y", order, order[::-1]).after == "f, e, d, c, b, a"
