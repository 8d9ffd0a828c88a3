"""The server process: listen, load, prove, serve, drain."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import assert_never

import uvicorn
from starlette.applications import Starlette

from rollout.errors import ConfigError, RolloutError
from rollout.model.admission import Profile
from rollout.serving.app import ImageServer, build_app
from rollout.serving.degradation import DegradedReason, admitted_pace
from rollout.serving.endpoints import blocking_codes
from rollout.serving.engines.table import load_engine
from rollout.serving.failures import EXIT_REFUSED, NotAdmittedError
from rollout.serving.liveness import DEVICE_CHANGED, PERIOD_S, DeviceProbe, Liveness, read_devices
from rollout.serving.options import ServeOptions
from rollout.serving.proof import Named, prove, start_device_watch
from rollout.serving.readiness import Readiness
from rollout.serving.snapshot import release_fields
from rollout.serving.subject import PictureSubject
from rollout.serving.work_queue import WorkQueue

# Longer than Envoy keeps idle upstream connections (an hour), so that the router closes first and never sends a
# request into a connection that the server is just closing.
_KEEP_ALIVE_S = 2 * 3600
_BACKLOG = 2048


def run_server(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT; then stop accepting, finish everything in flight, and end.

    Returns:
        The exit status: 0, or EXIT_REFUSED after one line on stderr when the stack is not what was asked for. uvicorn
        raises the signal it was ended by once more, so that a drained process normally ends by that signal.
    """
    try:
        listener = _listen(options)
    except ConfigError as error:
        _report(error)
        return EXIT_REFUSED
    readiness, liveness = Readiness(), Liveness()
    queue = WorkQueue(limit=options.queue_limit)
    device_watch = start_device_watch(options.admission)
    server = ImageServer(
        readiness=readiness, liveness=liveness, queue=queue, side_max=options.side_max, device_watch=device_watch
    )

    def device_changed(reason: str) -> None:
        liveness.fail(reason)
        server.lose_path(DegradedReason.DEVICE, reason, code=DEVICE_CHANGED)

    probe = DeviceProbe(
        read=lambda: read_devices(limit_s=options.admission.probe_s), changed=device_changed, period_s=PERIOD_S
    )
    refusals: list[RolloutError] = []

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        ticket = queue.submit(lambda stopped: _become_ready(options, server, readiness, probe, stopped=stopped))
        watch = asyncio.create_task(_watch(asyncio.wrap_future(ticket.future), refuse=refuse))
        yield
        ticket.cancel()
        queue.close()
        watch.cancel()
        probe.stop()
        if device_watch:
            device_watch.stop()

    def refuse(error: RolloutError) -> None:
        refusals.append(error)
        codes = blocking_codes(error.report) if isinstance(error, NotAdmittedError) else ()
        readiness.lose(str(error), codes=codes)
        uvicorn_server.should_exit = True

    config = uvicorn.Config(
        build_app(server, readiness=readiness, pod_uid=options.pod_uid, lifespan=lifespan),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        backlog=_BACKLOG,
    )
    uvicorn_server = uvicorn.Server(config)
    uvicorn_server.run(sockets=[listener])
    for refusal in refusals:
        _report(refusal)
    return EXIT_REFUSED if refusals else 0


def _listen(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        # Without SO_REUSEPORT a second server on the port fails instead of taking half of the requests.
        return socket.create_server((options.host, options.port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {options.host} port {options.port}: {error}") from error


def _become_ready(
    options: ServeOptions,
    server: ImageServer,
    readiness: Readiness,
    probe: DeviceProbe,
    *,
    stopped: threading.Event,
) -> None:
    """Prove the stack; runs in the work queue's thread, before every request.

    Raises:
        NotAdmittedError: It did not prove what the admission policy demands.
        ConfigError: It cannot be loaded.
    """
    with _deadline(options.admission.proof_s):
        proof = prove(
            options.admission,
            lambda: PictureSubject(engine=load_engine(options)),
            said=release_fields(options),
            named=Named(matrix=options.matrix, engine_cache=options.engine_cache),
            watch=server.device_watch,
            stopped=stopped,
        )
    if not proof.admitted or proof.subject is None:
        raise NotAdmittedError(proof.report())
    engine, snapshot = proof.subject.engine, proof.snapshot
    pace = admitted_pace(snapshot, request=proof.subject.request, degraded_ratio=options.admission.degraded_ratio)
    server.metrics.set_admitted(provider=engine.provider, profile=options.admission.profile, digest=snapshot.digest)
    readiness.admit(engine, snapshot, pace=pace)
    match options.admission.profile:
        case Profile.GPU:
            probe.start(snapshot)
        case Profile.DEVELOPMENT_CPU:
            pass  # There is no device that could vanish.
        case _ as unknown:
            assert_never(unknown)


@contextmanager
def _deadline(limit_s: float) -> Iterator[None]:
    """End the process where a proof does not end: a call into a hung driver never comes back, and nothing else can."""
    # The proof has the output streams captured; this one is the supervisor's.
    telling = os.dup(2)

    def give_up() -> None:
        os.write(telling, f"rollout serve: refused: prover_died: the proof did not end within {limit_s:g} s\n".encode())
        os._exit(EXIT_REFUSED)

    timer = threading.Timer(limit_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        os.close(telling)


async def _watch(loading: asyncio.Future[None], *, refuse: Callable[[RolloutError], None]) -> None:
    """End the server when loading fails; a failure that is nobody's refusal is a bug and is reported as one."""
    try:
        await loading
    except RolloutError as error:
        refuse(error)
    except Exception as error:
        refuse(RolloutError(f"a bug while loading: {type(error).__name__}: {error}"))
        raise


def _report(error: RolloutError) -> None:
    sys.stderr.write(f"rollout serve: refused: {' '.join(str(error).split())}\n")
    sys.stderr.flush()
