"""`rollout serve`: the reference server, a tiny Stable Diffusion on ONNX Runtime."""

import os
import sys
from pathlib import Path

import click

# The values stand here as text so that `rollout --help` loads no server; a test compares them with the enums.
_ON_OFF = click.Choice(["on", "off"])


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="PORT",
    show_envvar=True,
    required=True,
    help="TCP port to listen on.",
)
@click.option(
    "--pod-uid",
    envvar="ROLLOUT_POD_UID",
    show_envvar=True,
    help="Name of this instance, sent with every answer.  [default: a random UUID]",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for model files made on first use.  [default: $XDG_CACHE_HOME/rollout or ~/.cache/rollout]",
)
@click.option(
    "--engine",
    type=click.Choice(["ort", "diffusers"]),
    default="ort",
    show_default=True,
    help="Runtime: ONNX Runtime, or torch with diffusers (pip install 'rollout[diffusers]').",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where diffusers computes; there is no fallback.",
)
@click.option(
    "--attention",
    type=click.Choice(["sdpa", "eager", "sliced"]),
    default="sdpa",
    show_default=True,
    help="How diffusers computes attention: fused, in steps, or one head at a time.",
)
@click.option(
    "--graph-optimization",
    type=click.Choice(["all", "extended", "basic", "disabled"]),
    default="all",
    show_default=True,
    help="How far ONNX Runtime rewrites the graphs.",
)
@click.option("--arena", type=_ON_OFF, default="on", show_default=True, help="Memory arena and memory pattern.")
@click.option(
    "--guidance",
    type=click.Choice(["batched", "two-calls"]),
    default="batched",
    show_default=True,
    help="How the UNet is evaluated with and without the prompt.",
)
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Intra-op threads.")
@click.option("--spinning", type=_ON_OFF, default="off", show_default=True, help="Let idle threads spin.")
@click.option(
    "--execution",
    type=click.Choice(["sequential", "parallel"]),
    default="sequential",
    show_default=True,
    help="Order of independent graph nodes.",
)
@click.option(
    "--session",
    type=click.Choice(["shared", "per-request"]),
    default="shared",
    show_default=True,
    help="Lifetime of inference sessions.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Arithmetic of the UNet; int8 is ort's and needs the onnx package, fp16 is diffusers'.",
)
@click.option(
    "--prediction",
    type=click.Choice(["epsilon", "v_prediction"]),
    default="epsilon",
    show_default=True,
    help="What the scheduler takes the UNet's output for; the shipped model predicts epsilon.",
)
@click.option(
    "--side-max",
    type=click.IntRange(64, 2048),
    default=256,
    show_default=True,
    help="Largest side of a picture in pixels; memory grows with its fourth power.",
)
@click.option(
    "--queue-limit",
    type=click.IntRange(0, 100_000),
    default=64,
    show_default=True,
    help="Requests that may wait; a further one is answered 429.",
)
@click.option(
    "--self-test-limit",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds that the warm self-test picture may take.",
)
def serve(
    *,
    host: str,
    port: int,
    pod_uid: str | None,
    cache: Path | None,
    engine: str,
    device: str,
    attention: str,
    graph_optimization: str,
    arena: str,
    guidance: str,
    threads: int,
    spinning: str,
    execution: str,
    session: str,
    precision: str,
    prediction: str,
    side_max: int,
    queue_limit: int,
    self_test_limit: float,
) -> None:
    """Serve pictures over OpenAI's images API, and prove the stack before taking traffic.

    The options are what two releases may differ in; the defaults are the good release. GET /readyz answers 200 once
    the capability snapshot is collected and the warm self-test passed. Exits 78 when the stack is not what was asked
    for. SIGTERM drains.
    """
    import uuid

    from rollout.serving import options as choices
    from rollout.serving.process import run_server

    made = choices.ServeOptions(
        host=host,
        port=port,
        pod_uid=pod_uid or str(uuid.uuid4()),
        cache=cache or _default_cache(),
        engine=choices.EngineKind(engine),
        device=choices.Device(device),
        attention=choices.Attention(attention),
        graph_optimization=choices.GraphOptimization(graph_optimization),
        arena=arena == "on",
        guidance=choices.GuidanceMode(guidance),
        threads=threads,
        spinning=spinning == "on",
        execution=choices.ExecutionMode(execution),
        session=choices.SessionLifetime(session),
        precision=choices.Precision(precision),
        prediction=choices.Prediction(prediction),
        side_max=side_max,
        queue_limit=queue_limit,
        self_test_limit_s=self_test_limit,
    )
    wrong = choices.misfits(made)
    if wrong:
        raise click.UsageError(f"engine {engine} does not know {', '.join(wrong)}")
    sys.exit(run_server(made))


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification ignores relative paths.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "rollout"


if __name__ == "__main__":
    serve()
