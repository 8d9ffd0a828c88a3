"""The capability endpoints and identity headers around any ASGI application; needs neither Starlette nor a runtime."""

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

from rollout.errors import ConfigError
from rollout.model.admission import AdmissionReport
from rollout.model.wire import HEADER_POD_UID, HEADER_SNAPSHOT_DIGEST, PATH_CAPABILITIES, PATH_READY
from rollout.serving.endpoints import Answer, capabilities_answer, own_uid, proven_digest, ready_answer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]


class Proven(Protocol):
    """Something that was admitted, and may be found degraded later; its snapshot stays the same."""

    @property
    def report(self) -> AdmissionReport:
        """What is known now."""


def with_capabilities(
    app: ASGIApp, proven: AdmissionReport | Proven, *, pod_uid: str | None = None, ready_path: str | None = None
) -> ASGIApp:
    """Add `GET /v1/capabilities`, readiness and the identity headers to an application; all else stays as it was.

    Args:
        app: Any ASGI application.
        proven: What `rollout.serving.admission.admit` returned, or the report that `rollout admit --report` wrote.
        pod_uid: Name of this instance; None: `ROLLOUT_POD_UID` of the environment, else a random one.
        ready_path: Answered with this readiness in place of whatever the application has there. None: `/readyz` is
            answered where the application itself answers it with 404; an application that answers every path keeps it.

    Raises:
        ConfigError: `ready_path` does not begin with a slash.
    """
    if ready_path is not None and not ready_path.startswith("/"):
        raise ConfigError(f"ready_path must begin with a slash (got {ready_path!r})")

    def report() -> AdmissionReport:
        return proven if isinstance(proven, AdmissionReport) else proven.report

    digest = proven_digest(report())

    def ready() -> Answer:
        return ready_answer(report(), digest=digest)

    async def capable(scope: Message, receive: Receive, send: Send) -> None:
        path = _got(scope)
        if path == PATH_CAPABILITIES:
            await _send(capabilities_answer(report()), send)
        elif path and path == ready_path:
            await _send(ready(), send)
        elif path == PATH_READY and ready_path is None:
            await _send_where_missing(app, scope, receive, send, otherwise=ready)
        else:
            await app(scope, receive, send)

    return IdentityHeaders(capable, pod_uid=pod_uid or own_uid(), digest=lambda: digest if report().admitted else "")


class IdentityHeaders:
    """Names the instance and the proven snapshot on every HTTP answer, errors included."""

    def __init__(self, app: ASGIApp, *, pod_uid: str, digest: Callable[[], str]) -> None:
        """Wrap an application.

        Args:
            app: The application.
            pod_uid: Name of this instance.
            digest: Returns the digest of the snapshot that is proven now; empty where none is.
        """
        self._app = app
        self._pod_uid = pod_uid
        self._digest = digest

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the call on and add the headers to the answer's start."""

        async def send_named(message: Message) -> None:
            await send(self._named(message) if message["type"] == "http.response.start" else message)

        await self._app(scope, receive, send_named)

    def _named(self, message: Message) -> Message:
        ours = {HEADER_POD_UID: self._pod_uid, HEADER_SNAPSHOT_DIGEST: self._digest()}
        # The application cannot speak for its own proof: what it says under these names is dropped.
        kept = [one for one in message.get("headers", ()) if one[0].lower().decode("latin-1") not in ours]
        added = [(name.encode(), value.encode("latin-1")) for name, value in ours.items() if value]
        return {**message, "headers": [*kept, *added]}


def _got(scope: Message) -> str:
    """Return the path of a GET request below the mount point; empty for everything else."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return ""
    # A server behind a proxy that strips a prefix puts that prefix before each path.
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


async def _send_where_missing(
    app: ASGIApp, scope: Message, receive: Receive, send: Send, *, otherwise: Callable[[], Answer]
) -> None:
    """Let the application answer; where it answers 404, answer in its place."""
    missing = False

    async def send_found(message: Message) -> None:
        nonlocal missing
        missing = missing or (message["type"] == "http.response.start" and message["status"] == HTTPStatus.NOT_FOUND)
        if not missing:
            await send(message)

    await app(scope, receive, send_found)
    if missing:
        await _send(otherwise(), send)


async def _send(answer: Answer, send: Send) -> None:
    headers = [(b"content-type", answer.content_type.encode()), (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status.value, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
