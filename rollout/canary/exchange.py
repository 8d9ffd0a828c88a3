"""One HTTP request and its answer, timed at the socket and bounded as a whole.

Theory of operation. The timeouts of HTTP clients hold for one read: a server that sends a byte a second, in the body
or in the headers, never trips them. And the time around a client's call holds the client's own work, which for httpx
is 1 to 4 ms. Both are solved in one place, under the HTTP parser: every read and write of httpcore, the transport of
httpx, passes through `_TimedStream`, which notes when the first byte left and the last one came, and gives each read
only the time that is left. Connecting is outside the measured time and inside the limit.
"""

import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpcore

from rollout.model.evidence import SampleStatus
from rollout.model.roles import Address

KEEPALIVE_S = 2.0
"""An idle connection older than this is opened anew. Servers close theirs after 5 s (uvicorn) or more: staying below
means that no request meets a connection which is being closed, which would count as an error of the server."""

QUOTE_MAX = 200
"""Longest piece of foreign text that goes into a detail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A complete answer of any status.

    Attributes:
        headers: Names in lower case; a name that came twice is joined by a comma.
        wall_s: First byte sent to last byte received.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """No complete answer.

    Attributes:
        status: TIMEOUT, STOPPED or ERROR.
        wall_s: How long it was waited for.
        oversized: True where the answer was cut off for its length: asking again will not help.
    """

    status: SampleStatus
    wall_s: float
    detail: str
    oversized: bool = False


class Exchange:
    """Keeps one connection per address; one request at a time.

    Proxies in the environment are never looked at, redirects never followed, requests never repeated.
    """

    def __init__(self) -> None:
        self._lines: dict[Address, _Line] = {}

    def request(
        self,
        address: Address,
        *,
        method: str,
        path: str,
        body: bytes = b"",
        timeout_s: float,
        stop_after_s: float,
        body_max: int,
    ) -> Reply | Failed:
        """Send one request and read all of the answer.

        Args:
            address: Where to. A host name with several addresses is tried one after the other, each with the time that
                was left at the start; an IP address keeps the limit exactly.
            method: GET or POST.
            path: Starts with a slash.
            body: Sent as JSON; empty for none.
            timeout_s: Limit of everything, connecting included, in seconds.
            stop_after_s: Limit from the first byte sent; infinite where there is none.
            body_max: Largest body of the answer in bytes.
        """
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = _Line(address)
        try:
            return line.request(
                method=method, path=path, body=body, timeout_s=timeout_s, stop_after_s=stop_after_s, body_max=body_max
            )
        except BaseException:
            # A signal's exception may come anywhere inside the pool and leave its only place taken for ever.
            self._lines.pop(address).close()
            raise

    def close(self) -> None:
        """Close every connection."""
        for line in self._lines.values():
            line.close()
        self._lines.clear()


def request_headers(address: Address, body: bytes) -> list[tuple[str, str]]:
    """Return the headers of a request for JSON; a body is JSON."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    headers = [
        ("Host", f"{host}:{address.port}"),
        ("User-Agent", "rollout-canary"),
        ("Accept", "application/json"),
        # Compression would be time of the server that no user of pictures sees.
        ("Accept-Encoding", "identity"),
    ]
    if body:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return headers


def joined_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name in lower case; a name that came twice is joined by a comma."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def printable(text: str) -> str:
    """Return foreign text fit for a detail: one line, no control characters, shortened."""
    flat = " ".join("".join(one if one.isprintable() else " " for one in text[: 4 * QUOTE_MAX]).split())
    return flat if len(flat) <= QUOTE_MAX else flat[: QUOTE_MAX - 3] + "..."


