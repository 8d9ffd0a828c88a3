import copy
import json
import os
import re
from datetime import date
from functools import partial
from importlib import resources
from pathlib import Path

import pytest
import yaml

from rollout.cli.commands.policy import KINDS
from rollout.errors import ConfigError
from rollout.files import json_schemas, yaml_lines
from rollout.files import problems as file_problems
from rollout.files.load import (
    FILE_BYTES_MAX,
    json_schema,
    load_any,
    load_policy,
    load_prompts,
    load_release,
    load_snapshot_file,
    load_stack,
)
from rollout.model.snapshot import SNAPSHOT_SCHEMA, CapabilitySnapshot, ok, unavailable

TODAY = date(2026, 11, 1)

POLICY = """\
schema: rollout.policy/v1
name: x
latency:
  measure: service
  p50_ratio_max: 1.05
  tail_quantile: 0.9
  tail_ratio_max: 1.1
  slow_factor: 2
  slow_rate_rollback: 0.02
  slow_rate_promote: 0.1
  false_rollback_rate: 0.01
  false_promote_rate: 0.01
  pairs_max: 400
history: {pairs: 300, blocks: 4, age_s_max: 604800}
warmup_requests: 3
errors: {rate_max: 0.01}
live: {error_rate_max: 0.01, requests_min: 0}
pictures: {psnr_db_min: 45}
capabilities: {required: [policy.profile], allowed_differences: [], waivers: []}
shift:
  weights: [10, 50, 100]
  pairs_per_step: 4
  dwell_s: 1
soak: {pairs: 4, seconds: 2}
load: null
instances: {cold_start_s_max: 60, cold_start_ratio_max: 10, restarts_max: 0, memory_growth_ratio_max: 1.5}
accuracy: null
cost: null
drift: {requests: 60, recheck_pairs_max: 200, false_alarm_requests: 10000}
standby_s: 5
on_inconclusive: rollback
approval: none
deadlines: {request_s: 20, ready_s: 60, hold_s: 300, rollback_s: 60, run_s: 1800}
"""

RELEASE = """\
schema: rollout.release/v1
name: blue
command: [rollout, serve, --admission, development-cpu]
env:
  RELEASE: 2026-11-a
"""

PROMPTS = """\
schema: rollout.prompts/v1
prompts:
  - id: fox
    text: a fox in the snow
    seed: 1
    steps: 8
    size: 128x128
"""

