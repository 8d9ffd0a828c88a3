"""Proving a container from outside the process that will serve: the proof runs in a child, which may die of it.

`python -m rollout.serving.prover` is the child.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Annotated

from pydantic import Field

from rollout.errors import ConfigError
from rollout.model.admission import AdmissionPolicy, AdmissionReport, Finding
from rollout.model.base import Strict
from rollout.model.matrix import Matrix
from rollout.model.reasons import REASONS
from rollout.serving.engines.table import load_engine
from rollout.serving.isolation import IsolatedError, end_with, run_isolated
from rollout.serving.options import EngineKind, Precision, ServeOptions
from rollout.serving.proof import Named, Proof, prove, watched
from rollout.serving.snapshot import policy_fields, release_fields
from rollout.serving.subject import ModelSubject, PictureSubject, load_model

FILE_BYTES_MAX = 1 << 30
"""The child makes model files on first use, and profiles of the warm-up."""


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
    """
    try:
        answer = run_isolated(
            __name__,
            request=request.model_dump_json(by_alias=True).encode(),
            limit_s=limit_s,
            file_bytes_max=FILE_BYTES_MAX,
        )
    except IsolatedError as error:
        return _died(request.policy, str(error))
    if answer.startswith(_CONFIG_MARK):
        raise ConfigError(answer.removeprefix(_CONFIG_MARK).decode())
    try:
        return AdmissionReport.model_validate_json(answer)
    except ValueError as error:
        return _died(request.policy, f"its answer is not understood: {type(error).__name__}")


_CONFIG_MARK = b"config:"


def _died(policy: AdmissionPolicy, text: str) -> AdmissionReport:
    code = "prover_died"
    finding = Finding(code=code, severity=REASONS[code].severity, text=text)
    return AdmissionReport(
        schema="rollout.admission-report/v1", policy=policy.name, admitted=False, snapshot=None, findings=(finding,)
    )


def main(parent: int, answering: int) -> None:
    """Read the request, prove, answer; a proof whose asker was ended may hold a GPU for minutes."""
    end_with(parent)
    request = ProofRequest.model_validate_json(sys.stdin.buffer.read())
    try:
        answer = _proven(request).report().model_dump_json(by_alias=True).encode()
    except ConfigError as error:
        answer = _CONFIG_MARK + str(error).encode()
    with os.fdopen(answering, "wb") as stream:
        stream.write(answer)


def _proven(request: ProofRequest) -> Proof[PictureSubject] | Proof[ModelSubject]:
    policy = request.policy
    watch, stopped = watched(policy), threading.Event()
    cache = Path(request.engine_cache) if request.engine_cache else None
    named = Named(matrix=request.matrix, engine_cache=cache)
    try:
        if request.model:
            path = Path(request.model)
            return prove(
                policy,
                lambda: load_model(policy, path=path),
                said=policy_fields(policy),
                named=named,
                watch=watch,
                stopped=stopped,
            )
        options = _options(request)
        return prove(
            policy,
            lambda: PictureSubject(engine=load_engine(options)),
            said=release_fields(options),
            named=named,
            watch=watch,
            stopped=stopped,
        )
    finally:
        if watch is not None:
            watch.stop()


def _options(request: ProofRequest) -> ServeOptions:
    """Return the reference server's good release; its precision is the one that needs no conversion."""
    return ServeOptions(
        port=0,
        pod_uid="prover",
        cache=Path(request.cache),
        admission=request.policy,
        engine=request.engine,
        precision=Precision.FP32,
        plans=Path(request.plans) if request.plans else None,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    # Libraries of drivers have exit handlers that hang or crash; everything was sent.
    os._exit(0)
