"""How true the load driver is: its quantiles beside those of a server that knows its own time, and beside a peer.

The server runs in a process of its own and answers each request after a fixed delay, however many there are, and keeps
the time it really took. Exit status 1 when P50 or P95 of the driver are more than 2% and more than 2 ms off the
server's truth, or when the open loop misses a stall that users would feel.

    python -m benchmarks.load [--seconds 10] [--locust PATH]

Locust is measured in the same run where it is installed (`pip install locust`, in an environment of its own if need
be) and its command is on the path or given.
"""

import argparse
import asyncio
import csv
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.driver import UID, _answer_body
from rollout.canary.interface import Target
from rollout.canary.load import LoadDriver
from rollout.canary.openai_images import OpenAIImages
from rollout.model.load import Level, LevelKind
from rollout.model.policy import ArrivalPattern
from rollout.model.prompts import PromptSet
from rollout.model.roles import Address

CONCURRENCY, PER_S = 32, 200.0
OFF_SHARE, OFF_S = 0.02, 0.002
STALLS_S = (0.3, 0.7)
"""When the server stops answering anybody, as shares of the window."""
STALL_S = 0.6
STALL_SERVICE_S = 0.05
STALL_OFF_SHARE = 0.10
PROMPTS = PromptSet.model_validate(
    {
        "schema": "rollout.prompts/v1",
        "prompts": [{"id": "lighthouse", "text": "a lighthouse", "seed": 1, "steps": 4, "size": "128x128"}],
    }
)
CLOSED = Level(name="concurrency-32", kind=LevelKind.CONCURRENCY, concurrency=CONCURRENCY, batch=0, pattern=None)
OPEN = Level(name="arrivals-poisson", kind=LevelKind.ARRIVALS, concurrency=0, batch=0, pattern=ArrivalPattern.POISSON)
LOCUSTFILE = """
from locust import FastHttpUser, constant, task

class User(FastHttpUser):
    wait_time = constant(0)

    @task
    def draw(self):
        self.client.post("/v1/images/generations", json={"prompt": "a lighthouse"})
"""


Series = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Latencies in seconds, as the client measured them and as the server did, and when requests were due."""

    client_s: Series
    server_s: Series = field(default_factory=lambda: np.empty(0))
    due_s: Series = field(default_factory=lambda: np.empty(0))


def main() -> int:
    """Print both tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--locust", default=shutil.which("locust"))
    options = parser.parse_args()
    true = _truth(options.seconds, options.locust)
    unblinded = _omission(options.seconds)
    return 0 if true and unblinded else 1


def _truth(seconds: float, locust: str | None) -> bool:
    service_s = CONCURRENCY / PER_S
    print(f"service {1000 * service_s:.0f} ms, {CONCURRENCY} in flight, {PER_S:.0f} requests/s, {seconds:g} s; ms")
    print(f"{'client':<40}{'requests':>9}{'P50':>9}{'server':>9}{'off':>7}{'P95':>9}{'server':>9}{'off':>7}")
    clients: list[tuple[str, Callable[[Address, float], Any], bool]] = [
        ("driver, 32 concurrent", _ask_closed, True),
        ("driver, Poisson 200/s", _ask_open, True),
        ("aiohttp, 32 concurrent", _ask_aiohttp, False),
    ]
    if locust is not None:
        clients.append(("locust FastHttpUser, 32 users", lambda *args: _ask_locust(locust, *args), False))
    met = True
    for name, ask, ours in clients:
        seen = _with_server(service_s, (), lambda address, ask=ask: ask(address, seconds))
        row, off = [], []
        for q in (0.5, 0.95):
            client, server = (float(np.quantile(one, q)) for one in (seen.client_s, seen.server_s))
            off.append(abs(client - server) > max(OFF_SHARE * server, OFF_S))
            row.append(f"{1000 * client:>9.2f}{1000 * server:>9.2f}{1000 * (client - server):>7.2f}")
        print(f"{name:<40}{len(seen.client_s):>9}{''.join(row)}")
        met = met and not (ours and any(off))
    print(f"target: the driver's P50 and P95 within 2% or 2 ms of the server's: {'met' if met else 'MISSED'}")
    return met


def _omission(seconds: float) -> bool:
    """Show that stalls are seen for as long as users would feel them."""
    print(f"\nservice {1000 * STALL_SERVICE_S:.0f} ms, and two stalls of {1000 * STALL_S:.0f} ms; P95 in ms")
    stalls = tuple(seconds * share for share in STALLS_S)
    one = Level(name="concurrency-1", kind=LevelKind.CONCURRENCY, concurrency=1, batch=0, pattern=None)
    closed, opened = (
        _with_server(STALL_SERVICE_S, stalls, lambda address, level=level: _drive(level, address, seconds))
        for level in (one, OPEN)
    )
    felt_s = np.full(len(opened.due_s), STALL_SERVICE_S)
    for stall_s in stalls:
        # The server counts from the first request. Who comes in a stall is served after it; who is out when it begins,
        # is answered at its end.
        left_s = opened.due_s[0] + stall_s + STALL_S - opened.due_s
        felt_s[(left_s > 0.0) & (left_s < STALL_S)] += left_s[(left_s > 0.0) & (left_s < STALL_S)]
        out = (left_s >= STALL_S) & (left_s < STALL_S + STALL_SERVICE_S)
        felt_s[out] = left_s[out]
    truth, seen, blind = (
        1000 * float(np.quantile(latency_s, 0.95)) for latency_s in (felt_s, opened.client_s, closed.client_s)
    )
    print(f"{'what users feel, by calculation':<40}{truth:>9.0f}")
    print(f"{'driver, Poisson 200/s':<40}{seen:>9.0f}")
    print(f"{'driver, one at a time':<40}{blind:>9.0f}")
    met = abs(seen - truth) <= STALL_OFF_SHARE * truth
    print(f"target: the open loop within 10% of what users feel: {'met' if met else 'MISSED'}")
    return met


