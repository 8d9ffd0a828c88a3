"""What the local platform promises, with real processes that behave badly in every way that has a name."""

import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rollout import processes
from rollout.errors import ConfigError, ConflictError, RefusedError
from rollout.model.inventory import UNKNOWN_MEMORY, Absent
from rollout.model.release import Release
from rollout.model.roles import Slot
from rollout.platforms import launch
from rollout.platforms.local import LocalPlatform

BLUE, GREEN = Slot.BLUE, Slot.GREEN

GROWTH_BYTES = 16 << 20
"""Half of what the child of the server that grows takes on a signal: a process that starts grows by itself too."""

SERVER = """
import os, signal, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer

mode, port = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else int(os.environ["PORT"])
print("loading", mode, flush=True)
if mode == "exits":
    print("cannot load the model", flush=True)
    sys.exit(3)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "grows":
    grow = "import signal, time; signal.sigwait({signal.SIGUSR1}); held = b'x' * (32 << 20); time.sleep(600)"
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # inherited, so that no signal comes too early
    subprocess.Popen([sys.executable, "-c", grow])
if mode == "parent":
    for new_session in (False, True):
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        subprocess.Popen(command, start_new_session=new_session)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if mode == "hangs":
            time.sleep(600)
        body = b"loading weights" if mode == "unready" else b"ok"
        self.send_response(503 if mode == "unready" else 200)
        if mode != "nameless":
            self.send_header("x-rollout-pod-uid", "another" if mode == "stranger" else os.environ["ROLLOUT_POD_UID"])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

def drip(line):
    head = b"HTTP/1.1 200 OK\\r\\nx-rollout-pod-uid: " + os.environ["ROLLOUT_POD_UID"].encode() + b"\\r\\nx-slow: "
    line.sendall(head)
    for _ in range(100):
        line.sendall(b"a")
        time.sleep(0.05)
    line.close()

server = HTTPServer(("127.0.0.1", port), Handler)
print("listening", flush=True)
if mode == "drips":
    while True:
        line, _ = server.socket.accept()
        threading.Thread(target=drip, args=(line,), daemon=True).start()
server.serve_forever()
"""


@pytest.fixture
def state_dir(tmp_path):
    folder = tmp_path / "state"
    yield folder
    for slot in Slot:
        left = carriers(folder, slot)
        for one in left:
            processes.send(one, signal.SIGKILL)
        assert not processes.wait_gone(left, limit_s=5)


@pytest.fixture
def platform(state_dir, fence):
    return LocalPlatform(state_dir, fence, grace_s=0.5, probe_timeout_s=0.3)


@pytest.fixture
def release(tmp_path):
    script = tmp_path / "server.py"
    script.write_text(SERVER)

    def build(mode="ready", *arguments, replicas=1, **env):
        command = [sys.executable, str(script), mode, *map(str, arguments)]
        return Release(schema="rollout.release/v1", name=f"test-{mode}", command=command, env=env, replicas=replicas)

    return build


@pytest.fixture
def sleeper():
    """A process that has nothing to do with any slot."""
    process = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def carriers(state_dir, slot):
    return processes.find_carriers(launch.ENV_SLOT_DIR, str(state_dir / "slots" / slot.value))


def look(platform, slot=GREEN):
    return platform.observe()[slot]


def only(platform, slot=GREEN):
    (instance,) = look(platform, slot).instances
    return instance


def files(state_dir):
    return {path: path.read_bytes() for path in state_dir.rglob("*.json")}


def unmeasured(state):
    """The slot without what changes from look to look."""
    return replace(state, instances=tuple(replace(one, memory_bytes=UNKNOWN_MEMORY) for one in state.instances))


def log(state_dir, slot=GREEN):
    (path,) = (state_dir / "slots" / slot.value).glob("*.log")
    return path.read_text().splitlines()


def pid_record(state_dir, slot=GREEN):
    (path,) = (state_dir / "slots" / slot.value).glob("*.pid.json")
    return path


def test_empty_slots_are_absent_with_a_reason(platform):
    assert platform.observe() == {slot: Absent(reason=f"nothing is deployed in {slot}") for slot in Slot}


def test_deployed_release_becomes_ready(platform, release, fence, wait_until):
    fence.generation = 4
    wanted = release()
    deployed = platform.deploy(GREEN, wanted)
    assert (deployed.release_digest, deployed.generation) == (wanted.digest, 4)
    assert deployed.instances[0].alive
    wait_until(lambda: look(platform).ready)
    assert only(platform).uid == deployed.instances[0].uid
    assert only(platform).detail == ""
    assert isinstance(look(platform, BLUE), Absent)


