"""Reading in a process of its own: a probe that hangs, dies or prints rubbish costs its own fields and nothing else."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from rollout.model.snapshot import Capability
from rollout.serving.collectors.interface import Collector, Fields

ANSWER_BYTES_MAX = 1 << 20
"""Far more than any collector says; the child cannot write more, not even by printing for ever."""

_SAID_CHARACTERS_MAX = 300
_FIELDS = TypeAdapter(dict[str, Capability])


def read_isolated(collector: Collector, *, limit_s: float) -> Fields:
    """Run a collector of the table in a child and return its fields; whatever goes wrong becomes failed fields.

    Args:
        collector: One of `table.COLLECTORS`.
        limit_s: Seconds after which the child is killed.
    """
    command = [sys.executable, "-m", "rollout.serving.collectors.child", collector.name]
    # Files, not pipes: a full pipe stops the child, and one that a grandchild holds open stops us.
    with TemporaryFile() as answer, TemporaryFile() as said:
        try:
            child = subprocess.Popen(
                [*command, str(answer.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[answer.fileno()],
                start_new_session=True,  # What the probe starts itself is ended with it.
            )
        except OSError as error:
            return collector.broken(f"the probe could not be started: {error}")
        try:
            resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (ANSWER_BYTES_MAX, ANSWER_BYTES_MAX))
            code = child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return collector.broken(f"the probe did not end within {limit_s} s and was killed")
        finally:
            _kill(child)
        if code != 0:
            return collector.broken(f"the probe {_end(code)}{_last_words(_content(said))}")
        return _understood(collector, _content(answer))


def _understood(collector: Collector, answer: bytes) -> Fields:
    try:
        return collector.complete(_FIELDS.validate_python(json.loads(answer, parse_constant=_refuse)))
    except (ValidationError, ValueError, RecursionError) as error:
        return collector.broken(f"the probe's answer is not understood: {type(error).__name__}")


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(ANSWER_BYTES_MAX)


def _refuse(constant: str) -> Any:  # noqa: ANN401 - json's signature
    raise ValueError(f"{constant} is no JSON")


def _kill(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # It may have ended, and with it everything it started.
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _last_words(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return f": {lines[-1][:_SAID_CHARACTERS_MAX]}" if lines else ""


def encoded(fields: Mapping[str, Capability]) -> bytes:
    """Return fields as a child sends them."""
    return _FIELDS.dump_json(dict(fields))
