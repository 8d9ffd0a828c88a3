"""Collectors that run in a child, on both sides: asking, and (`python -m`) answering."""

import json
import os
import sys
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rollout.model.snapshot import Capability
from rollout.serving.collectors.interface import Collector, Fields
from rollout.serving.collectors.table import COLLECTORS
from rollout.serving.isolation import IsolatedError, end_with, run_isolated

_FIELDS = TypeAdapter(dict[str, Capability])


def read_isolated(collector: Collector, *, limit_s: float) -> Fields:
    """Run a collector of the table in a child and return its fields; whatever goes wrong becomes failed fields.

    Args:
        collector: One of `table.COLLECTORS`.
        limit_s: Seconds after which the child is killed.
    """
    try:
        answer = run_isolated(__name__, collector.name, limit_s=limit_s)
        return collector.complete(_FIELDS.validate_python(json.loads(answer, parse_constant=_refuse)))
    except IsolatedError as error:
        return collector.broken(str(error))
    except OSError as error:
        return collector.broken(f"its process could not be asked: {error}")
    except (ValidationError, ValueError, RecursionError) as error:
        return collector.broken(f"its process gave an answer that is not understood: {type(error).__name__}")


def _refuse(constant: str) -> Any:  # noqa: ANN401 - json's signature
    raise ValueError(f"{constant} is no JSON")


def main(name: str, parent: int, answering: int) -> None:
    """Read and answer; an exception is the collector's bug and ends the child with its last line on stderr."""
    end_with(parent)
    (collector,) = (one for one in COLLECTORS if one.name == name)
    fields = collector.read()
    with os.fdopen(answering, "wb") as answer:
        answer.write(_FIELDS.dump_json(dict(fields)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    # Libraries of drivers have exit handlers that hang or crash; everything was sent.
    os._exit(0)
