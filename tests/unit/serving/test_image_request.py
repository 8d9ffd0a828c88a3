import json

import pytest

from rollout.serving.image_request import BadRequestError, parse_image_request


def _parse(**fields):
    return parse_image_request(json.dumps({"prompt": "a cat", **fields}).encode(), side_max=256)


def test_a_prompt_alone_is_enough():
    request = _parse()
    assert (request.width, request.height, request.steps, request.count) == (128, 128, 8, 1)


def test_a_request_without_a_seed_gets_one_of_its_own():
    assert len({_parse().seed for _ in range(4)}) > 1


def test_every_field_reaches_the_pipeline():
    request = _parse(seed=9, num_inference_steps=3, size="96x64", n=2, response_format="b64_json", model="m", user="u")
    assert (request.seed, request.steps, request.width, request.height, request.count) == (9, 3, 96, 64, 2)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": 7}, "prompt", "invalid_value"),
        ({"prompt": "x" * 4001}, "prompt", "invalid_value"),
        ({"size": "100x128"}, "size", "invalid_value"),
        ({"size": "272x128"}, "size", "invalid_value"),
        ({"size": "128"}, "size", "invalid_value"),
        ({"size": "128x128\n"}, "size", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"seed": -1}, "seed", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_value"),
        ({"num_inference_steps": 0}, "num_inference_steps", "invalid_value"),
        ({"response_format": "url"}, "response_format", "invalid_value"),
        ({"steps": 8}, "steps", "unknown_parameter"),
    ],
)
def test_a_field_out_of_range_is_named(fields, param, code):
    with pytest.raises(BadRequestError) as caught:
        _parse(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert str(caught.value).startswith(param)


@pytest.mark.parametrize("body", [b"", b"{", b'{"prompt": "\\ud800"}', b"\xff"])
def test_a_body_that_is_no_json_is_refused(body):
    with pytest.raises(BadRequestError) as caught:
        parse_image_request(body, side_max=256)
    assert caught.value.code == "invalid_json"


def test_a_missing_prompt_is_named():
    with pytest.raises(BadRequestError) as caught:
        parse_image_request(b"{}", side_max=256)
    assert (caught.value.param, caught.value.code) == ("prompt", "missing_required_parameter")


def test_a_refusal_never_repeats_the_prompt():
    with pytest.raises(BadRequestError) as caught:
        _parse(prompt="secret " * 1000)
    assert "secret" not in str(caught.value)
