"""What must not stop a rollout: a reader who stopped reading, a terminal that is gone."""

import os
import signal
import subprocess
import sys

import pytest

from rollout.cli.options import Unstalled
from rollout.cli.signals import ProcessSignals
from rollout.control.world import Interrupted


def test_write_to_a_pipe_that_nobody_reads_drops_instead_of_waiting():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        out = Unstalled(stream)
        for _ in range(5000):
            assert out.write("x" * 79 + "\n") == 80
        held = len(os.read(reader, 1 << 20))
        assert 0 < held <= 1 << 16
        out.write("heard again\n")
        assert b"heard again" in os.read(reader, 1 << 20)
    os.close(reader)


def test_signal_interrupts_once_and_only_inside_an_interruptible_block():
    signals = ProcessSignals()
    before = signal.getsignal(signal.SIGTERM)
    try:
        signals.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == "SIGTERM"
        with pytest.raises(Interrupted), signals.interruptible():
            pytest.fail("what takes minutes must not begin after the signal")
        with signals.interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(one, before if one is signal.SIGTERM else signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_signal_that_the_parent_had_ignored_stays_ignored():
    program = (
        "import os, signal, sys\n"
        "from rollout.cli.signals import ProcessSignals\n"
        "signals = ProcessSignals(); signals.install()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.stdout.write(repr(signals.received))\n"
    )
    done = subprocess.run(
        ["nohup", sys.executable, "-c", program], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.stdout == "''"


def test_first_signal_ends_a_wait():
    signals = ProcessSignals()
    with pytest.raises(Interrupted), signals.interruptible():
        signals._handle(signal.SIGINT, None)
    assert signals.received == "SIGINT"


def test_signal_after_the_terminal_is_gone_is_still_remembered():
    program = (
        "import os, signal, sys\n"
        "from rollout.cli.signals import ProcessSignals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "signals = ProcessSignals(); signals.install()\n"
        "os.close(2)\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.stdout.write(signals.received)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "SIGHUP"
