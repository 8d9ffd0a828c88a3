"""What an admission concludes from a snapshot: pure, and in the order of causes before consequences."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date

from rollout.model.admission import (
    AdmissionPolicy,
    DeviceDemand,
    Finding,
    PlacementDemand,
    Profile,
    Provider,
    SelfTestDemand,
    finding,
)
from rollout.model.cuda import CudaResult, NvmlResult
from rollout.model.matrix_facts import ORT_DISTRIBUTIONS
from rollout.model.snapshot import Capability, CapabilitySnapshot, CapabilityStatus
from rollout.model.verdict import Reason, Severity
from rollout.model.waiver import waived
from rollout.serving.messages import fallback_signs
from rollout.serving.providers import dropped

SHM_BYTES_WARN = 256 << 20
"""Docker's default of 64 MiB is too small for programs that pass tensors between processes."""

_CUDA_CODES: Mapping[int, str] = {
    CudaResult.STUB_LIBRARY: "libcuda_stub",
    CudaResult.NO_DEVICE: "no_device",
    CudaResult.SYSTEM_DRIVER_MISMATCH: "driver_mismatch",
    CudaResult.COMPAT_NOT_SUPPORTED_ON_DEVICE: "driver_mismatch",
}
_NVML_CODES: Mapping[int, str] = {
    NvmlResult.DRIVER_NOT_LOADED: "driver_not_loaded",
    NvmlResult.LIBRARY_NOT_FOUND: "nvml_missing",
    NvmlResult.LIB_RM_VERSION_MISMATCH: "driver_mismatch",
}

_ORT = "ort"
"""What a policy's own model runs on, whose engine is told only once it has run."""

# Source: the CUDA provider of ONNX Runtime; its option is a set of bits, of which 16 alone is the kernel in steps.
_UNFUSED = re.compile(r"ORT_DISABLE_\w*ATTENTION=(?!0$).*|CUDA\.sdpa_kernel=16")

_Read = Capability | None
Findings = Iterator[Finding]


def judge(
    policy: AdmissionPolicy,
    *,
    snapshot: CapabilitySnapshot,
    failure: Reason | None,
    versions: Sequence[Reason],
    today: date,
) -> tuple[Finding, ...]:
    """Judge what a container proved; what blocks comes first, causes before consequences.

    Args:
        policy: The demands.
        snapshot: What was collected.
        failure: Why no session could be opened, or the self-test did not pass; None where both are fine.
        versions: What the version matrix holds against the snapshot.
        today: In UTC; decides which waivers hold.
    """
    seen = _Seen(snapshot)
    engine = seen.text("runtime.engine") or _ORT
    refused = None if failure is None else finding(failure.code, failure.text)
    found = [
        *_package_findings(seen, engine=engine),
        *(_device_findings(policy.device, seen, engine=engine) if policy.device is not None else ()),
        *([] if refused is None else [refused]),
        *_message_findings(seen, told="" if failure is None else failure.text),
        *(_session_findings(policy, seen) if failure is None else ()),
        *(finding(one.code, one.text) for one in versions),
        *_required_findings(policy.required, seen, complete=failure is None),
        *_container_findings(seen, gpu=policy.profile is Profile.GPU),
    ]
    # Where there is nothing that could serve, no waiver helps.
    judged = [one if one is refused else _waived(policy, one, today=today) for one in _once(found)]
    return tuple(sorted(judged, key=lambda one: one.severity.rank))


