"""The HTTP face of the reference server.

The event loop only parses, queues and answers; pictures are drawn by the work queue's one thread. Every answer names
the instance, and once that is proven, the capability snapshot it runs under.
"""

import asyncio
import base64
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import Any, assert_never

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rollout.errors import PlatformError
from rollout.model.canonical import canonical_bytes
from rollout.model.wire import (
    HEADER_GPU_MEMORY,
    HEADER_PROVIDER,
    PATH_CAPABILITIES,
    PATH_HEALTH,
    PATH_IMAGES,
    PATH_METRICS,
    PATH_READY,
    SERVER_TIMING,
)
from rollout.serving.asgi import ASGIApp, IdentityHeaders
from rollout.serving.degradation import DegradedReason, Pace, shape_of
from rollout.serving.device_watch import DeviceSample, DeviceWatch
from rollout.serving.endpoints import Answer, json_answer, proven_answer, refused_answer
from rollout.serving.engines.interface import Engine
from rollout.serving.failures import (
    AdmissionError,
    NonFiniteError,
    PlacementLostError,
    QueueFullError,
    WorkCancelledError,
)
from rollout.serving.image_request import BadRequestError, error_body, parse_image_request
from rollout.serving.liveness import Liveness
from rollout.serving.metrics import METRICS_CONTENT_TYPE, ServerMetrics
from rollout.serving.pipeline import PictureRequest, draw
from rollout.serving.readiness import NotReady, Readiness, Ready
from rollout.serving.work_queue import Ticket, WorkQueue

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 64 * 1024
CLIENT_GONE = 499
"""What nginx logs for a client that closed the connection; nobody receives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAnswer:
    """The body of an image answer, its phases in milliseconds, queue included, and its seconds on the device."""

    body: bytes
    phase_ms: Mapping[str, float]
    device_s: float


class ImageServer:
    """The endpoints over one readiness, one queue and one set of metrics."""

    def __init__(
        self,
        *,
        readiness: Readiness,
        liveness: Liveness,
        queue: WorkQueue,
        side_max: int,
        device_watch: DeviceWatch | None,
    ) -> None:
        self._readiness = readiness
        self._liveness = liveness
        self._side_max = side_max
        self._queue = queue
        self.device_watch = device_watch
        self.metrics = ServerMetrics(
            queue_depth=lambda: queue.depth,
            ready=lambda: 1.0 if isinstance(readiness.state, Ready) else 0.0,
            live=lambda: 0.0 if liveness.failure else 1.0,
            gpus=self._gpus,
        )

    async def images(self, request: Request) -> Response:
        """Draw pictures, or say in OpenAI's form why not."""
        response = await self._images(request)
        self.metrics.count_request(code=response.status_code)
        return response

    async def health(self, _request: Request) -> Response:
        """Liveness: the process runs, its event loop turns, and its devices are those that were admitted."""
        if failure := self._liveness.failure:
            return _response(json_answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "failed", "reason": failure}))
        return _response(json_answer(HTTPStatus.OK, {"status": "alive"}))

    async def ready(self, _request: Request) -> Response:
        """Readiness: the stack has proven what the admission policy demands."""
        match self._readiness.state:
            case Ready(digest=digest):
                return _response(proven_answer(digest))
            case NotReady(reason=reason, codes=codes):
                return _response(refused_answer(reason, codes=codes))
            case _ as unknown:
                assert_never(unknown)

    async def capabilities(self, _request: Request) -> Response:
        """Return the capability snapshot that the server was admitted with."""
        match self._readiness.state:
            case Ready(snapshot=snapshot):
                return _response(json_answer(HTTPStatus.OK, snapshot.to_json()))
            case NotReady(reason=reason, codes=codes):
                return _response(refused_answer(reason, codes=codes))
            case _ as unknown:
                assert_never(unknown)

    async def metrics_page(self, _request: Request) -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(self.metrics.render(), media_type=METRICS_CONTENT_TYPE)

    def lose_path(self, reason: DegradedReason, text: str, *, code: str) -> None:
        """Take no more traffic, and say so: what was admitted is no longer there. From any thread."""
        logger.error("degraded, %s: %s", reason.value, text)
        self.metrics.set_degraded(reason, degraded=True)
        self._readiness.lose(text, codes=(code,))

    async def _images(self, request: Request) -> Response:
        try:
            body = await _read_body(request)
            started = perf_counter()
            wanted = parse_image_request(body, side_max=self._side_max)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        except BadRequestError as error:
            body_json = error_body(str(error), kind="invalid_request_error", param=error.param, code=error.code)
            too_large = error.code == "body_too_large"
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
            return JSONResponse(body_json, status_code=status)
        match self._readiness.state:
            case NotReady(reason=reason):
                return _busy(HTTPStatus.SERVICE_UNAVAILABLE, f"the server is not ready: {reason}", code="not_ready")
            case Ready(engine=engine, pace=pace):
                return await self._draw(request, engine, pace, wanted, started=started)
            case _ as unknown:
                assert_never(unknown)

    async def _draw(
        self, request: Request, engine: Engine, pace: Pace, wanted: PictureRequest, *, started: float
    ) -> Response:
        def work(cancelled: threading.Event) -> ImageAnswer:
            return _answer(engine, wanted, started=started, cancelled=cancelled)

        try:
            ticket = self._queue.submit(work)
        except QueueFullError as error:
            return _busy(HTTPStatus.TOO_MANY_REQUESTS, str(error), code="rate_limit_exceeded")
        if not await _finished_before_disconnect(request, ticket):
            return Response(status_code=CLIENT_GONE)
        try:
            answer = ticket.future.result()
        except PlatformError as error:
            return self._failed(error)
        phase_ms = {**answer.phase_ms, "total": (perf_counter() - started) * 1e3}
        self.metrics.observe_phases(phase_ms)
        self.metrics.observe_device(answer.device_s, provider=engine.provider)
        pace.note(shape_of(wanted), answer.device_s)
        self.metrics.set_pace(pace.ratio)
        self.metrics.set_degraded(DegradedReason.LATENCY, degraded=pace.slow)
        headers = {SERVER_TIMING: _server_timing(phase_ms, device_s=answer.device_s), HEADER_PROVIDER: engine.provider}
        if gpus := self._gpus():
            headers[HEADER_GPU_MEMORY] = str(sum(gpus.memory_used_bytes))
        return Response(answer.body, media_type="application/json", headers=headers)

    def _gpus(self) -> DeviceSample | None:
        return self.device_watch.latest() if self.device_watch else None

    def _failed(self, error: PlatformError) -> Response:
        match error:
            case WorkCancelledError():
                return Response(status_code=CLIENT_GONE)
            case NonFiniteError():
                return _broken(str(error), code="non_finite_output")
            case PlacementLostError():
                self.lose_path(DegradedReason.PLACEMENT, str(error), code=error.code)
                return _broken(str(error), code="placement_lost")
            case AdmissionError():
                self.lose_path(DegradedReason.PROVIDER, str(error), code=error.code)
                return _broken(str(error), code="provider_lost")
            case _:
                return _broken(str(error), code="inference_failed")


