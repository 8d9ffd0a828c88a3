"""Connections of the load driver: many at a time in one event loop, timed where the bytes arrive.

httpx and aiohttp do the work of each answer between the socket and the caller's clock, and with 32 answers at a time
one waits for the work of the others: milliseconds that no server took. Here the clock is read in the first line of the
transport's callback, before anything is parsed, and the parser is llhttp.
"""

import asyncio
import errno
import time
from typing import cast

import httptools

from rollout.canary.exchange import KEEPALIVE_S, Failed, Reply, joined_headers, request_headers
from rollout.canary.interface import Request
from rollout.errors import UnavailableError
from rollout.model.evidence import SampleStatus
from rollout.model.roles import Address

_OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE})
"""No fault of the server that was to be connected to."""

FINAL_STATUS_MIN = 200
"""Below are interim answers (1xx), which end nothing."""


class Lines:
    """The connections to one address; each carries one request at a time, and no request is ever repeated."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[_Line] = []
        self._open: set[_Line] = set()

    async def ask(self, request: Request, *, timeout_s: float) -> tuple[float, Reply | Failed]:
        """Send one request and wait for all of the answer.

        Args:
            request: What to send.
            timeout_s: Limit of everything, connecting included.

        Returns:
            When the first byte was sent, or connecting failed, by `time.perf_counter`, and what became of it.

        Raises:
            UnavailableError: This process may open no further connection.
        """
        began = time.perf_counter()
        try:
            line = self._fresh() or await self._connect(timeout_s)
        except TimeoutError:
            detail = f"connecting to {self._address} took longer than {timeout_s:.3f} s"
            return began, Failed(status=SampleStatus.TIMEOUT, wall_s=timeout_s, detail=detail)
        except OSError as error:
            if error.errno in _OWN_LIMITS:
                raise UnavailableError(
                    f"the load driver itself ran out of file descriptors at {len(self._open)} connections to "
                    f"{self._address}: raise `ulimit -n`, or lower the concurrency"
                ) from error
            detail = f"cannot connect to {self._address}: {error.strerror or type(error).__name__}"
            return began, Failed(status=SampleStatus.ERROR, wall_s=time.perf_counter() - began, detail=detail)
        sent = time.perf_counter()
        outcome = await line.ask(request, left_s=timeout_s - (sent - began), timeout_s=timeout_s)
        if line.reusable:
            self._idle.append(line)
        return line.sent, outcome

    def close(self) -> None:
        """Close every connection at once, also those that wait for an answer."""
        for line in tuple(self._open):
            line.abort()
        self._open.clear()
        self._idle.clear()

    def _fresh(self) -> "_Line | None":
        while self._idle:
            line = self._idle.pop()
            if line.reusable and time.perf_counter() - line.received < KEEPALIVE_S:
                return line
            line.abort()
        return None

    async def _connect(self, timeout_s: float) -> "_Line":
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            _, line = await loop.create_connection(
                lambda: _Line(self._address, self._open), self._address.host, self._address.port
            )
        return line


class _Line(asyncio.Protocol):
    """One connection; also the receiver of its parser's events."""

    def __init__(self, address: Address, connections: "set[_Line]") -> None:
        self._address = address
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply | Failed] | None = None
        self.sent = self.received = 0.0
        self.reusable = False
        self._begin_answer(0)

    async def ask(self, request: Request, *, left_s: float, timeout_s: float) -> Reply | Failed:
        """Send one request; see `Lines.ask`."""
        head = "".join(f"{name}: {value}\r\n" for name, value in request_headers(self._address, request.body))
        data = f"POST {request.path} HTTP/1.1\r\n{head}\r\n".encode() + request.body
        loop = asyncio.get_running_loop()
        self._begin_answer(request.answer_bytes_max)
        self.reusable = False
        self._waiting = loop.create_future()
        expiry = loop.call_later(max(left_s, 0.0), self._expire, timeout_s)
        self.sent = time.perf_counter()
        if self._transport is None:
            self._fail("the connection broke while writing to")
        else:
            self._transport.write(data)
        try:
            return await self._waiting
        finally:
            expiry.cancel()
            self._waiting = None

    def abort(self) -> None:
        """Close without waiting for anything."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # The transport's events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's and not their base class.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self.received = time.perf_counter()
        if self._waiting is None or self._waiting.done():
            # Bytes that nobody asked for, or behind the answer: the next answer could not be told from them.
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail("no valid HTTP answer from", type(error).__name__)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self.reusable = None, False
        self._connections.discard(self)
        if self._ends_with_connection and exc is None:
            self.on_message_complete()
        else:
            self._fail("the connection broke while reading from")

    # The parser's events.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < FINAL_STATUS_MIN:
            self._headers.clear()
            return
        self._joined.update(joined_headers(self._headers))
        self._ends_with_connection = not self._joined.keys() & {"content-length", "transfer-encoding"}

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > self._body_max:
            self._fail("", f"the answer of {self._address} is over {self._body_max} bytes")

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < FINAL_STATUS_MIN or self._waiting is None or self._waiting.done():
            return
        self.reusable = self._transport is not None and self._parser.should_keep_alive()
        if not self.reusable:
            self.abort()
        reply = Reply(status=status, headers=self._joined, body=bytes(self._body), wall_s=self.received - self.sent)
        self._waiting.set_result(reply)

    def _begin_answer(self, body_max: int) -> None:
        self._body_max = body_max
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._joined: dict[str, str] = {}
        self._body = bytearray()
        self._ends_with_connection = False

    def _expire(self, timeout_s: float) -> None:
        self._end(SampleStatus.TIMEOUT, f"waiting for {self._address} took longer than {timeout_s:.3f} s")

    def _fail(self, what: str, more: str = "") -> None:
        detail = ": ".join(one for one in (f"{what} {self._address}" if what else "", more) if one)
        self._end(SampleStatus.ERROR, detail)

    def _end(self, status: SampleStatus, detail: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            wall_s = time.perf_counter() - self.sent
            self._waiting.set_result(Failed(status=status, wall_s=wall_s, detail=detail))
        self.abort()