STACK = """\
schema: rollout.stack/v1
name: demo
platform: {kind: local}
router: {kind: envoy, listen_host: 127.0.0.1, listen_port: 10080, request_timeout_s: 30}
protocol: openai-images
policy: ../policies/local.yaml
prompts: prompts.yaml
state: state
"""


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def loader(request, monkeypatch):
    """Every test runs with the loader in C and with the one in Python, which differ in words and in details."""
    if not hasattr(yaml, request.param):
        pytest.skip(f"PyYAML was built without {request.param}")
    monkeypatch.setattr(yaml_lines, "_LOADER", getattr(yaml, request.param))
    return request.param


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write(folder, content, *, name="x.yaml"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path.relative_to(folder)


def _refusal(load, path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value).splitlines()


def _swapped(text, old, new):
    assert text.count(old) == 1
    return text.replace(old, new)


# What a file says.


def test_whole_numbers_are_taken_where_fractions_are_declared(folder):
    policy = load_policy(_write(folder, POLICY))
    assert (policy.latency.slow_factor, policy.pictures.psnr_db_min, policy.standby_s) == (2.0, 45.0, 5.0)
    assert policy.on_inconclusive.value == "rollback"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "weights: [10, 50, 100]",
            "weights: [10, 5]",
            "x.yaml:21:3: shift.weights: weights must rise strictly and end at 100 (got [10, 5])",
        ),
        (
            "slow_rate_promote: 0.1",
            "slow_rate_promote: 0.01",
            (
                "x.yaml:9:3: latency.slow_rate_rollback: slow_rate_rollback must not be above slow_rate_promote "
                "(got slow_rate_rollback 0.02, slow_rate_promote 0.01)"
            ),
        ),
        (
            "p50_ratio_max: 1.05",
            "p50_ratio_max: 1",
            "x.yaml:5:3: latency.p50_ratio_max: must be a number above 1 and at most 100 (got 1)",
        ),
        (
            "p50_ratio_max: 1.05",
            'p50_ratio_max: "1.05"',
            (
                "x.yaml:5:3: latency.p50_ratio_max: must be a number above 1 and at most 100 "
                '(got "1.05"); write it without quotes'
            ),
        ),
        (
            "p50_ratio_max: 1.05",
            "p50_ratio_max: 1,05",
            'x.yaml:5:3: latency.p50_ratio_max: must be a number above 1 and at most 100 (got "1,05")',
        ),
        (
            "p50_ratio_max: 1.05",
            "p50_ratio_max: .nan",
            "x.yaml:5:3: latency.p50_ratio_max: must be a number above 1 and at most 100 (got NaN)",
        ),
        (
            "p50_ratio_max: 1.05",
            "p50_ratio_max: 1e999",
            "x.yaml:5:3: latency.p50_ratio_max: must be a number above 1 and at most 100 (got Infinity)",
        ),
        (
            "p50_ratio_max: 1.05",
            "p50_ratio_max:",
            "x.yaml:5:3: latency.p50_ratio_max: must be a number above 1 and at most 100 (got null)",
        ),
        (
            "p50_ratio_max: 1.05",
            "p50_ratio_max: true",
            "x.yaml:5:3: latency.p50_ratio_max: must be a number above 1 and at most 100 (got true)",
        ),
        (
            "pairs_max: 400",
            "pairs_max: 400.0",
            "x.yaml:13:3: latency.pairs_max: must be a whole number of at least 2 and at most 100000 (got 400.0)",
        ),
        (
            "measure: service",
            "measure: services",
            "x.yaml:4:3: latency.measure: must be 'wall' or 'service' (got \"services\")",
        ),
        (
            "  pairs_max: 400\n",
            "",
            "x.yaml:3:1: latency.pairs_max: missing; it must be a whole number of at least 2 and at most 100000",
        ),
        (
            "pairs_max: 400",
            "pair_max: 400",
            "x.yaml:13:3: latency.pair_max: unknown key; did you mean pairs_max?",
        ),
        (
            "drift: {requests: 60,",
            "drift: {zzz: 1, requests: 60,",
            "x.yaml:29:9: drift.zzz: unknown key; known here: requests, recheck_pairs_max, false_alarm_requests",
        ),
        (
            "drift: {requests: 60, recheck_pairs_max: 200, false_alarm_requests: 10000}",
            "drift: 60",
            (
                "x.yaml:29:1: drift: must be a mapping with the keys requests, recheck_pairs_max, "
                "false_alarm_requests (got 60)"
            ),
        ),
        (
            "required: [policy.profile]",
            "required: [policy.profile, 1.10]",
            'x.yaml:19:43: capabilities.required[1]: must be text that is not empty (got 1.1); quote it: "1.10"',
        ),
        (
            "required: [policy.profile]",
            "required: policy.profile",
            'x.yaml:19:16: capabilities.required: must be a list (got "policy.profile")',
        ),
        (
            "weights: [10, 50, 100]",
            "weights: [10, 500, 100]",
            "x.yaml:21:17: shift.weights[1]: must be a whole number of at least 1 and at most 100 (got 500)",
        ),
        (
            "name: x",
            "name: My Policy",
            (
                "x.yaml:2:1: name: must be a name of 1 to 63 lower-case letters, digits and inner hyphens "
                '(got "My Policy")'
            ),
        ),
        (
            "accuracy: null",
            "accuracy: {precisions: [int8], psnr_db_mean_min: 35, psnr_db_min: 5, prompts_min: 2}",
            "x.yaml:27:54: accuracy.psnr_db_min: must be a number of at least 10 and at most 99 (got 5)",
        ),
        (
            "approval: none",
            "approval: null",
            "x.yaml:32:1: approval: must be 'none' or 'before_shift' (got null)",
        ),
    ],
)
def test_a_wrong_value_is_said_with_its_line_its_key_and_what_is_allowed(folder, old, new, line):
    assert _refusal(load_policy, _write(folder, _swapped(POLICY, old, new))) == [line]


