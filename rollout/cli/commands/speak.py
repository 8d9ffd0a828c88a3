"""Commands by which a person speaks to a run: pause, resume, approve, abort; and teardown."""

import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rollout.cli.options import listener, load_for_rescue, output_option, policy_option, stack_option

if TYPE_CHECKING:
    from rollout.cli.signals import ProcessSignals
    from rollout.flow.run import Run

REASON = click.option("--reason", default="", help="Why; it is kept in the journal.")

ANSWER_POLL_S = 0.2


@click.command("pause")
@REASON
@stack_option
def pause(reason: str, stack_path: Path) -> int:
    """Hold the current run where it is; a breach still rolls back."""
    return _say("pause", reason, stack_path)


@click.command("resume")
@REASON
@stack_option
def resume(reason: str, stack_path: Path) -> int:
    """Let a paused run go on."""
    return _say("resume", reason, stack_path)


@click.command("approve")
@REASON
@stack_option
def approve(reason: str, stack_path: Path) -> int:
    """Say yes where a run waits: to shift traffic after a PASS, or to grant an undecided canary one more budget.

    Nobody can approve away a missing proof: traffic moves only after a PASS.
    """
    from rollout.control.standing import left_over
    from rollout.errors import ConfigError
    from rollout.flow.run import APPROVABLE

    stack, _ = load_for_rescue(stack_path, None)
    run = left_over(stack.state)
    if run is not None and not run.terminal and APPROVABLE.get(run.phase) not in run.verdicts:
        raise ConfigError(f"{run.request.run_id} is in phase {run.phase} and waits for nobody's approval")
    return _say("approve", reason, stack_path)


@click.command("abort")
@REASON
@stack_option
@policy_option
@output_option
def abort(reason: str, stack_path: Path, policy_path: Path | None, output: str) -> int:
    """Roll the current run back, and wait until that is done.

    If its controller is gone, this command takes its place.
    """
    return tell_end(end_run(stack_path, policy_path, reason, output), output)


def end_run(stack_path: Path, policy_path: Path | None, reason: str, output: str) -> "Run":
    """Abort the current run and wait until it is over: by word to its controller, or, if that is gone, by taking it up.

    Raises:
        ConfigError: No run is unfinished.
        ConflictError: Its controller does not answer.
    """
    from rollout.cli.signals import ProcessSignals
    from rollout.cli.wiring import build_world, longest_step_s
    from rollout.control.session import carry_on
    from rollout.control.standing import load_run
    from rollout.errors import ConflictError

    stack, policy = load_for_rescue(stack_path, policy_path)
    run_id = _post("abort", reason, stack.state)
    signals, watcher = ProcessSignals(), listener(output, policy)
    world = build_world(stack, policy, signals=signals, listener=watcher, moves_traffic=True)
    deadline = time.monotonic() + 2 * longest_step_s(stack, policy) + policy.deadlines.rollback_s
    while True:
        run = load_run(stack.state, run_id)
        # How it ended counts, whatever came while it ended.
        if run.sealed or (run.terminal and _gave_up(deadline, signals)):
            return run
        if _gave_up(deadline, signals):
            break
        try:
            with closing(watcher):
                signals.install()
                carry_on(stack.state, world)
            # Where even its bundle could not be sealed, no further try would do that either.
            run = load_run(stack.state, run_id)
            if run.terminal:
                return run
        except ConflictError:
            time.sleep(ANSWER_POLL_S)
    raise ConflictError(f"{run_id}: its controller has not answered yet; `rollout status` shows what it does")


def _gave_up(deadline: float, signals: "ProcessSignals") -> bool:
    return time.monotonic() >= deadline or bool(signals.received)


def tell_end(run: "Run", output: str) -> int:
    """Say how an aborted run ended; return the exit code."""
    from rollout.cli.exits import Exit
    from rollout.model.journal import Phase

    run_id, phase = run.request.run_id, run.phase.value.replace("_", " ")
    match run.phase:
        case Phase.ROLLBACK_INCOMPLETE:
            code, text = Exit.ROLLBACK_INCOMPLETE, f"{phase}, a person is needed"
        case Phase.PROMOTED:
            code, text = Exit.CONFLICT, f"{phase} before the word arrived; `rollout rollback` goes back"
        case _:
            code, text = Exit.PASS, phase
    click.echo(f"{run_id}: {text}; `rollout explain {run_id}` tells why", err=True)
    if output == "json":
        click.echo(json.dumps({"run_id": run_id, "phase": run.phase.value, "exit": int(code)}))
    return int(code)


@click.command("teardown")
@click.option("--yes", is_flag=True, required=True, help="Say that an outage is wanted.")
@stack_option
@policy_option
def teardown(yes: bool, stack_path: Path, policy_path: Path | None) -> int:  # noqa: FBT001, ARG001 - click passes flags
    """End everything of a local stack: router first, then both slots. Evidence and baselines stay.

    `rollout rollback --stay` brings back what served.
    """
    from rollout.cli.wiring import build_lease, build_platform, build_router
    from rollout.model.roles import Slot

    stack, policy = load_for_rescue(stack_path, policy_path)
    lease = build_lease(stack, policy)
    lease.acquire()
    try:
        build_router(stack, lease).stop()
        platform = build_platform(stack, lease)
        for slot in Slot:
            platform.retire(slot)
    finally:
        lease.release()
    click.echo(f"{stack.stack.name}: router and servers ended")
    return 0


def _say(word: str, reason: str, stack_path: Path) -> int:
    stack, _ = load_for_rescue(stack_path, None)
    run_id = _post(word, reason, stack.state)
    click.echo(f"{run_id}: {word} said; `rollout status` shows the effect")
    return 0


def _post(word: str, reason: str, state: Path) -> str:
    from rollout.cli.wiring import who
    from rollout.control.standing import left_over
    from rollout.errors import ConfigError
    from rollout.evidence.inbox import Inbox
    from rollout.model.journal import CommandKind

    run = left_over(state)
    if run is None or run.terminal:
        raise ConfigError("no run is under way; `rollout history` lists what was")
    Inbox(state / "commands").post(CommandKind(word), who(), reason)
    return run.request.run_id
