"""Measuring what "no difference" looks like: `rollout calibrate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rollout.cli.options import console, output_option, policy_option, stack_option

if TYPE_CHECKING:
    from rich.console import Console

    from rollout.report.calibration import Costed

MARGINS_TRIED = (1.02, 1.05, 1.10, 1.20)
"""Beside the policy's own: from the least that quiet GPUs can keep to what a shared machine can."""


@click.command("calibrate")
@click.option("--replicas", type=click.IntRange(1, 1000), default=1, show_default=True, help="Of later candidates.")
@stack_option
@policy_option
@output_option
def calibrate(replicas: int, stack_path: Path, policy_path: Path | None, output: str) -> int:
    """Measure the incumbent against a second instance of itself, and tell what verdicts will cost on that noise.

    The history is stored for later rollouts. The second instance runs in the free slot; no traffic moves.

    Exit codes: 0 the policy's budget suffices, 4 it does not or the history is unfit, 5 platform, 6 a rollout is under
    way.
    """
    from rollout.cli.commands.promote import drive, tell
    from rollout.cli.forecast import costed
    from rollout.evidence.dossier import open_dossier
    from rollout.evidence.objects import ObjectStore
    from rollout.model.journal import Phase, RunKind
    from rollout.report.calibration import calibration_json

    ended = drive(RunKind.CALIBRATE, stack_path, policy_path, output)
    if ended.run.phase is not Phase.CALIBRATED or ended.run.history is None:
        return tell(ended, output)
    dossier = open_dossier(ObjectStore(ended.folder / "objects"), ended.run.request)
    told = costed(
        dossier.baseline(ended.run.history),
        dossier.policy,
        dossier.prompts,
        replicas=replicas,
        p50_ratios_max=MARGINS_TRIED,
    )
    code = 0 if told.suffices else 4
    if output == "json":
        click.echo(json.dumps(calibration_json(told) | {"exit": code, "bundle": str(ended.folder)}, indent=2))
    else:
        render(console(), told)
        click.echo(f"bundle    {ended.folder}")
    return code


def render(out: "Console", told: "Costed") -> None:
    """Print a calibration for people."""
    from rollout.cli.render import Page
    from rollout.report import words
    from rollout.report.calibration import (
        SHAPE_HEAD,
        expectations,
        margin_head,
        margin_notes,
        margin_rows,
        noise_fields,
        shape_rows,
        warnings,
    )

    page = Page(out)
    own = told.calibration.own
    verdict = "suffices" if told.suffices else "does not suffice"
    head = f"the budget of {told.budget} pairs {verdict} for the margin {words.ratio(own.p50_ratio_max)}"
    page.paragraph(head, "bold green" if told.suffices else "bold red")
    page.fields([*noise_fields(told), *(("expect", one) for one in expectations(told))])
    rows = shape_rows(told)
    if rows:
        page.table(SHAPE_HEAD, rows)
    styles = ["" if one.suffices else "yellow" for one in told.calibration.margins]
    page.table(margin_head(told), margin_rows(told), styles=styles)
    page.fields(
        [
            ("counts", "pairs until a verdict: median (9 in 10 within)"),
            *(("note", one) for one in margin_notes(told)),
            *(("warning", one) for one in warnings(told)),
        ]
    )
