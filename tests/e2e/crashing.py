"""The rollout program, with one kill -9 right after it has written a given number of journal records.

ROLLOUT_CRASH_AFTER is that number. ROLLOUT_CRASH_VICTIM says who is killed: `controller` (the program itself),
`incumbent`, `candidate` or `router`; the program goes on when it is somebody else. ROLLOUT_CRASH_MARK is a file that is
made when the moment has come.
"""

import os
import signal
import sys
from pathlib import Path

import psutil

from rollout.cli.app import run
from rollout.evidence.journal import Journal

left = int(os.environ["ROLLOUT_CRASH_AFTER"])
victim = os.environ.get("ROLLOUT_CRASH_VICTIM", "controller")
mark = os.environ.get("ROLLOUT_CRASH_MARK", "")


def strike_when_spent(journal: Journal) -> None:
    global left  # noqa: PLW0603 - one program, one count
    left -= 1
    if left != 0:
        return
    if victim == "controller":
        os.kill(os.getpid(), signal.SIGKILL)
    Path(mark).touch()
    for one in psutil.process_iter():
        try:
            if is_victim(one, journal):
                one.kill()
                one.wait(10)
        except psutil.Error:
            continue


def is_victim(one: psutil.Process, journal: Journal) -> bool:
    state = journal.path.parent.parent.parent.resolve()
    if victim == "router":
        line = one.cmdline()
        return bool(line) and "envoy" in line[0] and str(state) in " ".join(line)
    request = journal.records[0].body
    slot = request.incumbent if victim == "incumbent" else request.candidate
    return one.environ().get("ROLLOUT_SLOT_DIR") == str(state / "slots" / slot.value)


plain_append = Journal.append
plain_create = Journal.create.__func__


def append(self, body, *, at):
    record = plain_append(self, body, at=at)
    strike_when_spent(self)
    return record


def create(cls, *args, **kwargs):
    journal = plain_create(cls, *args, **kwargs)
    strike_when_spent(journal)
    return journal


Journal.append = append
Journal.create = classmethod(create)

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
