"""The load driver against real sockets: servers that are well, slow, full, hung, hostile or somebody else."""

import asyncio
import errno
import json
import math
import resource
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from rollout.canary import load as load_module
from rollout.canary.interface import Target
from rollout.canary.load import LoadDriver
from rollout.canary.load_line import Lines
from rollout.canary.openai_images import OpenAIImages
from rollout.control.world import Interrupted
from rollout.errors import ConfigError, InvariantError, UnavailableError
from rollout.model.load import Level, LevelKind
from rollout.model.policy import ArrivalPattern
from rollout.model.prompts import PromptSet
from rollout.model.roles import Address

UID = "pod-0"
SERVICE_S = 0.02
PROMPTS = PromptSet.model_validate(
    {
        "schema": "rollout.prompts/v1",
        "prompts": [
            {"id": f"p{one}", "text": f"a lighthouse on cliff number {one}", "seed": one, "steps": 4, "size": "64x64"}
            for one in range(5)
        ],
    }
)


def closed(concurrency, *, batch=0):
    return Level(name="level", kind=LevelKind.CONCURRENCY, concurrency=concurrency, batch=batch, pattern=None)


ARRIVALS = Level(name="level", kind=LevelKind.ARRIVALS, concurrency=0, batch=0, pattern=ArrivalPattern.POISSON)


@pytest.fixture(params=["uvloop", "asyncio"])
def driver(request, monkeypatch):
    if request.param == "uvloop":
        monkeypatch.setattr(load_module, "new_event_loop", pytest.importorskip("uvloop").new_event_loop)
    else:
        monkeypatch.setattr(load_module, "new_event_loop", asyncio.new_event_loop)
    return LoadDriver(OpenAIImages(), request_timeout_s=1.0)


def reply(body, *, status="200 OK", uid=UID, headers=()):
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"x-rollout-pod-uid: {uid}", *headers]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def drawn(asked):
    return json.dumps({"data": [{"b64_json": "AAAA"}] * asked["n"]}).encode()


class Server:
    """A server in this process; `react` writes the answer to one request and may close the connection."""

    def __init__(self, react):
        self._react = react
        self.asked = []
        self.methods = Counter()
        self.now = self.most = 0
        self.connections = set()

    async def serve(self, reader, writer):
        self.connections.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                self.methods[head.split()[0].decode()] += 1
                self.asked.append(asked)
                self.now += 1
                self.most = max(self.most, self.now)
                try:
                    await self._react(writer, asked)
                finally:
                    self.now -= 1
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.connections.discard(writer)
            writer.close()


@contextmanager
def served(react, *, uid=UID, digest=""):
    """Run a server in a thread; yield it and the target that it is."""
    server, loop, up = Server(react), asyncio.new_event_loop(), threading.Event()
    address = []

    async def run():
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=1024)
        address.append(Address(host="127.0.0.1", port=listening.sockets[0].getsockname()[1]))
        server.ended = asyncio.Event()
        up.set()
        await server.ended.wait()
        listening.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert up.wait(5.0)
    try:
        yield server, Target(address=address[0], pod_uid=uid, snapshot_digest=digest)
    finally:
        loop.call_soon_threadsafe(server.ended.set)
        thread.join(5.0)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()


async def well(writer, asked):
    await asyncio.sleep(SERVICE_S)
    writer.write(reply(drawn(asked)))


def measured(driver, targets, *, level=None, rate_per_s=0.0, seconds=0.4, seed="seed"):
    window, stored = driver.measure_window(
        level=level or closed(4),
        rate_per_s=rate_per_s,
        seconds=seconds,
        targets=targets,
        prompts=PROMPTS,
        seed=seed,
    )
    return window, json.loads(stored)


def test_a_well_server_is_kept_busy_by_as_many_requests_as_were_asked_for(driver):
    with served(well) as (server, target):
        window, _ = measured(driver, [target])
    assert server.most == 4
    assert window.failed == 0
    assert window.completed == window.offered == window.pictures == len(server.asked)
    assert window.pictures_per_s == pytest.approx(4 / SERVICE_S, rel=0.3)
    assert window.p50_s == pytest.approx(SERVICE_S, rel=0.5)
    assert server.methods == {"POST": window.offered}


