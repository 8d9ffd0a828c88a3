"""What every router promises, run against a real Envoy; below it, what only Envoy can be asked."""

import signal
import socket
import stat
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rollout import processes
from rollout.errors import ConflictError, InvariantError, RefusedError, UnavailableError
from rollout.model.roles import Address, Slot, Weights, all_on, share
from rollout.routers.envoy import EnvoyRouter
from rollout.routers.envoy_daemon import ENV_ROUTER_DIR

BLUE, GREEN = Slot.BLUE, Slot.GREEN

INSIDER = {"x-forwarded-for": "10.0.0.1", "x-envoy-internal": "true"}
"""What a client says that wants to be taken for one of Envoy's own network."""


@pytest.fixture
def pair(bench):
    """Two slots with a server each; all traffic on blue."""
    blue, green = bench.target("blue"), bench.target("green")
    targets = {BLUE: (blue.address,), GREEN: (green.address,)}
    bench.router.apply(weights=all_on(BLUE), targets=targets)
    return targets


@pytest.mark.parametrize("percent", [0, 1, 50, 100])
def test_applied_weights_are_read_back(bench, pair, percent):
    applied = bench.router.apply(weights=share(GREEN, percent), targets=pair)
    assert applied.weights == bench.router.read().weights == share(GREEN, percent)
    assert applied.targets == pair
    assert applied.generation == bench.fence.generation


def test_traffic_follows_the_weights(bench, pair):
    assert {bench.send().body for _ in range(20)} == {"blue"}
    bench.router.apply(weights=share(GREEN, 50), targets=pair)
    bodies = [bench.send().body for _ in range(200)]
    # Of 200 fair draws fewer than 60 for one side have a probability below 1e-8.
    assert 60 <= bodies.count("green") <= 140
    bench.router.apply(weights=all_on(GREEN), targets=pair)
    assert {bench.send().body for _ in range(20)} == {"green"}


@pytest.mark.usefixtures("pair")
def test_header_reaches_a_slot_that_takes_no_traffic(bench):
    answer = bench.send(to=GREEN)
    assert (answer.status, answer.color, answer.body) == (200, "green", "green")


def test_every_answer_names_its_slot(bench, pair):
    assert bench.send().color == "blue"
    bench.router.apply(weights=share(GREEN, 50), targets=pair)
    assert all(answer.color == answer.body for answer in (bench.send() for _ in range(20)))


def test_no_request_is_dropped_over_thirty_shifts(bench, pair):
    stop = threading.Event()

    def stream():
        answers = []
        while not stop.is_set():
            answers.append(bench.send().status)
        return answers

    with ThreadPoolExecutor(max_workers=3) as pool:
        clients = [pool.submit(stream) for _ in range(3)]
        try:
            for step in range(30):
                bench.router.apply(weights=share(GREEN, (step * 37) % 101), targets=pair)
        finally:
            stop.set()
        answers = [status for client in clients for status in client.result()]
    assert len(answers) > 100
    assert set(answers) == {200}


def test_slot_that_keeps_its_targets_loses_no_request_while_the_other_is_replaced(bench, pair):
    stop = threading.Event()

    def stream():
        answers = []
        while not stop.is_set():
            answers.append(bench.send())
        return answers

    with ThreadPoolExecutor(max_workers=2) as pool:
        clients = [pool.submit(stream) for _ in range(2)]
        try:
            for _ in range(5):
                bench.router.apply(weights=all_on(BLUE), targets={BLUE: pair[BLUE]})
                bench.router.apply(weights=all_on(BLUE), targets=pair)
                bench.router.apply(weights=share(GREEN, 50), targets=pair)
        finally:
            stop.set()
        answers = [answer for client in clients for answer in client.result()]
    assert {answer.status for answer in answers} == {200}


