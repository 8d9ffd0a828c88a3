"""CLIP's tokenizer with its byte alphabet and no merges: 514 entries, no vocabulary file."""

import re

import numpy as np
from numpy.typing import NDArray

CONTEXT_TOKENS = 77
START_TOKEN = 512
END_TOKEN = 513
"""Ends the text and, as in CLIP, fills the rest of the context."""

# CLIP's own pattern, with Python's classes in place of \p{L} and \p{N}.
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)
# CLIP numbers the bytes that print first, then the others; a byte that ends a word is 256 higher.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_ORDER = np.array([*_PRINTABLE, *(b for b in range(256) if b not in _PRINTABLE)])
_TOKEN_OF_BYTE = np.argsort(_BYTE_ORDER)
_WORD_END = 256


def tokenize(text: str) -> NDArray[np.int64]:
    """Encode a text, lower-cased and cut to the context.

    Args:
        text: Any string that UTF-8 can encode.

    Returns:
        Token ids, shape (77,), in [0, 513].
    """
    tokens = [START_TOKEN]
    for word in _WORD.findall(text.lower()):
        word_tokens = _TOKEN_OF_BYTE[list(word.encode())]
        word_tokens[-1] += _WORD_END
        tokens.extend(word_tokens)
    tokens = [*tokens[: CONTEXT_TOKENS - 1], END_TOKEN]
    tokens += [END_TOKEN] * (CONTEXT_TOKENS - len(tokens))
    return np.array(tokens, dtype=np.int64)
