"""What the files of a plan prove about themselves, held against the key that they are stored under."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from rollout.errors import UnavailableError
from rollout.model.admission import Provider
from rollout.model.verdict import Reason
from rollout.serving.plans.ep_context import Beside, Embedded, EpContext, Shared, ep_contexts
from rollout.serving.plans.faults import PlanFault, plan_error, reason
from rollout.serving.plans.header import HEADER_BYTES, PlanHeader, parse_header
from rollout.serving.plans.key import PlanKey
from rollout.serving.plans.onnx_file import external_names, load_onnx

ONNX_SUFFIX = ".onnx"

# ONNX Runtime writes the compute capability into the name of an engine's file, as in ..._fp16_sm90.engine.
_SM_IN_NAME = re.compile(r"_sm([0-9]{2,3}\+?)(?=[._]|$)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Where something is said, and what."""

    where: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The files of a plan, the one to open first, and what they say.

    A bare plan says its TensorRT version and, where ONNX Runtime named it, its compute capability; nothing in it
    says for which model, resolution, batch and precision it was built.
    """

    names: tuple[str, ...]
    tensorrt: tuple[Proof, ...]
    sm: tuple[Proof, ...]


def examine(entry: str, *, locate: Callable[[str], Path]) -> Contents:
    """Read a plan, or an EPContext model with the plans that it names.

    Args:
        entry: Name of the file to open; one that ends in .onnx is an EPContext model, any other a bare plan.
        locate: Finds a file by its name; raises PlanError where it is not there.

    Raises:
        PlanError: A file is missing, truncated, foreign, or reaches out of its folder.
        ConfigError: The onnx package is missing.
        UnavailableError: The disk failed.
    """
    if not entry.endswith(ONNX_SUFFIX):
        header = read_header(locate(entry), name=entry)
        return Contents(names=(entry,), tensorrt=(Proof(where=entry, value=header.tensorrt),), sm=_sm_of_name(entry))
    model = load_onnx(locate(entry))
    names, tensorrt, sm = {entry: None}, [], []  # A dict keeps the order in which the names were found.
    for context in ep_contexts(model, name=entry):
        where = f"an EPContext node of {entry}"
        _check_source(context, where=where)
        if context.hardware_architecture:
            sm.append(Proof(where=where, value=context.hardware_architecture))
        match context.compiled:
            case Embedded(data=data):
                tensorrt.append(Proof(where=where, value=parse_header(data, name=where).tensorrt))
            case Beside(name=name):
                names[name] = None
                tensorrt.append(Proof(where=name, value=read_header(locate(name), name=name).tensorrt))
                sm.extend(_sm_of_name(name))
            case Shared():
                pass
            case _ as unknown:
                assert_never(unknown)
    if not tensorrt:
        raise plan_error(PlanFault.CONTEXT_DAMAGED, f"no EPContext node of {entry} holds or names an engine")
    for name in external_names(model, name=entry):
        locate(name)
        names[name] = None
    return Contents(names=tuple(names), tensorrt=tuple(tensorrt), sm=tuple(sm))


def contradictions(contents: Contents, key: PlanKey) -> tuple[Reason, ...]:
    """Say what the files prove that the key denies; empty where nothing is."""
    return (
        *(
            reason(
                PlanFault.TENSORRT_MISMATCH,
                f"{proof.where} was built by TensorRT {proof.value}, {_age(proof.value, key.tensorrt)} than the key's "
                f"{key.tensorrt}",
            )
            for proof in contents.tensorrt
            if proof.value != key.tensorrt
        ),
        *(
            reason(PlanFault.SM_MISMATCH, f"{proof.where} is for sm{proof.value}, the key says sm{key.sm}")
            for proof in contents.sm
            if proof.value != key.sm
        ),
    )


def read_header(path: Path, *, name: str) -> PlanHeader:
    """Read a plan file's header.

    Raises:
        PlanError: plan_truncated or plan_foreign.
        UnavailableError: The disk failed.
    """
    try:
        with path.open("rb") as file:
            return parse_header(file.read(HEADER_BYTES), name=name)
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}; see to the disk") from error


def _check_source(context: EpContext, *, where: str) -> None:
    """Refuse what another provider compiled; an older ONNX Runtime names no source, and then the header decides."""
    if context.source not in ("", Provider.TENSORRT):
        raise plan_error(PlanFault.FOREIGN, f"{where} was compiled by {context.source}, not by {Provider.TENSORRT}")


def _sm_of_name(name: str) -> tuple[Proof, ...]:
    return tuple(Proof(where=f"by its name, {name}", value=sm) for sm in _SM_IN_NAME.findall(name))


def _age(found: str, wanted: str) -> str:
    older = tuple(map(int, found.split("."))) < tuple(map(int, wanted.split(".")))
    return "older" if older else "newer"