def test_request_in_flight_finishes_on_the_slot_that_is_removed(bench):
    blue, green = bench.target("blue"), bench.target("green")
    targets = {BLUE: (blue.address,), GREEN: (green.address,)}
    bench.router.apply(weights=all_on(GREEN), targets=targets)
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting = pool.submit(bench.send, "/wait")
        assert green.entered.wait(5)
        removal = pool.submit(bench.router.apply, weights=all_on(BLUE), targets={BLUE: targets[BLUE]})
        while bench.router.read().weights != all_on(BLUE):
            time.sleep(0.002)
        assert bench.send().body == "blue"
        time.sleep(0.1)
        assert not removal.done()
        assert GREEN in bench.router.read().targets
        green.release.set()
        assert (waiting.result().status, waiting.result().body) == (200, "green")
        assert removal.result().targets == {BLUE: targets[BLUE]}


def test_removal_does_not_wait_longer_than_a_request_may_take(bench):
    blue, green = bench.target("blue"), bench.target("green")
    targets = {BLUE: (blue.address,), GREEN: (green.address,)}
    bench.router.apply(weights=all_on(GREEN), targets=targets)
    with ThreadPoolExecutor(max_workers=1) as pool:
        hung = pool.submit(bench.send, "/wait")
        assert green.entered.wait(5)
        began = time.monotonic()
        bench.router.apply(weights=all_on(BLUE), targets={BLUE: targets[BLUE]})
        assert time.monotonic() - began < bench.request_timeout_s + 1
        assert (hung.result().status, hung.result().color) == (504, "green")
    assert bench.fence.held_s_max < bench.request_timeout_s / 2


def test_repeating_an_apply_changes_nothing(bench, pair):
    first = bench.router.apply(weights=share(GREEN, 10), targets=pair)
    assert bench.router.apply(weights=share(GREEN, 10), targets=pair).version == first.version


def test_new_generation_is_carried_even_when_nothing_else_changes(bench, pair):
    bench.fence.generation = 7
    assert bench.router.apply(weights=all_on(BLUE), targets=pair).generation == 7


def test_lost_lease_changes_nothing(bench, pair):
    before = bench.router.read()
    bench.fence.lost = True
    with pytest.raises(ConflictError):
        bench.router.apply(weights=all_on(GREEN), targets=pair)
    with pytest.raises(ConflictError):
        bench.router.stop()
    assert bench.router.read() == before


def test_older_generation_changes_nothing(bench, pair):
    bench.fence.generation = 5
    before = bench.router.apply(weights=share(GREEN, 20), targets=pair)
    bench.fence.generation = 4
    with pytest.raises(ConflictError, match="generation 5"):
        bench.router.apply(weights=all_on(GREEN), targets=pair)
    assert bench.router.read() == before


def test_older_generation_does_not_start_a_dead_router(bench, pair):
    bench.fence.generation = 5
    bench.router.apply(weights=share(GREEN, 20), targets=pair)
    bench.kill()
    bench.fence.generation = 4
    with pytest.raises(ConflictError):
        bench.router.apply(weights=all_on(GREEN), targets=pair)
    with pytest.raises(UnavailableError):
        bench.router.read()


@pytest.mark.parametrize("targets", [{}, {GREEN: ()}])
def test_weight_without_a_target_is_refused_before_anything_happens(bench, pair, targets):
    before = bench.router.read()
    with pytest.raises(InvariantError, match="green"):
        bench.router.apply(weights=share(GREEN, 1), targets={BLUE: pair[BLUE], **targets})
    assert bench.router.read() == before


def test_nothing_is_read_from_a_router_that_never_ran(bench):
    with pytest.raises(UnavailableError, match="no Envoy runs"):
        bench.router.read()


