"""Weights from a manifest and a seed: the same bytes on every machine and with every numpy.

Neither the repository nor a download carries weights. The manifest names each tensor with its shape and distribution,
and the values come from the raw stream of a counter-based generator through integer arithmetic and one rounding, so
that the digest of the whole file can be pinned in the manifest.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALIGNMENT_BYTES = 64
"""Where a tensor may begin: a cache line, so that runtimes can map it in place."""

_HALVES_PER_WORD = 4
_HALF_MAX = 2**16 - 1
# The sum of four independent uniform 16-bit numbers has this variance; its shape is close to normal, cut at 3.5 std.
_SUM_STD = math.sqrt(_HALVES_PER_WORD * ((_HALF_MAX + 1) ** 2 - 1) / 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One float32 tensor of the weights file: normal around `mean` with `std`; constant where `std` is 0.

    `parameter` is the name that torch knows it by, and `transposed` whether it lies here as the transpose; constants,
    which many parameters share, have no name.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    mean: float
    std: float
    parameter: str = ""
    transposed: bool = False

    @property
    def size_bytes(self) -> int:
        """Length of the tensor in the file, padding excluded."""
        return 4 * math.prod(self.shape)


def generate_weights(specs: Sequence[TensorSpec], *, seed: int) -> bytes:
    """Make the content of a weights file.

    Args:
        specs: The tensors, in file order, offsets aligned and without overlap.
        seed: Any integer; each tensor draws from a stream of its own, keyed by seed and name.

    Returns:
        Little-endian float32 values at each tensor's offset, zeros between them.

    Raises:
        ValueError: Two tensors overlap or an offset is not aligned.
    """
    content = bytearray(max((spec.offset + spec.size_bytes for spec in specs), default=0))
    end = 0
    for spec in specs:
        if spec.offset < end or spec.offset % ALIGNMENT_BYTES:
            raise ValueError(f"tensor {spec.name!r} begins at {spec.offset}: overlapping or not aligned")
        end = spec.offset + spec.size_bytes
        content[spec.offset : end] = _tensor_values(spec, seed=seed).tobytes()
    return bytes(content)


def aligned(offset: int) -> int:
    """Return the first offset at or after this one where a tensor may begin."""
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _tensor_values(spec: TensorSpec, *, seed: int) -> NDArray[np.float32]:
    """Return the flat little-endian values of one tensor."""
    count = math.prod(spec.shape)
    mean = np.float32(spec.mean)
    if spec.std == 0:
        return np.full(count, mean, dtype="<f4")
    key = int.from_bytes(hashlib.sha256(f"{seed}/{spec.name}".encode()).digest()[:16], "little")
    words = np.asarray(np.random.Philox(key=key).random_raw(count), dtype="<u8")
    sums = words.view("<u2").reshape(count, _HALVES_PER_WORD).sum(axis=1, dtype=np.int32)
    centred = (sums - _HALVES_PER_WORD * _HALF_MAX // 2).astype("<f4")
    values: NDArray[np.float32] = centred * np.float32(spec.std / _SUM_STD) + mean
    return values
