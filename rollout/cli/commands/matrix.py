"""`rollout matrix check` and `rollout matrix lock`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rollout.cli.commands.measure import read_snapshot
from rollout.cli.options import output_option

if TYPE_CHECKING:
    from rollout.model.matrix import Matrix
    from rollout.model.verdict import Reason

SNAPSHOT_TIMEOUT_S = 10.0
"""As for `rollout diff`: a snapshot is a few kilobytes."""


@click.group("matrix")
def matrix() -> None:
    """Check what runs, nodes and lists of packages against the version matrix; lock a new one."""


@matrix.command("check")
@click.argument("path", metavar="MATRIX", type=click.Path(path_type=Path))
@click.option("--snapshot", "snapshots", metavar="FILE|HOST:PORT", multiple=True, help="What a server proves.")
@click.option("--labels", metavar="FILE", multiple=True, type=click.Path(path_type=Path), help="A node, or its labels.")
@click.option(
    "--packages",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Names of wheels, or what `pip freeze` says; - reads stdin.",
)
@output_option
def check(
    path: Path, snapshots: tuple[str, ...], labels: tuple[Path, ...], packages: tuple[Path, ...], output: str
) -> int:
    """Check the pins of MATRIX against one another, and all that is given against MATRIX.

    Every option may stand several times.

    Exit codes: 0 all fits, 3 something does not fit or is unknown.
    """
    from rollout.cli.exits import Exit
    from rollout.files.load import load_labels, load_matrix
    from rollout.model.matrix import ORT_UNKNOWN, compare_labels, compare_snapshot, contradictions

    wanted = load_matrix(path)
    proven = {source: compare_snapshot(wanted, read_snapshot(source, SNAPSHOT_TIMEOUT_S)) for source in snapshots}
    found = [(str(path), one) for one in contradictions(wanted)]
    found += [(source, one) for source, reasons in proven.items() for one in reasons]
    found += [(str(file), one) for file in labels for one in compare_labels(wanted, load_labels(file))]
    found += [(str(file), one) for file in packages for one in _compare_list(wanted, file)]
    # A server that fits runs the pinned ONNX Runtime with the pinned libraries: they do work together.
    settled = [one for one in found if one[1].code == ORT_UNKNOWN and any(not reasons for reasons in proven.values())]
    left = [one for one in found if one not in settled]
    if output == "json":
        body = {
            "matrix": wanted.name,
            "fits": not left,
            "reasons": list(_rows(left)),
            "settled": list(_rows(settled)),
        }
        click.echo(json.dumps(body, indent=2))
    else:
        for source, one in settled:
            click.echo(f"{source}: {one.code}: {one.text}; a server that fits proves that they work together")
        for line in _lines(left):
            click.echo(line)
        if not left:
            checked = ", ".join(map(str, (*snapshots, *labels, *packages))) or "its pins agree"
            click.echo(f"fits {wanted.name}: {checked}")
    return int(Exit.BREACH if left else Exit.PASS)


@matrix.command("lock")
@click.argument("source", metavar="SNAPSHOT")
@click.option("--name", default="locked", show_default=True, help="Name of the matrix.")
def lock(source: str, name: str) -> int:
    """Print the matrix of a machine that is known good; SNAPSHOT is HOST:PORT or a file.

    Exit codes: 0 printed, 2 a field that is needed was not collected, 3 printed, but its pins contradict each other or
    are unknown (the reasons stand on stderr).
    """
    import yaml

    from rollout.cli.exits import Exit
    from rollout.model.matrix import ORT_UNKNOWN, contradictions
    from rollout.model.matrix import lock as lock_matrix

    locked = lock_matrix(read_snapshot(source, SNAPSHOT_TIMEOUT_S), name=name)
    click.echo(yaml.safe_dump(locked.model_dump(mode="json", by_alias=True), sort_keys=False), nl=False)
    left = [(name, one) for one in contradictions(locked) if one.code != ORT_UNKNOWN]
    for line in _lines(left):
        click.echo(line, err=True)
    return int(Exit.BREACH if left else Exit.PASS)


def _compare_list(wanted: "Matrix", file: Path) -> "tuple[Reason, ...]":
    from rollout.errors import ConfigError
    from rollout.files.load import load_lines
    from rollout.model.matrix import compare_packages

    try:
        return compare_packages(wanted, load_lines(file))
    except ConfigError as error:
        raise ConfigError(str(error).replace("line ", f"{file}:", 1)) from error


def _rows(found: "list[tuple[str, Reason]]") -> Iterator[Mapping[str, str]]:
    from rollout.model.reasons import REASONS

    for source, one in found:
        yield {"source": source, "code": one.code, "text": one.text, "remedy": REASONS[one.code].remedy}


def _lines(found: "list[tuple[str, Reason]]") -> Iterator[str]:
    for row in _rows(found):
        yield f"{row['source']}: {row['code']}: {row['text']}. {row['remedy']}"
