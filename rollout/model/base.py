"""The strict base of every type through which bytes enter the program."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen, strictly typed, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
