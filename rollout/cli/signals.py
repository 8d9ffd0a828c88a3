"""SIGTERM, SIGINT and SIGHUP as a wish to end safely."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rollout.control.world import Interrupted

SAFE_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class ProcessSignals:
    """Remembers the first signal, and ends waits and measurements when it comes.

    Outside an interruptible block a signal only sets `received`: a change of the world is never cut in half.

    Args:
        doing: What a signal leads to, for people.
    """

    def __init__(self, *, doing: str = "rolling back safely, traffic first") -> None:
        self._doing = doing
        self._received = ""
        self._interruptible = self._delivered = False

    @property
    def received(self) -> str:
        """Name of the first signal; empty while none came."""
        return self._received

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise `Interrupted` inside the block, once."""
        if self._received and not self._delivered:
            # It came between two blocks; what is about to begin may take minutes.
            self._delivered = True
            raise Interrupted
        self._interruptible = not self._received
        try:
            yield
        finally:
            self._interruptible = False

    def install(self) -> None:
        """Take the signals over for the rest of the process."""
        for one in SAFE_END:
            # Who was started with a signal ignored (nohup) was meant to outlive it.
            if signal.getsignal(one) is not signal.SIG_IGN:
                signal.signal(one, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        again = bool(self._received)
        self._received = self._received or signal.Signals(number).name
        said = f"{'again' if again else 'received'}: {self._doing}"
        # The terminal may be gone: that is one of the reasons why signals come.
        with suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), f"rollout: {signal.Signals(number).name} {said}\n".encode())
        if self._interruptible:
            self._interruptible, self._delivered = False, True
            raise Interrupted
