"""Writes cases and their results, as computed on this machine, for replay.c to check elsewhere.

    python tests/native/record.py FILE

Each case is a line of native int32 and float32 numbers in the order in which replay.c reads them."""

import sys

import numpy as np

from lzpenalty import codelength_deltas, dry_penalize_, lz_penalize_, repetition_period

COSTS = ("lzss", "pair", "distance")


def texts(rng):
    for length in (0, 1, 2, 17, 100, 700):
        yield rng.integers(0, 150, length)
        yield rng.integers(-2, 5, length)
        turn = rng.integers(0, 150, int(rng.integers(1, 20)))
        yield np.concatenate([rng.integers(0, 150, length // 3), np.resize(turn, length - length // 3)])


def main(path: str) -> None:
    rng = np.random.default_rng(0)
    with open(path, "wb") as out:

        def ints(*values):
            out.write(np.array(values, np.int32).tobytes())

        def floats(*values):
            out.write(np.array(values, np.float32).tobytes())

        for text in [t for _ in range(12) for t in texts(rng)]:
            tokens = text.astype(np.int64)
            vocab = int(rng.choice([2, 50, 200, 1000]))
            logits = rng.normal(size=vocab).astype(np.float32)
            coder = dict(
                window=int(rng.integers(0, 800)), buffer=int(rng.integers(1, 40)), cost=COSTS[rng.integers(3)],
                min_match=int(rng.integers(1, 4)), min_count=int(rng.integers(1, 4)),
            )  # fmt: skip
            more = dict(strength=0.15, escalation=float(rng.integers(2)), horizon=int(rng.integers(2) * 64))
            neutral = [1] if rng.integers(2) else []
            dry = dict(multiplier=0.8, base=1.75, allowed_length=int(rng.integers(1, 4)), window=int(rng.integers(0, 800)))
            breakers = [3] if rng.integers(2) else []
            loop = dict(ngram=int(rng.integers(1, 9)), count=int(rng.integers(2, 5)), max_period=int(rng.integers(1, 60)))

            ints(len(tokens), vocab)
            out.write(tokens.tobytes() + logits.tobytes())
            ints(COSTS.index(coder["cost"]), *(coder[k] for k in ("window", "buffer", "min_match", "min_count")))
            floats(more["strength"], more["escalation"])
            ints(more["horizon"], len(neutral))
            out.write(lz_penalize_(logits.copy(), tokens, **coder, **more, neutral=neutral).tobytes())
            ids, bits = codelength_deltas(tokens, vocab, **coder)
            ints(len(ids), *ids)
            floats(*bits)
            floats(dry["multiplier"], dry["base"])
            ints(dry["allowed_length"], dry["window"], len(breakers))
            out.write(dry_penalize_(logits.copy(), tokens, **dry, breakers=breakers).tobytes())
            ints(*loop.values(), int(repetition_period(tokens, **loop)))


if __name__ == "__main__":
    main(sys.argv[1])
