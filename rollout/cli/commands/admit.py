"""`rollout admit`: prove the container, then become the server; or say why not, with exit 78."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from rollout.cli.options import admission_options, proof_request

if TYPE_CHECKING:
    from rollout.model.admission import AdmissionReport

TERMINATION_BYTES_MAX = 4096
"""Kubernetes keeps no more of a termination message."""


@click.command("admit")
@admission_options
@click.option(
    "--timeout", "limit_s", type=click.FloatRange(1, 3600), help="Seconds in all.  [default: the policy's proof_s]"
)
@click.option("--report", "report_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here.")
@click.option(
    "--termination-log",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/dev/termination-log"),
    show_default=True,
    help="Where Kubernetes looks for the reason; written only where it exists.",
)
@click.option("--probe", is_flag=True, help="Only compare the devices with those of an earlier --report; for liveness.")
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How the outcome is told, on stderr: stdout is COMMAND's.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def admit(
    *,
    policy_name: str,
    engine: str,
    plans: Path | None,
    cache: Path | None,
    limit_s: float | None,
    report_path: Path | None,
    termination_log: Path,
    probe: bool,
    output: str,
    command: tuple[str, ...],
) -> int:
    """Prove that this container has its fast path, then run COMMAND in place of this process.

    Without COMMAND, as an init container, it ends with 0 where the stack is admitted. Exit codes: 78 refused, each
    reason on stderr with its code (docs/reasons.md); 2 the policy or its model cannot be used; 126 or 127 COMMAND
    cannot be run; else COMMAND's own.
    """
    from rollout.cli.exits import Exit
    from rollout.files.load import load_admission

    # As the first process of a container, one without a handler would ignore it until the proof is over.
    signal.signal(signal.SIGTERM, _end)
    demanded = load_admission(policy_name)
    if probe:
        if report_path is None or command:
            raise click.UsageError("--probe needs the --report of the admission, and no COMMAND")
        report = _probed(report_path, limit_s=demanded.policy.probe_s)
    else:
        from rollout.serving.prover import prove_isolated

        if report_path is not None:
            _check_writable(report_path)
        request = proof_request(demanded, engine=engine, cache=cache, plans=plans)
        report = prove_isolated(request, limit_s=limit_s or demanded.policy.proof_s)
    _tell(report, output, termination_log)
    if report_path is not None and not probe:
        _write(report_path, report.model_dump_json(by_alias=True, indent=2))
    if not report.admitted:
        return int(Exit.REFUSED)
    return _become(command) if command else 0


def _end(number: int, _frame: object) -> NoReturn:
    """End as a process ends that has no handler for this signal; what was started ends with it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)  # The first process of a container survives its own signals.


def _probed(path: Path, *, limit_s: float) -> "AdmissionReport":
    """Compare the devices with those of an earlier report.

    Raises:
        ConfigError: The report cannot be used.
    """
    from rollout.errors import ConfigError
    from rollout.model.admission import AdmissionReport
    from rollout.serving.liveness import device_changes, read_devices

    try:
        admitted = AdmissionReport.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no report of an admission: {' '.join(str(error).split())[:200]}") from error
    if admitted.snapshot is None or not admitted.admitted:
        raise ConfigError(f"{path}: the report is of a refusal; there is nothing to compare with")
    findings = device_changes(admitted.snapshot, read_devices(limit_s=limit_s))
    return admitted.model_copy(update={"admitted": not findings, "findings": findings})


def _tell(report: "AdmissionReport", output: str, termination_log: Path) -> None:
    """Say what came of it on stderr, and a refusal where Kubernetes looks for it."""
    from rollout.report.admission import as_json, as_lines

    if output == "json":
        click.echo(as_json(report), err=True)
    else:
        for line in as_lines(report):
            click.echo(line, err=True)
    if not report.admitted and termination_log.exists():
        _write(termination_log, as_json(report, bytes_max=TERMINATION_BYTES_MAX))


def _check_writable(path: Path) -> None:
    """Make the folder of a report and refuse early one that cannot be written: a proof takes a while.

    Raises:
        ConfigError: It cannot be written.
    """
    from rollout.errors import ConfigError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise ConfigError(f"--report {path}: cannot be written: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    """Write a file in place: a termination log is a mounted file, which cannot be replaced.

    A file that cannot be written changes no verdict; it is told on stderr.
    """
    try:
        path.write_text(text)
    except OSError as error:
        click.echo(f"rollout admit: {path}: cannot be written: {error.strerror}", err=True)


def _become(command: tuple[str, ...]) -> int:
    """Replace this process by the command: its signals and its exit code are its own from here on."""
    from rollout.cli.exits import Exit

    # Python ignores these for itself, and what is ignored stays ignored across an exec.
    for one in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM):
        signal.signal(one, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the user's own command, without a shell
    except FileNotFoundError as error:
        click.echo(f"rollout admit: {command[0]}: {error.strerror}", err=True)
        return int(Exit.NOT_FOUND)
    except OSError as error:
        click.echo(f"rollout admit: {command[0]}: {error.strerror}", err=True)
        return int(Exit.NOT_EXECUTABLE)