def test_load_is_spread_evenly_over_the_instances(driver):
    with served(well) as (first, one), served(well) as (second, two), served(well) as (third, three):
        measured(driver, [one, two, three], level=closed(4))
    counts = [len(one.asked) for one in (first, second, third)]
    assert max(counts) - min(counts) <= 4


def test_a_batch_level_asks_for_that_many_pictures_and_counts_them(driver):
    with served(well) as (server, target):
        window, _ = measured(driver, [target], level=closed(2, batch=3))
    assert {one["n"] for one in server.asked} == {3}
    assert window.pictures == 3 * window.completed


def test_one_seed_gives_both_colours_the_same_arrivals_and_prompts(driver):
    seen = []
    for seed in ("a", "a", "b"):
        with served(well) as (server, target):
            _, held = measured(driver, [target], level=ARRIVALS, rate_per_s=50.0, seed=seed)
        seen.append((held["due_s"], [one["seed"] for one in server.asked]))
    assert seen[0][0] == seen[1][0]
    assert sorted(seen[0][1]) == sorted(seen[1][1])
    assert seen[0] != seen[2]


def test_prompts_come_in_cycles_that_hold_each_of_them_once(driver):
    with served(well) as (server, target):
        measured(driver, [target], level=closed(1))
    seeds = [one["seed"] for one in server.asked]
    assert all(sorted(seeds[at : at + 5]) == [0, 1, 2, 3, 4] for at in range(0, len(seeds) - 5, 5))


def test_an_open_loop_goes_on_asking_while_the_server_stands_still(driver):
    begun = []

    async def stalling(writer, asked):
        begun.append(time.perf_counter())
        left_s = begun[0] + 0.3 - time.perf_counter()
        await asyncio.sleep(max(left_s, 0.0) + 0.001)
        writer.write(reply(drawn(asked)))

    with served(stalling) as (_, target):
        open_loop, held = measured(driver, [target], level=ARRIVALS, rate_per_s=100.0, seconds=0.6)
    begun.clear()
    with served(stalling) as (_, target):
        one_at_a_time, _ = measured(driver, [target], level=closed(1), seconds=0.6)
    # Half of the users came in the stall and waited for its end; a closed loop had one of them.
    assert len([one for one in held["sent_s"] if one < 0.3]) > 10
    assert open_loop.p95_s > 0.2
    assert one_at_a_time.p95_s < 0.1


def test_a_request_that_is_due_while_others_wait_for_connections_counts_from_when_it_was_due(driver):
    with served(well) as (_, target):
        _, held = measured(driver, [target], level=ARRIVALS, rate_per_s=100.0)
    late = [sent - due for sent, due in zip(held["sent_s"], held["due_s"], strict=True)]
    assert min(late) >= 0.0


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda _asked: reply(b'{"error": {"message": "3 wait already"}}', status="429 Too Many Requests"), "429"),
        (lambda asked: reply(drawn(asked), uid="pod-9"), "answered by pod 'pod-9', asked was pod 'pod-0'"),
        (lambda asked: reply(drawn({"n": asked["n"] + 1})), "has 2 pictures, asked were 1"),
        (lambda asked: reply(drawn(asked)).replace(b"application/json", b"text/html"), "text/html"),
        (lambda _asked: b"SSH-2.0-OpenSSH_9.7\r\n", "no valid HTTP answer"),
    ],
)
def test_an_answer_that_is_not_good_counts_as_failed_and_says_why(driver, answer, told):
    async def bad(writer, asked):
        writer.write(answer(asked))

    with served(bad) as (_, target):
        window, held = measured(driver, [target], seconds=0.15)
    assert window.completed == window.pictures == 0
    assert window.failed == window.offered > 0
    assert (window.p50_s, window.pictures_per_s) == (None, 0.0)
    assert told in window.detail
    assert not any("lighthouse" in one for one in held["failures"].values())


