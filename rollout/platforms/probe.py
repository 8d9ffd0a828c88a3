"""Asking a local server whether it is ready, within one time limit for the whole exchange.

The usual clients limit each read alone, so that a server which sends one byte now and then holds them for ever. Each
question connects anew: a server that no longer accepts must not look ready.
"""

import http.client
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.model.roles import Address

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    text: str
    """The first of its words, as many as were asked for."""


class _TimedSocket(socket.socket):
    """A socket whose reads share one deadline, as `time.monotonic` counts."""

    deadline: float

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0.0:
            raise TimeoutError("the time for the whole answer is over")
        self.settimeout(left)
        return super().recv_into(buffer, nbytes, flags)


def ask(address: Address, path: str, *, limit_s: float, text_bytes: int) -> Answer:
    """Send one GET and return the answer's head and the beginning of its body.

    Args:
        address: Where the server listens; IPv4.
        path: What to ask for.
        limit_s: Seconds for everything, from connecting to the last byte that is read.
        text_bytes: How much of the body is read at most.

    Raises:
        TimeoutError: The answer was not complete in time.
        ConnectionRefusedError: Nothing listens there.
        OSError: The connection broke.
        HTTPException: What came is not HTTP.
    """
    with _TimedSocket(socket.AF_INET, socket.SOCK_STREAM) as connected:
        connected.deadline = time.monotonic() + limit_s
        connected.settimeout(limit_s)
        connected.connect((address.host, address.port))
        line = http.client.HTTPConnection(address.host, address.port)
        line.sock = connected
        line.request("GET", path, headers={"Connection": "close"})
        with line.getresponse() as answer:
            said = answer.read1(text_bytes)
            headers = {name.lower(): value for name, value in answer.getheaders()}
    return Answer(status=answer.status, headers=headers, text=said.decode(errors="replace").strip())
