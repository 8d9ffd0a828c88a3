"""`rollout engines`: what TensorRT compiled, kept by key and digest, so that no server compiles at load."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

import click

from rollout.cli.options import output_option

if TYPE_CHECKING:
    from rollout.model.verdict import Reason
    from rollout.serving.plans.ep_context import Compiled
    from rollout.serving.plans.key import PlanKey
    from rollout.serving.plans.store import StoredPlan

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_SIZE = click.IntRange(1)


def store_option(command: F) -> F:
    """Add `--store`."""
    return click.option(
        "--store",
        "folder",
        required=True,
        envvar="ROLLOUT_ENGINES",
        show_envvar=True,
        type=click.Path(path_type=Path, file_okay=False),
        help="The folder of engine plans.",
    )(command)


def key_options(command: F) -> F:
    """Add the options that name a key, but for model and TensorRT version."""
    options = (
        click.option("--width", required=True, type=_SIZE, help="Pixels."),
        click.option("--height", required=True, type=_SIZE, help="Pixels."),
        click.option("--batch", required=True, type=_SIZE, help="Pictures at a time."),
        click.option("--precision", required=True, type=click.Choice(["fp32", "fp16", "int8"])),
        click.option("--sm", required=True, help="Compute capability: 90 or 9.0; 80+ for Ampere and newer."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group("engines")
def engines() -> None:
    """Build, check and keep engine plans, so that no server compiles at load."""


@engines.command("build")
@click.argument("model", metavar="MODEL.onnx", type=_FILE)
@store_option
@key_options
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="A dimension that the model leaves open.")
@click.option("--embed", is_flag=True, help="Put the engine inside the EPContext model (below 2 GiB).")
@click.option("--replace", is_flag=True, help="Take the place of another plan with this key.")
def build(
    model: Path,
    folder: Path,
    width: int,
    height: int,
    batch: int,
    precision: str,
    sm: str,
    dims: tuple[str, ...],
    *,
    embed: bool,
    replace: bool,
) -> int:
    """Build MODEL.onnx for one key on this machine's GPU, and store it. Takes minutes.

    Exit codes: 0, 2 the model or an option is wrong, 5 this machine cannot build it.
    """
    from rollout.serving.options import Precision
    from rollout.serving.plans.build import BuildOrder, build_plan
    from rollout.serving.plans.key import parse_sm
    from rollout.serving.plans.store import PlanStore

    order = BuildOrder(
        model=model,
        width=width,
        height=height,
        batch=batch,
        precision=Precision(precision),
        sm=parse_sm(sm),
        dims=dict(_dim(one) for one in dims),
        embedded=embed,
    )
    with _input_faults():
        click.echo(_line(build_plan(order, store=PlanStore(folder), replace=replace)))
    return 0


@engines.command("add")
@click.argument("plan", metavar="PLAN", type=_FILE)
@store_option
@click.option(
    "--model", required=True, help="The ONNX model that it was built from, or that model's sha256:... digest."
)
@key_options
@click.option("--replace", is_flag=True, help="Take the place of another plan with this key.")
def add(
    plan: Path,
    folder: Path,
    model: str,
    width: int,
    height: int,
    batch: int,
    precision: str,
    sm: str,
    *,
    replace: bool,
) -> int:
    """Store a PLAN that was built elsewhere: an engine file, or an EPContext model (.onnx) with its engines beside it.

    The TensorRT version is read from the plan. What the plan says about its GPU must agree with --sm.

    Exit codes: 0, 2 the file is no such plan, or the key has another one.
    """
    from rollout.serving.plans.contents import examine
    from rollout.serving.plans.names import locate_inside
    from rollout.serving.plans.store import PlanStore

    with _input_faults():
        contents = examine(plan.name, locate=lambda name: locate_inside(plan.parent, name))
        key = _key(model, width, height, batch, precision, contents.tensorrt[0].value, sm)
        click.echo(_line(PlanStore(folder).add(key, plan, replace=replace)))
    return 0


@engines.command("place")
@store_option
@click.option("--model", required=True, help="The ONNX model, or its sha256:... digest.")
@key_options
@click.option("--tensorrt", required=True, help="All four numbers, as 10.9.0.34.")
@click.option("--to", "target", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder.")
def place(
    folder: Path,
    model: str,
    width: int,
    height: int,
    batch: int,
    precision: str,
    sm: str,
    tensorrt: str,
    target: Path,
) -> int:
    """Check every byte of one key's plan, and copy its files into a folder for a server to load.

    Exit codes: 0, 2 bad input, 3 there is no such plan or it must not be loaded.
    """
    from rollout.model.verdict import Reason
    from rollout.serving.plans.faults import PlanError
    from rollout.serving.plans.key import parse_tensorrt
    from rollout.serving.plans.store import PlanStore

    with _input_faults():
        key = _key(model, width, height, batch, precision, parse_tensorrt(tensorrt), sm)
    store = PlanStore(folder)
    try:
        found = store.find(key)
        if not isinstance(found, Reason):
            click.echo(str(store.place(found, target)))
            return 0
        reasons: tuple[Reason, ...] = (found,)
    except PlanError as error:
        reasons = error.reasons
    for reason in reasons:
        click.echo(f"rollout: {reason.code}: {reason.text}", err=True)
    return 3


@engines.command("list")
@store_option
@output_option
def list_(folder: Path, output: str) -> int:
    """List every plan. Objects are not opened; `verify` does that.

    Exit codes: 0, 2 the folder is no store, 3 a manifest cannot be read.
    """
    from rollout.serving.plans.store import PlanStore

    found = PlanStore(folder).list_plans()
    if output == "json":
        rows = [
            {
                "key": plan.key.model_dump(mode="json"),
                "digest": plan.digest,
                "bytes": plan.size_bytes,
                "files": [file.model_dump(mode="json") for file in plan.files],
            }
            for plan in found.plans
        ]
        _print_json("rollout.engines/v1", plans=rows, faults=[_fault(one) for one in found.faults])
    else:
        for plan in found.plans:
            click.echo(_line(plan))
        _print_faults(found.faults)
        if not found.plans and not found.faults:
            click.echo("the store is empty")
    return 3 if found.faults else 0


@engines.command("verify")
@store_option
@output_option
def verify(folder: Path, output: str) -> int:
    """Check every manifest and every byte, and what the plans say about themselves. Orphans are only warned about.

    Exit codes: 0 sound, 2 the folder is no store, 3 a plan must not be loaded.
    """
    from rollout.model.verdict import Severity
    from rollout.serving.plans.store import PlanStore

    store = PlanStore(folder)
    found = store.verify()
    faults = [_fault(one) for one in found]
    sound = all(one["severity"] != Severity.BLOCK.value for one in faults)
    count = len(store.list_plans().plans)
    if output == "json":
        _print_json("rollout.engines-verify/v1", sound=sound, plans=count, faults=faults)
    else:
        _print_faults(found)
        click.echo(f"{'sound' if sound else 'NOT sound'}: {count} plans, {len(faults)} findings")
    return 0 if sound else 3


@engines.command("prune")
@store_option
@click.option("--keep-tensorrt", "keep", multiple=True, metavar="VERSION", help="Remove the keys of other versions.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed.")
@output_option
def prune(folder: Path, keep: tuple[str, ...], output: str, *, dry_run: bool) -> int:
    """Remove what no manifest names; with --keep-tensorrt also every key of another TensorRT.

    Exit codes: 0, 2 the folder is no store or no plan would be left, 4 a manifest cannot be read.
    """
    from rollout.serving.plans.key import parse_tensorrt
    from rollout.serving.plans.store import PlanStore

    done = PlanStore(folder).prune(keep_tensorrt=[parse_tensorrt(one) for one in keep], dry_run=dry_run)
    if output == "json":
        _print_json(
            "rollout.engines-prune/v1",
            dry_run=dry_run,
            keys=[key.model_dump(mode="json") for key in done.keys],
            files=list(done.objects),
            bytes_freed=done.bytes_freed,
        )
        return 0
    verb = "would remove" if dry_run else "removed"
    for text in (*(f"key {key.text()}" for key in done.keys), *(f"file {name}" for name in done.objects)):
        click.echo(f"{verb} {text}")
    click.echo(f"{done.bytes_freed} bytes {'would be ' if dry_run else ''}freed")
    return 0


@engines.command("inspect")
@click.argument("file", metavar="FILE", type=_FILE)
def inspect(file: Path) -> int:
    """Print what a plan's header or a model's EPContext nodes (.onnx) say, as JSON, without TensorRT.

    Exit codes: 0, 2 the file is neither.
    """
    from rollout.serving.plans.contents import ONNX_SUFFIX, read_header
    from rollout.serving.plans.ep_context import read_ep_contexts

    with _input_faults():
        if not file.name.endswith(ONNX_SUFFIX):
            header = read_header(file, name=str(file))
            _print_json(
                "rollout.engine-file/v1", kind="plan", tensorrt=header.tensorrt, serialization=header.serialization
            )
            return 0
        rows = [
            {
                **_compiled(one.compiled),
                "source": one.source,
                "sdk_version": one.sdk_version,
                "hardware_architecture": one.hardware_architecture,
                "onnx_model_filename": one.onnx_model_filename,
                "partition_name": one.partition_name,
            }
            for one in read_ep_contexts(file)
        ]
    _print_json("rollout.engine-file/v1", kind="ep_context", nodes=rows)
    return 0


@contextmanager
def _input_faults() -> Iterator[None]:
    """Report what is wrong with a file that the caller gave as wrong input; that nothing can be built here is not."""
    from rollout.errors import ConfigError
    from rollout.serving.plans.faults import PlanBuildError, PlanError

    try:
        yield
    except PlanBuildError:
        raise
    except PlanError as error:
        from rollout.model.reasons import REASONS

        raise ConfigError(f"{error}\n  {REASONS[error.code].remedy}") from error


def _key(model: str, width: int, height: int, batch: int, precision: str, tensorrt: str, sm: str) -> "PlanKey":
    from rollout.serving.options import Precision
    from rollout.serving.plans.key import PlanKey, parse_sm

    return PlanKey(
        model=_model_digest(model),
        width=width,
        height=height,
        batch=batch,
        precision=Precision(precision),
        tensorrt=tensorrt,
        sm=parse_sm(sm),
    )


def _model_digest(text: str) -> str:
    """Return the digest that a person gave, or that of the model file that a person gave.

    Raises:
        ConfigError: It is neither.
        PlanError: The file is no ONNX model.
    """
    import re

    from rollout.errors import ConfigError
    from rollout.serving.plans.onnx_file import digest_model

    if re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        return text
    if not Path(text).is_file():
        raise ConfigError(f"--model {text}: neither a file nor sha256: and 64 hex digits")
    return digest_model(Path(text))


def _dim(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=")
    if not name or not size.isascii() or not size.isdigit() or int(size) < 1:
        raise click.BadParameter(f"{text!r}: write NAME=SIZE, the size a whole number from 1 on", param_hint="--dim")
    return name, int(size)


def _compiled(compiled: "Compiled") -> dict[str, Any]:
    from rollout.serving.plans.ep_context import Beside, Embedded, Shared
    from rollout.serving.plans.faults import PlanError
    from rollout.serving.plans.header import parse_header

    match compiled:
        case Embedded(data=data):
            try:
                tensorrt = parse_header(data, name="the engine inside").tensorrt
            except PlanError as error:  # Other providers embed other bytes, which is a fact like any other.
                return {"engine": "inside", "bytes": len(data), "fault": str(error)}
            return {"engine": "inside", "bytes": len(data), "tensorrt": tensorrt}
        case Beside(name=name):
            return {"engine": "beside", "file": name}
        case Shared():
            return {"engine": "shared with the main node"}
        case _ as unknown:
            assert_never(unknown)


def _line(plan: "StoredPlan") -> str:
    return (
        f"{plan.digest[7:19]} {plan.key.text()}: {plan.files[0].name}, {len(plan.files)} files, {plan.size_bytes} bytes"
    )


def _fault(one: "Reason") -> dict[str, str]:
    from rollout.model.reasons import REASONS

    return {"code": one.code, "severity": REASONS[one.code].severity.value, "text": one.text}


def _print_faults(found: "tuple[Reason, ...]") -> None:
    for one in map(_fault, found):
        click.echo(f"{one['severity']:5} {one['code']}: {one['text']}")


def _print_json(schema: str, **content: Any) -> None:  # noqa: ANN401 - any JSON value
    click.echo(json.dumps({"schema": schema, **content}, indent=2))