def test_deploying_the_same_release_again_changes_nothing(platform, release, state_dir):
    first = platform.deploy(GREEN, release())
    before, standing = files(state_dir), carriers(state_dir, GREEN)
    assert platform.deploy(GREEN, release()).instances[0].uid == first.instances[0].uid
    assert (files(state_dir), carriers(state_dir, GREEN)) == (before, standing)


def test_another_release_replaces_the_first_and_leaves_the_other_slot_alone(platform, release, state_dir):
    platform.deploy(BLUE, release())
    platform.deploy(GREEN, release())
    blue, green = carriers(state_dir, BLUE), carriers(state_dir, GREEN)
    platform.deploy(GREEN, release(MODEL="new"))
    assert carriers(state_dir, BLUE) == blue
    assert len(carriers(state_dir, GREEN)) == 1
    assert carriers(state_dir, GREEN) != green
    assert only(platform, BLUE).address != only(platform, GREEN).address


def test_dead_instance_says_how_and_with_which_last_words_it_ended(platform, release, wait_until):
    platform.deploy(GREEN, release("exits"))
    wait_until(lambda: not only(platform).alive)
    assert only(platform).detail == "ended with exit status 3; last log line: cannot load the model"
    assert look(platform).dead == look(platform).instances


def test_killed_instance_is_dead_also_to_a_later_controller(platform, release, state_dir, fence, wait_until):
    platform.deploy(GREEN, release())
    wait_until(lambda: look(platform).ready)
    later = LocalPlatform(state_dir, fence)
    (process,) = carriers(state_dir, GREEN)
    processes.send(process, signal.SIGKILL)
    wait_until(lambda: not only(platform).alive)
    assert "signal 9 (Killed)" in only(platform).detail
    assert not only(later).alive
    assert "exit status went to an earlier controller; last log line: listening" in only(later).detail


def test_deploy_replaces_a_dead_instance(platform, release, state_dir):
    first = platform.deploy(GREEN, release())
    (process,) = carriers(state_dir, GREEN)
    processes.send(process, signal.SIGKILL)
    processes.wait_gone([process], limit_s=5)
    second = platform.deploy(GREEN, release())
    assert second.instances[0].uid != first.instances[0].uid
    assert second.instances[0].alive


def kill_one(state_dir, uid):
    (process,) = [
        processes.ProcessIdentity.model_validate_json(path.read_text())
        for path in (state_dir / "slots" / "green").glob(f"{uid}.pid.json")
    ]
    processes.send(process, signal.SIGKILL)
    assert not processes.wait_gone([process], limit_s=5)


@pytest.mark.parametrize("mode", ["ready", "unready", "parent"])
def test_deploy_starts_only_the_dead_instance_anew_and_leaves_its_live_neighbours_alone(
    platform, release, state_dir, wait_until, mode
):
    first = platform.deploy(GREEN, release(mode, replicas=3))
    wait_until(lambda: not any("nothing listens" in one.detail for one in look(platform).instances))
    dead, *live = first.instances
    neighbours = {process for one in live for process in processes.find_carriers("ROLLOUT_POD_UID", one.uid)}
    kill_one(state_dir, dead.uid)
    family = processes.find_carriers("ROLLOUT_POD_UID", dead.uid)
    second = platform.deploy(GREEN, release(mode, replicas=3))
    assert all(processes.is_alive(one) for one in neighbours)
    assert not any(processes.is_alive(one) for one in family)
    assert [(one.uid, one.address) for one in second.instances[:2]] == [(one.uid, one.address) for one in live]
    assert all(one.alive for one in second.instances)
    assert dead.uid not in {one.uid for one in second.instances}
    assert len({one.address for one in second.instances}) == 3
    platform.retire(GREEN)
    assert not carriers(state_dir, GREEN)


def test_named_instance_is_restarted_once_however_often_that_is_asked(platform, release, state_dir):
    hung, other = platform.deploy(GREEN, release("hangs", replicas=2)).instances
    process = processes.find_carriers("ROLLOUT_POD_UID", other.uid)
    second = platform.deploy(GREEN, release("hangs", replicas=2), restart=[hung.uid])
    assert not processes.find_carriers("ROLLOUT_POD_UID", hung.uid)
    assert processes.find_carriers("ROLLOUT_POD_UID", other.uid) == process
    third = platform.deploy(GREEN, release("hangs", replicas=2), restart=[hung.uid])
    assert [one.uid for one in third.instances] == [one.uid for one in second.instances]
    assert len(carriers(state_dir, GREEN)) == 2


