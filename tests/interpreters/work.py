"""What runs in each sub-interpreter: every routine on tensors of its own, against the formula. Neither NumPy nor torch loads
where the GIL is its own."""

import random
import sys
from array import array

import buffers

import oracle
from lzpenalty import (
    LZOptions,
    _core,
    append_,
    attention_scores,
    codelength_deltas,
    compact_,
    dry_penalize_,
    lz_penalize_,
    lz_penalize_rows_,
    repetition_period,
    select_top,
)

VOCAB = 6
TYPES = {"f": (2, 32), "i": (0, 32), "q": (0, 64)}


def tensor(kind, shape, items):
    return buffers.Tensor(array(kind, items), shape, *TYPES[kind])


def items(kind, t):
    return memoryview(t.bytes()).cast(kind).tolist()


def close(got, wanted):  # math.isclose crashes the interpreters of Python 3.12.1
    assert len(got) == len(wanted)
    assert all(abs(x - y) <= 1e-5 + 1e-4 * abs(y) for x, y in zip(got, wanted)), (got, wanted)  # noqa: B905


def penalties(rng, text):
    options = {"strength": 0.5, "window": rng.randrange(1, 40), "buffer": rng.randrange(1, 9)}
    wanted = oracle.penalties(text, VOCAB, **options)
    wanted = [-wanted.get(token, 0.0) for token in range(VOCAB)]
    tokens, zeros = tensor("q", (len(text),), text), [0.0] * VOCAB
    close(items("f", lz_penalize_(tensor("f", (VOCAB,), zeros), tokens, **options)), wanted)
    logits = tensor("f", (2, VOCAB), zeros * 2)
    close(items("f", lz_penalize_rows_(logits, {1: (LZOptions(**options), text)})), zeros + wanted)
    wanted = oracle.dry(text, VOCAB)
    close(
        items("f", dry_penalize_(tensor("f", (VOCAB,), zeros), tokens)), [-wanted.get(token, 0.0) for token in range(VOCAB)]
    )
    ids, bits = codelength_deltas(tokens, VOCAB)
    wanted = oracle.deltas(text, VOCAB, 512, 32)
    close(items("f", bits), [wanted[token] for token in items("q", ids)])
    assert items("q", repetition_period(tokens, ngram=2, count=2)) == [oracle.period(text, 2, 2, 512)]


def caches(rng):
    n, size, kept = rng.randrange(4, 30), 4, 3
    keys, new = ([rng.gauss(0, 1) for _ in range(count * size)] for count in (n, 2))
    cache, values = tensor("f", (1, 1, n, size), keys), tensor("f", (1, 1, n, size), keys)
    added = tensor("f", (1, 1, 2, size), new)
    by_token = [[numbers[i : i + size] for i in range(0, len(numbers), size)] for numbers in (new, keys)]
    scores = attention_scores(added, cache, start=0, stop=n)
    close(items("f", scores), oracle.attention_scores([by_token[0]], [by_token[1]], 0, n)[0])
    positions = select_top(scores, kept)
    chosen = items("q", positions)
    assert chosen == oracle.select_top(items("f", scores), kept)
    assert append_(cache, values, added, tensor("f", (1, 1, 2, size), new), position=n - 2) == n
    keys[-2 * size :] = array("f", new)
    assert compact_(cache, values, positions, start=0, stop=n, length=n) == kept
    close(items("f", cache)[: kept * size], [x for token in chosen for x in keys[token * size : (token + 1) * size]])


def texts(text):
    ranks = [sorted(set(text)).index(token) for token in text]
    tokens = tensor("q", (len(ranks),), ranks)
    assert items("i", _core.parse_lz77(tokens, 9)) == [x for phrase in oracle.lz77(ranks, 9) for x in phrase]
    assert items("i", _core.parse_lz78(tokens)) == [x for phrase in oracle.lz78(ranks) for x in phrase]
    found = items("i", _core.find_loops(tokens, 2, 0.0, len(ranks)))
    assert {tuple(found[i : i + 3]) for i in range(0, len(found), 3)} == oracle.runs(ranks)


def everything(seed):
    rng = random.Random(seed)
    _core.set_num_threads(1 + seed)
    for _ in range(30):
        text = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 12))] * rng.randrange(1, 4)
        penalties(rng, text)
        caches(rng)
        texts(text)
    for bad in ([1], 3, None):
        try:
            lz_penalize_(bad, bad)
        except TypeError as error:
            assert str(error).startswith("logits: expected a tensor"), error
        else:
            raise AssertionError(bad)
    assert _core.get_num_threads() == 1 + seed  # of this interpreter
    assert "numpy" not in sys.modules
