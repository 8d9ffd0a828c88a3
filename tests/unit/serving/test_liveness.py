"""The probe that looks at the devices while a server runs, with readings that a test scripts."""

import threading

import pytest

from rollout.cli.commands.snapshot import snapshot
from rollout.model.snapshot import CapabilitySnapshot, failed, ok
from rollout.serving.liveness import PERIOD_S, STEADY, UNREAD_LOOKS, DeviceProbe, changes_seen

HERE = {name: ok("as admitted", "a test") for name in STEADY}
ADMITTED = CapabilitySnapshot.model_validate({"schema": "rollout.snapshot/v1", "fields": HERE})
GONE = HERE | {"gpu.count": ok(0, "a test"), "gpu.libcuda.init": failed("a test", "CUDA_ERROR_NO_DEVICE (100)")}
LATE = HERE | {"gpu.count": failed("a test", "did not end within 15 s and was killed")}


class Readings:
    """Gives one reading after the other, and says stop with the last."""

    def __init__(self, *readings):
        self._readings = list(readings)
        self.stopped = threading.Event()

    def __call__(self):
        reading = self._readings.pop(0)
        if not self._readings:
            self.stopped.set()
        if isinstance(reading, Exception):
            raise reading
        return reading


def seen(*readings):
    read = Readings(*readings)
    return changes_seen(ADMITTED, read=read, stopped=read.stopped, period_s=0.0)


def test_devices_that_stay_are_no_change():
    assert seen(HERE, HERE, HERE) == ()


def test_a_device_that_vanished_is_told_by_each_fact_that_changed():
    changes = seen(HERE, GONE, GONE)
    assert {one.field for one in changes} == {"gpu.count", "gpu.libcuda.init"}
    assert {one.code for one in changes} == {"device_changed"}
    assert "gpu.count was as admitted and is 0" in {one.text for one in changes}


def test_one_probe_that_did_not_end_in_time_is_no_lost_device():
    assert seen(LATE, HERE, HERE) == ()


def test_devices_that_stay_unreadable_have_changed():
    assert seen(*[LATE] * (UNREAD_LOOKS - 1), HERE, HERE) == ()
    assert [one.field for one in seen(*[LATE] * UNREAD_LOOKS)] == ["gpu.count"]


def test_another_device_in_its_place_is_a_change():
    other = HERE | {"gpu.uuid": ok(["GPU-2"], "a test")}
    assert [one.field for one in seen(other, other)] == ["gpu.uuid"]


def test_the_agent_looks_as_often_as_the_server():
    """The command's default stands as a number, so that `--help` loads no server."""
    (period_s,) = (one.default for one in snapshot.params if one.name == "period_s")
    assert period_s == PERIOD_S


@pytest.fixture
def told():
    return []


def ended():
    """Wait for the probe's thread."""
    for thread in threading.enumerate():
        if thread.name == "device-probe":
            thread.join(timeout=30)
            assert not thread.is_alive()


def test_a_probe_tells_once_what_changed(told):
    DeviceProbe(read=Readings(HERE, GONE, GONE), changed=told.append, period_s=0.0).start(ADMITTED)
    ended()
    assert len(told) == 1
    assert told[0].startswith("device_changed: gpu.libcuda.init was as admitted and is error (CUDA_ERROR_NO_DEVICE")


def test_a_probe_that_cannot_look_does_not_pass_for_one_that_sees_no_change(told):
    read = Readings(HERE, RuntimeError("can't start new thread"))
    DeviceProbe(read=read, changed=told.append, period_s=0.0).start(ADMITTED)
    ended()
    assert told == ["device_changed: the devices cannot be looked at: RuntimeError: can't start new thread"]


def test_a_probe_that_is_stopped_looks_no_more(told):
    looks = []
    probe = DeviceProbe(read=lambda: looks.append(1), changed=told.append, period_s=0.0)
    probe.stop()
    probe.start(ADMITTED)
    ended()
    assert (looks, told) == ([], [])


def test_what_a_look_under_way_finds_after_the_stop_is_not_told(told):
    """At shutdown the driver may be going away already."""
    looking, go_on = threading.Event(), threading.Event()

    def read():
        looking.set()
        go_on.wait(30)
        return GONE

    probe = DeviceProbe(read=read, changed=told.append, period_s=0.0)
    probe.start(ADMITTED)
    assert looking.wait(30)
    probe.stop()
    go_on.set()
    ended()
    assert told == []
