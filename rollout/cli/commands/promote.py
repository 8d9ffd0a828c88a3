"""Commands that run the loop: plan, promote, verify, rollback."""

import json
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rollout.cli.options import console, listener, load, load_for_rescue, output_option, policy_option, stack_option

if TYPE_CHECKING:
    from rollout.control.session import Ended
    from rollout.files.load import LoadedStack
    from rollout.model.journal import RunKind
    from rollout.model.prompts import PromptSet

RELEASE = click.argument("release_path", metavar="RELEASE", type=click.Path(path_type=Path))


@click.command("promote")
@RELEASE
@click.option("--bootstrap", is_flag=True, help="The first stack ever: admitted, then served; there is no comparison.")
@stack_option
@policy_option
@output_option
def promote(release_path: Path, bootstrap: bool, stack_path: Path, policy_path: Path | None, output: str) -> int:  # noqa: FBT001 - click passes flags
    """Prove RELEASE beside the incumbent, then shift traffic to it step by step.

    Repeat the command after a crash: it finishes, or rolls back, what it finds. SIGTERM and Ctrl-C roll back safely.

    Exit codes: 0 promoted, 2 config, 3 breach and rolled back, 4 inconclusive or aborted and rolled back, 5 platform,
    6 another controller is at work, 7 rollback incomplete: a person is needed.
    """
    from rollout.model.journal import RunKind

    kind = RunKind.BOOTSTRAP if bootstrap else RunKind.PROMOTE
    return tell(drive(kind, stack_path, policy_path, output, release_path=release_path), output)


@click.command("verify")
@stack_option
@policy_option
@output_option
def verify(stack_path: Path, policy_path: Path | None, output: str) -> int:
    """Check what serves against the baseline stored at its promotion. It has no router and cannot move traffic.

    Exit codes: 0 as proven, 3 drifted, 4 cannot be told, 5 platform, 6 a rollout is under way.
    """
    from rollout.model.journal import RunKind

    return tell(drive(RunKind.VERIFY, stack_path, policy_path, output), output)


@click.command("rollback")
@click.option("--stay", is_flag=True, help="Keep the stack that should serve, and restore it where it is broken.")
@stack_option
@policy_option
@output_option
def rollback(stay: bool, stack_path: Path, policy_path: Path | None, output: str) -> int:  # noqa: FBT001 - click passes flags
    """Send all traffic back to the stack that served before the last promotion.

    A rollout that is under way is aborted first; where its candidate had taken traffic and lost it again by that,
    nothing more is done.

    Exit codes: 0 rolled back, 2 there is nothing to go back to, 5 platform, 7 incomplete: a person is needed.
    """
    from rollout.control.standing import left_over
    from rollout.model.journal import RunKind

    stack, _ = load_for_rescue(stack_path, policy_path)
    left = left_over(stack.state)
    if left is not None and not left.terminal and left.request.kind is not RunKind.ROLLBACK:
        from rollout.cli.commands.speak import end_run, tell_end
        from rollout.model.journal import Phase

        ended = end_run(stack_path, policy_path, "rollback asked for", output)
        if ended.phase is Phase.ROLLED_BACK and (ended.candidate_served or not _has_earlier(stack.state)):
            # What had taken traffic lost it again, which is the rollback that was asked for; or there is no other.
            return tell_end(ended, output)
        click.echo(f"{ended.request.run_id}: {ended.phase.value.replace('_', ' ')}; now the rollback", err=True)
    return tell(drive(RunKind.ROLLBACK, stack_path, policy_path, output, stay=stay), output)


def _has_earlier(state: Path) -> bool:
    """Tell whether something served before what serves now."""
    from rollout.control.standing import standing
    from rollout.model.inventory import Absent

    now = standing(state)
    return not isinstance(now, Absent) and not isinstance(now.earlier, Absent)


@click.command("plan")
@RELEASE
@stack_option
@policy_option
@output_option
def plan(release_path: Path, stack_path: Path, policy_path: Path | None, output: str) -> int:
    """Say what `promote` would do with RELEASE, and change nothing."""
    from rollout.cli.forecast import forecast
    from rollout.files.load import load_prompts, load_release

    stack, policy = load(stack_path, policy_path)
    told = forecast(stack, policy, load_prompts(stack.prompts), load_release(release_path))
    if output == "json":
        click.echo(json.dumps(told.to_json(), indent=2))
    else:
        told.print(console())
    return int(told.exit)


def drive(
    kind: "RunKind",
    stack_path: Path,
    policy_path: Path | None,
    output: str,
    *,
    release_path: Path | None = None,
    stay: bool = False,
) -> "Ended":
    """Carry a command out, from reading its files to the sealed bundle.

    Raises:
        ConfigError: A file is missing or wrong.
        RolloutError: See `carry_out`.
    """
    from rollout.cli.signals import ProcessSignals
    from rollout.cli.wiring import build_world, environment, who
    from rollout.control.open_run import Wish
    from rollout.control.session import carry_out
    from rollout.files.load import load_prompts, load_release
    from rollout.model.journal import RunKind

    rescue = kind is RunKind.ROLLBACK
    stack, policy = load_for_rescue(stack_path, policy_path) if rescue else load(stack_path, policy_path)
    wish = Wish(
        kind=kind,
        stack=stack.stack.name,
        policy=policy,
        prompts=_known_prompts(stack) if rescue else load_prompts(stack.prompts),
        release=None if release_path is None else load_release(release_path),
        stay=stay,
        requested_by=who(),
        environment=environment(),
    )
    signals, watcher = ProcessSignals(), listener(output, policy)
    signals.install()
    moves_traffic = kind is not RunKind.VERIFY
    with closing(watcher):
        return carry_out(
            stack.state,
            wish,
            build_world(stack, policy, signals=signals, listener=watcher, moves_traffic=moves_traffic),
        )


def _known_prompts(stack: "LoadedStack") -> "PromptSet":
    """Return the newest run's prompts: a rollback sends none, and must not fail for a file that it does not use."""
    from rollout.control.standing import newest_prompts
    from rollout.files.load import load_prompts
    from rollout.model.inventory import Absent

    known = newest_prompts(stack.state)
    return load_prompts(stack.prompts) if isinstance(known, Absent) else known


def tell(ended: "Ended", output: str) -> int:
    """Print how a run ended and return its exit code."""
    from rollout.cli.exits import exit_of_run
    from rollout.cli.render import render_summary
    from rollout.model.journal import RunKind
    from rollout.report.as_json import to_json

    wanted = ended.run.request.kind is RunKind.ROLLBACK
    code = exit_of_run(ended.run.phase, ended.run.cause, wanted_rollback=wanted)
    # Whoever reads may be gone; how the run ended stands all the same.
    with suppress(OSError):
        if output == "json":
            told = to_json(ended.summary) | {"exit": int(code), "bundle": str(ended.folder), "resumed": ended.resumed}
            sys.stdout.write(json.dumps(told, indent=2) + "\n")
            return int(code)
        out = console()
        render_summary(out, ended.summary)
        out.print(f"bundle    {ended.folder}", markup=False)
        out.print(f"pictures  {ended.folder / 'objects'}", markup=False)
        out.print(f"exit      {int(code)} {code.name.lower()}", markup=False)
    return int(code)
