"""Differences between two capability snapshots: what changed, under which reason code, and how much that weighs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from rollout.model.reasons import REASONS
from rollout.model.snapshot import Capability, CapabilitySnapshot, CapabilityStatus
from rollout.model.verdict import GateResult, Severity

UNKNOWN = "difference_unclassified"
"""Code of a difference that no rule knows: a warning, never silence."""

CODES: tuple[tuple[str, str, str], ...] = (
    # What computes, and where.
    ("policy.profile", "*", "profile_changed"),
    ("policy.admission", "*", "admission_policy_changed"),
    ("runtime.engine", "*", "engine_changed"),
    ("runtime.ort.providers.options", "*", "tuning_changed"),
    ("runtime.ort.providers.*", "*", "provider_dropped"),
    ("runtime.torch.device", "*", "provider_dropped"),
    ("runtime.torch.device.*", "*", "gpu_changed"),
    ("runtime.ort.placement.cpu_ops", "unavailable", "placement_unmeasured"),
    ("runtime.ort.placement.cpu_ops", "*", "cpu_operators_changed"),
    ("runtime.ort.placement.memcpy_nodes", "unavailable", "placement_unmeasured"),
    ("runtime.ort.placement.*", "*", "placement_on_cpu"),
    ("runtime.ort.binding.*", "*", "output_off_device"),
    ("runtime.messages.fallback", "?*", "fallback_message"),
    ("runtime.messages.*", "*", "messages_changed"),
    ("model.unet.attention.fused", "true", "attention_changed"),
    ("model.unet.attention.fused", "*", "attention_not_fused"),
    ("model.unet.attention.*", "*", "attention_changed"),
    # The device below.
    ("gpu.libcuda.stub", "true", "libcuda_stub"),
    ("gpu.driver.*", "*", "driver_changed"),
    ("gpu.libcuda.*", "*", "driver_changed"),
    ("gpu.nvml.*", "*", "driver_changed"),
    ("gpu.ecc", "*", "gpu_settings_changed"),
    ("gpu.persistence", "*", "gpu_settings_changed"),
    ("gpu.compute_mode", "*", "gpu_settings_changed"),
    ("gpu.power_limit_w", "*", "gpu_settings_changed"),
    ("gpu.pcie.*", "*", "gpu_settings_changed"),
    ("gpu.*", "*", "gpu_changed"),
    # Builds and versions.
    ("packages.rivals", "*onnxruntime*", "ort_packages_conflict"),
    ("packages.rivals", "*ort-nightly*", "ort_packages_conflict"),
    ("packages.rivals", "* and *", "packages_conflict"),
    ("packages.*", "*", "packages_changed"),
    ("runtime.ort.package", "*", "runtime_package_changed"),
    ("runtime.libraries", "*", "libraries_changed"),
    ("runtime.*.library", "*", "libraries_changed"),
    ("runtime.*.version", "*", "version_changed"),
    ("runtime.ort.cuda_version", "*", "version_changed"),
    ("runtime.ort.build_info", "*", "version_changed"),
    ("runtime.engine_cache.changes", "absent", "engine_cache_changed"),
    ("runtime.engine_cache.changes", "?*", "engine_rebuilt"),
    ("runtime.engine_cache.*", "*", "engine_cache_changed"),
    # How it is set up.
    ("runtime.ort.graph_optimization", "*", "tuning_changed"),
    ("runtime.ort.execution_mode", "*", "tuning_changed"),
    ("runtime.ort.session_lifetime", "*", "tuning_changed"),
    ("runtime.ort.arena", "*", "tuning_changed"),
    ("runtime.ort.memory_pattern", "*", "tuning_changed"),
    ("runtime.ort.threads.*", "*", "tuning_changed"),
    ("runtime.torch.threads", "*", "tuning_changed"),
    ("runtime.torch.tf32.*", "*", "tuning_changed"),
    ("environment.*", "*", "environment_changed"),
    ("container.user.root", "true", "user_root"),
    ("container.*", "*", "container_changed"),
    ("model.precision", "*", "precision_differs"),
    ("model.*.precision", "*", "precision_differs"),
    ("model.*.digest", "*", "model_changed"),
    ("pipeline.*", "*", "pipeline_changed"),
    ("server.*", "*", "server_changed"),
    ("self_test.*", "*", "self_test_changed"),
)
"""Patterns of the field and of its new value as it is shown, and the code, whose severity counts. First match wins."""

ENTRIES_MAX = 4
"""Lists up to here are shown whole: the providers of a session. Packages and variables are dozens."""

_NOTE = re.compile(r" \(((?:waived until \d{4}-\d\d-\d\d by |the waiver by ).*)\)$", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field that is not the same in two snapshots.

    Attributes:
        before, after: Shown for people; of long lists only what is not in both.
        code: One of `rollout.model.reasons`.
        severity: The code's, or INFO where a policy lets the difference pass.
        note: What a waiver says about it; empty where there is none.
    """

    key: str
    before: str
    after: str
    code: str
    severity: Severity
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.key}: {self.before} -> {self.after}{note}"


