"""The child's side of `isolation`: read one collector, send its fields through the given descriptor."""

import os
import sys

from rollout.serving.collectors.isolation import encoded
from rollout.serving.collectors.table import COLLECTORS


def main(name: str, answering: int) -> None:
    """Read and answer; an exception is the collector's bug and ends the child with its last line on stderr."""
    (collector,) = (one for one in COLLECTORS if one.name == name)
    fields = collector.read()
    with os.fdopen(answering, "wb") as answer:
        answer.write(encoded(fields))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    # Libraries of drivers have exit handlers that hang or crash; everything was sent.
    os._exit(0)
