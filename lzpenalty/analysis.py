"""How repetitive is a text? Measures on token ids, in NumPy."""

import zlib

import numpy as np

from lzpenalty import _core

__all__ = ["seq_rep", "token_bits", "zlib_ratio"]


def token_bits(
    tokens,
    vocab_size: int,
    *,
    window: int = 512,
    buffer: int = 32,
    cost: str = "lzss",
    min_match: int = 1,
    min_count: int = 1,
) -> np.ndarray:
    """Bits that a sliding-window Lempel-Ziv coder pays for each token, given those before it.

    Parameters
    ----------
    tokens : sequence of int, [T]
    vocab_size : int
        A token that the window does not hold costs log2(vocab_size) bits.
    window, buffer, cost, min_match, min_count
        As in :func:`lzpenalty.codelength_deltas`.

    Returns
    -------
    bits : ndarray [T], float64
        D(a) of arXiv 2504.20131 for the tokens that came.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is wanted.
    """
    return _core.token_bits(
        np.asarray(tokens, dtype=np.int64), vocab_size, window=window, buffer=buffer, cost=cost, min_match=min_match, min_count=min_count
    )


def seq_rep(tokens, n: int = 4) -> float:
    """seq-rep-n: the share of n-grams that stood before, 1 - distinct / all (Welleck et al., arXiv 1908.04319); 0 where the
    text has none."""
    tokens = np.asarray(tokens)
    if len(tokens) < n:
        return 0.0
    grams = np.lib.stride_tricks.sliding_window_view(tokens, n)
    return 1 - len(np.unique(grams, axis=0)) / len(grams)


def zlib_ratio(text: str) -> float:
    """Bytes of the text over bytes that zlib needs for it; Whisper calls a text degenerate from 2.4 on."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
