"""What runtimes say of a fallback: heard on both descriptors, and understood by the messages that were recorded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.model.reasons import REASONS
from rollout.serving.messages import FALLBACK_LANGUAGE, LINE_CHARACTERS_MAX, fallback_signs, listening

sys.path.insert(0, str(Path(__file__).parents[2] / "doubles"))

from causes import CAUSES as ADMISSION_CAUSES
from recordings import recorded, recorded_worlds

CAUSES = ADMISSION_CAUSES | {"both_ort_packages": "provider_not_in_build"}
"""World to what the runtime's own words say of it."""


@pytest.mark.parametrize("world", recorded_worlds())
def test_words_of_the_real_runtime_tell_the_cause(world):
    said = recorded(world)
    text = "\n".join(said.get(part, "") for part in ("plain: fd 1", "plain: fd 2", "plain: raised"))
    assert CAUSES[world] in {sign.code for sign in fallback_signs(text)}


def test_every_recorded_world_has_its_cause_here():
    assert sorted(CAUSES) == recorded_worlds()


def test_every_code_is_explained():
    assert {code for _, code in FALLBACK_LANGUAGE} <= set(REASONS)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "INFO:     Uvicorn running on http://127.0.0.1:8000 (Press CTRL+C to quit)",
        "2026-11-26 12:00:00.0 [I:onnxruntime:, session.cc:583 TransformGraph] Initializing session.",
        "Loading pipeline components...: 100%|##########| 7/7",
        "UserWarning: TypedStorage is deprecated",
        "cuda available: True",
        "hf_xet is not installed. Falling back to regular HTTP download.",
        "No fallback was used",
        "timestep error 0.1 is within bounds",
        "CUDA error 0: no error",
        "libibverbs.so.1: cannot open shared object file: No such file or directory",
    ],
)
def test_usual_words_are_no_sign(line):
    assert fallback_signs(line) == ()


def test_line_that_is_said_twice_is_one_sign_and_colours_are_no_part_of_it():
    signs = fallback_signs("\x1b[0;93mFalling back to CPU\x1b[m\nFalling back to CPU\n")
    assert [(one.code, one.line) for one in signs] == [("fallback_message", "Falling back to CPU")]


def test_what_tells_is_kept_of_a_long_line():
    line = "x" * 3000 + " CUDA failure 35: driver version is insufficient " + "y" * 3000
    (sign,) = fallback_signs(line)
    assert sign.code == "driver_too_old"
    assert len(sign.line) <= LINE_CHARACTERS_MAX
    assert fallback_signs(sign.line) == (sign,)


WRITES = """
import ctypes, os, subprocess, sys
from rollout.serving.messages import listening
with listening() as heard:
    print("python")
    ctypes.CDLL(None).puts(b"c library")
    os.write(2, b"descriptor 2\\n")
    subprocess.run(["echo", "child"], check=True)
sys.stdout.write(heard.text)
"""


def test_all_that_the_process_writes_is_heard_and_passed_on():
    # A process of its own: pytest puts streams of its own in place of Python's.
    ran = subprocess.run([sys.executable, "-c", WRITES], capture_output=True, text=True, check=True)
    assert set(ran.stdout.split("\n")) == {"python", "c library", "descriptor 2", "child", ""}
    assert ran.stderr == ran.stdout


MANY = """
import os
from rollout.serving.messages import MESSAGES_BYTES_MAX, listening
with listening() as heard:
    for _ in range(3 * MESSAGES_BYTES_MAX // 1024):
        os.write(2, b"x" * 1023 + b"\\n")
assert len(heard.text) == MESSAGES_BYTES_MAX
"""


def test_what_is_too_long_to_be_heard_is_passed_on_all_the_same():
    ran = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True)
    assert len(ran.stderr) == 3 << 20


def test_what_is_said_after_a_megabyte_is_understood_too(capfd):
    with listening() as heard:
        for _ in range(1200):
            os.write(1, b"x" * 1000 + b"\n")
        os.write(1, b"*** EP Error ***\n")
    assert [sign.code for sign in heard.signs] == ["fallback_message"]
    assert len(capfd.readouterr().err) > 1_200_000


def test_listening_may_be_nested_and_both_hear(capfd):
    with listening() as outer:
        os.write(2, b"before\n")
        with listening() as inner:
            os.write(1, b"inside\n")
        os.write(2, b"after\n")
    assert inner.text == "inside\n"
    assert outer.text == "before\ninside\nafter\n"
    assert capfd.readouterr().err == outer.text


def test_streams_are_given_back_after_an_error(capfd):
    with pytest.raises(RuntimeError, match="boom"), listening():
        raise RuntimeError("boom")
    os.write(1, b"back\n")
    assert capfd.readouterr().out == "back\n"
