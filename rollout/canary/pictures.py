"""Decodes and compares the pictures of canary answers, outside the timed part."""

import io
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rollout.errors import EvidenceError
from rollout.stats.pictures import is_flat, psnr_db

Key = TypeVar("Key")
Found = TypeVar("Found")

REMEMBERED_MAX = 10_000
"""Pictures and pairs whose findings are kept; canary prompts repeat, and equal bytes need no second look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Encoded bytes and their digest."""

    digest: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one picture is.

    Attributes:
        problem: Why it cannot be decoded; empty when it can.
        flat: True when it is black or of one colour.
    """

    problem: str
    flat: bool


class PictureComparer:
    """Remembers by digest what it found."""

    def __init__(self) -> None:
        self._findings: dict[str, Finding] = {}
        self._psnr_db: dict[tuple[str, str], float] = {}

    def inspect(self, picture: Picture) -> Finding:
        """Decode one picture and say whether it is one."""
        known = self._findings.get(picture.digest)
        if known is None:
            known = _finding(picture)
            _remember(self._findings, picture.digest, known)
        return known

    def psnr_db(self, a: Picture, b: Picture) -> float:
        """Return the peak signal-to-noise ratio of two pictures in decibels, at most 99.

        Raises:
            EvidenceError: One cannot be decoded, or their sizes differ.
        """
        key = (min(a.digest, b.digest), max(a.digest, b.digest))
        known = self._psnr_db.get(key)
        if known is None:
            known = psnr_db(decode(a), decode(b))
            _remember(self._psnr_db, key, known)
        return known


def decode(picture: Picture) -> NDArray[np.uint8]:
    """Return the picture as RGB of shape (h, w, 3).

    Raises:
        EvidenceError: The bytes are not a whole PNG.
    """
    try:
        with Image.open(io.BytesIO(picture.data), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # Pillow raises each of these for damaged files, SyntaxError for a bad chunk among them.
        raise EvidenceError(f"the picture cannot be decoded: {type(error).__name__}") from error


def _finding(picture: Picture) -> Finding:
    try:
        image = decode(picture)
    except EvidenceError as error:
        return Finding(problem=str(error), flat=False)
    return Finding(problem="", flat=is_flat(image))


def _remember(known: dict[Key, Found], key: Key, found: Found) -> None:
    if len(known) >= REMEMBERED_MAX:
        known.clear()
    known[key] = found