def test_all_faults_are_listed_in_the_order_of_the_file(folder):
    text = _swapped(POLICY, "pairs: 300", "pairs: 3").replace("approval: none\n", "").replace("  slow_factor: 2\n", "")
    assert _refusal(load_policy, _write(folder, "aproval: none\n" + text)) == [
        "x.yaml:1:1: aproval: unknown key; did you mean approval?",
        "x.yaml:4:1: latency.slow_factor: missing; it must be a number above 1 and at most 100",
        "x.yaml:14:11: history.pairs: must be a whole number of at least 100 and at most 10000 (got 3)",
    ]


def test_no_more_than_twenty_faults_are_listed(folder):
    wrong = "\n".join(f"zzz{number:02}: 1" for number in range(25))
    lines = _refusal(load_policy, _write(folder, POLICY + wrong))
    assert len(lines) == file_problems.PROBLEMS_MAX + 1
    assert lines[0].startswith("x.yaml:34:1: zzz00: unknown key; known here: schema, name, latency")
    assert lines[-1] == "x.yaml: and 5 more"


def test_two_prompts_of_one_id_are_found(folder):
    text = PROMPTS + PROMPTS.partition("prompts:\n")[2]
    assert _refusal(load_prompts, _write(folder, text)) == ["x.yaml:2:1: prompts: two prompts have the id 'fox'"]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "size: 128x128",
            "size: 128",
            (
                'x.yaml:7:5: prompts[0].size: must be text "WIDTHxHEIGHT" in pixels, such as '
                '"512x512" (got 128); quote it: "128"'
            ),
        ),
        (
            "text: a fox in the snow",
            "text: 1984",
            ("x.yaml:4:5: prompts[0].text: must be text of 1 to 2000 characters; quote it"),
        ),
        (
            "seed: 1",
            "seed: -1",
            (
                "x.yaml:5:5: prompts[0].seed: must be a whole number of at least 0 and below "
                "9223372036854775808 (got -1)"
            ),
        ),
    ],
)
def test_a_prompt_is_refused_without_its_text_being_repeated(folder, old, new, line):
    assert _refusal(load_prompts, _write(folder, _swapped(PROMPTS, old, new))) == [line]


def test_a_number_in_the_environment_must_be_quoted_and_is_not_repeated(folder):
    path = _write(folder, RELEASE + "  TOKEN: 123456\n")
    assert _refusal(load_release, path) == ["x.yaml:6:3: env.TOKEN: must be text; quote it"]


def test_an_odd_key_stands_in_brackets(folder):
    path = _write(folder, RELEASE + '  "a.b\\e": 1\n')
    assert _refusal(load_release, path) == [r'x.yaml:6:3: env["a.b\u001b"]: must be text; quote it']


def test_quoted_and_multi_line_text_is_taken_as_it_is(folder):
    path = _write(folder, RELEASE + "  A: \"off\"\n  B: '0777'\n  C: |\n    1:30\n")
    assert load_release(path).env == {"RELEASE": "2026-11-a", "A": "off", "B": "0777", "C": "1:30\n"}


def test_crlf_a_byte_order_mark_and_other_scripts_are_taken(folder):
    text = "\ufeff" + PROMPTS.replace("a fox in the snow", "лис 狐狸 🦊").replace("\n", "\r\n")
    assert load_prompts(_write(folder, text)).prompts[0].text == "лис 狐狸 🦊"


