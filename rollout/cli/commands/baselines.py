"""`rollout baselines`: what each release was measured to do, by whom and when."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rollout.cli.options import console, output_option, stack_option

if TYPE_CHECKING:
    from rollout.evidence.baselines import BaselineStore, Version

PREFIX_MIN = 6
"""Fewer digits of a digest are soon ambiguous."""


@click.group("baselines")
def baselines() -> None:
    """Look at stored baselines. They are made by promotion and by `rollout calibrate`, and never changed."""


@baselines.command("list")
@stack_option
@output_option
def list_(stack_path: Path, output: str) -> int:
    """List every version of every release's baseline, newest last; the last of a release is in use.

    Exit codes: 0, 2 the stack file is wrong, 4 a stored baseline is damaged.
    """
    rows = [_row(one, used=one is found[-1]) for found in _all(_store(stack_path)) for one in found]
    if output == "json":
        click.echo(json.dumps({"schema": "rollout.baselines/v1", "baselines": rows}, indent=2))
        return 0
    out = console()
    if not rows:
        out.print("no baseline is stored; a promotion stores one", markup=False)
    for row in rows:
        out.print(_line(row), markup=False)
    return 0


@baselines.command("show")
@click.argument("release", metavar="DIGEST", required=False)
@click.option("--version", "number", type=click.IntRange(1), help="An earlier version instead of the one in use.")
@stack_option
@output_option
def show(release: str | None, number: int | None, stack_path: Path, output: str) -> int:
    """Show one baseline: of the release whose digest begins with DIGEST, else of the one that serves.

    Exit codes: 0, 2 there is no such baseline, 4 a stored baseline is damaged.
    """
    from rollout.errors import ConfigError

    store = _store(stack_path)
    found = store.versions(_digest(store, release, stack_path))
    chosen = next((one for one in found if one.number == (number or len(found))), None)
    if chosen is None:
        raise ConfigError(f"there is no version {number or 1}; stored are {len(found)}")
    row = _row(chosen, used=chosen is found[-1])
    if output == "json":
        content = chosen.baseline.model_dump(mode="json", by_alias=True)
        click.echo(json.dumps({"schema": "rollout.baselines/v1", **row, "baseline": content}, indent=2))
        return 0
    out = console()
    out.print(_line(row), markup=False)
    out.print(f"  baseline  {row['digest']}", markup=False)
    out.print(f"  release   {row['release']}", markup=False)
    out.print(f"  prompts   {row['prompts']}", markup=False)
    out.print(f"  snapshot  {row['snapshot']}", markup=False)
    out.print(f"  protocol  {', '.join(f'{key} {value}' for key, value in row['protocol'].items())}", markup=False)
    for prompt, median_s in row["latency_s_median"].items():
        out.print(f"  {prompt:16} {1000 * median_s:.4g} ms, {row['latency_requests'][prompt]} requests", markup=False)
    return 0


def _store(stack_path: Path) -> "BaselineStore":
    from rollout.evidence.baselines import BaselineStore
    from rollout.files.load import load_stack

    return BaselineStore(load_stack(stack_path).state / "baselines")


def _all(store: "BaselineStore") -> "list[tuple[Version, ...]]":
    """Return the versions of each release, the release whose newest is oldest first."""
    found = [store.versions(digest) for digest in store.releases()]
    return sorted(found, key=lambda versions: versions[-1].baseline.made_at)


def _digest(store: "BaselineStore", prefix: str | None, stack_path: Path) -> str:
    """Return the digest of the one release that is meant.

    Raises:
        ConfigError: No release, or more than one, is meant.
    """
    from rollout.control.standing import standing
    from rollout.errors import ConfigError
    from rollout.files.load import load_stack
    from rollout.model.inventory import Absent

    known = store.releases()
    if prefix is None:
        now = standing(load_stack(stack_path).state)
        if isinstance(now, Absent):
            raise ConfigError(now.reason)
        if now.release.digest not in known:
            raise ConfigError(f"{now.release.name} serves and has no baseline; `rollout calibrate` measures one")
        return now.release.digest
    digits = prefix.removeprefix("sha256:")
    meant = [one for one in known if one.removeprefix("sha256:").startswith(digits)]
    if len(digits) < PREFIX_MIN or len(meant) != 1:
        text = f"{prefix!r} begins the digests of {len(meant)} stored releases; give {PREFIX_MIN} digits or more of one"
        raise ConfigError(text)
    return meant[0]


def _row(version: "Version", *, used: bool) -> dict[str, Any]:
    from rollout.gates.drift import medians
    from rollout.report import words

    one = version.baseline
    return {
        "release": one.release_digest,
        "version": version.number,
        "in_use": used,
        "digest": version.digest,
        "made_at": one.made_at,
        "made": words.date(one.made_at),
        "made_by_run": one.made_by_run,
        "prompts": one.prompts_digest,
        "snapshot": one.snapshot.digest,
        "protocol": one.protocol,
        "aa_pairs": len(one.aa_ratio),
        "latency_requests": {prompt: len(values) for prompt, values in sorted(one.latency_s.items())},
        "latency_s_median": dict(sorted(medians(one).items())),
        "cold_start_s": one.cold_start_s,
    }


def _line(row: dict[str, Any]) -> str:
    spread = sorted(row["latency_s_median"].values())
    span = f"{1000 * spread[0]:.3g} to {1000 * spread[-1]:.3g} ms" if spread else "no latencies"
    used = "in use" if row["in_use"] else "earlier"
    return (
        f"{row['release'][7:19]} version {row['version']} {used}: made {row['made']} by {row['made_by_run']}; "
        f"{row['aa_pairs']} A/A pairs, {sum(row['latency_requests'].values())} requests, medians {span}"
    )
