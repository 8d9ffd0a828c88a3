"""The body of `POST /v1/images/generations` and OpenAI's error form."""

import re
import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rollout.errors import ConfigError
from rollout.serving.pipeline import PictureRequest

SIDE_MULTIPLE = 16
"""The VAE scales by 8 and the UNet halves the latents once."""
SIDE_MIN = 64
STEPS_MAX = 150
COUNT_MAX = 8
PROMPT_CHARACTERS_MAX = 4000


class BadRequestError(ConfigError):
    """A request that cannot be served; `param` names the field at fault, empty where none is."""

    def __init__(self, message: str, *, param: str = "", code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ImageRequestBody(BaseModel):
    """OpenAI's images API with the extra fields `seed` and `num_inference_steps`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    prompt: Annotated[str, Field(min_length=1, max_length=PROMPT_CHARACTERS_MAX)]
    model: Annotated[str, Field(max_length=200)] | None = None
    """Accepted for OpenAI clients; this server has one model."""
    n: Annotated[int, Field(ge=1, le=COUNT_MAX)] | None = None
    size: str | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    user: Annotated[str, Field(max_length=200)] | None = None
    """Accepted for OpenAI clients and ignored."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=STEPS_MAX)] | None = None


def parse_image_request(body: bytes, *, side_max: int) -> PictureRequest:
    """Read and check a request body; absent fields get 128x128, 8 steps, one picture and a random seed.

    Args:
        body: As it came.
        side_max: Largest side of a picture that this release draws, in pixels.

    Raises:
        BadRequestError: The body is no JSON object of this API; the message names the field and the allowed values.
    """
    try:
        parsed = ImageRequestBody.model_validate_json(body)
    except ValidationError as error:
        raise _bad_request(error) from error
    width, height = _parse_size(parsed.size or "128x128", side_max=side_max)
    return PictureRequest(
        prompt=parsed.prompt,
        seed=secrets.randbelow(2**32) if parsed.seed is None else parsed.seed,
        steps=8 if parsed.num_inference_steps is None else parsed.num_inference_steps,
        width=width,
        height=height,
        count=1 if parsed.n is None else parsed.n,
    )


def error_body(message: str, *, kind: str, param: str = "", code: str) -> dict[str, Any]:
    """Return OpenAI's error object; `kind` is its `type`."""
    return {"error": {"message": message, "type": kind, "param": param or None, "code": code}}


def _bad_request(error: ValidationError) -> BadRequestError:
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(word) for word in first["loc"])
    where = f"{param}: " if param else "the body: "
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}.get(
        first["type"],
        "invalid_json" if first["type"] == "json_invalid" else "invalid_value",
    )
    return BadRequestError(where + first["msg"], param=param, code=code)


def _parse_size(size: str, *, side_max: int) -> tuple[int, int]:
    matched = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", size)
    sides = [int(side) for side in matched.groups()] if matched else []
    if not sides or any(side % SIDE_MULTIPLE or not SIDE_MIN <= side <= side_max for side in sides):
        raise BadRequestError(
            f'size: must be "WxH", each side a multiple of {SIDE_MULTIPLE} from {SIDE_MIN} to {side_max}',
            param="size",
        )
    return sides[0], sides[1]