def test_server_that_drips_its_answer_does_not_hold_the_look(platform, release, wait_until):
    platform.deploy(GREEN, release("drips"))
    wait_until(lambda: not only(platform).detail.startswith("nothing listens"))
    began = time.monotonic()
    seen = only(platform)
    assert time.monotonic() - began < 1.5
    assert (seen.alive, seen.ready) == (True, False)
    assert seen.detail == f"no answer from {seen.address}/readyz within 0.3 s"


@pytest.mark.parametrize(
    ("mode", "detail"),
    [
        ("unready", "/readyz answered 503: loading weights"),
        ("stranger", "somebody else answers on {address}: instance 'another'"),
        ("nameless", "somebody else answers on {address}: a process without x-rollout-pod-uid"),
        ("hangs", "no answer from {address}/readyz within 0.3 s"),
    ],
)
def test_instance_that_is_not_ready_says_why(platform, release, wait_until, mode, detail):
    platform.deploy(GREEN, release(mode))
    wait_until(lambda: not only(platform).detail.startswith("nothing listens"))
    seen = only(platform)
    assert (seen.alive, seen.ready) == (True, False)
    assert seen.detail == detail.format(address=seen.address)


def test_slot_is_ready_only_when_every_replica_is(platform, release, state_dir, wait_until):
    platform.deploy(GREEN, release(replicas=3))
    wait_until(lambda: look(platform).ready)
    assert len({one.address for one in look(platform).instances}) == 3
    processes.send(carriers(state_dir, GREEN)[1], signal.SIGKILL)
    wait_until(lambda: len(look(platform).dead) == 1)
    assert not look(platform).ready


def test_port_that_is_taken_shows_in_the_detail(platform, release, wait_until):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        platform.deploy(GREEN, release("ready", taken.getsockname()[1]))
        wait_until(lambda: not only(platform).alive)
    assert "exit status 1" in only(platform).detail
    assert "Address already in use" in only(platform).detail


def test_retire_empties_the_slot_and_keeps_its_last_words(platform, release, state_dir, wait_until):
    platform.deploy(GREEN, release())
    wait_until(lambda: look(platform).ready)
    platform.retire(GREEN)
    assert not carriers(state_dir, GREEN)
    assert isinstance(look(platform), Absent)
    assert log(state_dir)[-1] == "listening"
    platform.retire(GREEN)
    platform.deploy(GREEN, release("exits"))
    wait_until(lambda: not only(platform).alive)
    assert log(state_dir) == ["loading exits", "cannot load the model"]


def test_memory_is_told_per_instance_and_counts_its_children(platform, release, state_dir, wait_until):
    platform.deploy(GREEN, release("grows", replicas=2))
    wait_until(lambda: look(platform).ready and len(carriers(state_dir, GREEN)) == 4)
    before = {one.uid: one.memory_bytes for one in look(platform).instances}
    assert all(before.values())
    child = next(one for one in carriers(state_dir, GREEN) if not processes.leads_session(one))
    small = processes.resident_bytes([child])
    processes.send(child, signal.SIGUSR1)
    wait_until(lambda: processes.resident_bytes([child]) > small + GROWTH_BYTES)
    after = {one.uid: one.memory_bytes for one in look(platform).instances}
    assert sorted(after[uid] > before[uid] + GROWTH_BYTES for uid in before) == [False, True]


def test_memory_of_a_dead_instance_is_not_told_as_nothing(platform, release, state_dir, wait_until):
    platform.deploy(GREEN, release())
    wait_until(lambda: look(platform).ready)
    processes.send(carriers(state_dir, GREEN)[0], signal.SIGKILL)
    wait_until(lambda: not only(platform).alive)
    assert isinstance(only(platform).memory_bytes, Absent)
    assert only(platform).restarts == 0


def test_process_that_ignores_sigterm_is_killed_without_holding_the_lease_meanwhile(
    platform, release, state_dir, fence, wait_until
):
    platform.deploy(GREEN, release("stubborn"))
    wait_until(lambda: look(platform).ready)
    began = time.monotonic()
    platform.retire(GREEN)
    assert 0.5 <= time.monotonic() - began < 3
    assert not carriers(state_dir, GREEN)
    assert fence.held_s_max < 0.3