def test_an_answer_under_another_snapshot_counts_as_failed(driver):
    with served(well, digest="sha256:" + "a" * 64) as (_, target):
        window, _ = measured(driver, [target], seconds=0.1)
    assert window.completed == 0
    assert "admitted was snapshot" in window.detail


def test_a_message_that_quotes_the_prompt_is_left_out(driver):
    async def quoting(writer, asked):
        body = json.dumps({"error": {"message": f"bad prompt: {asked['prompt']}"}}).encode()
        writer.write(reply(body, status="400 Bad Request"))

    with served(quoting) as (_, target):
        window, held = measured(driver, [target], seconds=0.1)
    assert "quotes the prompt" in window.detail
    assert "lighthouse" not in json.dumps(held)


def test_a_dropped_connection_is_a_failure_and_nothing_is_sent_again(driver):
    async def dropping(writer, asked):
        if asked["seed"] == 3:
            writer.transport.abort()
        else:
            await well(writer, asked)

    with served(dropping) as (server, target):
        window, _ = measured(driver, [target])
    assert window.failed == sum(one["seed"] == 3 for one in server.asked) > 0
    assert window.offered == len(server.asked)
    assert "connection broke" in window.detail


@pytest.mark.parametrize("framing", ["chunked", "to the end of the connection", "byte by byte", "after 103"])
def test_every_framing_of_http_1_1_is_understood(driver, framing):
    async def framed(writer, asked):
        whole = reply(drawn(asked))
        head, _, body = whole.partition(b"\r\n\r\n")
        kept = b"\r\n".join(one for one in head.split(b"\r\n") if not one.startswith(b"content-length"))
        if framing == "chunked":
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (body[:7], body[7:]))
            writer.write(kept + b"\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        elif framing == "after 103":
            writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + whole)
        elif framing == "byte by byte":
            for place in range(len(whole)):
                writer.write(whole[place : place + 1])
                await writer.drain()
        else:
            writer.write(kept + b"\r\nconnection: close\r\n\r\n" + body)
            writer.close()

    with served(framed) as (_, target):
        window, _ = measured(driver, [target], seconds=0.1)
    assert (window.failed, window.detail) == (0, "")
    assert window.completed > 0


def test_a_server_that_refuses_is_not_asked_a_thousand_times_a_second(driver):
    async def full(writer, asked):
        # One in eight is served, so that the window is not given up.
        if asked["seed"] == 3:
            writer.write(reply(drawn(asked)))
        else:
            writer.write(reply(b"{}", status="429 Too Many Requests"))

    with served(full) as (_, target):
        window, _ = measured(driver, [target], level=closed(4), seconds=0.45)
    assert window.failed <= 4 * 5


def test_a_window_whose_first_requests_all_fail_ends_early(driver):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = Target(address=Address(host="127.0.0.1", port=unused.getsockname()[1]), pod_uid=UID)
        window, _ = measured(driver, [target], level=closed(8), seconds=20.0)
    assert 20 <= window.failed <= 32
    assert window.seconds < 2.0
    assert "cannot connect" in window.detail


def test_refusals_that_come_back_first_do_not_end_a_window_whose_other_requests_are_under_way(driver, monkeypatch):
    async def half_full(writer, asked):
        if asked["seed"] % 2:
            writer.write(reply(b"{}", status="429 Too Many Requests"))
        else:
            await asyncio.sleep(0.4)
            writer.write(reply(drawn(asked)))

    monkeypatch.setattr(load_module, "_schedule", lambda *_: np.linspace(0.0, 0.3, 100))
    with served(half_full) as (_, target):
        window, _ = measured(driver, [target], level=ARRIVALS, rate_per_s=300.0, seconds=0.35)
    assert window.offered == 100
    assert window.completed == 60


def test_a_driver_that_lags_still_sends_every_request_that_was_due(driver, monkeypatch):
    # What a collector's pause or a busy core does to the driver: the most delayed requests must not be left out.
    monkeypatch.setattr(load_module, "_schedule", lambda *_: np.linspace(0.0, 0.29, 30))
    check = OpenAIImages.check

    def lagging(*arguments, **named):
        time.sleep(0.02)
        return check(*arguments, **named)

    monkeypatch.setattr(OpenAIImages, "check", lagging)
    with served(well) as (server, target):
        window, _ = measured(driver, [target], level=ARRIVALS, rate_per_s=100.0, seconds=0.3)
    assert (window.offered, len(server.asked)) == (30, 30)
    assert window.p95_s > 0.1


