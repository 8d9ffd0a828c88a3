"""Options that many commands share, and how they are read."""

import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

if TYPE_CHECKING:
    from rich.console import Console

    from rollout.control.world import Listener
    from rollout.files.load import LoadedAdmission, LoadedStack
    from rollout.model.policy import Policy
    from rollout.serving.prover import ProofRequest

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


def admission_options(command: F) -> F:
    """Add `--policy`, `--engine`, `--plans` and `--cache`, which say what a container must prove and by what."""
    for option in (
        click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="As for `rollout serve`."),
        click.option(
            "--plans",
            type=click.Path(file_okay=False, path_type=Path),
            help="Store of engine plans for the reference model, where the policy orders TensorRT.",
        ),
        click.option(
            "--engine",
            type=click.Choice(["ort", "diffusers"]),
            default="ort",
            show_default=True,
            help="The runtime that draws the reference model; a policy's own model runs on ort.",
        ),
        click.option(
            "--policy",
            "policy_name",
            default="gpu",
            show_default=True,
            help="An admission policy file, or one of gpu, tensorrt, development-cpu.",
        ),
    ):
        command = option(command)
    return command


def proof_request(
    demanded: "LoadedAdmission", *, engine: str, plans: Path | None, cache: Path | None
) -> "ProofRequest":
    """Return what `admission_options` ask for."""
    from rollout.cli.serve import default_cache
    from rollout.serving.options import EngineKind
    from rollout.serving.prover import ProofRequest

    return ProofRequest(
        policy=demanded.policy,
        engine=EngineKind(engine),
        cache=str((cache or default_cache()).absolute()),
        model=str(demanded.model or ""),
        matrix=demanded.matrix,
        engine_cache=str(demanded.engine_cache or ""),
        plans=str(plans.absolute()) if plans else "",
    )


def load(stack_path: Path, policy_path: Path | None) -> "tuple[LoadedStack, Policy]":
    """Read the stack file and the policy in force.

    Raises:
        ConfigError: A file is missing or wrong; the message names file, line and key.
    """
    from rollout.files.load import load_policy, load_stack

    stack = load_stack(stack_path)
    return stack, load_policy(policy_path or stack.policy)


def load_for_rescue(stack_path: Path, policy_path: Path | None) -> "tuple[LoadedStack, Policy]":
    """Read the stack file and a policy for a command that must work at three in the morning.

    Where the policy file is broken or gone, the newest run's own policy is taken from its bundle, and that is said.

    Raises:
        ConfigError: The stack file is wrong, or no run has a policy either.
    """
    from rollout.control.standing import newest_policy
    from rollout.errors import ConfigError
    from rollout.files.load import load_policy, load_stack
    from rollout.model.inventory import Absent

    stack = load_stack(stack_path)
    try:
        return stack, load_policy(policy_path or stack.policy)
    except ConfigError as error:
        kept = newest_policy(stack.state)
        if isinstance(kept, Absent):
            raise
        click.echo(f"rollout: {error}\nrollout: going on with the policy of the newest run", err=True)
        return stack, kept


class Unstalled:
    """A stream whose reader may stop reading: what would have to wait is dropped, for a rollout must not wait for it.

    A terminal that is held (Ctrl-S) and a pipe that nobody drains are such readers.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write and flush the text, or drop it where the reader is not ready."""
        _, ready, _ = select.select([], [self._stream], [], 0)
        if ready:
            self._stream.write(text)
            self._stream.flush()
        return len(text)


def console(stream: "Unstalled | None" = None) -> "Console":
    """Return a console that colours on a terminal and prints plain text in a pipe."""
    from rich.console import Console

    terminal = (stream or sys.stdout).isatty()
    file = cast("IO[str]", stream) if stream is not None else None
    return Console(file=file, width=None if terminal else 120, highlight=False, soft_wrap=not terminal)


def listener(output: str, policy: "Policy | None" = None) -> "Listener":
    """Return who shows progress: a live view on a terminal, plain lines in a pipe; on stderr beside JSON."""
    from rollout.cli.progress import PlainListener, TerminalListener

    aside = output == "json"
    stream = Unstalled(sys.stderr if aside else sys.stdout)
    if stream.isatty():
        return TerminalListener(console(stream=stream), policy=policy)
    return PlainListener(lambda line: stream.write(f"{line}\n"), policy=policy)
