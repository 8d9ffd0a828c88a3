"""`rollout explain`: every verdict derived again from stored evidence, offline."""

import json
from pathlib import Path

import click

from rollout.cli.options import console, output_option


@click.command("explain")
@click.argument("run", metavar="RUN")
@click.option("--state", type=click.Path(path_type=Path), help="The state folder, where RUN is a run id.")
@click.option(
    "--stack",
    "stack_path",
    envvar="ROLLOUT_STACK",
    default="stack.yaml",
    type=click.Path(path_type=Path),
    help="The stack file that names the state folder.",
)
@output_option
def explain(run: str, state: Path | None, stack_path: Path, output: str) -> int:
    """Check every byte of a run's bundle and derive each verdict again; no network, no clock.

    RUN is a run id, `last`, or the path of a bundle's folder, which may have been copied from elsewhere.

    Exit codes: 0 the evidence is whole and gives the recorded verdicts, 4 it is damaged or does not.
    """
    from rollout.cli.render import render_summary
    from rollout.evidence.replay import replay
    from rollout.report.as_json import to_json
    from rollout.report.summary import summarise

    folder = find_bundle(run, state, stack_path)
    told = replay(folder, unfinished_ok=True)
    summary = summarise(told.run, told.records, names=told.dossier.names, cost=told.dossier.policy.cost)
    if output == "json":
        replayed = {"records": len(told.records), "judgements": told.judgements, "verdicts": len(told.verdicts)}
        click.echo(json.dumps(to_json(summary) | {"replayed": replayed, "sealed": told.sealed}, indent=2))
        return 0
    out = console()
    render_summary(out, summary)
    out.print(
        f"evidence  whole: {len(told.records)} records; {told.judgements} judgements and {len(told.verdicts)} verdicts "
        "derived again, bit for bit",
        markup=False,
    )
    if not told.sealed:
        out.print("evidence  not sealed: the run has not ended, or its controller crashed at the end", markup=False)
    return 0


def find_bundle(run: str, state: Path | None, stack_path: Path) -> Path:
    """Return the folder that RUN names.

    Raises:
        ConfigError: There is no such run.
    """
    from rollout.errors import ConfigError
    from rollout.evidence.runs import run_ids
    from rollout.files.load import load_stack

    if (Path(run) / "journal.jsonl").exists():
        return Path(run)
    folder = state if state is not None else load_stack(stack_path).state
    known = run_ids(folder)
    if run == "last" and known:
        return folder / "runs" / known[0]
    if run in known:
        return folder / "runs" / run
    newest = f"; the newest is {known[0]}" if known else ""
    raise ConfigError(f"{run!r} is neither a bundle's folder nor a run in {folder}{newest}")