class _Seen:
    """The values of a snapshot, by field."""

    def __init__(self, snapshot: CapabilitySnapshot) -> None:
        self._all = {**snapshot.measurements, **snapshot.fields}

    def field(self, name: str) -> _Read:
        return self._all.get(name)

    def number(self, name: str) -> float | None:
        value = self._value(name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def text(self, name: str) -> str | None:
        value = self._value(name)
        return value if isinstance(value, str) else None

    def flag(self, name: str) -> bool | None:
        value = self._value(name)
        return value if isinstance(value, bool) else None

    def texts(self, name: str) -> list[str] | None:
        value = self._value(name)
        return value if isinstance(value, list) else None

    def why_not(self, name: str) -> str:
        """Say why a field has no usable value."""
        read = self._all.get(name)
        if read is None:
            return f"{name} is not in the snapshot"
        if read.status is CapabilityStatus.OK:
            return f"{name} has the value {read.value!r}, which is of another kind"
        return f"{name} is {read.status}: {read.reason}"

    def _value(self, name: str) -> object:
        read = self._all.get(name)
        return None if read is None else read.value


def _package_findings(seen: _Seen, *, engine: str) -> Findings:
    rivals = seen.texts("packages.rivals")
    if rivals is None:
        yield _uncollected(seen, "packages.rivals")
        return
    for names in rivals:
        conflict = ORT_DISTRIBUTIONS.intersection(names.split(" and "))
        code = "ort_packages_conflict" if conflict and engine == _ORT else "packages_conflict"
        yield finding(code, f"{names} are installed together: the last one installed wins", field="packages.rivals")


def _device_findings(demand: DeviceDemand, seen: _Seen, *, engine: str) -> Findings:
    yield from _driver_findings(seen, engine=engine)
    # Where the driver finds devices, it does not matter by which nodes: Windows' subsystem for Linux has others.
    if seen.texts("gpu.devices") is None and not seen.number("gpu.libcuda.device_count"):
        yield finding("device_nodes_missing", seen.why_not("gpu.devices"), field="gpu.devices")
    nvml = seen.number("gpu.nvml.init")
    if nvml is None:
        yield _uncollected(seen, "gpu.nvml.init")
        return
    if nvml != NvmlResult.SUCCESS:
        text = f"NVML does not start: {seen.why_not('gpu.count')}"
        yield finding(_NVML_CODES.get(int(nvml), "driver_failed"), text, field="gpu.nvml.init")
        return
    yield from _inventory_findings(demand, seen)


def _driver_findings(seen: _Seen, *, engine: str) -> Findings:
    init = seen.number("gpu.libcuda.init")
    if init is None:
        reason = seen.field("gpu.libcuda.init")
        missing = reason is not None and reason.status is CapabilityStatus.UNAVAILABLE
        yield finding(
            "libcuda_missing" if missing else "field_not_collected",
            seen.why_not("gpu.libcuda.init"),
            field="gpu.libcuda.init",
        )
        return
    if seen.flag("gpu.libcuda.stub"):
        yield finding("libcuda_stub", f"libcuda at {seen.text('gpu.libcuda.path')} is a stub", field="gpu.libcuda.stub")
        return
    yield from _version_findings(seen, engine=engine)
    if init != CudaResult.SUCCESS:
        text = f"cuInit answers {int(init)}"
        yield finding(_CUDA_CODES.get(int(init), "driver_failed"), text, field="gpu.libcuda.init")


def _version_findings(seen: _Seen, *, engine: str) -> Findings:
    """Compare the CUDA version that the driver supports with the one that the runtime was built for, by major."""
    field = "gpu.libcuda.cuda_version"
    supported = seen.text(field)
    if supported is None:
        yield _uncollected(seen, field)
        return
    name = "runtime.ort.cuda_version" if engine == _ORT else "runtime.torch.cuda.version"
    built = seen.text(name)
    if built is not None and _major(built) > _major(supported):
        yield finding("driver_too_old", f"the driver supports CUDA {supported}, {name} is {built}", field=field)


def _inventory_findings(demand: DeviceDemand, seen: _Seen) -> Findings:
    # NVML shows what the node gives, libcuda what is left of it by CUDA_VISIBLE_DEVICES and slices.
    for field in ("gpu.count", "gpu.libcuda.device_count"):
        count = seen.number(field)
        if count is None or count < demand.count_min:
            found = seen.why_not(field) if count is None else f"{field} is {int(count)}"
            yield finding("too_few_devices", f"{found}, {demand.count_min} are demanded", field=field)
            return
    if demand.memory_bytes_min is not None:
        field = "gpu.libcuda.memory_bytes"
        memory = seen.number(field)
        if memory is None or memory < demand.memory_bytes_min:
            found = seen.why_not(field) if memory is None else f"the smallest GPU has {int(memory)} bytes"
            yield finding("device_too_small", f"{found}, {demand.memory_bytes_min} are demanded", field=field)
    yield from _mig_findings(demand.mig_profile, seen)


def _mig_findings(profile: str | None, seen: _Seen) -> Findings:
    field, wanted = "gpu.mig", profile or "off"
    profiles = seen.texts(field)
    if profiles is None:
        read = seen.field(field)
        whole = read is not None and read.status is CapabilityStatus.UNAVAILABLE  # A product without MIG is whole.
        if profile is not None and whole:
            yield finding("mig_profile_differs", seen.why_not(field), field=field)
        elif not whole:
            yield _uncollected(seen, field)
    elif {profile for device in profiles for profile in _slices(device)} != {wanted}:
        yield finding("mig_profile_differs", f"MIG is {'; '.join(profiles)}, demanded is {wanted}", field=field)


def _slices(device: str) -> list[str]:
    """Return the profiles of a device's instances; a sentence where it has none is one of its own."""
    return [device] if "," in device else device.split()


def _message_findings(seen: _Seen, *, told: str) -> Findings:
    """Tell what the runtime said of a fallback, except for what is told already."""
    lines = seen.texts("runtime.messages.fallback")
    if lines is None:
        yield _uncollected(seen, "runtime.messages.fallback")
        return
    for sign in fallback_signs("\n".join(lines)):
        if sign.line in told:
            continue
        yield finding(sign.code, f"the runtime said: {sign.line}", field="runtime.messages.fallback")


def _session_findings(policy: AdmissionPolicy, seen: _Seen) -> Findings:
    engine = seen.text("runtime.engine")
    match engine:
        case "ort":
            yield from _provider_findings(policy, seen)
            if policy.placement is not None:
                yield from _placement_findings(policy.placement, seen)
            if policy.outputs_on_device:
                yield from _binding_findings(seen)
        case "diffusers":
            if Provider.TENSORRT in policy.providers:
                text = "the policy orders TensorRT, and diffusers computes on torch"
                yield finding("provider_dropped", text, field="runtime.engine")
            device = seen.text("runtime.torch.device")
            if device is None or (policy.profile is Profile.GPU and not re.fullmatch(r"cuda(:\d+)?", device)):
                text = seen.why_not("runtime.torch.device") if device is None else f"torch computes on {device}"
                yield finding("provider_dropped", text, field="runtime.torch.device")
        case _:
            yield _uncollected(seen, "runtime.engine")
    if policy.attention_fused:
        yield from _attention_findings(seen)
    if policy.engine_cache is not None:
        yield from _engine_findings(seen)
    yield from _self_test_findings(policy.self_test, seen)


def _provider_findings(policy: AdmissionPolicy, seen: _Seen) -> Findings:
    field = "runtime.ort.providers.actual"
    actual = seen.texts(field)
    if actual is None:
        yield _uncollected(seen, field)
        return
    wanted = [one.value for one in policy.providers]
    if dropped(actual, requested=wanted):
        text = f"the session runs on {', '.join(actual) or 'nothing'}, the policy demands {', '.join(wanted)}"
        yield finding("provider_dropped", text, field=field)


def _placement_findings(demand: PlacementDemand, seen: _Seen) -> Findings:
    ops = seen.texts("runtime.ort.placement.cpu_ops")
    if ops is None:
        yield _uncollected(seen, "runtime.ort.placement.cpu_ops")
    elif heavy := [op for op in ops if any(name in op for name in demand.heavy_ops)]:
        # A fused operator keeps the name of what it does: FusedConv, NhwcConv, FusedMatMul.
        yield finding("heavy_op_on_cpu", f"on the CPU run: {', '.join(heavy)}", field="runtime.ort.placement.cpu_ops")
    for field, most in (
        ("runtime.ort.placement.cpu_share", demand.cpu_node_share_max),
        ("runtime.ort.placement.cpu_time_share", demand.cpu_time_share_max),
    ):
        share = seen.number(field)
        if share is None:
            yield _uncollected(seen, field)
        elif share > most:
            yield finding("placement_on_cpu", f"{field} is {share:.3f}, at most {most} is allowed", field=field)


def _binding_findings(seen: _Seen) -> Findings:
    field = "runtime.ort.binding.output_device"
    device = seen.text(field)
    if device is None:
        yield _uncollected(seen, field)
    elif device == "cpu":
        yield finding("output_off_device", "an output bound to the GPU lies in host memory", field=field)


def _attention_findings(seen: _Seen) -> Findings:
    yield from _kernel_findings(seen)
    field = "model.unet.attention.fused"
    fused = seen.flag(field)
    if fused is None:
        yield _uncollected(seen, field)
    elif not fused:
        yield finding("attention_not_fused", "the UNet computes attention in steps", field=field)


def _kernel_findings(seen: _Seen) -> Findings:
    """Find what turns fused kernels off inside one operator, where no name shows it."""
    for field in ("environment.variables", "runtime.ort.providers.options"):
        for setting in seen.texts(field) or ():
            if _UNFUSED.fullmatch(setting):
                yield finding("attention_not_fused", f"{setting} turns fused attention off", field=field)


def _engine_findings(seen: _Seen) -> Findings:
    field = "runtime.engine_cache.changes"
    changes = seen.texts(field)
    if changes is None:
        yield _uncollected(seen, field)
    elif changes:
        yield finding("engine_rebuilt", f"the engine cache changed during warm-up: {'; '.join(changes)}", field=field)


def _self_test_findings(demand: SelfTestDemand, seen: _Seen) -> Findings:
    field = "self_test.latency_s"
    latency_s = seen.number(field)
    if latency_s is None:
        yield _uncollected(seen, field)
    elif not demand.latency_s_min <= latency_s <= demand.latency_s_max:
        code = "self_test_slow" if latency_s > demand.latency_s_max else "self_test_fast"
        text = f"the warm self-test picture took {latency_s:.4f} s, the window is {demand.latency_s_min:g} to "
        yield finding(code, f"{text}{demand.latency_s_max:g} s", field=field)
    if demand.utilisation_min is None:
        return
    field = "self_test.utilisation"
    busy = seen.number(field)
    if busy is None:
        yield _uncollected(seen, field)
    elif busy < demand.utilisation_min:
        text = f"the GPU was busy for {busy:.2f} of the self-test at most, {demand.utilisation_min:g} is demanded"
        yield finding("utilisation_low", text, field=field)


def _required_findings(required: Iterable[str], seen: _Seen, *, complete: bool) -> Findings:
    """Tell which demanded fields are missing; what a failed session could not show is told by its failure."""
    for name in required:
        read = seen.field(name)
        if (read is None and complete) or (read is not None and read.status is not CapabilityStatus.OK):
            yield _uncollected(seen, name)


def _container_findings(seen: _Seen, *, gpu: bool) -> Findings:
    """Warn of what erodes performance or safety; nothing here blocks."""
    field = "container.memory.limit_bytes"
    limit = seen.field(field)
    if limit is None or limit.status is not CapabilityStatus.OK:
        yield finding("memory_unlimited", seen.why_not(field), field=field)
    if seen.flag("container.user.root"):
        yield finding("user_root", "the process runs as root", field="container.user.root")
    if compilers := seen.texts("container.compilers"):
        yield finding("compilers_in_image", f"on the path: {', '.join(compilers)}", field="container.compilers")
    if not gpu:
        return
    shm = seen.number("container.shm.bytes")
    if shm is not None and shm < SHM_BYTES_WARN:
        yield finding("shm_small", f"shared memory holds {int(shm)} bytes", field="container.shm.bytes")
    yield from _health_findings(seen)


def _health_findings(seen: _Seen) -> Findings:
    for now, most in (
        ("gpu.pcie.generation", "gpu.pcie.generation_max"),
        ("gpu.pcie.width", "gpu.pcie.width_max"),
    ):
        current, highest = seen.texts(now), seen.texts(most)
        if current is not None and highest is not None and current != highest:
            yield finding("pcie_below_maximum", f"{now} is {current}, {highest} is possible", field=now)
    for field, code in (("gpu.clock_events", "clocks_throttled"), ("gpu.remapped_rows", "memory_rows_remapped")):
        states = seen.texts(field)
        if states is not None and set(states) - {"none"}:
            yield finding(code, f"{field}: {'; '.join(states)}", field=field)


def _uncollected(seen: _Seen, field: str) -> Finding:
    return finding("field_not_collected", seen.why_not(field), field=field)


def _once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Drop what says the same code of the same field again; the first says why."""
    known = set()
    for one in findings:
        if (one.code, one.field) not in known:
            known.add((one.code, one.field))
            yield one


def _waived(policy: AdmissionPolicy, found: Finding, *, today: date) -> Finding:
    if found.severity is not Severity.BLOCK:
        return found
    severity, told = waived(policy.waivers, found.code, found.field, today=today)
    return found.model_copy(update={"severity": severity, "text": f"{found.text} ({told})" if told else found.text})


def _major(version: str) -> int:
    return int(version.partition(".")[0])