def test_children_that_left_the_session_are_ended_too(platform, release, state_dir, wait_until):
    platform.deploy(GREEN, release("parent"))
    wait_until(lambda: look(platform).ready)
    assert len(carriers(state_dir, GREEN)) == 3
    platform.retire(GREEN)
    assert not carriers(state_dir, GREEN)


def test_children_of_a_dead_server_are_ended_before_the_next_deploy(platform, release, state_dir, wait_until):
    platform.deploy(GREEN, release("parent"))
    wait_until(lambda: look(platform).ready)
    family = carriers(state_dir, GREEN)
    leader = processes.ProcessIdentity.model_validate_json(pid_record(state_dir).read_text())
    processes.send(leader, signal.SIGKILL)
    wait_until(lambda: not only(platform).alive)
    platform.deploy(GREEN, release())
    assert not any(processes.is_alive(one) for one in family)
    assert len(carriers(state_dir, GREEN)) == 1


def test_process_whose_pid_was_never_recorded_is_adopted(platform, release, state_dir, fence, wait_until):
    platform.deploy(GREEN, release("parent"))
    wait_until(lambda: look(platform).ready)
    before = unmeasured(look(platform))
    standing = carriers(state_dir, GREEN)
    pid_record(state_dir).unlink()
    later = LocalPlatform(state_dir, fence, grace_s=0.5)
    assert unmeasured(look(later)) == before
    assert unmeasured(later.deploy(GREEN, release("parent"))) == before
    assert carriers(state_dir, GREEN) == standing
    later.retire(GREEN)
    assert not carriers(state_dir, GREEN)


@pytest.mark.parametrize("damage", [None, b"", b'{"schema": "rollout.local-slot/v9"}'])
def test_orphan_that_no_record_names_is_ended_before_a_deploy(platform, release, state_dir, damage):
    platform.deploy(GREEN, release())
    (orphan,) = carriers(state_dir, GREEN)
    record = state_dir / "slots" / "green" / "slot.json"
    pid_record(state_dir).unlink()
    if damage is None:
        record.unlink()
    else:
        record.write_bytes(damage)
    assert isinstance(look(platform), Absent)
    platform.deploy(GREEN, release())
    assert not processes.is_alive(orphan)
    assert len(carriers(state_dir, GREEN)) == 1


@pytest.mark.parametrize("field", ["start_ticks", "boot_id"])
def test_reused_pid_is_neither_taken_for_the_instance_nor_signalled(platform, release, state_dir, sleeper, field):
    platform.deploy(GREEN, release())
    (process,) = carriers(state_dir, GREEN)
    processes.send(process, signal.SIGKILL)
    processes.wait_gone([process], limit_s=5)
    stranger = processes.identify(sleeper.pid)
    change = {"start_ticks": stranger.start_ticks - 1} if field == "start_ticks" else {"boot_id": "another"}
    pid_record(state_dir).write_text(stranger.model_copy(update=change).model_dump_json())
    assert not only(platform).alive
    platform.retire(GREEN)
    assert sleeper.poll() is None


def test_lost_lease_changes_nothing(platform, release, state_dir, fence):
    platform.deploy(GREEN, release())
    before, standing = files(state_dir), carriers(state_dir, GREEN)
    fence.lost = True
    for attempt in (
        lambda: platform.deploy(BLUE, release()),
        lambda: platform.deploy(GREEN, release(MODEL="new")),
        lambda: platform.retire(GREEN),
    ):
        with pytest.raises(ConflictError):
            attempt()
    assert (files(state_dir), carriers(state_dir, GREEN)) == (before, standing)
    assert not carriers(state_dir, BLUE)


def test_older_generation_changes_nothing(platform, release, state_dir, fence):
    fence.generation = 5
    platform.deploy(GREEN, release())
    before, standing = files(state_dir), carriers(state_dir, GREEN)
    fence.generation = 4
    for attempt in (lambda: platform.deploy(GREEN, release(MODEL="new")), lambda: platform.retire(GREEN)):
        with pytest.raises(ConflictError, match="generation 5"):
            attempt()
    assert (files(state_dir), carriers(state_dir, GREEN)) == (before, standing)


def test_unknown_command_is_named_before_anything_is_touched(platform, state_dir):
    missing = Release(schema="rollout.release/v1", name="missing", command=["no-such-server", "--fast"])
    for attempt in (lambda: platform.check(missing), lambda: platform.deploy(GREEN, missing)):
        with pytest.raises(ConfigError, match="'no-such-server'"):
            attempt()
    assert not state_dir.exists()