def test_columns_are_counted_in_characters(folder):
    path = _write(folder, RELEASE + "  Ä: {é: 狐, ü: off}\n")
    assert _refusal(load_release, path)[0].startswith("x.yaml:6:13: env")


# The kind of file.


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            PROMPTS,
            'x.yaml:1:1: schema: must be rollout.policy/v1 here (got "rollout.prompts/v1"): another kind of file?',
        ),
        ("name: x\n", "x.yaml:1:1: schema: missing; begin the file with `schema: rollout.policy/v1`"),
        ("\n- 1\n", "x.yaml:2:1: the file must hold a mapping that begins with `schema: rollout.policy/v1`"),
        ("just text", "x.yaml:1:1: the file must hold a mapping that begins with `schema: rollout.policy/v1`"),
    ],
)
def test_a_file_of_another_kind_gets_one_line(folder, text, line):
    assert _refusal(load_policy, _write(folder, text)) == [line]


@pytest.mark.parametrize(
    ("kind", "text"), [("policy", POLICY), ("release", RELEASE), ("prompts", PROMPTS), ("stack", STACK)]
)
def test_any_kind_of_file_is_recognised_by_its_schema(folder, kind, text):
    assert load_any(_write(folder, text), today=TODAY) == kind


WAIVER = '{what: gpu.driver.version, who: ops, why: TICKET-1, until: "2026-10-31"}'


@pytest.mark.parametrize("kind", ["policy", "admission"])
def test_a_file_whose_waiver_has_ended_is_refused_from_the_day_after(folder, kind):
    shipped = resources.files("rollout.serving").joinpath("policies", "gpu.yaml").read_text()
    text = _swapped(POLICY if kind == "policy" else shipped, "waivers: []", f"waivers: [{WAIVER}]")
    path = _write(folder, text)
    assert load_any(path, today=date(2026, 10, 31)) == kind
    (line,) = _refusal(partial(load_any, today=TODAY), path)
    assert re.fullmatch(
        r"x.yaml:\d+:\d+: (capabilities\.)?waivers\[0\]: the waiver of gpu.driver.version by ops ended 2026-10-31, "
        r"today is 2026-11-01 in UTC: remove it, or have it renewed by who may",
        line,
    )


def test_a_policy_whose_waiver_has_ended_can_still_be_loaded(folder):
    """A rollback and a drift check need no exception, and must not fail for one."""
    (waiver,) = load_policy(
        _write(folder, _swapped(POLICY, "waivers: []", f"waivers: [{WAIVER}]"))
    ).capabilities.waivers
    assert (waiver.who, waiver.until) == ("ops", date(2026, 10, 31))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("gpu.driver.version", '"*"', "what: must be"),
        ("gpu.driver.version", '"gpu*"', "what: must be"),
        ("gpu.driver.version", "gpu", "what: what is neither a code of docs/reasons.md nor a field"),
        ('"2026-10-31"', '"2026-13-01"', 'until: must be a day in quotes, such as "2026-12-31" (got "2026-13-01")'),
        ('"2026-10-31"', "2026-10-31", "quote it"),
        ("why: TICKET-1, ", "", "why: missing"),
    ],
)
def test_a_waiver_that_waives_everything_or_says_too_little_is_refused(folder, old, new, text):
    waiver = _swapped(WAIVER, old, new)
    (line,) = _refusal(load_policy, _write(folder, _swapped(POLICY, "waivers: []", f"waivers: [{waiver}]")))
    assert text in line


def test_an_unknown_kind_is_refused_with_the_known_ones(folder):
    assert _refusal(partial(load_any, today=TODAY), _write(folder, "name: x\nschema: rollout.policy/v2\n")) == [
        "x.yaml:2:1: schema: must be one of " + ", ".join(f"rollout.{kind}/v1" for kind in json_schemas.MODELS)
    ]


