"""Every serving protocol against servers that are slow, broken, hostile or somebody else."""

import base64
import io
import json
import math
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rollout.canary.driver import CanaryDriver
from rollout.canary.interface import Target
from rollout.canary.openai_images import OpenAIImages
from rollout.errors import EvidenceError, UnavailableError
from rollout.model.evidence import Sample, SampleStatus
from rollout.model.policy import LatencyMeasure
from rollout.model.prompts import Prompt
from rollout.model.roles import Address, Role
from rollout.model.snapshot import CapabilitySnapshot, ok

UID = "pod-blue-0"
DIGEST = "sha256:" + "a" * 64
TEXT = "a lighthouse on a cliff, oil on canvas"
PROMPT = Prompt(id="lighthouse", text=TEXT, seed=7, steps=4, size="16x12", batch=2)


@pytest.fixture(params=[OpenAIImages], ids=["openai-images"])
def protocol(request):
    made = request.param()
    yield made
    made.close()


# A server whose every byte the test decides.


class Caller:
    """One connection at the server's side."""

    def __init__(self, connection: socket.socket, ended: threading.Event) -> None:
        self._connection = connection
        self._ended = ended

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def drip(self, data: bytes, *, every_s: float) -> None:
        for place in range(len(data)):
            self.send(data[place : place + 1])
            self.wait(every_s)

    def wait(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise ConnectionError

    def read_request(self) -> tuple[str, dict[str, str], bytes] | None:
        received = b""
        while b"\r\n\r\n" not in received:
            more = self._connection.recv(65536)
            if not more:
                return None
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", "0")):
            body += self._connection.recv(65536)
        return first, headers, body


Reaction = Callable[[Caller], None]


class Server:
    """Listens on a free port and reacts to each request in the same way."""

    def __init__(self, react: Reaction, ended: threading.Event) -> None:
        self._react = react
        self._ended = ended
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(host="127.0.0.1", port=self._listener.getsockname()[1])
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        caller = Caller(connection, self._ended)
        with connection:
            try:
                while (request := caller.read_request()) is not None:
                    self.requests.append(request)
                    self._react(caller)
            except OSError:
                return


@contextmanager
def serving(react: Reaction) -> Iterator[Server]:
    server = Server(react, threading.Event())
    try:
        yield server
    finally:
        server.close()


def png(*, width: int = 16, height: int = 12, red: int = 200) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(
        b"\0" + bytes((red, x * 7 % 256, 9)[c] for x in range(width) for c in range(3)) for _ in range(height)
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pictures(*images: bytes) -> bytes:
    return json.dumps({"created": 1, "data": [{"b64_json": base64.b64encode(one).decode()} for one in images]}).encode()


GOOD = pictures(png(), png(red=3))


def http(
    body: bytes = GOOD,
    *,
    status: str = "200 OK",
    kind: str | None = "application/json",
    uid: str | None = UID,
    digest: str | None = DIGEST,
    timing: str | None = "queue;dur=0.01, total;dur=0.02",
    extra: str = "",
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    for name, value in (
        ("Content-Type", kind),
        ("X-Rollout-Pod-Uid", uid),
        ("X-Rollout-Snapshot-Digest", digest),
        ("Server-Timing", timing),
    ):
        if value is not None:
            lines.append(f"{name}: {value}")
    return "\r\n".join(lines).encode() + extra.encode() + b"\r\n\r\n" + body


def sending(data: bytes, *, after_s: float = 0.0) -> Reaction:
    def react(caller: Caller) -> None:
        caller.wait(after_s)
        caller.send(data)

    return react


def ask(
    protocol,
    server: Server,
    *,
    measure: LatencyMeasure = LatencyMeasure.SERVICE,
    timeout_s: float = 5.0,
    stop_after_s: float = math.inf,
    digest: str = DIGEST,
    prompt: Prompt = PROMPT,
):
    target = Target(address=server.address, pod_uid=UID, snapshot_digest=digest)
    return protocol.send(target, prompt, measure=measure, timeout_s=timeout_s, stop_after_s=stop_after_s)


def sample_of(protocol, react: Reaction, **options) -> Sample:
    with serving(react) as server:
        answer = ask(protocol, server, **options)
        assert len(server.requests) == 1, "a request was repeated"
    if answer.sample.status is not SampleStatus.OK:
        assert answer.pictures == ()
        assert answer.sample.pictures == ()
        assert answer.sample.detail
        assert len(answer.sample.detail) < 400
    assert "lighthouse" not in answer.sample.detail
    return answer.sample


# Answers as they should be.


def test_a_good_answer_carries_its_pictures_and_times(protocol):
    with serving(sending(http(timing="queue;dur=10, total;dur=40"), after_s=0.05)) as server:
        answer = ask(protocol, server)
    sample = answer.sample
    assert sample.status is SampleStatus.OK, sample.detail
    assert answer.pictures == (png(), png(red=3))
    assert (sample.pod_uid, sample.snapshot_digest, sample.detail) == (UID, DIGEST, "")
    assert (sample.queue_s, sample.server_s) == (pytest.approx(0.010), pytest.approx(0.040))
    assert 0.05 <= sample.wall_s < 0.5
    assert sample.latency_s == pytest.approx(sample.wall_s - 0.010)


def test_the_request_says_what_to_draw_and_travels_once_per_send_on_one_connection(protocol):
    with serving(sending(http())) as server:
        for _ in range(5):
            assert ask(protocol, server).sample.status is SampleStatus.OK
        assert server.connections == 1
        assert len(server.requests) == 5
        first, headers, body = server.requests[0]
    assert first == "POST /v1/images/generations HTTP/1.1"
    assert headers["content-type"] == "application/json"
    assert headers["host"] == str(server.address)
    assert json.loads(body) == {
        "prompt": TEXT,
        "n": 2,
        "size": "16x12",
        "response_format": "b64_json",
        "seed": 7,
        "num_inference_steps": 4,
    }


def test_a_port_where_nobody_listens_is_an_error(protocol):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address(host="127.0.0.1", port=listener.getsockname()[1])
    sample = protocol.send(
        Target(address=address, pod_uid=UID), PROMPT, measure=LatencyMeasure.WALL, timeout_s=1.0, stop_after_s=math.inf
    ).sample
    assert sample.status is SampleStatus.ERROR
    assert "cannot connect to" in sample.detail
    assert str(address) in sample.detail


def test_proxies_in_the_environment_are_not_used(protocol, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert sample_of(protocol, sending(http())).status is SampleStatus.OK


def test_before_admission_any_digest_is_taken(protocol):
    assert sample_of(protocol, sending(http(digest=None)), digest="").status is SampleStatus.OK


def test_wall_time_needs_no_server_timing(protocol):
    for timing in (None, "queue;dur=nan", "queue;dur=99999"):
        sample = sample_of(protocol, sending(http(timing=timing)), measure=LatencyMeasure.WALL)
        assert sample.status is SampleStatus.OK
        assert (sample.queue_s, sample.server_s) == (0.0, 0.0)


def test_a_closed_idle_connection_costs_no_request(protocol):
    def answer_and_close(caller: Caller) -> None:
        caller.send(http())
        raise ConnectionError

    with serving(answer_and_close) as server:
        for _ in range(3):
            assert ask(protocol, server).sample.status is SampleStatus.OK
            time.sleep(0.02)
        assert (server.connections, len(server.requests)) == (3, 3)


def test_every_delay_is_measured_to_the_last_byte(protocol):
    def two_halves(caller: Caller) -> None:
        data = http()
        caller.wait(0.05)
        caller.send(data[:300])
        caller.wait(0.05)
        caller.send(data[300:])

    assert 0.1 <= sample_of(protocol, two_halves).wall_s < 0.6


# Limits.


class Interrupted(Exception):  # noqa: N818 - an event, as the loop has it
    pass


def hang(caller: Caller) -> None:
    caller.wait(30.0)


def drip_headers(caller: Caller) -> None:
    caller.drip(http(), every_s=0.03)


def drip_body(caller: Caller) -> None:
    head, _, body = http().partition(b"\r\n\r\n")
    caller.send(head + b"\r\n\r\n")
    caller.drip(body, every_s=0.03)


def drip_chunks(caller: Caller) -> None:
    caller.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    caller.drip(b"1\r\n \r\n" * 500, every_s=0.03)


def fall_silent_in_the_body(caller: Caller) -> None:
    caller.wait(0.25)
    caller.send(http()[:-50])
    caller.wait(30.0)


def drip_continues(caller: Caller) -> None:
    while True:
        caller.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        caller.wait(0.03)


@pytest.mark.parametrize("react", [hang, drip_headers, drip_body, drip_chunks, drip_continues, fall_silent_in_the_body])
def test_the_whole_request_ends_at_the_timeout(protocol, react):
    started = time.perf_counter()
    sample = sample_of(protocol, react, timeout_s=0.3)
    assert time.perf_counter() - started < 0.5
    assert sample.status is SampleStatus.TIMEOUT
    assert sample.wall_s == pytest.approx(0.3, abs=0.15)
    assert sample.latency_s == math.inf
    assert "longer than 0.300 s" in sample.detail


@pytest.mark.parametrize("react", [hang, drip_headers, drip_body])
def test_a_request_beyond_its_stop_is_hung_up_on(protocol, react):
    hung_up = threading.Event()

    def watched(caller: Caller) -> None:
        try:
            react(caller)
        finally:
            hung_up.set()

    with serving(watched) as server:
        started = time.perf_counter()
        sample = ask(protocol, server, timeout_s=5.0, stop_after_s=0.2).sample
        assert time.perf_counter() - started < 0.5
        if react is not hang:
            assert hung_up.wait(2.0), "the connection stayed open"
    assert sample.status is SampleStatus.STOPPED
    assert sample.wall_s == pytest.approx(0.2, abs=0.15)


def test_a_signal_that_interrupts_a_request_leaves_nothing_behind(protocol):
    turns = iter([hang, sending(http())])

    def interrupt(_number, _frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with serving(lambda caller: next(turns)(caller)) as server:  # noqa: PLW0108 - one turn per request
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                ask(protocol, server)
            assert ask(protocol, server).sample.status is SampleStatus.OK
            assert server.connections == 2
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_stop_beyond_the_timeout_is_a_timeout(protocol):
    assert sample_of(protocol, hang, timeout_s=0.2, stop_after_s=0.4).status is SampleStatus.TIMEOUT


def test_the_next_request_after_a_stop_starts_clean(protocol):
    turns = iter([drip_body, sending(http())])
    with serving(lambda caller: next(turns)(caller)) as server:  # noqa: PLW0108 - one turn per request
        assert ask(protocol, server, stop_after_s=0.1).sample.status is SampleStatus.STOPPED
        assert ask(protocol, server).sample.status is SampleStatus.OK
        assert server.connections == 2


def test_a_host_that_never_answers_is_a_timeout(protocol):
    # A full backlog drops the handshake, as a dead host does.
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = Address(host="127.0.0.1", port=listener.getsockname()[1])
    fillers = [socket.socket() for _ in range(3)]
    for one in fillers:
        one.settimeout(0.0)
        one.connect_ex(("127.0.0.1", address.port))
    sample = protocol.send(
        Target(address=address, pod_uid=UID), PROMPT, measure=LatencyMeasure.WALL, timeout_s=0.3, stop_after_s=0.01
    ).sample
    for one in (*fillers, listener):
        one.close()
    assert sample.status is SampleStatus.TIMEOUT
    assert "connecting to" in sample.detail


# Answers that are none.


@pytest.mark.parametrize(
    ("data", "claim"),
    [
        (http(b"<html>busy</html>", kind="text/html"), "text/html"),
        (http(kind=None), "no content type"),
        (http(b"{"), "not JSON"),
        (http(b""), "not JSON"),
        (http(b"\xff"), "not JSON"),
        (http(b"[" * 100_000), "nested too deeply"),
        (http(b'{"data": NaN}'), "NaN"),
        (http(b"[]"), "no list `data`"),
        (http(b'{"data": {}}'), "no list `data`"),
        (http(pictures(png())), "1 pictures, asked were 2"),
        (http(pictures(png(), png(), png())), "3 pictures, asked were 2"),
        (http(b'{"data": [{"url": "x"}, {}]}'), "picture 0 has no b64_json"),
        (http(b'{"data": [1, 2]}'), "picture 0 has no b64_json"),
        (http(b'{"data": [{"b64_json": "%%%"}, {}]}'), "not base64"),
        (http(b'{"data": [{"b64_json": "\xc3\xa4"}, {}]}'), "not base64"),
        (http(pictures(b"", png())), "picture 0 is not a PNG"),
        (http(pictures(png(), b"GIF89a" + bytes(40))), "picture 1 is not a PNG"),
        (http(pictures(png(), png(width=12, height=16))), "picture 1 is 12x16, asked was 16x12"),
        (http(extra="\r\nContent-Encoding: gzip"), "encoded as gzip"),
        (http(uid="pod-other"), "'pod-other', asked was pod 'pod-blue-0'"),
        (http(uid=None), "somebody without x-rollout-pod-uid"),
        (http(uid=f"{UID}\r\nX-Rollout-Pod-Uid: pod-other"), "asked was pod"),
        (http(digest="sha256:" + "b" * 64), "sha256:" + "b" * 64 + ", admitted was snapshot " + DIGEST),
        (http(digest=None), "no snapshot, admitted was"),
        (http(timing=None), "no queue"),
        (http(timing="total;dur=1"), "no queue"),
        (http(timing="queue;dur=-1"), "negative"),
        (http(timing="queue;dur=nan"), "not a number"),
        (http(timing="queue;dur=60000"), "the whole request took"),
        (b"\0\1\2 garbage\r\n\r\n", "no valid HTTP answer"),
    ],
)
def test_garbage_is_an_error_with_a_reason(protocol, data, claim):
    sample = sample_of(protocol, sending(data), timeout_s=2.0)
    assert sample.status is SampleStatus.ERROR
    assert claim in sample.detail
    assert sample.latency_s == math.inf


@pytest.mark.parametrize("cut", [0, 20, -10])
def test_a_connection_closed_early_is_an_error_and_is_not_tried_again(protocol, cut):
    def close_early(caller: Caller) -> None:
        caller.send(http()[:cut] if cut else b"")
        raise ConnectionError

    sample = sample_of(protocol, close_early)
    assert sample.status is SampleStatus.ERROR
    assert "no valid HTTP answer" in sample.detail


def test_a_body_without_end_is_cut_off(protocol, monkeypatch):
    monkeypatch.setattr("rollout.canary.openai_images.PICTURES_BYTES_MAX", 1 << 20)

    def flood(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            caller.send(b" " * 65536)

    sample = sample_of(protocol, flood)
    assert sample.status is SampleStatus.ERROR
    assert "over 1048576 bytes" in sample.detail


@pytest.mark.parametrize(
    ("status", "body", "detail"),
    [
        ("429 Too Many", b'{"error": {"message": "the queue is full"}}', "status 429: the queue is full"),
        ("500 Oops", b'{"error": "boom\\u001b[31m\\n"}', "status 500: boom [31m"),
        ("500 Oops", b"Traceback: secret", "status 500"),
        ("503 No", b"", "status 503"),
        ("404 No", b'{"error": {"message": ["x"]}}', "status 404"),
        ("302 Go", b"", "status 302"),
    ],
)
def test_another_status_is_an_error_with_the_servers_message(protocol, status, body, detail):
    sample = sample_of(protocol, sending(http(body, status=status)))
    assert (sample.status, sample.detail) == (SampleStatus.ERROR, detail)
    assert sample.pod_uid == UID


def test_a_long_message_is_shortened(protocol):
    body = json.dumps({"error": {"message": "x" * 5000}}).encode()
    detail = sample_of(protocol, sending(http(body, status="500 Oops"))).detail
    assert len(detail) < 250
    assert detail.endswith("...")


@pytest.mark.parametrize("quote", [f"cannot draw {TEXT!r}", "cannot draw 'A  LIGHTHOUSE on a cli"])
def test_a_message_that_quotes_the_prompt_is_left_out(protocol, quote):
    body = json.dumps({"error": {"message": quote}}).encode()
    detail = sample_of(protocol, sending(http(body, status="400 Bad"))).detail
    assert detail == "status 400 (its message quotes the prompt and is left out)"


def test_a_protocol_error_that_quotes_the_prompt_is_left_out(protocol):
    sample = sample_of(protocol, sending(TEXT.encode() + b"\r\n\r\n"))
    assert sample.status is SampleStatus.ERROR
    assert "left out" in sample.detail


# The driver on real connections.


def test_a_pair_over_real_connections_stops_a_candidate_that_is_too_late(protocol):
    driver = CanaryDriver(protocol, measure=LatencyMeasure.WALL, request_timeout_s=5.0)
    with serving(sending(http(), after_s=0.05)) as blue, serving(sending(http(), after_s=2.0)) as green:
        started = time.perf_counter()
        pair, drawn = driver.measure_pair(
            prompt=PROMPT,
            stage="canary",
            number=0,
            first=Role.INCUMBENT,
            targets={
                Role.INCUMBENT: Target(address=blue.address, pod_uid=UID),
                Role.CANDIDATE: Target(address=green.address, pod_uid=UID),
            },
            give_up_factor=3.0,
            queue_allowance_s=0.0,
        )
        assert time.perf_counter() - started < 1.0
    assert pair.incumbent.status is SampleStatus.OK
    assert pair.candidate.status is SampleStatus.STOPPED
    assert pair.candidate.wall_s >= 3.0 * pair.incumbent.latency_s
    assert sorted(drawn) == sorted(set(pair.incumbent.pictures))


# Snapshots.


def snapshot() -> CapabilitySnapshot:
    return CapabilitySnapshot(
        schema="rollout.snapshot/v1", fields={"runtime.ort.version": ok("1.2", "onnxruntime")}, measurements={}
    )


def test_a_snapshot_is_read_and_its_digest_checked(protocol):
    with serving(sending(http(json.dumps(snapshot().to_json()).encode()))) as server:
        assert protocol.fetch_snapshot(server.address, timeout_s=2.0) == snapshot()
        assert server.requests[0][0] == "GET /v1/capabilities HTTP/1.1"


@pytest.mark.parametrize(
    ("data", "claim"),
    [
        (http(b"{}"), "Field required"),
        (http(b"[]"), "not a JSON object"),
        (http(b"{"), "not JSON"),
        (http(b'{"fields": {"a": NaN}}'), "NaN"),
        (http(b'{"a":' * 100_000), "nested too deeply"),
        (http(b'{"schema": "x", "schema": "y"}'), "twice"),
        (http(json.dumps({**snapshot().to_json(), "digest": DIGEST}).encode()), "claims digest"),
        (http(b"<html>", kind="text/html"), "text/html"),
        (http(b"{}", status="404 No"), "status 404"),
    ],
)
def test_a_snapshot_that_proves_nothing_is_refused(protocol, data, claim):
    with serving(sending(data)) as server, pytest.raises(EvidenceError, match=claim) as caught:
        protocol.fetch_snapshot(server.address, timeout_s=2.0)
    assert str(server.address) in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("react", "claim"),
    [
        (sending(http(b'{"error": {"message": "self-test runs"}}', status="503 Wait")), "status 503: self-test runs"),
        (sending(http(b"", status="429 Busy")), "status 429"),
        (hang, "longer than"),
        (drip_body, "longer than"),
        (sending(b"garbage\r\n\r\n"), "no valid HTTP"),
    ],
)
def test_a_server_that_cannot_answer_now_is_unavailable(protocol, react, claim):
    with serving(react) as server, pytest.raises(UnavailableError, match=claim):
        protocol.fetch_snapshot(server.address, timeout_s=0.3)


def test_an_oversized_snapshot_is_refused(protocol):
    body = io.BytesIO()
    body.write(b'{"schema": "')
    body.write(b"x" * (8 * 1024 * 1024))
    body.write(b'"}')
    with (
        serving(sending(http(body.getvalue()))) as server,
        pytest.raises(EvidenceError, match="over"),
    ):
        protocol.fetch_snapshot(server.address, timeout_s=5.0)
