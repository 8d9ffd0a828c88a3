"""Commands that only look: status, watch, history."""

import json
import time
from contextlib import closing, suppress
from pathlib import Path

import click

from rollout.cli.options import console, listener, load_for_rescue, output_option, policy_option, stack_option

WATCH_POLL_S = 0.2


@click.command("status")
@stack_option
@policy_option
@output_option
def status(stack_path: Path, policy_path: Path | None, output: str) -> int:
    """Show what stands: slots, traffic as the router itself reports it, and the current run."""
    from rollout.cli.render import render_status
    from rollout.cli.survey import survey

    stack, policy = load_for_rescue(stack_path, policy_path)
    seen = survey(stack, policy)
    if output == "json":
        click.echo(json.dumps(seen.to_json(), indent=2))
    else:
        render_status(console(), seen.status())
    return 0


@click.command("history")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 100_000), help="How many runs.")
@stack_option
@output_option
def history(limit: int, stack_path: Path, output: str) -> int:
    """List earlier runs, newest first."""
    from rollout.cli.render import render_history
    from rollout.cli.survey import past_runs
    from rollout.files.load import load_stack

    rows = past_runs(load_stack(stack_path).state, limit=limit)
    if output == "json":
        click.echo(json.dumps({"runs": [row.to_json() for row in rows]}, indent=2))
    else:
        render_history(console(), rows)
    return 0


@click.command("watch")
@click.option("--once", is_flag=True, help="Show what there is and leave.")
@stack_option
def watch(once: bool, stack_path: Path) -> int:  # noqa: FBT001 - click passes flags
    """Follow the current run until it ends; only reads, so any number of people can watch."""
    from rollout.control.standing import left_over
    from rollout.evidence.journal import read_journal
    from rollout.evidence.runs import run_folder, run_ids
    from rollout.flow.run import advance, begin

    stack, policy = load_for_rescue(stack_path, None)
    newest = left_over(stack.state)
    known = run_ids(stack.state)
    if newest is None:
        click.echo(f"no run is under way; the newest is {known[0]}" if known else "no run yet")
        return 0
    path = run_folder(stack.state, newest.request.run_id).journal
    shown, run = 0, None
    with suppress(KeyboardInterrupt), closing(listener("text", policy)) as watcher:
        while True:
            for record in read_journal(path, tolerate_torn=True)[shown:]:
                run = begin(record) if run is None else advance(run, record)
                watcher.recorded(record, run)
                shown += 1
            if once or (run is not None and run.sealed):
                return 0
            time.sleep(WATCH_POLL_S)
    return 0