# YAML that is refused.


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "x.yaml: the file is empty"),
        ("# only a comment\n", "x.yaml: the file is empty"),
        ("a: &one 1\n", "x.yaml:1:4: anchors and aliases are not accepted; write the value out"),
        ("a: *one\n", "x.yaml:1:4: anchors and aliases are not accepted; write the value out"),
        (
            "a: !!str 1\n",
            ("x.yaml:1:4: the tag tag:yaml.org,2002:str is not accepted; quote text, and write numbers plainly"),
        ),
        (
            "a: !!python/object/apply:os.system [id]\n",
            (
                "x.yaml:1:4: the tag tag:yaml.org,2002:python/object/apply:"
                "os.system is not accepted; quote text, and write numbers plainly"
            ),
        ),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1: a second document starts; one file holds one document"),
        ("a: " + "[" * 16 + "]" * 16, "x.yaml:1:19: nested deeper than 16 levels"),
        ("a: " + "[" * 500, "x.yaml:1:19: nested deeper than 16 levels"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "x.yaml:4:3: b.c: this key stands twice; first on line 3"),
        ('a: 1\n"a": 2\n', "x.yaml:2:1: a: this key stands twice; first on line 1"),
        ("1: x\n", "x.yaml:1:1: 1: a key must be text; quote it"),
        ("? [a]\n: x\n", "x.yaml:1:3: a key must be one word of text"),
        (
            "on: x\n",
            ("x.yaml:1:1: on: on is a truth value in YAML 1.1 and text in YAML 1.2; quote it, or write true or false"),
        ),
        (
            "a: [b, off]\n",
            (
                "x.yaml:1:8: a[1]: off is a truth value in YAML 1.1 and text in YAML 1.2; quote it, or "
                "write true or false"
            ),
        ),
        (
            "a: Yes\n",
            ("x.yaml:1:1: a: Yes is a truth value in YAML 1.1 and text in YAML 1.2; quote it, or write true or false"),
        ),
        (
            "a: 1:30\n",
            (
                "x.yaml:1:1: a: 1:30 is not the same number in all versions of YAML; write it in plain decimal "
                "digits, or quote it"
            ),
        ),
        (
            "a: 1:30.5\n",
            (
                "x.yaml:1:1: a: 1:30.5 is not the same number in all versions of YAML; write it in plain "
                "decimal digits, or quote it"
            ),
        ),
        (
            "a: 0777\n",
            (
                "x.yaml:1:1: a: 0777 is not the same number in all versions of YAML; write it in plain decimal "
                "digits, or quote it"
            ),
        ),
        (
            "a: 1_000\n",
            (
                "x.yaml:1:1: a: 1_000 is not the same number in all versions of YAML; write it in plain "
                "decimal digits, or quote it"
            ),
        ),
        (
            "a: 0b11\n",
            (
                "x.yaml:1:1: a: 0b11 is not the same number in all versions of YAML; write it in plain decimal "
                "digits, or quote it"
            ),
        ),
        ("a: 2026-11-01\n", "x.yaml:1:1: a: 2026-11-01 is a date in YAML 1.1 and text in YAML 1.2; quote it"),
        (
            "<<: {a: 1}\n",
            ('x.yaml:1:1: ["<<"]: << merges mappings in YAML 1.1 and is text in YAML 1.2; write the keys out'),
        ),
        ("a: =\n", "x.yaml:1:1: a: = has a meaning of its own in YAML 1.1 and is text in YAML 1.2; quote it"),
        ("a:\n\tb: 1\n", "x.yaml:2:1: not valid YAML: a tab stands where YAML wants spaces"),
        ("a: \x07\n", "x.yaml:1:4: the character U+0007 is not allowed: a binary file?"),
        (b"\x89PNG\r\n\x1a\n\x00", "x.yaml:1:1: the byte 0x89 is not UTF-8; save the file as UTF-8 text"),
        ("name: Müller\n".encode("latin-1"), "x.yaml:1:8: the byte 0xfc is not UTF-8; save the file as UTF-8 text"),
        ("a: b\n".encode("utf-16"), "x.yaml:1:1: the byte 0xff is not UTF-8; save the file as UTF-8 text"),
        (b"\x7fELF\x00\x00", "x.yaml:1:1: the character U+007F is not allowed: a binary file?"),
    ],
)
def test_yaml_that_is_not_read_alike_everywhere_is_refused(folder, text, line):
    assert _refusal(load_policy, _write(folder, text)) == [line]


