"""What can be wrong with an engine plan: the codes, and the errors that carry them."""

from enum import StrEnum

from rollout.errors import RefusedError
from rollout.model.verdict import Reason


class PlanFault(StrEnum):
    """The reason codes of this package; each stands in `rollout.model.reasons`."""

    MISSING = "plan_missing"
    BUILD_IMPOSSIBLE = "plan_build_impossible"
    FOREIGN = "plan_foreign"
    TRUNCATED = "plan_truncated"
    CHANGED = "plan_changed"
    OBJECT_MISSING = "plan_object_missing"
    TENSORRT_MISMATCH = "plan_tensorrt_mismatch"
    SM_MISMATCH = "plan_sm_mismatch"
    EXISTS = "plan_exists"
    MANIFEST_DAMAGED = "plan_manifest_damaged"
    MANIFEST_UNKNOWN = "plan_manifest_unknown"
    ORPHAN = "plan_orphan"
    ONNX_FOREIGN = "onnx_foreign"
    ONNX_TOO_LARGE = "onnx_too_large"
    ONNX_PATH_UNSAFE = "onnx_path_unsafe"
    CONTEXT_MISSING = "ep_context_missing"
    CONTEXT_DAMAGED = "ep_context_damaged"


class PlanError(RefusedError):
    """A file must not be loaded as an engine plan; `reasons` say why, the first one first."""

    def __init__(self, *reasons: Reason) -> None:
        super().__init__("; ".join(f"{one.code}: {one.text}" for one in reasons))
        self.reasons = reasons

    @property
    def code(self) -> str:
        """The code of the first reason."""
        return self.reasons[0].code


class PlanBuildError(PlanError):
    """No engine plan can be built on this machine."""


def reason(fault: PlanFault, text: str) -> Reason:
    """Return a fault as a reason."""
    return Reason(code=fault.value, text=text)


def plan_error(fault: PlanFault, text: str) -> PlanError:
    """Return a fault as an error."""
    return PlanError(reason(fault, text))
