"""How repetitive is a text? Parses, code lengths, loops, and the measures of the literature.

A text is token ids (a sequence, a NumPy array, a torch tensor on the CPU), bytes, or a str, whose tokens are its code
points: positions and lengths then index the str itself.
"""

import operator
import zlib

import numpy as np

from lzpenalty import _core
from lzpenalty._core import LZOptions

__all__ = [
    "apart",
    "codelength",
    "distinct_n",
    "factorize",
    "find_loops",
    "lz78",
    "loop_evidence",
    "ngram_entropy",
    "running_rate",
    "seq_rep",
    "suffix_extension_rate",
    "token_bits",
    "zlib_ratio",
]

_LZ77 = np.dtype([("position", np.int64), ("distance", np.int64), ("length", np.int64), ("bits", np.float64)])
_LZ78 = np.dtype([("position", np.int64), ("parent", np.int64), ("length", np.int64), ("bits", np.float64)])
_LOOP = np.dtype([("period", np.int64), ("start", np.int64), ("length", np.int64), ("repeats", np.float64)])


def _read(tokens) -> np.ndarray:
    """The ids of a text, [T]."""
    if isinstance(tokens, str):
        return np.frombuffer(tokens.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    if isinstance(tokens, bytes):
        return np.frombuffer(tokens, np.uint8).astype(np.int64)
    if tokens is None or isinstance(tokens, (dict, set, frozenset)) or not hasattr(tokens, "__len__"):
        raise TypeError(f"tokens: expected a sequence of ids, a str or bytes, got {type(tokens).__name__}")
    try:
        ids = np.asarray(tokens)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:  # lists in lists, tensors without memory
        what = f"a {type(tokens).__name__}"
        for name in ("layout", "device", "dtype"):
            what += f", {name} {getattr(tokens, name)}" if hasattr(tokens, name) else ""
        reason = str(error).partition("\n")[0]
        raise TypeError(f"tokens: expected ids that NumPy can read, [T], got {what}: {reason}") from error
    if ids.dtype.kind in "US" and ids.ndim == 0:
        raise TypeError(f"tokens: expected a sequence of ids, a str or bytes, got an array of one {ids.dtype}")
    if ids.ndim != 1:
        raise ValueError(f"tokens: expected shape [length], got {ids.ndim} dimensions")
    if len(ids) and (ids.dtype.kind not in "iu" or ids.dtype == np.uint64):
        raise TypeError(f"tokens: expected ids that fit int64, a str or bytes, got dtype {ids.dtype}")
    return ids.astype(np.int64)


def _integer(value, name: str, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer from {least} on, got {number}")
    return number


def _literal_bits(ids, vocab_size) -> float:
    """log2 of the vocabulary's size."""
    most = int(ids.max(initial=0))
    if ids.min(initial=0) < 0:
        raise ValueError(f"tokens: expected ids from 0 on, got {ids.min()}")
    if vocab_size is None:
        return np.log2(most + 1)
    if most >= _integer(vocab_size, "vocab_size", 1):
        raise ValueError(f"vocab_size: expected more than the largest id, {most}, got {vocab_size}")
    return np.log2(vocab_size)


def _ranks(ids) -> np.ndarray:
    """The ids as numbers without gaps, in the same order; in O(T) where they lie close enough to be marked in a table."""
    least = int(ids.min(initial=0))
    span = int(ids.max(initial=0)) - least + 1
    if span > 4 * len(ids):
        return np.unique(ids, return_inverse=True)[1]
    occurs = np.zeros(span, np.bool_)
    occurs[ids - least] = True
    return (np.cumsum(occurs) - 1)[ids - least]


def _phrases(dtype, parse, source: str) -> np.ndarray:
    """The structured array of a parse, without bits."""
    phrases = np.zeros(len(parse), dtype)
    phrases[source], phrases["length"] = parse.T
    phrases["position"] = np.cumsum(phrases["length"]) - phrases["length"]
    return phrases


def factorize(tokens, window: int | None = None, *, vocab_size: int | None = None) -> np.ndarray:
    """The LZ77 phrases of a text: each is the longest that also starts at most `window` tokens earlier, overlap allowed, or
    one token that doesn't (Ziv and Lempel 1977, doi:10.1109/TIT.1977.1055714, with the literals of LZSS).

    Parameters
    ----------
    tokens : sequence of int, str or bytes, [T]
        Fewer than 2^30, ids >= 0.
    window : int or None
        Tokens back that a phrase may be copied from; None: the whole text so far. O(T log T) for every window.
    vocab_size : int or None
        More than the largest id; None: one more than it.

    Returns
    -------
    phrases : structured ndarray [phrases]
        position : of the first token;
        distance : to the nearest place that the phrase stood, in tokens, 0 for a new token;
        length : in tokens;
        bits : log2(distance) + log2(length), as in arXiv 2504.20131, or length * log2(vocab_size) for a new token and where
        that is less.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is wanted.
    """
    ids = _read(tokens)
    literal = _literal_bits(ids, vocab_size)
    window = len(ids) if window is None else min(_integer(window, "window", 0), len(ids))
    phrases = _phrases(_LZ77, _core.parse_lz77(_ranks(ids), window), "distance")
    distance, length = phrases["distance"], phrases["length"]
    copy = np.where(distance > 0, np.log2(np.maximum(distance, 1)) + np.log2(length), np.inf)
    phrases["bits"] = np.minimum(copy, length * literal)
    return phrases


def lz78(tokens, *, vocab_size: int | None = None) -> np.ndarray:
    """The LZ78 phrases of a text: each is the longest earlier phrase and one token more (Ziv and Lempel 1978,
    doi:10.1109/TIT.1978.1055934); the last may end before that token.

    Parameters
    ----------
    tokens : sequence of int, str or bytes, [T]
        Fewer than 2^30, ids >= 0.
    vocab_size : int or None
        More than the largest id; None: one more than it.

    Returns
    -------
    phrases : structured ndarray [phrases]
        position : of the first token;
        parent : the phrase that this one begins with, counted from 1; 0: the empty one;
        length : in tokens;
        bits : log2(k) for the parent of the k-th phrase, which has k to choose from, + log2(vocab_size) for the token more.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is wanted.
    """
    ids = _read(tokens)
    literal = _literal_bits(ids, vocab_size)
    phrases = _phrases(_LZ78, _core.parse_lz78(_ranks(ids)), "parent")
    lengths = np.concatenate([[0], phrases["length"]])
    more = phrases["length"] > lengths[phrases["parent"]]
    phrases["bits"] = np.log2(np.arange(1, len(phrases) + 1)) + literal * more
    return phrases


def codelength(tokens, window: int | None = None, *, vocab_size: int | None = None) -> float:
    """Bits of the LZ77 phrases of a text; arguments and errors as in :func:`factorize`."""
    return float(factorize(tokens, window, vocab_size=vocab_size)["bits"].sum())


def _records(records, name: str, source: str, *fields: str) -> np.ndarray:
    """A structured array with these fields."""
    if not isinstance(records, np.ndarray) or not set(fields) <= set(records.dtype.names or ()):
        kind = f"fields {records.dtype.names}" if isinstance(records, np.ndarray) else type(records).__name__
        raise TypeError(f"{name}: expected what {source} returned, got {kind}")
    return records


def running_rate(phrases) -> np.ndarray:
    """Bits per token of the text so far: [T], float64, from what :func:`factorize` or :func:`lz78` returned. The tokens of a
    phrase share its bits evenly; the last rate is that of the whole text. Raises TypeError for anything else."""
    phrases = _records(phrases, "phrases", "factorize or lz78", "bits", "length")
    bits = np.repeat(phrases["bits"] / phrases["length"], phrases["length"]).cumsum()
    return bits / np.arange(1, len(bits) + 1)


def token_bits(
    tokens,
    vocab_size: int,
    options: LZOptions | None = None,
    **keywords,
) -> np.ndarray:
    """Bits that a sliding-window Lempel-Ziv coder pays for each token, given those before it.

    Parameters
    ----------
    tokens : sequence of int, str or bytes, [T]
    vocab_size : int
        More than the largest id. A token that the window does not hold costs log2(vocab_size) bits.
    options, window, buffer, cost, min_match
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
    ids = _read(tokens)
    _literal_bits(ids, _integer(vocab_size, "vocab_size", 1))
    return _core.token_bits(ids, vocab_size, options, **keywords)


def find_loops(tokens, *, min_repeats: int = 2, tolerance: float = 0.0, max_period: int | None = None) -> np.ndarray:
    """The stretches of a text that repeat themselves.

    Without tolerance these are its runs, or maximal repetitions (Kolmogorov and Kucherov 1999,
    doi:10.1109/SFFCS.1999.814634): `period` is the smallest that the stretch has, and one token more on either side would
    break it. There are fewer than T of them (arXiv 1406.0263). All are found in O(T) (arXiv 2102.08670); that they are
    sorted, and before them ids that are spread wider than 4 T, comes on top.

    With tolerance a stretch of period p compares its tokens with those p later; of the comparisons that it begins with, and
    of those that it ends with, however many, always a share of less than `tolerance` are mismatches, and it is part of no
    longer such stretch. One is left out where a loop of shorter period, with a turn more on each side, covers it. This takes
    O(T * max_period).

    Parameters
    ----------
    tokens : sequence of int, str or bytes, [T]
        Fewer than 2^30.
    min_repeats : int
        Shortest loop in periods, >= 2.
    tolerance : float
        In [0, 1), rounded to a multiple of 2^-20.
    max_period : int or None
        Longest period in tokens, >= 1; None: any, with tolerance 512.

    Returns
    -------
    loops : structured ndarray [loops], by start, then by period
        period, start, length : in tokens;
        repeats : length / period.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is wanted.
    """
    ids = _read(tokens)
    if max_period is None:
        max_period = 512 if tolerance else max(1, len(ids))
    found = _core.find_loops(_ranks(ids), min_repeats, tolerance, max_period)
    loops = np.zeros(len(found), _LOOP)
    loops["period"], loops["start"], loops["length"] = found[np.lexsort(found[:, :2].T)].T
    loops["repeats"] = loops["length"] / loops["period"]
    return loops


def loop_evidence(tokens, *, gram: int = 6, window: int = 512) -> np.ndarray:
    """:func:`lzpenalty.loop_evidence` after each token of a finished text: what gate and release would have seen there.

    Parameters
    ----------
    tokens : sequence of int, str or bytes, [T]
    gram, window : int
        As there, and window >= 1.

    Returns
    -------
    evidence : int64 ndarray [T]
        Tokens. O(T * window).

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is wanted.
    """
    ids = _read(tokens)
    width = max(1, min(_integer(window, "window", 1), len(ids)))
    before = np.concatenate([np.zeros(width - 1, np.int64), ids])
    seen = (
        np.lib.stride_tricks.sliding_window_view(before, width, writeable=True) if len(ids) else np.zeros((0, 1), np.int64)
    )
    return _core.loop_evidence(seen, gram=gram, starts=np.maximum(0, width - 1 - np.arange(len(ids))), window=width)


def apart(loops) -> np.ndarray:
    """Of the loops of :func:`find_loops` those that share no token with a longer one, longest first. Among equally long ones
    the shorter period goes before, then the earlier. Raises TypeError for anything else."""
    loops = _records(loops, "loops", "find_loops", "start", "length", "period")
    taken = np.zeros(int((loops["start"] + loops["length"]).max(initial=0)), np.bool_)
    chosen = []
    for k in np.lexsort((loops["start"], loops["period"], -loops["length"])):
        start, end = loops["start"][k], loops["start"][k] + loops["length"][k]
        if not (taken[start] or taken[end - 1]):  # a longer one that it meets covers one of its ends
            taken[start:end] = True
            chosen.append(k)
    return loops[chosen]


def _ngrams(tokens, n: int) -> np.ndarray:
    """For each n-gram of a text a number below that of distinct ones, equal where the n-grams are."""
    ids = _read(tokens)
    if len(ids) < n:
        return ids[:0]
    grams, length = _ranks(ids), 1
    while length < n:
        step = min(length, n - length)
        grams = _ranks(grams[:-step] * len(ids) + grams[step:])
        length += step
    return grams


def _repeated(grams) -> int:
    """How many of the n-grams stood before."""
    return len(grams) - 1 - int(grams.max()) if len(grams) else 0


def ngram_entropy(tokens, n: int = 3) -> float:
    """Shannon entropy of the histogram of n-grams, in bits (figure 3 of arXiv 2505.13866); 0 where the text has none."""
    grams = _ngrams(tokens, _integer(n, "n", 1))
    counts = np.bincount(grams)
    return float(np.sum(counts * np.log2(len(grams) / counts)) / max(1, len(grams)))


def seq_rep(tokens, n: int = 4) -> float:
    """seq-rep-n: the share of n-grams that stood before, 1 - distinct / all (Welleck et al., arXiv 1908.04319); 0 where the
    text has none."""
    grams = _ngrams(tokens, _integer(n, "n", 1))
    return _repeated(grams) / max(1, len(grams))


def distinct_n(tokens, n: int = 2) -> float:
    """distinct-n: distinct n-grams / all of them (Li et al., arXiv 1510.03055); 1 where the text has none."""
    return 1 - seq_rep(tokens, n)


def suffix_extension_rate(tokens, length: int = 4) -> float:
    """SER@L (arXiv 2608.22761): the share of tokens that go on with L = `length` tokens or more as these went on before,
    that is, that end an (L + 1)-gram that stood before; 0 for no tokens. (L counts what is gone on with, not the token.)"""
    grams = _ngrams(tokens, _integer(length, "length", 0) + 1)
    return _repeated(grams) / max(1, len(_read(tokens)))


def zlib_ratio(text: str) -> float:
    """Bytes of the text in UTF-8 over bytes that zlib needs for it; Whisper calls a text degenerate from 2.4 on. zlib looks
    32 KiB back, and its ratio grows with the text: compare texts of like length. Raises TypeError for ids and bytes."""
    if not isinstance(text, str):
        raise TypeError(f"text: expected a str, got {type(text).__name__}; a tokenizer's decode makes one of ids")
    data = text.encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data))