def test_yaml_nested_beyond_the_parsers_own_limit_is_refused_in_the_same_words(folder):
    (line,) = _refusal(load_policy, _write(folder, "a: " + "[" * 100_000))
    assert line.startswith("x.yaml:1:")
    assert line.endswith(": nested deeper than 16 levels")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1, 2\n", "x.yaml:2:1: "),
        ("a: b: c\n", "x.yaml:1:5: "),
        ('a: "\n', "x.yaml:2:1: "),
        ("a: @\n", "x.yaml:1:4: "),
    ],
)
def test_broken_yaml_is_refused_at_its_place(folder, text, place):
    assert _refusal(load_policy, _write(folder, text))[0].startswith(f"{place}not valid YAML: ")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.5e-3", 0.0015),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("08", "08"),
        ("y", "y"),
        ("none", "none"),
        ("128x128", "128x128"),
        ("127.0.0.1", "127.0.0.1"),
        ("1.2.3", "1.2.3"),
        ("2026-11-a", "2026-11-a"),
        ("rollout.policy/v1", "rollout.policy/v1"),
        ("../a", "../a"),
        ("a#b", "a#b"),
    ],
)
def test_plain_words_mean_what_yaml_1_2_says(word, value):
    read = yaml_lines.read_yaml(f"a: {word}\n", name="x").value
    assert read == {"a": value}
    assert type(read["a"]) is type(value)


def test_a_number_of_many_digits_is_refused_and_not_computed(folder):
    line = _refusal(load_policy, _write(folder, f"a: {'9' * 5000}\n"))[0]
    assert line.startswith("x.yaml:1:1: a: ")
    assert "limit" in line


# JSON.


def _json_of(text):
    return yaml.safe_load(text)


def test_json_goes_through_the_same_door(folder):
    path = _write(folder, json.dumps(_json_of(POLICY), indent="\t"), name="x.json")
    assert load_policy(path) == load_policy(_write(folder, POLICY))


def test_json_escapes_beyond_the_first_plane_are_read(folder):
    text = json.dumps(_json_of(PROMPTS)).replace("a fox in the snow", "\\ud83e\\udd8a \\/")
    assert load_prompts(_write(folder, text, name="x.json")).prompts[0].text == "\U0001f98a /"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '{"schema": "rollout.release/v1",\n\t"name": 3, "command": ["a"]}',
            (
                "x.json:2:2: name: must be a name of 1 to "
                '63 lower-case letters, digits and inner hyphens (got 3); quote it: "3"'
            ),
        ),
        ('{"a": 1,\n "a": 2}', "x.json:2:2: a: this key stands twice; first on line 1"),
        ('{"a": 1,}', "x.json:1:9: not valid JSON: Expecting property name enclosed in double quotes"),
        ('{"a": NaN}', "x.json: not valid JSON: NaN is no JSON number"),
        ("a: 1", "x.json:1:1: not valid JSON: Expecting value"),
        ("", "x.json:1:1: not valid JSON: Expecting value"),
        ("[" * 100_000, "x.json: nested deeper than 16 levels"),
        ("[" * 20 + "]" * 20, "x.json:1:17: nested deeper than 16 levels"),
    ],
)
def test_broken_json_is_refused_at_its_place(folder, text, line):
    assert _refusal(load_release, _write(folder, text, name="x.json")) == [line]


