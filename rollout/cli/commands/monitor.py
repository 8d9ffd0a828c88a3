"""`rollout monitor`: the incumbent watched against its baseline, for as long as somebody wants."""

import json
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rollout.cli.options import listener, load, output_option, policy_option, stack_option

if TYPE_CHECKING:
    from rollout.cli.exits import Exit
    from rollout.control.monitor import Monitor
    from rollout.control.session import Ended
    from rollout.control.world import World
    from rollout.evidence.looks import Look
    from rollout.files.load import LoadedStack
    from rollout.model.policy import Policy
    from rollout.model.prompts import PromptSet


@click.command("monitor")
@click.option(
    "--every",
    "every_s",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0.0, 86400.0, min_open=True),
    help="Seconds between two looks.",
)
@click.option(
    "--requests-per-look",
    "requests",
    default=5,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Prompts sent.",
)
@click.option("--looks", default=None, type=click.IntRange(1), help="End after so many looks.  [default: never]")
@click.option(
    "--accept-new-baseline",
    is_flag=True,
    help="Begin anew where the stored state belongs to another baseline, as after a promotion, instead of refusing.",
)
@stack_option
@policy_option
@output_option
def monitor(
    every_s: float,
    requests: int,
    looks: int | None,
    accept_new_baseline: bool,  # noqa: FBT001 - click passes flags
    stack_path: Path,
    policy_path: Path | None,
    output: str,
) -> int:
    """Watch what serves against its baseline, a few requests at a time. Moves no traffic and holds no lease.

    Looks are skipped while a rollout is unfinished. On an alarm a `verify` run decides; where that clears it, the
    monitor goes on. With `--output json` stdout holds one event per alarm and nothing else.

    Exit codes: 0 nothing stands against what serves, 3 drifted, 4 cannot be told, or nothing was measured,
    5 platform, 6 another monitor runs, or a rollout kept an alarm from being verified.
    """
    from rollout.cli.signals import ProcessSignals
    from rollout.cli.wiring import build_world
    from rollout.control.monitor import Monitor
    from rollout.evidence.looks import MonitorLog
    from rollout.files.load import load_prompts

    stack, policy = load(stack_path, policy_path)
    prompts = load_prompts(stack.prompts)
    signals = ProcessSignals(doing="the monitor ends")
    signals.install()
    with closing(listener(output, policy)) as watcher:
        world = build_world(stack, policy, signals=signals, listener=watcher, moves_traffic=False)
    watch = Monitor(
        state=stack.state,
        world=world,
        policy=policy,
        prompts=prompts,
        requests=requests,
        accept_new_baseline=accept_new_baseline,
    )
    with MonitorLog(stack.state).alone():
        return _watch(watch, world, stack, policy, prompts, output=output, every_s=every_s, looks=looks)


def _watch(
    watch: "Monitor",
    world: "World",
    stack: "LoadedStack",
    policy: "Policy",
    prompts: "PromptSet",
    *,
    output: str,
    every_s: float,
    looks: int | None,
) -> int:
    """Look until a run ends otherwise than well, the looks are spent, or a signal comes; return the exit code."""
    from rollout.cli.exits import Exit
    from rollout.control.world import Interrupted
    from rollout.errors import ConflictError

    done, code = 0, Exit.INCONCLUSIVE
    with suppress(Interrupted):
        while True:
            look = watch.look()
            done += 1
            _tell_look(look, output)
            if look.confirmed:
                return int(Exit.BREACH)
            if look.alarm:
                try:
                    code = _answer(watch, look, _verify(world, stack, policy, prompts, output=output), output)
                except ConflictError as error:
                    # The alarm is stored and stands; the next look raises it again.
                    code = Exit.CONFLICT
                    click.echo(f"rollout: {error}", err=True)
                else:
                    if code is not Exit.PASS:
                        return int(code)
            elif look.requests:
                code = Exit.PASS
            if done == looks or world.signals.received:
                break
            with world.signals.interruptible():
                world.clock.sleep(every_s)
    return int(code)


def _verify(world: "World", stack: "LoadedStack", policy: "Policy", prompts: "PromptSet", *, output: str) -> "Ended":
    """Carry out an ordinary `verify` run."""
    from rollout.cli.wiring import environment, who
    from rollout.control.open_run import Wish
    from rollout.control.session import carry_out
    from rollout.model.journal import RunKind

    wish = Wish(
        kind=RunKind.VERIFY,
        stack=stack.stack.name,
        policy=policy,
        prompts=prompts,
        release=None,
        stay=False,
        requested_by=who(),
        environment=environment(),
    )
    with closing(listener(output, policy)) as watcher:
        return carry_out(stack.state, wish, replace(world, listener=watcher))


def _answer(watch: "Monitor", look: "Look", ended: "Ended", output: str) -> "Exit":
    """Store and tell what became of an alarm; return the run's exit code."""
    from rollout.cli.exits import exit_of_run
    from rollout.report.drift_event import drift_event

    code = exit_of_run(ended.run.phase, ended.run.cause, wanted_rollback=False)
    at = ended.records[-1].at
    event = drift_event(ended.summary, alarm=look.alarm, bundle=str(ended.folder), at=at, exit_code=int(code))
    # Told before it is stored: after a crash between the two a person is told twice, and never not at all.
    # Whoever reads may be gone; the run's end stands all the same.
    with suppress(OSError):
        if output == "json":
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()
        else:
            click.echo(f"{event['type']}: {ended.summary.headline}; bundle {ended.folder}")
    watch.settle(ended.run.request.run_id, outcome=ended.run.phase)
    return code


def _tell_look(look: "Look", output: str) -> None:
    """Print a line per look, aside of JSON."""
    ratio = "" if look.p50_ratio is None else f", median x{look.p50_ratio:.3g} of the baseline"
    failed = f", {look.failed} failed" if look.failed else ""
    found = f"{look.requests} requests{ratio}{failed}" if look.requests else look.note
    alarm = f"; ALARM ({look.alarm}): a verify run decides" if look.alarm else ""
    evidence = f"evidence {look.evidence:.3g} of {look.evidence_needed:g}"
    with suppress(OSError):
        click.echo(f"look {look.number}: {found}; {evidence}{alarm}", err=output == "json")
