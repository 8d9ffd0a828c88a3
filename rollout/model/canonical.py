"""Canonical bytes and digests: the one place where data becomes something that can be hashed."""

import hashlib
import json
from typing import Any


def canonical_bytes(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Encode a JSON value so that equal values give equal bytes.

    Args:
        value: Nested dict, list, str, int, float, bool or None. Floats must be finite.

    Returns:
        UTF-8 JSON: keys sorted, no spaces, floats in Python's shortest round-trip form.

    Raises:
        ValueError: A float is NaN or infinite.
        TypeError: The value is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def digest_bytes(data: bytes) -> str:
    """Return `sha256:<64 hex digits>` of the bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the digest of a JSON value's canonical bytes."""
    return digest_bytes(canonical_bytes(value))
