"""The stack file: where a stack runs and which files govern it."""

from typing import Annotated, Literal

from pydantic import Field

from rollout.model.base import Strict
from rollout.model.release import Name

STACK_SCHEMA = "rollout.stack/v1"


class LocalPlatformSpec(Strict):
    """Processes on this machine."""

    kind: Literal["local"]
    grace_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 30.0
    """Time between SIGTERM and SIGKILL."""


class EnvoyRouterSpec(Strict):
    """An Envoy on this machine."""

    kind: Literal["envoy"]
    listen_host: Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+$")]
    listen_port: Annotated[int, Field(ge=1, le=65535)]
    request_timeout_s: Annotated[float, Field(gt=0.0, le=3600.0)]


class Stack(Strict):
    """One service that is rolled out: platform, router, protocol, and its governing files (relative to this one)."""

    schema_: Literal["rollout.stack/v1"] = Field(alias="schema")
    name: Name
    platform: LocalPlatformSpec
    router: EnvoyRouterSpec
    protocol: Literal["openai-images"]
    policy: Annotated[str, Field(min_length=1)]
    prompts: Annotated[str, Field(min_length=1)]
    state: Annotated[str, Field(min_length=1)]
    """Folder for journal, evidence, baselines and the platform's records."""