# The file itself.


def test_a_missing_file_is_said(folder):
    assert _refusal(load_policy, Path("no.yaml")) == [f"no.yaml: no such file (looked in {folder})"]


def test_a_folder_is_refused(folder):
    (folder / "policies").mkdir()
    assert _refusal(load_policy, (folder / "policies").relative_to(folder)) == ["policies: a folder, not a file"]


def test_a_pipe_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    assert _refusal(load_policy, (folder / "pipe").relative_to(folder)) == [
        "pipe: not a regular file; write the contents to one"
    ]


def test_a_file_without_permission_is_refused(folder, monkeypatch):
    path = _write(folder, POLICY)
    path.chmod(0)
    if os.geteuid() == 0:
        # Root may read everything, so the kernel's answer to others is given here.
        monkeypatch.setattr(os, "open", _denied)
    assert _refusal(load_policy, path) == ["x.yaml: no permission to read it"]


def _denied(*_):
    raise PermissionError(13, "Permission denied")


def test_a_link_to_itself_is_refused(folder):
    (folder / "loop.yaml").symlink_to("loop.yaml")
    assert _refusal(load_policy, (folder / "loop.yaml").relative_to(folder))[0].startswith(
        "loop.yaml: cannot be read: "
    )


def test_a_name_with_a_nul_is_refused(folder):
    assert _refusal(load_policy, folder.relative_to(folder) / "a\0b")[0].endswith("cannot be read: embedded null byte")


def test_a_file_over_the_limit_is_refused_before_it_is_parsed(folder):
    path = _write(folder, b"#" * FILE_BYTES_MAX + b"\n")
    assert _refusal(load_policy, path) == ["x.yaml: larger than 1048576 bytes; is it the right file?"]


def test_a_file_of_just_the_limit_is_read(folder):
    path = _write(folder, POLICY + "#" * (FILE_BYTES_MAX - len(POLICY)))
    assert load_policy(path).name == "x"


def test_a_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    _write(folder, POLICY)
    assert load_policy(Path("~/x.yaml")).name == "x"
    assert _refusal(load_policy, Path("~nobody-has-this-name/x.yaml")) == [
        "~nobody-has-this-name/x.yaml: the home folder it names is unknown"
    ]


# Stacks.


def test_the_paths_of_a_stack_are_relative_to_its_file(folder):
    (folder / "stacks").mkdir()
    loaded = load_stack(_write(folder, STACK, name="stacks/s.yaml"))
    assert loaded.path == folder / "stacks" / "s.yaml"
    assert loaded.policy == folder / "policies" / "local.yaml"
    assert loaded.prompts == folder / "stacks" / "prompts.yaml"
    assert loaded.state == folder / "stacks" / "state"


def test_absolute_and_home_paths_in_a_stack_are_kept(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    text = STACK.replace("state: state", "state: /srv/rollout").replace("prompts: prompts", "prompts: ~/prompts")
    loaded = load_stack(_write(folder, text))
    assert str(loaded.state) == "/srv/rollout"
    assert loaded.prompts == folder / "home" / "prompts.yaml"


def test_a_stack_loads_although_its_other_files_are_lost(folder):
    assert not load_stack(_write(folder, STACK)).policy.exists()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("kind: local", "kind: kubernetes", "x.yaml:3:12: platform.kind: must be 'local' (got \"kubernetes\")"),
        ("127.0.0.1", "localhost", 'x.yaml:4:23: router.listen_host: must be a numeric IP address (got "localhost")'),
        (
            "10080",
            "70000",
            ("x.yaml:4:47: router.listen_port: must be a whole number of at least 1 and at most 65535 (got 70000)"),
        ),
        ("state: state", 'state: ""', 'x.yaml:8:1: state: must be text that is not empty (got "")'),
    ],
)
def test_a_wrong_stack_is_refused(folder, old, new, line):
    assert _refusal(load_stack, _write(folder, _swapped(STACK, old, new))) == [line]