@pytest.mark.parametrize("name", ["PORT", "ROLLOUT_POD_UID", "ROLLOUT_SLOT_DIR", "A=B", ""])
def test_environment_that_the_platform_cannot_give_is_refused(platform, name):
    with pytest.raises(ConfigError, match=r"env\."):
        platform.check(Release(schema="rollout.release/v1", name="test", command=["sh"], env={name: "1"}))


def test_program_that_cannot_be_executed_is_refused(platform, tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF nonsense")
    program.chmod(0o755)
    broken = Release(schema="rollout.release/v1", name="broken", command=[str(program)])
    with pytest.raises(RefusedError, match="could not be started in green"):
        platform.deploy(GREEN, broken)
    assert look(platform).dead


def test_release_sees_its_environment_and_this_installation_first(platform, state_dir, monkeypatch, wait_until):
    monkeypatch.setenv("INHERITED", "yes")
    script = 'echo "$MODEL $INHERITED $PORT $ROLLOUT_POD_UID"; command -v python'
    shown = Release(schema="rollout.release/v1", name="test", command=["sh", "-c", script], env={"MODEL": "tiny"})
    platform.deploy(GREEN, shown)
    wait_until(lambda: not only(platform).alive)
    one = only(platform)
    own = Path(sys.executable).parent / "python"
    assert log(state_dir) == [f"tiny yes {one.address.port} {one.uid}", str(own)]


THREAD_THAT_OUTLIVES_THE_FIRST = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)  # exit, of this thread alone
"""


def test_process_is_alive_until_its_last_thread_has_ended(platform, state_dir, wait_until):
    command = [sys.executable, "-c", THREAD_THAT_OUTLIVES_THE_FIRST]
    platform.deploy(GREEN, Release(schema="rollout.release/v1", name="test", command=command))
    identity = processes.ProcessIdentity.model_validate_json(pid_record(state_dir).read_text())
    wait_until(lambda: ") Z " in Path(f"/proc/{identity.pid}/stat").read_text())
    assert only(platform).alive
    platform.retire(GREEN)
    assert not Path(f"/proc/{identity.pid}").exists()


def test_records_are_readable_by_their_owner_only(platform, release, state_dir):
    platform.deploy(GREEN, release())
    assert stat.S_IMODE((state_dir / "slots" / "green").stat().st_mode) == 0o700


KILLED_CONTROLLER = """
import contextlib, os, signal, sys
from pathlib import Path
from rollout import processes
from rollout.model.release import Release
from rollout.model.roles import Slot
from rollout.platforms.local import LocalPlatform

class Fence:
    @contextlib.contextmanager
    def hold(self):
        yield 1

left = int(sys.argv[3])

def killed_before(function):
    def wrapped(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*args, **kwargs)
    return wrapped

processes.replace_file = killed_before(processes.replace_file)
processes.spawn = killed_before(processes.spawn)
LocalPlatform(Path(sys.argv[1]), Fence()).deploy(Slot.GREEN, Release.model_validate_json(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


# The slot's record, then start and pid record of each of two instances; after the last the deploy is done.
@pytest.mark.parametrize("steps", range(6))
def test_controller_killed_at_any_step_of_a_deploy_is_followed_by_one_that_completes_it(
    platform, release, state_dir, wait_until, steps
):
    wanted = release(replicas=2)
    arguments = [str(state_dir), wanted.model_dump_json(by_alias=True), str(steps)]
    killed = subprocess.run([sys.executable, "-c", KILLED_CONTROLLER, *arguments], check=False, timeout=30)
    assert killed.returncode == -signal.SIGKILL
    survivors = carriers(state_dir, GREEN)
    assert len(survivors) == (0, 0, 1, 1, 2, 2)[steps]

    platform.deploy(GREEN, wanted)
    wait_until(lambda: look(platform).ready)
    assert len(carriers(state_dir, GREEN)) == 2
    assert set(survivors) <= set(carriers(state_dir, GREEN))


def test_ended_instance_leaves_no_zombie(platform, release, state_dir, wait_until):
    platform.deploy(GREEN, release("exits"))
    wait_until(lambda: not only(platform).alive)
    pid = processes.ProcessIdentity.model_validate_json(pid_record(state_dir).read_text()).pid
    assert not Path(f"/proc/{pid}").exists()
