"""The program: `rollout` or `python -m rollout`."""

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from rollout.cli.app import run  # noqa: PLC0415 - importing `rollout` must not import the command line

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