# Snapshots.


def _snapshot():
    fields = {
        "runtime.ort.version": ok("1.32.0", "onnxruntime"),
        "runtime.ort.providers.actual": ok(["CPUExecutionProvider"], "session"),
        "gpu.devices": unavailable("/dev", "none"),
    }
    return CapabilitySnapshot.model_validate({"schema": SNAPSHOT_SCHEMA, "fields": fields})


def test_a_snapshot_comes_back_as_it_was_written(folder):
    path = _write(folder, json.dumps(_snapshot().to_json(), indent=2), name="s.json")
    assert load_snapshot_file(path) == _snapshot()


def test_a_changed_snapshot_is_refused(folder):
    wire = _snapshot().to_json()
    changed = copy.deepcopy(wire)
    changed["fields"]["runtime.ort.version"]["value"] = "1.33.0"
    (line,) = _refusal(load_snapshot_file, _write(folder, json.dumps(changed, indent=2), name="s.json"))
    assert line.startswith(
        f"s.json:3:3: digest: the snapshot claims digest '{wire['digest']}', its fields give 'sha256:"
    )


def test_a_snapshot_without_digest_is_refused(folder):
    wire = _snapshot().to_json()
    del wire["digest"]
    assert _refusal(load_snapshot_file, _write(folder, json.dumps(wire), name="s.json")) == [
        "s.json:1:1: digest: missing; a snapshot without its digest proves nothing"
    ]


def test_a_value_of_no_allowed_type_makes_one_fault(folder):
    wire = _snapshot().to_json()
    wire["fields"]["runtime.ort.version"]["value"] = {"major": 1}
    (line,) = _refusal(load_snapshot_file, _write(folder, json.dumps(wire, indent=2), name="s.json"))
    assert line == (
        's.json:20:7: fields["runtime.ort.version"].value: must be true or false or a whole number or a number or text '
        "or a list or null"
    )


# JSON Schemas.


@pytest.mark.parametrize("kind", json_schemas.MODELS)
def test_a_schema_names_its_dialect_its_kind_and_every_key(kind):
    schema = json_schema(kind)
    assert (schema["$schema"], schema["$id"]) == (json_schemas.DIALECT, f"urn:rollout:{kind}:v1")
    assert schema["properties"]["schema"]["const"] == f"rollout.{kind}/v1"
    assert schema["additionalProperties"] is False
    for part in [schema, *schema.get("$defs", {}).values()]:
        assert part["description"]
    json.dumps(schema)


def test_docstrings_of_fields_become_descriptions():
    assert json_schema("policy")["properties"]["standby_s"]["description"].startswith("How long the old incumbent")
    pictures = json_schema("policy")["$defs"]["PictureGate"]
    assert "signal-to-noise" in pictures["properties"]["psnr_db_min"]["description"]


def test_a_schema_of_no_file_is_refused():
    with pytest.raises(ConfigError, match="there is no schema of 'journal'; there are policy, admission, release"):
        json_schema("journal")


def test_every_pattern_in_words_is_still_a_pattern_of_the_model():
    text = "".join(json.dumps(json_schema(kind)) for kind in json_schemas.MODELS)
    for pattern in json_schemas.PATTERN_WORDS:
        assert json.dumps(pattern) in text


@pytest.mark.parametrize("kind", json_schemas.MODELS)
def test_published_schema_is_that_of_the_model(kind):
    published = Path(__file__).parents[3] / "docs" / "schemas" / f"{kind}.json"
    assert json.loads(published.read_text()) == json_schema(kind), "run tools/write_schemas.py"


def test_every_kind_of_file_can_be_asked_for_its_schema():
    assert set(KINDS) == set(json_schemas.MODELS)
