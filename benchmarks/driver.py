"""How much the load driver adds to a latency: measured time less the time of a server whose delay is known.

A server in a process of its own answers after a fixed delay, held to the microsecond by spinning through the last
millisecond, and reports its own time in Server-Timing. Exit status 1 when the median on small pictures is above the
target.

    python -m benchmarks.driver [--requests 100] [--delay-ms 50]
"""

import argparse
import base64
import json
import math
import multiprocessing
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection

import httpx
import numpy as np

from rollout.canary.interface import Target
from rollout.canary.openai_images import OpenAIImages
from rollout.model.evidence import SampleStatus
from rollout.model.policy import LatencyMeasure
from rollout.model.prompts import Prompt
from rollout.model.roles import Address

TARGET_MS = 1.0
UID = "benchmark-0"
SPIN_S = 0.001
WARMUP_REQUESTS = 5


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--delay-ms", type=float, default=50.0)
    options = parser.parse_args()
    print(f"{options.requests} requests one at a time, delay {options.delay_ms:g} ms; measured minus server time in ms")
    print(f"{'client':<38}{'picture':>10}{'body':>10}{'P50':>8}{'P95':>8}{'max':>8}")
    medians: dict[str, float] = {}
    for name, size, ask in (
        ("driver", "64x64", _ask_driver),
        ("driver", "512x512", _ask_driver),
        ("httpx.Client, time around the call", "64x64", _ask_httpx),
    ):
        over_ms, body_bytes = _measure(ask, size=size, requests=options.requests, delay_s=options.delay_ms / 1000.0)
        p50, p95 = np.percentile(over_ms, (50, 95))
        print(f"{name:<38}{size:>10}{body_bytes / 1000:>7.0f} kB{p50:>8.2f}{p95:>8.2f}{max(over_ms):>8.2f}")
        medians[f"{name} {size}"] = float(p50)
    reached = medians["driver 64x64"]
    met = reached <= TARGET_MS
    print(f"target: median of the driver at most {TARGET_MS:g} ms: {'met' if met else 'MISSED'} ({reached:.2f} ms)")
    return 0 if met else 1


Asker = Callable[[Address, Prompt, int], list[float]]


def _measure(ask: Asker, *, size: str, requests: int, delay_s: float) -> tuple[list[float], int]:
    body = _answer_body(size)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, body, delay_s), daemon=True)
    server.start()
    try:
        address = Address(host="127.0.0.1", port=ours.recv())
        prompt = Prompt(id="benchmark", text="a lighthouse on a cliff", seed=1, steps=4, size=size)
        return ask(address, prompt, requests + WARMUP_REQUESTS)[WARMUP_REQUESTS:], len(body)
    finally:
        server.terminate()
        server.join()


def _ask_driver(address: Address, prompt: Prompt, requests: int) -> list[float]:
    protocol = OpenAIImages()
    target = Target(address=address, pod_uid=UID)
    over_ms = []
    for _ in range(requests):
        sample = protocol.send(
            target, prompt, measure=LatencyMeasure.SERVICE, timeout_s=10.0, stop_after_s=math.inf
        ).sample
        assert sample.status is SampleStatus.OK, sample.detail
        over_ms.append(1000.0 * (sample.wall_s - sample.server_s))
    protocol.close()
    return over_ms


def _ask_httpx(address: Address, prompt: Prompt, requests: int) -> list[float]:
    over_ms = []
    with httpx.Client(trust_env=False) as client:
        for _ in range(requests):
            started = time.perf_counter()
            reply = client.post(f"http://{address}/v1/images/generations", json={"prompt": prompt.text})
            wall_s = time.perf_counter() - started
            over_ms.append(1000.0 * wall_s - float(reply.headers["server-timing"].rpartition("=")[2]))
    return over_ms


def _answer_body(size: str) -> bytes:
    width, height = (int(one) for one in size.split("x"))
    noise = np.random.default_rng(1).integers(0, 256, (height, 1 + 3 * width), np.uint8)
    noise[:, 0] = 0

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(noise.tobytes(), 1)) + chunk(b"IEND", b"")
    return json.dumps({"created": 1, "data": [{"b64_json": base64.b64encode(png).decode()}]}).encode()


def _serve(pipe: Connection, body: bytes, delay_s: float) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while _read_request(connection):
                _answer(connection, body, delay_s)


def _read_request(connection: socket.socket) -> bool:
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            return False
        received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(rest) < length:
        rest += connection.recv(65536)
    return True


def _answer(connection: socket.socket, body: bytes, delay_s: float) -> None:
    started = time.perf_counter()
    time.sleep(max(delay_s - SPIN_S, 0.0))
    while time.perf_counter() - started < delay_s:
        pass
    total_ms = 1000.0 * (time.perf_counter() - started)
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"X-Rollout-Pod-Uid: {UID}\r\nServer-Timing: queue;dur=0, total;dur={total_ms:.4f}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)


if __name__ == "__main__":
    sys.exit(main())
