"""The matrix gate: one server against the version matrix."""

from rollout.gates.names import MATRIX
from rollout.gates.result import result
from rollout.model.matrix import ORT_UNKNOWN, Matrix, compare_snapshot, contradictions
from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.verdict import GateResult, Outcome


def judge_matrix(matrix: Matrix, snapshot: CapabilitySnapshot) -> GateResult:
    """Judge as `rollout matrix check` does: pins that are at odds, and where the server differs, are a BREACH."""
    differs = compare_snapshot(matrix, snapshot)
    # A server that fits runs the pinned ONNX Runtime with the pinned libraries: they do work together.
    pins = tuple(one for one in contradictions(matrix) if differs or one.code != ORT_UNKNOWN)
    if not pins and not differs:
        return result(MATRIX, Outcome.PASS, "matrix_fits", f"fits {matrix.name}")
    return GateResult(gate=MATRIX, outcome=Outcome.BREACH, reasons=(*pins, *differs))