class _Line:
    """The connection to one address."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._watch = _Watch()
        self._pool = httpcore.ConnectionPool(
            max_connections=1,
            max_keepalive_connections=1,
            keepalive_expiry=KEEPALIVE_S,
            http1=True,
            http2=False,
            retries=0,
            network_backend=_TimedBackend(self._watch),
        )

    def request(
        self, *, method: str, path: str, body: bytes, timeout_s: float, stop_after_s: float, body_max: int
    ) -> Reply | Failed:
        self._watch.start(timeout_s=timeout_s, stop_after_s=stop_after_s)
        try:
            status, headers, received = self._roundtrip(method=method, path=path, body=body, body_max=body_max)
        except httpcore.TimeoutException:
            return self._late()
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            what = f"{_KINDS.get(type(error), type(error).__name__)} {self._address}: {printable(str(error))}"
            return Failed(status=SampleStatus.ERROR, wall_s=self._watch.waited_s(), detail=what.removesuffix(": "))
        if received is None:
            detail = f"the answer of {self._address} is over {body_max} bytes"
            return Failed(status=SampleStatus.ERROR, wall_s=self._watch.waited_s(), detail=detail, oversized=True)
        if self._watch.is_late():
            return self._late()
        return Reply(status=status, headers=headers, body=received, wall_s=self._watch.wall_s())

    def close(self) -> None:
        self._pool.close()

    def _roundtrip(
        self, *, method: str, path: str, body: bytes, body_max: int
    ) -> tuple[int, dict[str, str], bytes | None]:
        headers = request_headers(self._address, body)
        url = httpcore.URL(
            scheme=b"http", host=self._address.host.encode(), port=self._address.port, target=path.encode()
        )
        received = bytearray()
        # The pool's own wait needs no limit: a line carries one request at a time. The rest is bounded by the stream.
        with self._pool.stream(method, url, headers=headers, content=body or None) as response:
            for chunk in response.iter_stream():
                received += chunk
                if len(received) > body_max:
                    return response.status, {}, None
        return response.status, joined_headers(response.headers), bytes(received)

    def _late(self) -> Failed:
        if self._watch.is_stopped():
            detail = f"no complete answer of {self._address} within {self._watch.stop_after_s:.3f} s; hung up"
            return Failed(status=SampleStatus.STOPPED, wall_s=self._watch.waited_s(), detail=detail)
        where = "connecting to" if not self._watch.is_sent() else "waiting for"
        detail = f"{where} {self._address} took longer than {self._watch.timeout_s:.3f} s"
        return Failed(status=SampleStatus.TIMEOUT, wall_s=self._watch.waited_s(), detail=detail)


class _Watch:
    """The clock of the request that is under way. Times in seconds of `time.perf_counter`."""

    def __init__(self) -> None:
        self.start(timeout_s=0.0, stop_after_s=0.0)

    def start(self, *, timeout_s: float, stop_after_s: float) -> None:
        """Begin a request."""
        self.timeout_s = timeout_s
        self.stop_after_s = stop_after_s
        self._started = time.perf_counter()
        self._deadline = self._started + timeout_s
        self._first_sent: float | None = None
        self._last_received: float | None = None

    def note_sending(self) -> None:
        """Note that bytes are about to leave."""
        if self._first_sent is None:
            self._first_sent = time.perf_counter()

    def note_received(self) -> None:
        """Note that bytes came."""
        self._last_received = time.perf_counter()

    def left_s(self) -> float:
        """Return the time left; zero or less when it is over."""
        return self._limit() - time.perf_counter()

    def wall_s(self) -> float:
        """Return first byte sent to last byte received."""
        if self._first_sent is None or self._last_received is None:
            return 0.0
        return self._last_received - self._first_sent

    def waited_s(self) -> float:
        """Return how long the request has lasted by now."""
        return time.perf_counter() - (self._started if self._first_sent is None else self._first_sent)

    def is_late(self) -> bool:
        """Tell whether the last byte came after the limit."""
        return self._last_received is not None and self._last_received > self._limit()

    def is_stopped(self) -> bool:
        """Tell whether the limit that ends this request is the one to stop at, not the timeout."""
        return self._limit() < self._deadline

    def is_sent(self) -> bool:
        """Tell whether a byte of the request has left."""
        return self._first_sent is not None

    def _limit(self) -> float:
        if self._first_sent is None:
            return self._deadline
        return min(self._deadline, self._first_sent + self.stop_after_s)


class _TimedStream(httpcore.NetworkStream):
    """A socket that notes its times and gives each operation only the time that is left."""

    def __init__(self, inner: httpcore.NetworkStream, watch: _Watch) -> None:
        self._inner = inner
        self._watch = watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the watch's limit holds
        left_s = self._watch.left_s()
        if left_s <= 0.0:
            raise httpcore.ReadTimeout
        data = self._inner.read(max_bytes, timeout=left_s)
        self._watch.note_received()
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the watch's limit holds
        self._watch.note_sending()
        left_s = self._watch.left_s()
        if left_s <= 0.0:
            raise httpcore.WriteTimeout
        self._inner.write(buffer, timeout=left_s)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._watch)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's signature
        return self._inner.get_extra_info(info)


class _TimedBackend(httpcore.NetworkBackend):
    """Opens timed sockets."""

    def __init__(self, watch: _Watch) -> None:
        self._inner = httpcore.SyncBackend()
        self._watch = watch

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the watch's limit holds
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left_s = self._watch.left_s()
        if left_s <= 0.0:
            raise httpcore.ConnectTimeout
        inner = self._inner.connect_tcp(
            host, port, timeout=left_s, local_address=local_address, socket_options=socket_options
        )
        return _TimedStream(inner, self._watch)


_KINDS: dict[type[Exception], str] = {
    httpcore.ConnectError: "cannot connect to",
    httpcore.ReadError: "the connection broke while reading from",
    httpcore.WriteError: "the connection broke while writing to",
    httpcore.RemoteProtocolError: "no valid HTTP answer from",
}