def test_each_failure_is_counted_once(bench, pair):
    def failed_by(path):
        before = bench.router.read().counters[GREEN]
        status = bench.send(path, to=GREEN).status
        after = bench.router.read().counters[GREEN]
        return status, after.completed - before.completed, after.failed - before.failed

    assert failed_by("/") == (200, 1, 0)
    assert failed_by("/fail") == (500, 1, 1)
    assert failed_by("/reset") == (503, 1, 1)
    assert failed_by("/wait") == (504, 1, 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        dead = Address(host="127.0.0.1", port=silent.getsockname()[1])
        bench.router.apply(weights=all_on(BLUE), targets={**pair, GREEN: (dead,)})
        assert failed_by("/") == (503, 1, 1)
    bench.router.apply(weights=all_on(BLUE), targets={BLUE: pair[BLUE]})
    assert failed_by("/") == (503, 1, 1)


def test_counters_never_fall_while_the_router_lives(bench, pair):
    for path in ("/", "/fail", "/reset"):
        bench.send(path, to=GREEN)
    before = bench.router.read()
    for targets in ({BLUE: pair[BLUE]}, pair, {BLUE: pair[BLUE], GREEN: (bench.target("new").address,)}):
        after = bench.router.apply(weights=all_on(BLUE), targets=targets)
        assert after.counters == before.counters
        assert after.epoch == before.epoch


def test_requests_in_flight_are_counted(bench):
    blue = bench.target("blue")
    bench.router.apply(weights=all_on(BLUE), targets={BLUE: (blue.address,)})
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(bench.send, "/wait")
        assert blue.entered.wait(5)
        assert bench.router.read().counters[BLUE].active == 1
        blue.release.set()
        waiting.result()
    assert bench.router.read().counters[BLUE].active == 0


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(("path", "status"), [("/reset", 503), ("/wait", 504), ("/fail", 500)])
def test_a_failed_answer_names_its_slot_too(bench, path, status):
    for to in (None, GREEN):
        answer = bench.send(path, to=to)
        assert (answer.status, answer.color) == (status, str(to or BLUE))


@pytest.mark.parametrize("path", ["/fail", "/reset"])
def test_no_failed_request_is_tried_again(bench, path):
    blue = bench.target("blue")
    bench.router.apply(weights=all_on(BLUE), targets={BLUE: (blue.address,)})
    assert bench.send(path).status >= 500
    assert blue.seen == 1


@pytest.mark.parametrize("path", ["/fail", "/reset"])
def test_no_header_of_a_client_makes_envoy_try_a_failed_request_again(bench, path):
    blue = bench.target("blue")
    bench.router.apply(weights=all_on(BLUE), targets={BLUE: (blue.address,)})
    asked = {"x-envoy-retry-on": "5xx,reset", "x-envoy-max-retries": "3"} | INSIDER
    assert bench.send(path, **asked).status >= 500
    assert blue.seen == 1
    assert bench.router.read().counters[BLUE].failed == 1


@pytest.mark.usefixtures("pair")
def test_no_header_of_a_client_changes_how_long_a_request_may_take(bench):
    begun = time.monotonic()
    assert bench.send("/wait", **{"x-envoy-upstream-rq-timeout-ms": "60000"}, **INSIDER).status == 504
    assert time.monotonic() - begun < 15.0


def test_header_for_an_empty_slot_is_not_answered_by_the_other(bench):
    blue = bench.target("blue")
    bench.router.apply(weights=all_on(BLUE), targets={BLUE: (blue.address,)})
    answer = bench.send(to=GREEN)
    assert (answer.status, answer.color) == (503, "green")
    assert blue.seen == 0


def test_router_outlives_its_controller(bench, pair):
    bench.router.apply(weights=share(GREEN, 30), targets=pair)
    before = bench.router.read()
    assert bench.again().read() == before


def test_weights_can_be_applied_again_after_the_router_died(bench, pair):
    before = bench.router.apply(weights=share(GREEN, 30), targets=pair)
    bench.kill()
    with pytest.raises(UnavailableError):
        bench.router.read()
    after = bench.again().apply(weights=share(GREEN, 30), targets=pair)
    assert after.weights == before.weights
    assert after.epoch != before.epoch
    assert bench.send().status == 200


@pytest.mark.usefixtures("pair")
def test_stop_ends_the_router_and_may_be_repeated(bench):
    bench.router.stop()
    with pytest.raises(UnavailableError):
        bench.router.read()
    bench.router.stop()
    with pytest.raises(ConnectionRefusedError):
        bench.send()


def test_stop_lets_requests_in_flight_finish(bench):
    blue = bench.target("blue")
    bench.router.apply(weights=all_on(BLUE), targets={BLUE: (blue.address,)})
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting = pool.submit(bench.send, "/wait")
        assert blue.entered.wait(5)
        stopping = pool.submit(bench.router.stop)
        time.sleep(0.5)
        blue.release.set()
        assert waiting.result().status == 200
        stopping.result()


def test_generation_is_kept_over_a_stop(bench, pair):
    bench.fence.generation = 3
    bench.router.apply(weights=all_on(BLUE), targets=pair)
    bench.router.stop()
    bench.fence.generation = 2
    with pytest.raises(ConflictError):
        bench.router.apply(weights=all_on(BLUE), targets=pair)


def test_shift_is_in_force_within_a_tenth_of_a_second(bench, pair):
    durations = []
    for step in range(20):
        began = time.perf_counter()
        bench.router.apply(weights=share(GREEN, step), targets=pair)
        durations.append(time.perf_counter() - began)
    assert statistics.median(durations) < 0.1


# What follows looks inside Envoy's folder.


def envoys(bench):
    return processes.find_carriers(ENV_ROUTER_DIR, str(bench.state_dir / "router"))


def test_envoy_whose_record_was_never_written_is_adopted(bench, pair):
    before = bench.router.read()
    record = bench.state_dir / "router" / "envoy.pid.json"
    record.unlink()
    other = bench.again()
    assert other.read() == before
    assert other.apply(weights=share(GREEN, 5), targets=pair).epoch == before.epoch
    assert record.exists()
    assert len(envoys(bench)) == 1


@pytest.mark.usefixtures("pair")
def test_recorded_pid_of_a_stranger_is_not_taken_for_envoy(bench):
    record = bench.state_dir / "router" / "envoy.pid.json"
    text = record.read_text()
    bench.kill()
    stranger = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
    try:
        pid = processes.ProcessIdentity.model_validate_json(text).pid
        record.write_text(text.replace(f'"pid":{pid}', f'"pid":{stranger.pid}'))
        with pytest.raises(UnavailableError):
            bench.router.read()
        bench.router.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


KILLED_CONTROLLER = """
import contextlib, os, signal, sys
from pathlib import Path
from rollout.model.roles import Address, Slot, all_on
from rollout.routers import envoy_daemon
from rollout.routers.envoy import EnvoyRouter

class Fence:
    @contextlib.contextmanager
    def hold(self):
        yield 1

left = int(sys.argv[4])

def killed_before(function):
    def wrapped(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*args, **kwargs)
    return wrapped

envoy_daemon.processes.replace_file = killed_before(envoy_daemon.processes.replace_file)
envoy_daemon.processes.spawn = killed_before(envoy_daemon.processes.spawn)
listen = Address(host="127.0.0.1", port=int(sys.argv[2]))
router = EnvoyRouter(Path(sys.argv[1]), Fence(), listen=listen, request_timeout_s=1.0)
router.apply(weights=all_on(Slot.BLUE), targets={Slot.BLUE: (Address(host="127.0.0.1", port=int(sys.argv[3])),)})
os.kill(os.getpid(), signal.SIGKILL)
"""


# Three watched files, the bootstrap, the start, the record; after the last the router is up.
@pytest.mark.parametrize("steps", range(7))
def test_controller_killed_at_any_step_of_the_start_leaves_at_most_one_envoy(bench, steps):
    blue = bench.target("blue")
    arguments = [bench.state_dir, bench.listen.port, blue.address.port, steps]
    killed = subprocess.run([sys.executable, "-c", KILLED_CONTROLLER, *map(str, arguments)], check=False, timeout=30)
    assert killed.returncode == -signal.SIGKILL
    standing = envoys(bench)
    assert len(standing) == (steps >= 5)

    deadline = time.monotonic() + 5
    while True:
        try:
            applied = bench.router.apply(weights=all_on(BLUE), targets={BLUE: (blue.address,)})
            break
        except UnavailableError:
            # The adopted Envoy is still starting.
            assert time.monotonic() < deadline
    assert applied.weights == all_on(BLUE)
    assert bench.send().body == "blue"
    assert len(envoys(bench)) == 1
    assert standing in ((), envoys(bench))


def test_taken_port_is_refused_by_name_and_nothing_is_changed(bench):
    with socket.create_server((bench.listen.host, bench.listen.port)):
        with pytest.raises(RefusedError, match=str(bench.listen)) as refusal:
            bench.router.apply(weights=all_on(BLUE), targets={BLUE: (bench.listen,)})
        assert "choose another address" in str(refusal.value)
    assert not bench.state_dir.exists()
    assert not envoys(bench)


def test_rejected_targets_are_refused_in_envoys_words_and_the_old_stay(bench, pair):
    before = bench.router.read()
    files = {path: path.read_bytes() for path in bench.state_dir.rglob("*/*/*.json")}
    named = Address(host="localhost", port=pair[GREEN][0].port)
    for targets in ({**pair, GREEN: (named,)}, {BLUE: (bench.target("new").address,), GREEN: (named,)}):
        with pytest.raises(RefusedError, match="malformed IP address: localhost"):
            bench.router.apply(weights=share(GREEN, 10), targets=targets)
        deadline = time.monotonic() + 2
        while bench.router.read() != before and time.monotonic() < deadline:
            time.sleep(0.005)
        assert bench.router.read() == before
    assert {path: path.read_bytes() for path in bench.state_dir.rglob("*/*/*.json")} == files
    assert bench.router.apply(weights=share(GREEN, 10), targets=pair).weights == share(GREEN, 10)


def test_envoy_that_rejects_its_first_configuration_is_ended(bench):
    with pytest.raises(RefusedError, match="malformed IP address"):
        bench.router.apply(weights=all_on(BLUE), targets={BLUE: (Address(host="localhost", port=80),)})
    assert not envoys(bench)


def test_damaged_route_file_is_repaired_by_the_next_apply(bench, pair):
    path = bench.state_dir / "router" / "routes" / "routes.json"
    for damage in ('{"version_info": ', "[]", '{"version_info": "by hand"}'):
        processes.replace_file(path, damage.encode())
        assert bench.send().status == 200
        assert bench.router.apply(weights=share(GREEN, 40), targets=pair).weights == share(GREEN, 40)
        assert bench.router.apply(weights=share(GREEN, 50), targets=pair).weights == share(GREEN, 50)


def test_changed_listen_address_is_refused_while_envoy_runs(bench, pair):
    other = EnvoyRouter(bench.state_dir, bench.fence, listen=Address(host="127.0.0.1", port=1), request_timeout_s=1.0)
    with pytest.raises(RefusedError, match="stop the router first"):
        other.apply(weights=all_on(GREEN), targets=pair)
    assert bench.router.read().weights == all_on(BLUE)


def test_changed_request_timeout_takes_effect_without_a_restart(bench, pair):
    epoch = bench.router.read().epoch
    other = EnvoyRouter(bench.state_dir, bench.fence, listen=bench.listen, request_timeout_s=0.1)
    assert other.apply(weights=all_on(BLUE), targets=pair).epoch == epoch
    began = time.monotonic()
    assert bench.send("/wait").status == 504
    assert time.monotonic() - began < 0.9


@pytest.mark.usefixtures("pair")
def test_unknown_slot_in_the_header_reaches_nobody(bench):
    completed = [one.completed for one in bench.router.read().counters.values()]
    assert bench.send(to="purple").status == 400
    assert [one.completed for one in bench.router.read().counters.values()] == completed


@pytest.mark.usefixtures("pair")
def test_admin_is_open_to_its_owner_only(bench):
    socket_path = bench.state_dir / "router" / "admin.sock"
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600


def test_long_state_folder_gets_a_short_private_folder_for_its_socket(bench, fence, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bench.state_dir = tmp_path / ("long" * 30)
    router = EnvoyRouter(bench.state_dir, fence, listen=bench.listen, request_timeout_s=1.0)
    blue = bench.target("blue")
    try:
        router.apply(weights=all_on(BLUE), targets={BLUE: (blue.address,)})
        assert bench.send().status == 200
        (folder,) = tmp_path.glob("rollout-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.chmod(0o755)
        with pytest.raises(RefusedError, match="0700"):
            EnvoyRouter(bench.state_dir, fence, listen=bench.listen, request_timeout_s=1.0)
        folder.chmod(0o700)
    finally:
        router.stop()


def test_several_targets_share_a_slot(bench):
    servers = [bench.target(f"blue-{index}") for index in range(3)]
    targets = {BLUE: tuple(server.address for server in servers)}
    state = bench.router.apply(weights=Weights(blue=100, green=0), targets=targets)
    assert set(state.targets[BLUE]) == set(targets[BLUE])
    assert len({bench.send().body for _ in range(60)}) == 3