def build_app(server: ImageServer, *, readiness: Readiness, pod_uid: str, lifespan: Callable[..., Any]) -> ASGIApp:
    """Wire the endpoints.

    Args:
        server: The endpoints.
        readiness: Decides whether the snapshot's digest is named.
        pod_uid: Name of this instance.
        lifespan: Starlette's lifespan context manager: starts loading, closes the queue.
    """
    routes = [
        Route(PATH_IMAGES, server.images, methods=["POST"]),
        Route(PATH_HEALTH, server.health, methods=["GET"]),
        Route(PATH_READY, server.ready, methods=["GET"]),
        Route(PATH_CAPABILITIES, server.capabilities, methods=["GET"]),
        Route(PATH_METRICS, server.metrics_page, methods=["GET"]),
    ]
    handlers: dict[Any, Any] = {HTTPException: _http_error, Exception: _bug}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return IdentityHeaders(app, pod_uid=pod_uid, digest=lambda: readiness.verified_digest)


def _response(answer: Answer) -> Response:
    return Response(answer.body, status_code=answer.status, media_type=answer.content_type)


def _answer(engine: Engine, wanted: PictureRequest, *, started: float, cancelled: threading.Event) -> ImageAnswer:
    """Draw and encode in the worker thread, so that the event loop stays free."""
    queue_ms = (perf_counter() - started) * 1e3
    drawing = draw(engine, wanted, cancelled=cancelled)
    encode_started = perf_counter()
    body = canonical_bytes(
        {
            "created": int(time.time()),
            "data": [{"b64_json": base64.b64encode(picture).decode()} for picture in drawing.pictures],
        },
    )
    png_ms = drawing.phase_ms["png"] + (perf_counter() - encode_started) * 1e3
    phase_ms = {"queue": queue_ms, **drawing.phase_ms, "png": png_ms}
    return ImageAnswer(body=body, phase_ms=phase_ms, device_s=drawing.device_s)


def _server_timing(phase_ms: Mapping[str, float], *, device_s: float) -> str:
    """Return the header; `device` stands before the total, which comes last and holds everything."""
    *phases, total = phase_ms.items()
    entries = (*phases, ("device", device_s * 1e3), total)
    return ", ".join(f"{name};dur={duration_ms:.3f}" for name, duration_ms in entries)


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise BadRequestError(f"the body is longer than {BODY_BYTES_MAX} bytes", code="body_too_large")
    return bytes(body)


async def _finished_before_disconnect(request: Request, ticket: Ticket[ImageAnswer]) -> bool:
    """Wait for the work or for the client to go away, which cancels the work; say whether the work ended first."""
    done = asyncio.ensure_future(_wait(ticket))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        return done.done()
    finally:
        gone.cancel()
        if not done.done():
            ticket.cancel()
            done.cancel()


async def _wait(ticket: Ticket[ImageAnswer]) -> None:
    """Return when the ticket's work ended, however it ended; its outcome is read from the ticket."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    ticket.future.add_done_callback(lambda _future: _notify(loop, ended))
    await ended.wait()


def _notify(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    if not loop.is_closed():  # Work given up at shutdown may end after the loop.
        loop.call_soon_threadsafe(ended.set)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _busy(status: HTTPStatus, message: str, *, code: str) -> Response:
    kind = "rate_limit_error" if code == "rate_limit_exceeded" else "server_error"
    return JSONResponse(error_body(message, kind=kind, code=code), status_code=status, headers={"Retry-After": "1"})


def _broken(message: str, *, code: str) -> Response:
    logger.error("an image request failed: %s", message)
    return JSONResponse(
        error_body(message, kind="server_error", code=code), status_code=HTTPStatus.INTERNAL_SERVER_ERROR
    )


async def _http_error(_request: Request, error: HTTPException) -> Response:
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"  # noqa: PLR2004 - HTTP's classes
    body = error_body(error.detail, kind=kind, code=f"http_{error.status_code}")
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _bug(_request: Request, error: Exception) -> Response:
    """Answer in OpenAI's form; Starlette raises the exception again afterwards, and uvicorn logs its traceback."""
    body = error_body(f"a bug in the server: {type(error).__name__}", kind="server_error", code="internal_error")
    return JSONResponse(body, status_code=HTTPStatus.INTERNAL_SERVER_ERROR)
