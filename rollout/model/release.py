"""A release: what a candidate is made of on the local platform."""

from typing import Annotated, Literal

from pydantic import Field

from rollout.model.base import Strict
from rollout.model.canonical import digest_json

RELEASE_SCHEMA = "rollout.release/v1"

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A DNS label, as Kubernetes demands of names."""


class Release(Strict):
    """One deployable version of a stack."""

    schema_: Literal["rollout.release/v1"] = Field(alias="schema")
    name: Name
    command: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """The argv of the server. The platform sets PORT and ROLLOUT_POD_UID in its environment."""
    env: dict[str, str] = {}
    replicas: Annotated[int, Field(ge=1, le=16)] = 1

    @property
    def digest(self) -> str:
        """What this release is, whatever it is called: the local counterpart of an image digest."""
        return digest_json({"command": self.command, "env": self.env, "replicas": self.replicas})
