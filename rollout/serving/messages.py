"""What runtimes say when they leave the fast path: captured from both output streams, and understood.

ONNX Runtime has no log callback in Python. Its C++ part writes to descriptor 2, its Python part prints on stdout; both
are heard here below Python's own streams.
"""

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO

MESSAGES_BYTES_MAX = 1 << 20
LINE_CHARACTERS_MAX = 500

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# First match wins: what names a cause stands before what only tells the consequence.
FALLBACK_LANGUAGE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), code)
    for pattern, code in (
        (r"libcuda\.so\S*: cannot open", "libcuda_missing"),
        (r"libnv(infer|onnxparser)\w*\.so\S*: cannot open", "tensorrt_missing"),
        (r"lib\w+\.so\S*: cannot open|Unable to load (lib\w+|any) ", "cuda_libraries_missing"),
        (r"driver version is insufficient|CUDA (failure|error) 35\b", "driver_too_old"),
        (r"no CUDA-capable device|CUDA (failure|error) 100\b|Found no NVIDIA driver", "no_device"),
        (r"stub library|CUDA (failure|error) 34\b", "libcuda_stub"),
        (r"unsupported display driver|forward compatibility|CUDA (failure|error) 80[34]\b", "driver_mismatch"),
        (r"Failed to load library|Failed to create \w*ExecutionProvider", "provider_dropped"),
        (r"not in available provider names|not compiled with CUDA", "provider_not_in_build"),
        (r"EP Error|fall(ing|s|en|ed)?[ -]?back|CUDA is not available", "fallback_message"),
    )
)
"""Pattern in one line to the code of the reason."""


@dataclass(slots=True)
class Heard:
    """What was written while somebody listened; complete when the listening has ended."""

    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A line that speaks of a fallback."""

    code: str
    line: str = field(repr=False)


@contextmanager
def listening() -> Iterator[Heard]:
    """Capture what the whole process writes to descriptors 1 and 2; at the end it is passed on, in order.

    Other threads are heard too: listen while loading, not while serving. May be nested.
    """
    heard = Heard()
    with TemporaryFile() as file:
        saved = [os.dup(descriptor) for descriptor in (1, 2)]
        _flush()
        try:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
            yield heard
        finally:
            _flush()
            for descriptor, kept in zip((1, 2), saved, strict=True):
                os.dup2(kept, descriptor)
                os.close(kept)
            heard.text = _passed_on(file)


def fallback_signs(text: str) -> tuple[Sign, ...]:
    """Return the lines that speak of a fallback, each once, in the order in which they came."""
    signs: dict[str, Sign] = {}
    for raw in text.splitlines():
        line = _COLOUR.sub("", raw).strip()[:LINE_CHARACTERS_MAX]
        code = next((code for pattern, code in FALLBACK_LANGUAGE if pattern.search(line)), None)
        if code is not None:
            signs.setdefault(line, Sign(code=code, line=line))
    return tuple(signs.values())


def _flush() -> None:
    """Empty Python's and the C library's buffers into the descriptors."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def _passed_on(file: IO[bytes]) -> str:
    file.seek(0)
    content = file.read(MESSAGES_BYTES_MAX)
    if content:
        os.write(2, content)
    return content.decode(errors="replace")
