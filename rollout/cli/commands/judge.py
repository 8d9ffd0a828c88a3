"""Judging pairs that somebody else measured: `rollout judge`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rollout.cli.options import console, output_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from rollout.cli.pairs_file import Columns, PairsFile
    from rollout.report.judgement_plot import TracePoint
    from rollout.stats.margins import Margins
    from rollout.stats.paired import Estimate, Judgement, Unmeasured
    from rollout.stats.series import Array

JUDGEMENT_SCHEMA = "rollout.judgement/v1"

PLOT_COLUMNS = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the pairs are judged by."""

    name: str
    margins: "Margins"
    alpha: float
    beta: float
    budget: int
    block_pairs: int


@click.command("judge")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--aa", "aa_path", type=click.Path(path_type=Path), help="The A/A history, where FILE does not hold it.")
@click.option("--profile", type=click.Choice(["strict", "standard"]), help="Stock margins.  [default: strict]")
@click.option("--policy", "policy_path", type=click.Path(path_type=Path), help="Margins, rates, budget of a policy.")
@click.option("--blue-column", default="", help="Column of blue's latency.  [default: blue_s, blue_ms or blue_us]")
@click.option("--green-column", default="", help="Column of green's latency.  [default: as for blue]")
@click.option("--aa-column", default="", help="Column of A/A ratios.  [default: aa_ratio]")
@click.option("--unit", type=click.Choice(["s", "ms", "us"]), help="Where the columns' names do not end in it.")
@click.option("--alpha", type=float, help="Chance of a false BREACH.  [default: 0.01, or the policy's]")
@click.option("--beta", type=float, help="Chance of a false PASS.  [default: 0.01, or the policy's]")
@click.option("--budget", type=int, help="Pairs to look at, at most.  [default: 400, or the policy's]")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Write a picture (SVG) here.")
@output_option
def judge(
    path: Path,
    aa_path: Path | None,
    profile: str | None,
    policy_path: Path | None,
    blue_column: str,
    green_column: str,
    aa_column: str,
    unit: str | None,
    alpha: float | None,
    beta: float | None,
    budget: int | None,
    plot_path: Path | None,
    output: str,
) -> int:
    """Judge the pairs in FILE (CSV or Parquet): latencies of green beside blue's, in the order measured.

    docs/judge.md tells the columns, and how exports of load generators become pairs.

    Exit codes: 0 PASS, 2 the file cannot be used, 3 BREACH, 4 INCONCLUSIVE, also where the A/A history is too short.
    """
    from rollout.cli.exits import exit_of_outcome
    from rollout.cli.pairs_file import Columns, read_pairs
    from rollout.report.judgement_plot import judgement_svg, trace
    from rollout.stats.paired import judge_pairs

    columns = Columns(blue=blue_column, green=green_column, aa=aa_column, unit=unit or "")
    found = read_pairs(path, columns if aa_path is None else replace(columns, aa=""))
    aa_ratio = _history(path, aa_path, found, columns)
    terms = _terms(profile, policy_path, alpha=alpha, beta=beta, budget=budget, aa_ratio=aa_ratio)
    judgement = judge_pairs(
        found.blue_s,
        found.green_s,
        aa_ratio=aa_ratio,
        profile=terms.margins,
        alpha=terms.alpha,
        beta=terms.beta,
        budget=terms.budget,
        block_pairs=terms.block_pairs,
    )
    out = console()
    points: Sequence[TracePoint] = ()
    if plot_path is not None or (out.is_terminal and output == "text"):
        points = trace(
            judgement,
            blue_s=found.blue_s,
            green_s=found.green_s,
            aa_ratio=aa_ratio,
            margins=terms.margins,
            alpha=terms.alpha,
            beta=terms.beta,
            block_pairs=terms.block_pairs,
        )
    if plot_path is not None:
        seen = judgement.pairs_used + judgement.pairs_void
        drawn = judgement_svg(
            judgement,
            points,
            blue_s=found.blue_s[:seen],
            green_s=found.green_s[:seen],
            margins=terms.margins,
            source=path.name,
        )
        _write(plot_path, drawn)
    if output == "json":
        click.echo(json.dumps(_to_json(judgement, terms, given=len(found.blue_s), aa_pairs=len(aa_ratio)), indent=2))
    else:
        _print(out, judgement, terms, points, given=len(found.blue_s))
    return int(exit_of_outcome(judgement.outcome))


