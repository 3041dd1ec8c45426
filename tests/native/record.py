"""Writes cases and their results, as computed on this machine, for replay.c to check elsewhere.

    python tests/native/record.py FILE

The number of penalties, penalties, and so on for caches, attention and texts: each is little-endian numbers, int32 and
float32 where nothing else is said, in the order in which replay.c reads them."""

import sys

import numpy as np
import torch

from lzpenalty import (
    _core,
    append_,
    attend,
    attention_scores,
    codelength_deltas,
    compact_,
    dry_penalize_,
    loop_evidence,
    lz_penalize_,
    repetition_period,
    select_top,
)

COSTS = ("lzss", "pair", "distance")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def ints(out, *values):
    out.write(np.array(values, np.int32).tobytes())


def floats(out, *values):
    out.write(np.array(values, np.float32).tobytes())


def marks(out, *sets):
    """Of each set: how many, and of each its ids, with their number before them."""
    for chosen in sets:
        ints(out, len(chosen or ()))
        for ids in chosen or ():
            ints(out, len(ids), *ids)


def tensors(out, *values):
    for value in values:
        out.write(value.contiguous().view(torch.uint8).numpy().tobytes())


def texts(rng):
    for length in (0, 1, 2, 17, 100, 700):
        yield rng.integers(0, 150, length)
        yield rng.integers(-2, 5, length)
        turn = rng.integers(0, 150, int(rng.integers(1, 20)))
        yield np.concatenate([rng.integers(0, 150, length // 3), np.resize(turn, length - length // 3)])


def record_penalties(rng, out):
    cases = [text for _ in range(12) for text in texts(rng)]
    ints(out, len(cases))
    for text in cases:
        tokens = text.astype(np.int64)
        vocab = int(rng.choice([2, 50, 200, 1000]))
        logits = rng.normal(size=vocab).astype(np.float32)
        coder = dict(
            window=int(rng.integers(0, 800)), buffer=int(rng.integers(1, 40)), cost=COSTS[rng.integers(3)],
            min_match=int(rng.integers(1, 4)),
        )  # fmt: skip
        more = dict(strength=0.15)
        dry = dict(multiplier=0.8, base=1.75, allowed_length=int(rng.integers(1, 4)), window=int(rng.integers(0, 800)))
        breakers = [3] if rng.integers(2) else []
        loops = dict(gate=(6, float(rng.integers(7, 30))) if rng.integers(2) else None)
        loops |= dict(section_gate=(3, float(rng.integers(4, 30))) if rng.integers(2) else None)
        loops |= dict(release_rate=float(rng.choice([0.5, 2])), release_after=int(rng.integers(1, 30)))
        for name, often in (("release", 2), ("open", 2), ("skip", 8), ("resume", 4)):
            sizes = rng.integers(1, 4, int(rng.integers(1, 4)))
            wanted = sorted({tuple(rng.integers(0, vocab, size).tolist()) for size in sizes})
            loops[name] = None if rng.integers(often) else wanted
        evidence = dict(gram=int(rng.integers(1, 9)), window=int(rng.integers(0, 800)))
        loop = dict(ngram=int(rng.integers(1, 9)), count=int(rng.integers(2, 5)), max_period=int(rng.integers(1, 60)))

        ints(out, len(tokens), vocab)
        out.write(tokens.tobytes() + logits.tobytes())
        ints(out, COSTS.index(coder["cost"]), *(coder[k] for k in ("window", "buffer", "min_match")))
        floats(out, more["strength"])
        floats(out, *(loops["gate"] or (0, 0)), *(loops["section_gate"] or (0, 0)), loops["release_rate"])
        ints(out, loops["release_after"])
        marks(out, loops["release"], loops["open"], loops["skip"], loops["resume"])
        out.write(lz_penalize_(logits.copy(), tokens, **coder, **more, **loops).tobytes())
        ids, bits = codelength_deltas(tokens, vocab, **coder)
        ints(out, len(ids), *ids)
        floats(out, *bits)
        floats(out, dry["multiplier"], dry["base"])
        ints(out, dry["allowed_length"], dry["window"], len(breakers))
        out.write(dry_penalize_(logits.copy(), tokens, **dry, sequence_breakers=breakers).tobytes())
        ints(out, *loop.values(), int(repetition_period(tokens, **loop)))
        ints(out, *evidence.values(), int(loop_evidence(tokens, **evidence)))


def record_caches(rng, out):
    shapes = [(1, 1, 1, 1, 1), (1, 3, 5, 17, 3), (2, 1, 2, 33, 8), (2, 2, 33, 60, 16), (1, 2, 70, 500, 32)]
    ints(out, len(shapes) * len(DTYPES))
    for dtype in DTYPES:
        for B, H, R, n, D in shapes:
            group, kernel, by_group = int(rng.integers(1, 4)), int(rng.choice([1, 7])), int(rng.integers(2))
            start, stop, capacity, kept, scale = 2, 2 + n, 5 + n, int(rng.integers(1, n + 1)), float(rng.normal())
            queries, keys, values = (
                torch.from_numpy(rng.normal(size=size)).to(dtype)
                for size in ((B, H * group, R, D), (B, H, capacity, D), (B, H, capacity, D + 1))
            )
            ints(out, DTYPES.index(dtype), B, H * group, H, R, capacity, D, start, stop, kernel, by_group, kept)
            floats(out, scale)
            tensors(out, queries, keys, values)
            new_keys, new_values = keys[:, :, :1].clone(), values[:, :, :1].clone()
            options = dict(start=start, stop=stop, kernel=kernel, aggregation="group" if by_group else "layer")
            scores = attention_scores(queries, keys, scale=scale, **options)
            positions = select_top(scores, kept)
            length = compact_(keys, values, positions, start=start, stop=stop, length=capacity - 1)
            append_(keys, values, new_keys, new_values, position=length)
            tensors(out, scores, positions, keys, values)


def record_attention(rng, out):
    shapes = [(1, 1, 1, 1, 1, 1), (2, 3, 2, 5, 17, 3), (1, 7, 2, 1, 600, 64), (2, 5, 1, 2, 130, 32), (1, 1, 3, 4, 40, 128)]
    ints(out, len(shapes) * len(DTYPES))
    for dtype in DTYPES:
        for B, group, H, q, T, D in shapes:
            queries, keys, values = (
                torch.from_numpy(rng.normal(size=size)).to(dtype)
                for size in ((B, H * group, q, D), (B, H, T, D), (B, H, T, D))
            )
            lengths, pads = rng.integers(0, T + 1, (B, H)), rng.integers(0, T // 2 + 1, B)
            scale, softcap = float(rng.normal()), float(rng.choice([0, 20]))
            ints(out, DTYPES.index(dtype), B, H * group, H, q, T, D, *lengths.ravel(), *pads)
            floats(out, scale, softcap)
            options = dict(lengths=torch.from_numpy(lengths), pads=torch.from_numpy(pads), scale=scale, softcap=softcap)
            tensors(out, queries, keys, values, attend(queries, keys, values, **options))


def record_texts(rng, out):
    cases = [text for _ in range(6) for text in texts(rng)]
    ints(out, len(cases))
    for text in cases:
        ranks = np.unique(text, return_inverse=True)[1].astype(np.int32)
        window, max_period, min_repeats = int(rng.integers(0, 800)), int(rng.integers(1, 100)), int(rng.integers(2, 4))
        tolerance = int(rng.integers(1, 1 << 18))
        ints(out, len(ranks), window, *ranks, max_period, min_repeats, tolerance)
        for phrases in (_core.parse_lz77(ranks, window), _core.parse_lz78(ranks)):
            ints(out, len(phrases), *phrases.ravel())
        for share in (0.0, tolerance / (1 << 20)):
            loops = _core.find_loops(ranks, min_repeats, share, max_period)
            ints(out, len(loops), *loops[np.lexsort(loops.T[::-1])].ravel())


def main(path: str) -> None:
    assert sys.byteorder == "little"
    rng = np.random.default_rng(0)
    with open(path, "wb") as out:
        record_penalties(rng, out)
        record_caches(rng, out)
        record_attention(rng, out)
        record_texts(rng, out)


if __name__ == "__main__":
    main(sys.argv[1])
