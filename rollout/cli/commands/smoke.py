"""`rollout smoke`: the whole proof for one server, in a CI job."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rollout.cli.options import Unstalled, console, output_option

if TYPE_CHECKING:
    from rollout.cli.smoking import Asked
    from rollout.report.smoke import Smoked


@click.command("smoke")
@click.argument("release_path", metavar="[RELEASE]", required=False, type=click.Path(path_type=Path))
@click.option("--server", metavar="HOST:PORT", help="A server that runs already, instead of RELEASE.")
@click.option("--log", "log_path", type=click.Path(path_type=Path), help="The file that --server's output goes to.")
@click.option("--policy", "policy_path", required=True, type=click.Path(path_type=Path), help="What must be shown.")
@click.option("--prompts", "prompts_path", required=True, type=click.Path(path_type=Path), help="The prompt set.")
@click.option("--baseline", "baseline_path", type=click.Path(path_type=Path), help="What latency is compared with.")
@click.option(
    "--write-baseline",
    "written_path",
    type=click.Path(path_type=Path),
    help="Measure a first baseline, and write it here if all else passes; the file must not exist.",
)
@click.option("--matrix", "matrix_path", type=click.Path(path_type=Path), help="The version matrix it must fit.")
@click.option("--junit", "junit_path", type=click.Path(path_type=Path), help="Write JUnit XML here.")
@click.option("--requests", type=click.IntRange(20, 100_000), help="Requests measured.  [default: the policy's]")
@output_option
def smoke(
    release_path: Path | None,
    server: str | None,
    log_path: Path | None,
    policy_path: Path,
    prompts_path: Path,
    baseline_path: Path | None,
    written_path: Path | None,
    matrix_path: Path | None,
    junit_path: Path | None,
    requests: int | None,
    output: str,
) -> int:
    """Start RELEASE, have it prove itself, measure it, and end it. Needs no router, no incumbent, no stack.

    Judged are its start and self-test, its capability snapshot, the version matrix, failed requests, latency against
    the baseline, and its whole log: one line that speaks of a fallback is a breach. docs/smoke.md says more.

    Exit codes: 0 proven, 2 an input cannot be used, 3 breach, 4 something could not be proven, or the baseline is
    damaged or of another measurement, 5 platform.
    """
    from rollout.cli.smoking import Asked, prove
    from rollout.errors import RolloutError
    from rollout.report.junit import error_xml, verdict_xml

    asked = Asked(
        release=release_path,
        server=server,
        log=log_path,
        policy=policy_path,
        prompts=prompts_path,
        baseline=baseline_path,
        written=written_path,
        matrix=matrix_path,
        junit=junit_path,
        requests=requests,
    )
    _check_usage(asked)
    try:
        smoked = prove(asked, _say)
    except RolloutError as error:
        # Or the file of an earlier run would stand for this one.
        if junit_path is not None:
            with suppress(OSError):
                told = error_xml("smoke", subject=asked.subject, type_=type(error).__name__, message=str(error))
                junit_path.write_bytes(told)
        raise
    if junit_path is not None:
        _write(junit_path, verdict_xml(smoked.verdict, subject=smoked.subject, seconds=smoked.seconds))
    return _tell(smoked, output)


def _check_usage(asked: "Asked") -> None:
    if (asked.release is None) is (asked.server is None):
        raise click.UsageError("give either RELEASE or --server")
    if asked.log is not None and asked.server is None:
        raise click.UsageError("--log is for --server; the log of a RELEASE is read without it")
    if asked.written is not None and asked.server is not None:
        raise click.UsageError("--write-baseline needs RELEASE: a baseline is a release's")
    if asked.written is not None and asked.baseline is not None:
        raise click.UsageError("--baseline compares, --write-baseline measures for the first time; give one of them")


def _tell(smoked: "Smoked", output: str) -> int:
    from rollout.cli.exits import exit_of_outcome
    from rollout.cli.render import render_smoke
    from rollout.report.smoke import smoke_json

    code = int(exit_of_outcome(smoked.verdict.outcome))
    # Whoever reads may be gone; the verdict stands all the same.
    with suppress(OSError):
        if output == "json":
            sys.stdout.write(json.dumps(smoke_json(smoked) | {"exit": code}, indent=2) + "\n")
        else:
            render_smoke(console(), smoked)
    return code


def _say(line: str) -> None:
    """Tell progress on stderr, and go on where nobody reads it."""
    with suppress(OSError):
        Unstalled(sys.stderr).write(f"rollout: {line}\n")


def _write(path: Path, data: bytes) -> None:
    """Write a report.

    Raises:
        ConfigError: It cannot be written.
    """
    from rollout.errors import ConfigError

    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error
