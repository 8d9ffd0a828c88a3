"""Proving a container from outside the process that will serve: the proof runs in a child, which may die of it.

The child is `prover_child`; what loads numpy or a runtime is imported only there.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from rollout.errors import ConfigError, UnavailableError
from rollout.model.admission import REPORT_SCHEMA, AdmissionPolicy, AdmissionReport, finding
from rollout.model.base import Strict
from rollout.model.matrix import Matrix
from rollout.serving.isolation import IsolatedError, run_isolated
from rollout.serving.options import EngineKind

FILE_BYTES_MAX = 1 << 30
"""The child makes model files on first use, and profiles of the warm-up."""

MARKS: Mapping[type[ConfigError | UnavailableError], bytes] = MappingProxyType(
    {ConfigError: b"config:", UnavailableError: b"unavailable:"}
)
"""Begins the child's answer where it is an error that is nobody's refusal, and no report."""

_CHILD = "rollout.serving.prover_child"


class ProofRequest(Strict):
    """What the child is to prove."""

    policy: AdmissionPolicy
    engine: Annotated[EngineKind, Field(strict=False)]
    cache: str
    model: str
    """Path of the policy's own model; empty for the reference model."""
    matrix: Matrix | None
    engine_cache: str
    """Empty where the policy names none."""
    plans: str
    """The store of engine plans; empty where there is none."""


def prove_isolated(request: ProofRequest, *, limit_s: float) -> AdmissionReport:
    """Prove this container in a child and return what came of it; a child that dies is a refusal.

    Raises:
        ConfigError: The model or the cache cannot be used.
        UnavailableError: The disk failed.
    """
    try:
        answer = run_isolated(
            _CHILD,
            request=request.model_dump_json(by_alias=True).encode(),
            limit_s=limit_s,
            file_bytes_max=FILE_BYTES_MAX,
        )
    except IsolatedError as error:
        return _died(request.policy, str(error))
    for error_type, mark in MARKS.items():
        if answer.startswith(mark):
            raise error_type(answer.removeprefix(mark).decode())
    try:
        return AdmissionReport.model_validate_json(answer)
    except ValueError as error:
        return _died(request.policy, f"its answer is not understood: {type(error).__name__}")


def _died(policy: AdmissionPolicy, text: str) -> AdmissionReport:
    return AdmissionReport(
        schema=REPORT_SCHEMA,
        policy=policy.name,
        admitted=False,
        snapshot=None,
        findings=(finding("prover_died", text),),
    )
