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
    "--admission",
    default="gpu",
    show_default=True,
    help="What the server must prove: an admission policy file, or one of gpu, tensorrt, development-cpu.",
)
@click.option(
    "--engine",
    type=click.Choice(["ort", "diffusers"]),
    default="ort",
    show_default=True,
    help="Runtime: ONNX Runtime, or torch with diffusers (pip install 'rollout[diffusers]').",
)
@click.option(
    "--attention",
    type=click.Choice(["sdpa", "eager", "sliced"]),
    help="How the UNet computes attention: fused, in steps, or (diffusers) one head at a time.  [default: sdpa; eager "
    "for ort on the CPU]",
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
    help="Arithmetic of the UNet; ort needs the onnx package for another than fp32, int8 is ort's.  [default: fp16 on "
    "a GPU, fp32 on the CPU]",
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
    "--gpu-memory-limit",
    type=click.IntRange(0, 1 << 50),
    default=0,
    show_default=True,
    help="Bytes that ONNX Runtime's CUDA arena may take; 0 for all.",
)
@click.option(
    "--arena-strategy",
    type=click.Choice(["next-power-of-two", "same-as-requested"]),
    default="next-power-of-two",
    show_default=True,
    help="How ONNX Runtime's CUDA arena grows.",
)
@click.option(
    "--plans",
    type=click.Path(file_okay=False, path_type=Path),
    help="Store of engine plans (`rollout engines`), where the policy orders TensorRT.",
)
@click.option("--tf32", type=_ON_OFF, default="on", show_default=True, help="TF32 in ONNX Runtime's CUDA provider.")
def serve(
    *,
    host: str,
    port: int,
    pod_uid: str | None,
    cache: Path | None,
    admission: str,
    engine: str,
    attention: str | None,
    graph_optimization: str,
    arena: str,
    guidance: str,
    threads: int,
    spinning: str,
    execution: str,
    session: str,
    precision: str | None,
    prediction: str,
    side_max: int,
    queue_limit: int,
    gpu_memory_limit: int,
    arena_strategy: str,
    plans: Path | None,
    tf32: str,
) -> None:
    """Serve pictures over OpenAI's images API, and prove the stack before taking traffic.

    The options are what two releases may differ in; the defaults are the good release. GET /readyz answers 200 once
    the stack has proven what the admission policy demands. Exits 78, with a reason code for each fault, where it has
    not. SIGTERM drains.
    """
    import uuid

    from rollout.files.load import load_admission
    from rollout.serving import options as choices
    from rollout.serving.process import run_server

    demanded = load_admission(admission)
    made = choices.ServeOptions(
        host=host,
        port=port,
        pod_uid=pod_uid or str(uuid.uuid4()),
        cache=cache or default_cache(),
        admission=demanded.policy,
        matrix=demanded.matrix,
        engine_cache=demanded.engine_cache,
        engine=choices.EngineKind(engine),
        attention=choices.Attention(attention) if attention else None,
        graph_optimization=choices.GraphOptimization(graph_optimization),
        arena=arena == "on",
        guidance=choices.GuidanceMode(guidance),
        threads=threads,
        spinning=spinning == "on",
        execution=choices.ExecutionMode(execution),
        session=choices.SessionLifetime(session),
        precision=choices.Precision(precision) if precision else choices.default_precision(demanded.policy.profile),
        prediction=choices.Prediction(prediction),
        side_max=side_max,
        queue_limit=queue_limit,
        gpu_memory_limit=gpu_memory_limit,
        arena_strategy=choices.ArenaStrategy(arena_strategy),
        plans=plans,
        tf32=tf32 == "on",
    )
    wrong = choices.misfits(made)
    if wrong:
        profile = demanded.policy.profile
        raise click.UsageError(f"engine {engine} does not know {', '.join(wrong)} under profile {profile}")
    sys.exit(run_server(made))


def default_cache() -> Path:
    """Return the folder for model files, as the XDG specification finds it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification ignores relative paths.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "rollout"


if __name__ == "__main__":
    serve()