def _history(path: Path, aa_path: Path | None, found: "PairsFile", columns: "Columns") -> "Array":
    from rollout.cli.pairs_file import read_history
    from rollout.errors import ConfigError

    if aa_path is not None:
        if len(found.aa_ratio):
            raise ConfigError(f"{path} holds an A/A history, and --aa names another; give one of them")
        return read_history(aa_path, columns)
    if not len(found.aa_ratio):
        raise ConfigError(
            f"{path} holds no A/A history (column aa_ratio, or aa_first_s and aa_second_s) and --aa names none: "
            "measure blue against a second instance of itself, 100 pairs or more, with the same prompts"
        )
    return found.aa_ratio


def _terms(
    profile: str | None,
    policy_path: Path | None,
    *,
    alpha: float | None,
    beta: float | None,
    budget: int | None,
    aa_ratio: "Array",
) -> Terms:
    from rollout.errors import ConfigError
    from rollout.files.load import load_policy
    from rollout.gates.latency import margins_of as margins_of_policy
    from rollout.stats.margins import margins_of
    from rollout.stats.noise import block_pairs_for

    if profile is not None and policy_path is not None:
        raise ConfigError("--profile and --policy both state margins; give one of them")
    if policy_path is None:
        # The tighter of the two: whoever names none is promised no less.
        name = profile or "strict"
        margins, rates, pairs = margins_of(name), (0.01, 0.01), 400
    else:
        policy = load_policy(policy_path)
        gate = policy.latency
        name, margins = policy.name, margins_of_policy(gate)
        rates, pairs = (gate.false_rollback_rate, gate.false_promote_rate), gate.pairs_max
    return Terms(
        name=name,
        margins=margins,
        alpha=rates[0] if alpha is None else alpha,
        beta=rates[1] if beta is None else beta,
        budget=pairs if budget is None else budget,
        block_pairs=block_pairs_for(aa_ratio),
    )


def _write(path: Path, text: str) -> None:
    from rollout.errors import ConfigError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the plot cannot be written: {error}") from error


def _print(out: "Console", judgement: "Judgement", terms: Terms, points: "Sequence[TracePoint]", *, given: int) -> None:
    from rollout.cli.render import Page
    from rollout.model.verdict import Outcome
    from rollout.report import words
    from rollout.report.judgement_plot import narrowing_lines

    page, margins = Page(out), terms.margins
    styles = {Outcome.PASS: "bold green", Outcome.BREACH: "bold red", Outcome.INCONCLUSIVE: "bold yellow"}
    page.paragraph(f"{judgement.outcome.value}: {judgement.reason}", styles[judgement.outcome])
    tail = f"P{100 * margins.tail_quantile:g}"
    left = given - judgement.pairs_used - judgement.pairs_void
    blocks = "" if terms.block_pairs == 1 else f", averaged in blocks of {terms.block_pairs}: neighbours are alike"
    page.fields(
        [
            ("pairs", f"{judgement.pairs_used} used, {judgement.pairs_void} void, {left} not looked at{blocks}"),
            ("median", f"{_interval(judgement.p50_ratio)}, allowed {words.ratio(margins.p50_ratio_max)}"),
            (
                tail,
                f"{_interval(judgement.tail_ratio)} of the history's, allowed {words.ratio(margins.tail_ratio_max)}",
            ),
            ("judged by", f"{terms.name}: alpha {terms.alpha:g}, beta {terms.beta:g}, budget {terms.budget} pairs"),
        ]
    )
    page.table(
        ("gate", "against", "for, at most", "what it saw"),
        [
            (
                one.name.value,
                words.evidence(one.e_rollback),
                words.evidence(one.e_promote_max),
                one.reason.partition(": evidence")[0],
            )
            for one in judgement.gates
        ],
    )
    page.fields(
        [
            ("together", f"{words.evidence(judgement.e_rollback)} against; BREACH at {judgement.e_rollback_needed:g}"),
            ("", f"PASS when each gate has been at {judgement.e_promote_needed:g} for"),
        ]
    )
    if points and out.is_terminal:
        page.drawing(narrowing_lines(points, margin=margins.p50_ratio_max, columns=min(page.columns, PLOT_COLUMNS)))


def _interval(one: "Estimate | Unmeasured") -> str:
    from rollout.report import words
    from rollout.stats.paired import Estimate

    if isinstance(one, Estimate):
        return words.interval(one.value, lower=one.bounds.lower, upper=one.bounds.upper)
    return f"unmeasured ({one.reason})"


def _to_json(judgement: "Judgement", terms: Terms, *, given: int, aa_pairs: int) -> dict[str, Any]:
    from rollout.report.as_json import plain

    told: dict[str, Any] = plain(judgement)
    return {
        "schema": JUDGEMENT_SCHEMA,
        **told,
        "judged_by": plain(terms),
        "pairs_given": given,
        "aa_pairs": aa_pairs,
    }
