"""The watch over a child that a test scripts."""

import sys
import time

import pytest

from rollout.serving import device_watch
from rollout.serving.device_watch import RESTARTS_MAX, DeviceWatch

SAMPLE = """print('{"at": 1.0, "utilisation": [0.5], "memory_used_bytes": [7]}', flush=True)"""


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """Start a watch whose children run this program; each leaves a mark."""
    watches = []
    marks = tmp_path / "marks"
    marks.write_bytes(b"")

    def start(program):
        marking = f"open({str(marks)!r}, 'a').write('x')\n"
        monkeypatch.setattr(device_watch, "_CHILD", (sys.executable, "-c", marking + program))
        monkeypatch.setattr(device_watch, "RESTART_PAUSE_S", 0.0)
        watches.append(DeviceWatch())
        return watches[0], lambda: marks.stat().st_size

    yield start
    for one in watches:
        one.stop()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def test_a_child_that_cannot_work_is_started_a_few_times_and_its_last_words_are_kept(watched):
    watch, starts = watched("import no_such_module")
    wait_for(lambda: starts() == RESTARTS_MAX + 1)
    time.sleep(0.2)  # One more start would show.
    assert starts() == RESTARTS_MAX + 1
    assert watch.trouble == (
        "the sampling process ended with status 1: ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert watch.busiest_since(0.0) is None


def test_a_child_that_worked_and_died_is_replaced_again_and_again(watched):
    watch, starts = watched(f"{SAMPLE}\nraise SystemExit('lost the GPU')")
    wait_for(lambda: starts() > RESTARTS_MAX + 2)
    assert watch.busiest_since(0.0) == 0.5
    assert watch.trouble == "the sampling process ended with status 1: lost the GPU"


def test_a_watch_that_was_stopped_starts_no_child(watched):
    watch, starts = watched(f"{SAMPLE}\nimport time; time.sleep(600)")
    wait_for(lambda: watch.busiest_since(0.0) == 0.5)
    watch.stop()
    assert "was killed by SIGKILL" in watch.trouble or watch.trouble == ""
    time.sleep(0.2)
    assert starts() == 1
