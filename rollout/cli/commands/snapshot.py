"""`rollout snapshot`: what a server, or this container, proves about itself; `--serve` goes on saying it: the agent."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from rollout.cli.options import admission_options, proof_request

if TYPE_CHECKING:
    from rollout.model.admission import AdmissionReport
    from rollout.serving.prover import ProofRequest

READ_S = 10.0

_OF_PROOF = ("policy_name", "engine", "plans", "cache")
_OF_AGENT = ("host", "port", "period_s", "keep_serving_refusal")


@click.command("snapshot")
@click.argument("server", metavar="[HOST:PORT]", required=False)
@admission_options
@click.option(
    "--timeout",
    "limit_s",
    type=click.FloatRange(min=0, max=3600, min_open=True),
    help="Seconds in all.  [default: 10 to read a server, the policy's proof_s to prove]",
)
@click.option("--serve", is_flag=True, help="Prove once, then answer HTTP until SIGTERM: the agent.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the agent listens on.")
@click.option("--port", type=click.IntRange(1, 65535), help="TCP port that the agent listens on.")
@click.option(
    "--look-every",
    "period_s",
    default=30.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="Seconds between two looks at the devices.",
)
@click.option(
    "--keep-serving-refusal",
    is_flag=True,
    help="Where the container is refused, go on, and answer /readyz with 503 and the codes.",
)
@click.pass_context
def snapshot(
    context: click.Context,
    *,
    server: str | None,
    policy_name: str,
    engine: str,
    plans: Path | None,
    cache: Path | None,
    limit_s: float | None,
    serve: bool,
    host: str,
    port: int | None,
    period_s: float,
    keep_serving_refusal: bool,
) -> int:
    """Print what the server at HOST:PORT proves about itself, as JSON; its digest is checked.

    Without HOST:PORT this container is proven, as by `rollout admit`, and its snapshot printed; what was found goes to
    stderr. Exit codes: 0 admitted, 78 refused (a snapshot is printed all the same, unless the proof died).

    With --serve nothing is printed: the agent answers GET /v1/capabilities, /readyz, /healthz and /metrics. Exit codes:
    0 ended by SIGTERM, 78 refused.
    """
    if server is not None:
        from rollout.cli.commands.measure import read_snapshot

        _refuse(context, (*_OF_PROOF, *_OF_AGENT, "serve"), "is about this container, not about a server at HOST:PORT")
        click.echo(json.dumps(read_snapshot(server, limit_s or READ_S).to_json(), indent=2))
        return 0
    if not serve:
        _refuse(context, _OF_AGENT, "is about the agent: give --serve")
    from rollout.cli.exits import Exit
    from rollout.files.load import load_admission

    request = proof_request(load_admission(policy_name), engine=engine, plans=plans, cache=cache)
    if not serve:
        report = _proven(request, limit_s or request.policy.proof_s)
        if report.snapshot is not None:
            click.echo(json.dumps(report.snapshot.to_json(), indent=2))
        return 0 if report.admitted else int(Exit.REFUSED)
    from rollout.serving.agent import AgentOptions, run_agent

    if port is None:
        raise click.UsageError("--serve needs a --port")
    options = AgentOptions(
        host=host, port=port, period_s=period_s, probe_s=request.policy.probe_s, serves_refusal=keep_serving_refusal
    )
    return run_agent(lambda: _proven(request, limit_s or request.policy.proof_s), options)


def _refuse(context: click.Context, names: tuple[str, ...], why: str) -> None:
    """Refuse options that would be ignored."""
    for one in context.command.params:
        if one.name in names and context.get_parameter_source(one.name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{one.opts[0]} {why}")


def _proven(request: "ProofRequest", limit_s: float) -> "AdmissionReport":
    """Prove this container and tell on stderr what was found."""
    from rollout.report.admission import as_lines
    from rollout.serving.prover import prove_isolated

    report = prove_isolated(request, limit_s=limit_s)
    for line in as_lines(report):
        click.echo(line, err=True)
    return report
