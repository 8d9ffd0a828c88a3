"""Manifests: which files a key's plan consists of, pinned by digest."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from rollout.model.base import Strict
from rollout.model.canonical import canonical_bytes
from rollout.serving.plans.faults import PlanFault, plan_error
from rollout.serving.plans.key import Digest, PlanKey
from rollout.serving.plans.names import fault_of_name

Schema = Literal["rollout.engine-plan/v1"]
MANIFEST_SCHEMA: Schema = "rollout.engine-plan/v1"
MANIFEST_BYTES_MAX = 2**20
"""A manifest has a few hundred bytes; what is larger is none."""


def _check_name(name: str) -> str:
    fault = fault_of_name(name)
    if fault:
        raise ValueError(f"the name {fault}")
    return name


class PlanFile(Strict):
    """One file, by the name under which the runtime looks for it."""

    name: Annotated[str, AfterValidator(_check_name)]
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class PlanManifest(Strict):
    """The plan of one key; its first file is the one that a session is opened with."""

    schema_: Schema = Field(alias="schema")
    key: PlanKey
    files: Annotated[tuple[PlanFile, ...], Field(min_length=1)]

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True))


class _AnyManifest(BaseModel):
    """What every version of a manifest has."""

    schema_: str = Field(alias="schema")


def parse_manifest(data: bytes, *, name: str) -> PlanManifest:
    """Read a manifest.

    Args:
        data: The whole file.
        name: What to call it in messages.

    Raises:
        PlanError: plan_manifest_damaged, or plan_manifest_unknown where the schema is of another version.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise plan_error(PlanFault.MANIFEST_DAMAGED, f"{name} has over {MANIFEST_BYTES_MAX} bytes: it is no manifest")
    try:
        schema = _AnyManifest.model_validate_json(data).schema_
        if schema != MANIFEST_SCHEMA:
            raise plan_error(
                PlanFault.MANIFEST_UNKNOWN,
                f"{name} has schema {schema[:60]!r}, this version knows {MANIFEST_SCHEMA!r}",
            )
        return PlanManifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise plan_error(PlanFault.MANIFEST_DAMAGED, f"{name} is damaged: {key or 'file'}: {first['msg']}") from error
