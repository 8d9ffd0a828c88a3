"""The command line: a group whose commands are imported only when they are called."""

import json
import sys
from importlib import import_module

import click

from rollout import __version__
from rollout.errors import RolloutError

COMMANDS: dict[str, tuple[str, str]] = {
    "plan": ("rollout.cli.commands.promote:plan", "Say what promote would do, and change nothing."),
    "promote": (
        "rollout.cli.commands.promote:promote",
        "Prove a release beside the incumbent, then shift traffic to it.",
    ),
    "calibrate": (
        "rollout.cli.commands.calibrate:calibrate",
        "Measure the incumbent against itself and forecast what verdicts will cost.",
    ),
    "verify": (
        "rollout.cli.commands.promote:verify",
        "Check what serves against its stored baseline; moves no traffic.",
    ),
    "monitor": (
        "rollout.cli.commands.monitor:monitor",
        "Watch what serves against its baseline, a few requests at a time.",
    ),
    "baselines": ("rollout.cli.commands.baselines:baselines", "Look at stored baselines."),
    "rollback": ("rollout.cli.commands.promote:rollback", "Send traffic back to the earlier stack."),
    "status": ("rollout.cli.commands.look:status", "Show what stands and what runs."),
    "watch": ("rollout.cli.commands.look:watch", "Follow the current run."),
    "history": ("rollout.cli.commands.look:history", "List earlier runs."),
    "explain": ("rollout.cli.commands.evidence:explain", "Re-derive every verdict of a run from its evidence."),
    "diff": ("rollout.cli.commands.measure:diff", "Compare two capability snapshots."),
    "compare": (
        "rollout.cli.commands.measure:compare",
        "Measure two servers in pairs and judge them; moves no traffic.",
    ),
    "smoke": (
        "rollout.cli.commands.smoke:smoke",
        "Prove one server in a CI job: capabilities, log, latency against a baseline.",
    ),
    "judge": (
        "rollout.cli.commands.judge:judge",
        "Judge pairs that were measured elsewhere (CSV, Parquet).",
    ),
    "snapshot": (
        "rollout.cli.commands.snapshot:snapshot",
        "Print what a server, or this container, proves; --serve answers with it.",
    ),
    "pause": ("rollout.cli.commands.speak:pause", "Hold the current run where it is."),
    "resume": ("rollout.cli.commands.speak:resume", "Let a paused run go on."),
    "approve": ("rollout.cli.commands.speak:approve", "Say yes where a run waits for a person."),
    "abort": ("rollout.cli.commands.speak:abort", "Roll the current run back."),
    "teardown": ("rollout.cli.commands.speak:teardown", "End a local stack: router, servers, everything."),
    "admit": ("rollout.cli.commands.admit:admit", "Prove a container's fast path, then run its server; or refuse."),
    "policy": ("rollout.cli.commands.policy:policy", "Check policy files; print their schema."),
    "engines": ("rollout.cli.commands.engines:engines", "Build, check and keep engine plans (TensorRT, EPContext)."),
    "matrix": ("rollout.cli.commands.matrix:matrix", "Check versions against the matrix; lock a new one."),
    "serve": ("rollout.cli.serve:serve", "Run the reference server: a tiny Stable Diffusion on ONNX Runtime."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rollout")
def cli() -> None:
    """Blue/green rollouts for GPU inference that prove acceleration before traffic moves."""


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; every error is one message, never a stack trace.

    A bug (an exception that nobody foresaw) keeps its stack trace and exits 1.
    """
    try:
        result = cli.main(args=argv, prog_name="rollout", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        click.echo("rollout: interrupted", err=True)
        return 4
    except RolloutError as error:
        from rollout.cli.exits import exit_of_error

        code = int(exit_of_error(error))
        _tell(argv, type(error).__name__, str(error), code)
        return code
    return result if isinstance(result, int) else 0


def _tell(argv: list[str], kind: str, message: str, code: int) -> None:
    """Print an error where its reader looks: a JSON object for `--output json`, one line on stderr always."""
    own = argv[: argv.index("--")] if "--" in argv else argv  # What follows is another program's.
    if "json" in own or "--output=json" in own:
        sys.stdout.write(json.dumps({"error": {"kind": kind, "message": message}, "exit": code}) + "\n")
    click.echo(f"rollout: {message}", err=True)
