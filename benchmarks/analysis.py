"""How fast are the parses and the loops of a million tokens?

    python benchmarks/analysis.py [--quick]

Side by side in one process, all on one thread. Peers of factorize: the same phrases from pydivsufsort's suffix array and
common prefixes with a loop in Python, for want of a package that parses; and on bytes (ids modulo 251), with its window of
32 KiB, zlib at level 9, which writes the code as well but doesn't always look for the longest. Peer of find_loops:
pydivsufsort's array and prefixes alone, where other ways to the runs begin. Texts: random ids, prose as ids, a loop. Writes
results/analysis.json."""

import argparse
import statistics
import zlib
from importlib import metadata

import numpy as np
from pydivsufsort import divsufsort, kasai

from harness import median_ratio, side_by_side, write
from lz import prose
from lzpenalty.analysis import factorize, find_loops, lz78, token_bits

VOCAB, WINDOW = 151_936, 32_768


def make_text(kind: str, size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "random":
        return rng.integers(0, VOCAB, size)
    if kind == "loop":
        return np.resize(rng.integers(0, VOCAB, 300), size)
    words = prose(VOCAB, size).numpy()
    # A million words of one manual have to come from reading it in pieces, again and again.
    starts = rng.integers(0, len(words) - 200, size // 200)
    return np.concatenate([words[start : start + 200] for start in starts])


def suffix_array(tokens: np.ndarray):
    order = divsufsort(tokens)
    return order, kasai(tokens, order)


def parse_with_suffix_array(tokens: np.ndarray) -> int:
    """The number of LZ77 phrases, from the neighbours in the suffix array that start earlier (Crochemore and Ilie 2008)."""
    n = len(tokens)
    order, shared = (array.tolist() for array in suffix_array(tokens))
    longest, stack = [0] * n, []
    for k in range(n + 1):
        i, length = (order[k], shared[k - 1] if k else 0) if k < n else (-1, 0)
        while stack and i < stack[-1][0]:
            j, before = stack.pop()
            longest[j] = max(before, length)
            length = min(before, length)
        stack.append((i, length))
    phrases = i = 0
    while i < n:
        i += max(1, longest[i])
        phrases += 1
    return phrases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the tokens, nothing written")
    quick = parser.parse_args().quick
    size, rounds = (50_000, 3) if quick else (1_000_000, 5)
    rows = []
    for kind in ("random", "prose", "loop"):
        tokens = make_text(kind, size)
        data = (tokens % 251).astype(np.uint8).tobytes()
        assert len(factorize(tokens)) == parse_with_suffix_array(tokens)
        times = side_by_side(
            {
                "factorize": lambda: factorize(tokens),
                "factorize, window=512": lambda: factorize(tokens, 512),
                "lz78": lambda: lz78(tokens),
                "find_loops": lambda: find_loops(tokens),
                "find_loops, tolerance=0.1": lambda: find_loops(tokens, tolerance=0.1),
                "token_bits": lambda: token_bits(tokens, VOCAB),
                "pydivsufsort": lambda: suffix_array(tokens),
                "pydivsufsort and Python": lambda: parse_with_suffix_array(tokens),
                "bytes: factorize, window=32768": lambda: factorize(data, WINDOW),
                "bytes: zlib, level 9": lambda: zlib.compress(data, 9),
            },
            rounds,
        )
        row = {
            "text": kind,
            "tokens": len(tokens),
            "phrases": len(factorize(tokens)),
            "loops": len(find_loops(tokens)),
            "seconds": {name: round(statistics.median(values), 3) for name, values in times.items()},
        }
        pairs = (
            ("pydivsufsort and Python", "factorize"),
            ("pydivsufsort", "find_loops"),
            ("bytes: factorize, window=32768", "bytes: zlib, level 9"),
        )
        row["ratios"] = {f"{a} / {b}": round(median_ratio(times[a], times[b]), 2) for a, b in pairs}
        rows.append(row)
        print(row, flush=True)
    if not quick:
        write("analysis", {"pydivsufsort": metadata.version("pydivsufsort"), "texts": rows})


if __name__ == "__main__":
    main()
