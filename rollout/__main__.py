"""The program: `rollout` or `python -m rollout`."""

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from rollout.cli.app import run  # noqa: PLC0415 - importing `rollout` must not import the command line

    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        # The reader is gone. Python would try again while it ends, and change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
