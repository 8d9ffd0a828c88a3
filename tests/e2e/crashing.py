"""The rollout program, ended by kill -9 right after it has written a given number of journal records."""

import os
import signal
import sys

from rollout.cli.app import run
from rollout.evidence.journal import Journal

left = int(os.environ["ROLLOUT_CRASH_AFTER"])


def crash_when_spent() -> None:
    global left  # noqa: PLW0603 - one program, one count
    left -= 1
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


plain_append = Journal.append
plain_create = Journal.create.__func__


def append(self, body, *, at):
    record = plain_append(self, body, at=at)
    crash_when_spent()
    return record


def create(cls, *args, **kwargs):
    journal = plain_create(cls, *args, **kwargs)
    crash_when_spent()
    return journal


Journal.append = append
Journal.create = classmethod(create)

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