def _ask_closed(address: Address, seconds: float) -> Seen:
    return _drive(CLOSED, address, seconds)


def _ask_open(address: Address, seconds: float) -> Seen:
    return _drive(OPEN, address, seconds)


def _drive(level: Level, address: Address, seconds: float) -> Seen:
    driver = LoadDriver(OpenAIImages(), request_timeout_s=10.0)
    _, stored = driver.measure_window(
        level=level,
        rate_per_s=PER_S if level.pattern else 0.0,
        seconds=seconds,
        targets=[Target(address=address, pod_uid=UID)],
        prompts=PROMPTS,
        seed="benchmark",
    )
    samples = json.loads(stored)
    assert not samples["failures"], samples["failures"]
    begun = samples["due_s"] if level.pattern else samples["sent_s"]
    return Seen(client_s=np.array(samples["done_s"]) - np.array(begun), due_s=np.array(samples["due_s"]))


def _ask_aiohttp(address: Address, seconds: float) -> Seen:
    latency: list[float] = []

    async def work(session: aiohttp.ClientSession, until: float) -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            async with session.post(f"http://{address}/v1/images/generations", json={"prompt": "x"}) as reply:
                await reply.read()
            latency.append(time.perf_counter() - began)

    async def all_of_them() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            until = time.perf_counter() + seconds
            await asyncio.gather(*(work(session, until) for _ in range(CONCURRENCY)))

    asyncio.run(all_of_them())
    return Seen(client_s=np.array(latency))


def _ask_locust(locust: str, address: Address, seconds: float) -> Seen:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "locustfile.py")
        script.write_text(LOCUSTFILE)
        command = [locust, "-f", str(script), "--headless", "--host", f"http://{address}", "--only-summary"]
        command += ["-u", str(CONCURRENCY), "-r", str(CONCURRENCY), "-t", f"{seconds:.0f}s", "--csv", f"{folder}/out"]
        subprocess.run(command, check=True, capture_output=True)
        with Path(folder, "out_stats.csv").open(newline="") as file:
            row = next(csv.DictReader(file))
    count = int(row["Request Count"])
    levels = np.linspace(0.0, 1.0, count)
    known = [(0.5, "50%"), (0.66, "66%"), (0.75, "75%"), (0.8, "80%"), (0.9, "90%"), (0.95, "95%"), (1.0, "100%")]
    values = [float(row["Min Response Time"]), *(float(row[name]) for _, name in known)]
    # Locust reports quantiles only, rounded to whole or ten milliseconds; between them nothing is read here.
    return Seen(client_s=np.interp(levels, [0.0, *(q for q, _ in known)], values) / 1000.0)


def _with_server(service_s: float, stalls_s: tuple[float, ...], ask: Callable[[Address], Seen]) -> Seen:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, _answer_body("128x128"), service_s, stalls_s), daemon=True
    )
    server.start()
    try:
        seen = ask(Address(host="127.0.0.1", port=ours.recv()))
        ours.send("how long did you take?")
        return replace(seen, server_s=np.array(ours.recv()))
    finally:
        server.terminate()
        server.join()


def serve(pipe: Connection, body: bytes, service_s: float, stalls_s: tuple[float, ...]) -> None:
    """Answer every request after the same time, and stop at the given seconds after the first request."""
    asyncio.run(_serve(pipe, body, service_s, stalls_s))


async def _serve(pipe: Connection, body: bytes, service_s: float, stalls_s: tuple[float, ...]) -> None:
    loop = asyncio.get_running_loop()
    took_s: list[float] = []
    answer = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-rollout-pod-uid: {UID}\r\n\r\n"
    ).encode() + body
    begun = False

    def stall() -> None:
        time.sleep(STALL_S)

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            self.received = b""

        def data_received(self, data: bytes) -> None:
            nonlocal begun
            self.received += data
            head, end, rest = self.received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]) if end else 0
            if not end or len(rest) < length:
                return
            self.received = b""
            if not begun:
                begun = True
                for at_s in stalls_s:
                    loop.call_later(at_s, stall)
            began = time.perf_counter()
            loop.call_later(service_s, self.answer, began)

        def answer(self, began: float) -> None:
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(answer)
            took_s.append(time.perf_counter() - began)

    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=1024)
    pipe.send(server.sockets[0].getsockname()[1])
    await loop.run_in_executor(None, pipe.recv)
    pipe.send(took_s)


if __name__ == "__main__":
    sys.exit(main())
