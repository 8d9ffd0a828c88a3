"""The prompt set: deterministic requests that both colours get."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rollout.model.base import Strict
from rollout.model.canonical import digest_json
from rollout.model.release import Name

PROMPTS_SCHEMA = "rollout.prompts/v1"


class Prompt(Strict):
    """One request: text, seed and tensor shape."""

    id: Name
    text: Annotated[str, Field(min_length=1, max_length=2000)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    steps: Annotated[int, Field(ge=1, le=1000)]
    size: Annotated[str, Field(pattern=r"^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$")]
    batch: Annotated[int, Field(ge=1, le=64)] = 1

    @property
    def shape(self) -> tuple[str, int]:
        """What decides the tensor shapes, and so which kernels and arenas must be warm."""
        return (self.size, self.batch)


class PromptSet(Strict):
    """A file of prompts."""

    schema_: Literal["rollout.prompts/v1"] = Field(alias="schema")
    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        ids = [one.id for one in self.prompts]
        double = sorted({one for one in ids if ids.count(one) > 1})
        if double:
            raise ValueError(f"two prompts have the id {double[0]!r}")
        return self

    @property
    def digest(self) -> str:
        """The digest that evidence cites."""
        return digest_json(self.model_dump(mode="json", by_alias=True))

    def shapes(self) -> tuple[Prompt, ...]:
        """Return the first prompt of each tensor shape, in file order."""
        seen: dict[tuple[str, int], Prompt] = {}
        for one in self.prompts:
            seen.setdefault(one.shape, one)
        return tuple(seen.values())
