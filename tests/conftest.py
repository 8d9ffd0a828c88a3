"""What every test may rely on."""

import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def heeded_signals():
    """Programs of the tests heed Ctrl-C, also where the tests run in the background, which hands down ignored signals.

    `rollout` leaves alone what its parent ignored, as a program should.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
