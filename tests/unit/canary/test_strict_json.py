import pytest

from rollout.canary.strict_json import parse_json


def test_plain_json_is_read():
    assert parse_json(b'{"a": [1, 2.5, null, "\xc3\xa4"]}') == {"a": [1, 2.5, None, "ä"]}


@pytest.mark.parametrize(
    ("body", "claim"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[" + b"9" * 5000 + b"]", "digits"),
    ],
)
def test_anything_else_is_refused_with_a_reason(body, claim):
    with pytest.raises(ValueError, match=claim):
        parse_json(body)


def test_the_reason_quotes_nothing_of_the_body():
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(b'{"secret": 1, "secret": 2}')
    assert "secret" not in str(caught.value)