def test_a_driver_out_of_file_descriptors_blames_itself_and_not_the_server(driver, monkeypatch):
    async def refused(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Lines, "_connect", refused)
    with served(well) as (_, target), pytest.raises(UnavailableError, match="ulimit -n"):
        measured(driver, [target])


def test_the_limit_of_open_files_is_lifted_for_a_window_only(driver):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = (min(before[1], 128), before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, lower)
    try:
        with served(well) as (_, target):
            window, _ = measured(driver, [target], level=closed(200))
        assert window.failed == 0
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == lower
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_answers_of_stragglers_count_as_time_and_not_as_throughput(driver):
    async def last_is_stuck(writer, asked):
        await asyncio.sleep(0.7 if asked["seed"] == 4 else SERVICE_S)
        writer.write(reply(drawn(asked)))

    with served(last_is_stuck) as (_, target):
        window, _ = measured(driver, [target], level=closed(2), seconds=0.2)
    assert window.completed > window.answered == window.pictures
    assert window.busy_s > 0.6
    assert window.seconds < 0.4


def test_a_hung_server_costs_the_timeout_once_and_every_request_counts(driver):
    async def hung(_writer, _asked):
        await asyncio.sleep(30.0)

    with served(hung) as (server, target):
        begun = time.monotonic()
        window, _ = measured(driver, [target], level=closed(4), seconds=0.2)
        took_s = time.monotonic() - begun
    assert took_s < 1.6
    assert (window.offered, window.failed, len(server.asked)) == (4, 4, 4)
    assert "took longer than 1.000 s" in window.detail


def test_requests_that_are_out_at_the_end_are_waited_for_and_their_latency_counts(driver):
    async def slow(writer, asked):
        await asyncio.sleep(0.5)
        writer.write(reply(drawn(asked)))

    with served(slow) as (_, target):
        window, _ = measured(driver, [target], seconds=0.1)
    assert (window.completed, window.failed) == (4, 0)
    assert window.p50_s == pytest.approx(0.5, rel=0.2)
    assert window.pictures_per_s == pytest.approx(4 / 0.5, rel=0.2)


def test_a_signal_ends_the_window_at_once_and_closes_every_connection(driver):
    async def hung(_writer, _asked):
        await asyncio.sleep(30.0)

    def interrupt(_number, _frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with served(hung) as (server, target):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            begun = time.monotonic()
            with pytest.raises(Interrupted):
                measured(driver, [target], seconds=30.0)
            assert time.monotonic() - begun < 1.0
            assert len(server.asked) == 4
            assert not [one for one in threading.enumerate() if one.name.startswith("load")]
            deadline = time.monotonic() + 5.0
            while any(not one.transport.is_closing() and not _gone(one) for one in tuple(server.connections)):
                assert time.monotonic() < deadline, "a connection stayed open"
                time.sleep(0.01)
    finally:
        signal.signal(signal.SIGALRM, before)


def _gone(writer):
    """Tell whether the peer has closed: its socket reads as ended or reset."""
    try:
        copy = socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno()))
    except OSError:
        return True
    with copy:
        try:
            return copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def test_a_window_after_an_interrupted_one_is_sound(driver):
    def interrupt(_number, _frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with served(well) as (_, target):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                measured(driver, [target], seconds=30.0)
            window, _ = measured(driver, [target])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert window.failed == 0


def test_no_instance_and_no_time_are_refused(driver):
    target = Target(address=Address(host="127.0.0.1", port=1), pod_uid=UID)
    with pytest.raises(InvariantError, match="no instance"):
        measured(driver, [])
    for seconds in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="above 0"):
            measured(driver, [target], seconds=seconds)
    with pytest.raises(ConfigError, match="rate of arrivals"):
        measured(driver, [target], level=ARRIVALS, rate_per_s=0.0)