def diff(before: CapabilitySnapshot, after: CapabilitySnapshot) -> tuple[Difference, ...]:
    """Compare two snapshots field by field, heaviest first; a field present on one side only is a difference."""
    keys = sorted({*before.fields, *after.fields})
    pairs = [(key, before.fields.get(key), after.fields.get(key)) for key in keys]
    return heaviest_first(_difference(key, *_shown(old, new)) for key, old, new in pairs if not _same(old, new))


def heaviest_first(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """Sort by severity, then by field."""
    return tuple(sorted(differences, key=lambda one: (one.severity.rank, one.key)))


def reported(result: GateResult) -> tuple[Difference, ...]:
    """Return the differences that a capability gate reported, read back from its reasons, in their order."""
    return tuple(
        _read_back(reason.text, blocks=reason.code == "capability_lost")
        for reason in result.reasons
        if reason.code in {"capability_lost", "capability_changed"}
    )


def _difference(key: str, before: str, after: str, note: str = "") -> Difference:
    matching = (code for field, value, code in CODES if fnmatchcase(key, field) and fnmatchcase(after, value))
    code = next(matching, UNKNOWN)
    return Difference(key=key, before=before, after=after, code=code, severity=REASONS[code].severity, note=note)


def _read_back(text: str, *, blocks: bool) -> Difference:
    noted = _NOTE.search(text)
    key, _, values = text[: noted.start() if noted else None].partition(": ")
    before, _, after = values.partition(" -> ")
    found = _difference(key, before, after, noted.group(1) if noted else "")
    # What would block and did not was allowed or waived.
    return replace(found, severity=Severity.INFO) if found.severity is Severity.BLOCK and not blocks else found


def _same(before: Capability | None, after: Capability | None) -> bool:
    if before is None or after is None:
        return before is after
    # Python holds True and 1 for equal; a snapshot's digest does not.
    alike = isinstance(before.value, bool) is isinstance(after.value, bool)
    return alike and (before.status, before.value) == (after.status, after.value)


def _shown(before: Capability | None, after: Capability | None) -> tuple[str, str]:
    old, new = _entries(before), _entries(after)
    if old is None or new is None or max(len(old), len(new)) <= ENTRIES_MAX or set(old) == set(new):
        return _text(before), _text(after)
    alike = {*old} & {*new}
    return _told(old, alike), _told(new, alike)


def _entries(field: Capability | None) -> list[str] | None:
    return field.value if field is not None and isinstance(field.value, list) else None


def _told(entries: list[str], alike: set[str]) -> str:
    own = [one for one in entries if one not in alike]
    return ", ".join([*own, f"[{len(alike)} alike]"] if alike else own)


def _text(field: Capability | None) -> str:
    if field is None:
        return "absent"
    if field.status is not CapabilityStatus.OK:
        return field.status.value
    if isinstance(field.value, list):
        return ", ".join(field.value)
    if isinstance(field.value, bool):
        return str(field.value).lower()
    return str(field.value)
