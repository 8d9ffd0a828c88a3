"""Comparing two pictures of one prompt and seed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout.errors import EvidenceError

PSNR_MAX_DB = 99.0
"""Stands for equal pictures, whose ratio is infinite; no eye tells apart what lies above it."""

FLAT_RANGE_MAX = 2
"""Levels between the darkest and lightest pixel of one channel; lossy encoding moves a single color by up to this."""

_DIMENSIONS, _CHANNELS = 3, 3


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two pictures in decibels; higher is more alike.

    Args:
        a: Shape (h, w, 3), uint8.
        b: The same shape; which of the two comes first does not matter.

    Returns:
        10 log10(255^2 / mean squared error), at most 99.0, which is also the value for equal pictures.

    Raises:
        EvidenceError: A picture is not (h, w, 3) uint8, is empty, or the shapes differ.
    """
    _check_picture(a, name="a")
    _check_picture(b, name="b")
    if a.shape != b.shape:
        raise EvidenceError(f"pictures of shapes {a.shape} and {b.shape} cannot be compared; ask both for one size")
    error = np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)))
    if error == 0.0:
        return PSNR_MAX_DB
    return min(PSNR_MAX_DB, float(10.0 * np.log10(255.0**2 / error)))


def is_flat(image: NDArray[np.uint8]) -> bool:
    """Tell whether a picture is black or a single color, as NaN inside the model produces.

    Args:
        image: Shape (h, w, 3), uint8.

    Raises:
        EvidenceError: The picture is not (h, w, 3) uint8, or is empty.
    """
    _check_picture(image, name="image")
    spread = image.max(axis=(0, 1)).astype(np.int64) - image.min(axis=(0, 1))
    return bool((spread <= FLAT_RANGE_MAX).all())


def _check_picture(image: Any, *, name: str) -> None:  # noqa: ANN401 - checked here
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise EvidenceError(f"picture {name} is {getattr(image, 'dtype', type(image).__name__)}; uint8 is expected")
    if image.ndim != _DIMENSIONS or image.shape[2] != _CHANNELS or image.size == 0:
        raise EvidenceError(f"picture {name} has shape {image.shape}; (height, width, 3) is expected")
