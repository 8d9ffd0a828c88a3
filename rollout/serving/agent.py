"""The agent: proves a container once, then says over HTTP whether what was proven still stands.

For a server that is not ours and cannot be changed. It needs the standard library alone.
"""

import signal
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from rollout.errors import ConfigError
from rollout.model.admission import AdmissionReport, Finding
from rollout.model.wire import (
    HEADER_POD_UID,
    HEADER_SNAPSHOT_DIGEST,
    PATH_CAPABILITIES,
    PATH_HEALTH,
    PATH_METRICS,
    PATH_READY,
)
from rollout.serving.endpoints import (
    Answer,
    capabilities_answer,
    json_answer,
    own_uid,
    proven_digest,
    ready_answer,
)
from rollout.serving.failures import EXIT_REFUSED
from rollout.serving.liveness import DeviceLooks, read_devices

_CLIENT_S = 10.0
"""A client that sends nothing for so long is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """Where the agent listens, and how often it looks; `period_s` and `probe_s` are seconds."""

    host: str
    port: int
    period_s: float
    """Between two looks at the devices."""
    probe_s: float
    """The longest that one collector may take."""
    serves_refusal: bool
    """Go on after a refusal, and say so on `PATH_READY`."""


class Standing:
    """What was proven, and whether the devices are still the same."""

    def __init__(self, proven: AdmissionReport, *, limit_s: float) -> None:
        """Stand on a proof.

        Args:
            proven: What the proof gave.
            limit_s: Seconds that one probe of a look may take.
        """
        self._proven = proven
        self._looks = (
            None
            if proven.snapshot is None
            else DeviceLooks(proven.snapshot, read=lambda: read_devices(limit_s=limit_s))
        )
        self._digest = proven_digest(proven)
        self._changes: tuple[Finding, ...] = ()

    @property
    def changes(self) -> tuple[Finding, ...]:
        """How the devices differ from those of the proof; empty where they do not."""
        return self._changes

    @property
    def report(self) -> AdmissionReport:
        """What the proof is worth now. Devices that come back are good again: they are the same ones."""
        changes = self._changes
        if not changes:
            return self._proven
        return self._proven.model_copy(update={"admitted": False, "findings": (*changes, *self._proven.findings)})

    @property
    def digest(self) -> str:
        """The digest that answers may carry now; empty where none is proven."""
        return "" if self._changes else self._digest

    def ready(self) -> Answer:
        """Answer `PATH_READY`."""
        return ready_answer(self.report, digest=self._digest)

    def look(self) -> None:
        """Compare the devices once more; see `DeviceLooks`."""
        if self._looks is not None:
            self._changes = self._looks.changes()


def run_agent(prove: Callable[[], AdmissionReport], options: AgentOptions) -> int:
    """Prove, then answer until SIGTERM or SIGINT.

    Args:
        prove: Proves this container; called once, when the port is ours and before anybody is answered.
        options: See there.

    Returns:
        The exit status: 0, or `EXIT_REFUSED` where the container is refused and a refusal is not to be served.

    Raises:
        ConfigError: The port cannot be listened on, or `prove` says so.
    """
    for one in (signal.SIGTERM, signal.SIGINT):
        # Who was started with a signal ignored was meant to outlive it.
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, _end)
    with _Server(options) as server:
        report = prove()
        if not report.admitted and not options.serves_refusal:
            return EXIT_REFUSED
        server.standing = Standing(report, limit_s=options.probe_s)
        server.listen()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # The devices are looked at in the main thread: a bug there ends the agent instead of leaving it ready for ever.
        while True:
            time.sleep(options.period_s)
            server.standing.look()


def _end(_number: int, _frame: FrameType | None) -> None:
    """End wherever the main thread is; a proof in a child takes the child with it."""
    raise SystemExit(0)


class _Server(ThreadingHTTPServer):
    """Bound from the start, so that a taken port is told before the proof; listening only after it."""

    daemon_threads = True
    allow_reuse_port = False  # A second agent on the port must fail instead of taking half of the requests.

    def __init__(self, options: AgentOptions) -> None:
        self.address_family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        super().__init__((options.host, options.port), _Handler, bind_and_activate=False)
        self.uid = own_uid()
        self.standing: Standing
        # HTTPServer's own way asks the name service who we are, which takes seconds where there is none.
        self._try(lambda: socketserver.TCPServer.server_bind(self))

    def listen(self) -> None:
        """Take connections from now on; somebody else who was bound as well may have been faster."""
        self._try(self.server_activate)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (OSError, OverflowError) as error:
            self.server_close()
            host, port = self.server_address[:2]
            raise ConfigError(f"cannot listen on {host!s} port {port}: {error}") from error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "rollout", ""
    timeout = _CLIENT_S
    disable_nagle_algorithm = True  # Head and body are two packets, and would wait for each other for 40 ms.
    server: _Server

    def do_GET(self) -> None:
        """Answer one of the paths."""
        answer = _ANSWERS.get(self.path.partition("?")[0], _nothing)(self.server.standing)
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def end_headers(self) -> None:
        """Name the instance and what it has proven on every answer, errors included."""
        self.send_header(HEADER_POD_UID, self.server.uid)
        if digest := self.server.standing.digest:
            self.send_header(HEADER_SNAPSHOT_DIGEST, digest)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: probes come every few seconds."""


def _health(standing: Standing) -> Answer:
    """Answer 503 where the devices changed: a new container may get them back. A refusal is no reason to restart."""
    if standing.changes:
        changed = [one.text for one in standing.changes]
        return json_answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "devices changed", "changes": changed})
    return json_answer(HTTPStatus.OK, {"status": "alive"})


def _metrics(standing: Standing) -> Answer:
    """Return Prometheus' text format."""
    report = standing.report
    counted = Counter((one.code, one.severity.value) for one in report.findings)
    lines = [
        "# HELP rollout_ready 1 while the container is admitted and has its devices.",
        "# TYPE rollout_ready gauge",
        f"rollout_ready {int(report.admitted)}",
        "# HELP rollout_findings What the admission and the last look at the devices found.",
        "# TYPE rollout_findings gauge",
        *(f'rollout_findings{{code="{code}",severity="{severity}"}} {n}' for (code, severity), n in counted.items()),
    ]
    body = "".join(f"{line}\n" for line in lines).encode()
    return Answer(status=HTTPStatus.OK, body=body, content_type="text/plain; version=0.0.4; charset=utf-8")


def _nothing(_standing: Standing) -> Answer:
    return json_answer(HTTPStatus.NOT_FOUND, {"status": "not found", "paths": list(_ANSWERS)})


_ANSWERS: Mapping[str, Callable[[Standing], Answer]] = {
    PATH_CAPABILITIES: lambda standing: capabilities_answer(standing.report),
    PATH_READY: Standing.ready,
    PATH_HEALTH: _health,
    PATH_METRICS: _metrics,
}
