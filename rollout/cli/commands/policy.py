"""`rollout policy check` and `rollout policy schema`."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

KINDS = ("policy", "admission", "release", "prompts", "stack", "matrix", "snapshot")


@click.group("policy")
def policy() -> None:
    """Check policy, release, prompt and stack files; print their JSON Schema."""


@policy.command("check")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(paths: tuple[Path, ...]) -> int:
    """Check files strictly, whatever their kind; every problem names file, line and key.

    A waiver that has ended is one. Exit codes: 0 all good, 2 something is wrong.
    """
    from rollout.errors import ConfigError
    from rollout.files.load import load_any

    wrong = 0
    for path in paths:
        try:
            kind = load_any(path, today=datetime.now(tz=UTC).date())
        except ConfigError as error:
            wrong += 1
            click.echo(str(error), err=True)
        else:
            click.echo(f"{path}: a valid {kind}")
    return 2 if wrong else 0


@policy.command("schema")
@click.argument("kind", type=click.Choice(KINDS), default="policy")
def schema(kind: str) -> int:
    """Print the JSON Schema of a kind of file, for editors."""
    from rollout.files.load import json_schema

    click.echo(json.dumps(json_schema(kind), indent=2))
    return 0
