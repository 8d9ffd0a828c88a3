"""Commands that measure or compare without a rollout: diff, compare."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rollout.cli.options import console, output_option

if TYPE_CHECKING:
    from rollout.canary.interface import Target
    from rollout.model.roles import Address
    from rollout.model.snapshot import CapabilitySnapshot


@click.command("diff")
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
@output_option
def diff(before: str, after: str, output: str) -> int:
    """Compare two capability snapshots; each is HOST:PORT or a file that `rollout snapshot` wrote.

    docs/reasons.md explains each code. Waivers and allowed differences are the rollout's; here everything counts.

    Exit codes: 0 nothing that blocks differs, 3 a difference blocks.
    """
    from rollout.cli.render import render_diff
    from rollout.gates.differences import diff as differences
    from rollout.model.reasons import REASONS
    from rollout.model.verdict import Severity

    found = differences(read_snapshot(before, 10.0), read_snapshot(after, 10.0))
    if output == "json":
        rows = [
            {
                "severity": one.severity.value,
                "code": one.code,
                "key": one.key,
                "before": one.before,
                "after": one.after,
                "remedy": REASONS[one.code].remedy,
            }
            for one in found
        ]
        click.echo(json.dumps({"differences": rows}, indent=2))
    else:
        render_diff(console(), found)
    return 3 if any(one.severity is Severity.BLOCK for one in found) else 0


@click.command("compare")
@click.argument("blue", metavar="BLUE")
@click.argument("green", metavar="GREEN")
@click.option("--policy", "policy_path", required=True, type=click.Path(path_type=Path), help="Margins and budget.")
@click.option("--prompts", "prompts_path", required=True, type=click.Path(path_type=Path), help="The prompt set.")
@click.option("--seed", default="compare", show_default=True, help="Decides the order of prompts and colours.")
@output_option
def compare(blue: str, green: str, policy_path: Path, prompts_path: Path, seed: str, output: str) -> int:
    """Measure two running servers (HOST:PORT) in pairs and judge green by blue. Moves no traffic, stores nothing.

    The A/A history is blue against itself: one process, so the difference between two processes of one release is
    not inside. A rollout measures that too; trust it rather than this where the two disagree.

    Exit codes: 0 PASS, 3 BREACH, 4 INCONCLUSIVE.
    """
    from rollout.cli.comparison import compare_servers
    from rollout.cli.exits import exit_of_outcome
    from rollout.files.load import load_policy, load_prompts

    policy, prompts = load_policy(policy_path), load_prompts(prompts_path)
    verdict = compare_servers(
        policy,
        prompts,
        blue=target_of(blue),
        green=target_of(green),
        seed=seed,
        say=lambda line: click.echo(line, err=True),
    )
    if output == "json":
        click.echo(json.dumps(verdict.model_dump(mode="json"), indent=2))
    else:
        click.echo(verdict.outcome.value)
        for gate in verdict.gates:
            for reason in gate.reasons:
                click.echo(f"  {gate.gate:9} {gate.outcome.value:12} {reason.text}")
    return int(exit_of_outcome(verdict.outcome))


def read_snapshot(source: str, timeout_s: float) -> "CapabilitySnapshot":
    """Read a snapshot from a server or from a file.

    Raises:
        ConfigError: The source is neither.
        EvidenceError: What was read is no snapshot.
        UnavailableError: The server does not answer.
    """
    from rollout.canary.openai_images import OpenAIImages
    from rollout.files.load import load_snapshot_file

    if Path(source).exists():
        return load_snapshot_file(Path(source))
    protocol = OpenAIImages()
    try:
        return protocol.fetch_snapshot(parse_address(source), timeout_s=timeout_s)
    finally:
        protocol.close()


def target_of(server: str) -> "Target":
    """Return a server as a canary target: who answers there is who answers now.

    Raises:
        ConfigError: This is no address.
        UnavailableError: Nobody answers there, or not as a rollout server.
    """
    from rollout.canary.interface import Target
    from rollout.cli.comparison import identity

    address = parse_address(server)
    return Target(address=address, pod_uid=identity(address))


def parse_address(text: str) -> "Address":
    """Read HOST:PORT.

    Raises:
        ConfigError: It is something else.
    """
    from rollout.errors import ConfigError
    from rollout.model.roles import Address

    try:
        return Address.parse(text.removeprefix("http://").rstrip("/"))
    except ValueError:
        raise ConfigError(f"{text!r} is neither a file nor HOST:PORT") from None
