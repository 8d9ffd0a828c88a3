"""The child of `prover`: proves the container in a process that may hang or die; `python -m` runs it."""

import os
import sys
import threading
from pathlib import Path

from rollout.errors import ConfigError, UnavailableError
from rollout.serving.engines.table import load_engine
from rollout.serving.isolation import end_with
from rollout.serving.options import ServeOptions, default_precision
from rollout.serving.proof import Named, Proof, prove, start_device_watch
from rollout.serving.prover import MARKS, ProofRequest
from rollout.serving.snapshot import policy_fields, release_fields
from rollout.serving.subject import ModelSubject, PictureSubject, load_model


def main(parent: int, answering: int) -> None:
    """Read the request, prove, answer; a proof whose asker was ended may hold a GPU for minutes."""
    end_with(parent)
    request = ProofRequest.model_validate_json(sys.stdin.buffer.read())
    try:
        answer = _proven(request).report().model_dump_json(by_alias=True).encode()
    except (ConfigError, UnavailableError) as error:
        answer = MARKS[type(error)] + str(error).encode()
    with os.fdopen(answering, "wb") as stream:
        stream.write(answer)


def _proven(request: ProofRequest) -> Proof[PictureSubject] | Proof[ModelSubject]:
    policy = request.policy
    watch, stopped = start_device_watch(policy), threading.Event()
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
    """Return the reference server's good release."""
    return ServeOptions(
        port=0,
        pod_uid="prover",
        cache=Path(request.cache),
        admission=request.policy,
        engine=request.engine,
        precision=default_precision(request.policy.profile),
        plans=Path(request.plans) if request.plans else None,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    # Libraries of drivers have exit handlers that hang or crash; everything was sent.
    os._exit(0)
