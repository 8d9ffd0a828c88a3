"""Options that many commands share, and how they are read."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from rollout.cli.files import LoadedStack
    from rollout.control.world import Listener
    from rollout.model.policy import Policy

F = TypeVar("F", bound=Callable[..., Any])


def stack_option(command: F) -> F:
    """Add `--stack`."""
    return click.option(
        "--stack",
        "stack_path",
        envvar="ROLLOUT_STACK",
        default="stack.yaml",
        show_default=True,
        show_envvar=True,
        type=click.Path(path_type=Path),
        help="The stack file.",
    )(command)


def policy_option(command: F) -> F:
    """Add `--policy`."""
    return click.option(
        "--policy",
        "policy_path",
        default=None,
        type=click.Path(path_type=Path),
        help="A policy file instead of the one that the stack names.",
    )(command)


def output_option(command: F) -> F:
    """Add `--output`."""
    return click.option(
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="json prints one object on stdout and nothing else there.",
    )(command)


def load(stack_path: Path, policy_path: Path | None) -> "tuple[LoadedStack, Policy]":
    """Read the stack file and the policy in force.

    Raises:
        ConfigError: A file is missing or wrong; the message names file, line and key.
    """
    from rollout.cli.files import load_policy, load_stack

    stack = load_stack(stack_path)
    return stack, load_policy(policy_path or stack.policy)


def console(*, stderr: bool = False) -> "Console":
    """Return a console that colours on a terminal and prints plain text in a pipe."""
    from rich.console import Console

    wide = None if (sys.stderr if stderr else sys.stdout).isatty() else 120
    return Console(stderr=stderr, width=wide, highlight=False, soft_wrap=wide is not None)


def listener(output: str, policy: "Policy | None" = None) -> "Listener":
    """Return who shows progress: a live view on a terminal, plain lines in a pipe; on stderr beside JSON."""
    from rollout.cli.progress import PlainListener, TerminalListener

    aside = output == "json"
    if (sys.stderr if aside else sys.stdout).isatty():
        return TerminalListener(console(stderr=aside), policy=policy)
    return PlainListener(lambda line: click.echo(line, err=aside), policy=policy)
