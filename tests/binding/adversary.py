"""Calls functions with objects whose every method resizes, frees or rewrites the other arguments: adversary.py FUNCTIONS.

A process of its own for each function, since what goes wrong here ends it. Says what it is about to call, and in the end how
many calls there were and how the process ended. Memory is taken in pages (MALLOC_MMAP_THRESHOLD_), so that what is freed is
gone."""

import contextlib
import itertools
import os
import sys
import traceback

import numpy as np

import lzpenalty
from lzpenalty import _core

try:
    import torch
except ImportError:
    torch = None

LONG = 1 << 18


def resize(array):
    if isinstance(array, np.ndarray):
        array.resize((1,) * array.ndim, refcheck=False)
    else:
        array.untyped_storage().resize_(0)


def replace(array):
    if isinstance(array, np.ndarray):
        small = np.zeros((1,) * array.ndim, array.dtype)
        np.ndarray.__setstate__(array, small.__reduce__()[2])
    else:
        array.set_(torch.zeros((1,) * array.ndim, dtype=array.dtype))


def reshape(array):
    if isinstance(array, np.ndarray):
        array.shape = (*array.shape[:-2], -1, 1) if array.ndim > 1 else (-1,)
        array.dtype = np.uint8 if array.dtype != np.uint8 else np.int64
    else:
        array.t_() if array.ndim == 2 else array.squeeze_(0)


def rewrite(array):
    array[...] = 2**30 if array.dtype in (np.int64, np.int32, *((torch.int64, torch.int32) if torch else ())) else 1


ATTACKS = (resize, replace, reshape, rewrite)


class Evil:
    """What `value` is, whichever way it is asked; attacks before it answers."""

    def __init__(self, value, attack):
        self.value, self.attack = value, attack

    def __index__(self):
        self.attack()
        return int(self.value)

    def __float__(self):
        self.attack()
        return float(self.value)

    def __bool__(self):
        self.attack()
        return bool(self.value)

    def __iter__(self):
        self.attack()
        return iter(self.value)

    def __len__(self):
        self.attack()
        return len(self.value)

    def __getitem__(self, i):
        self.attack()
        return self.value[i]

    def __dlpack__(self, **kwargs):
        self.attack()
        capsule = self.value.__dlpack__()
        self.attack()
        return capsule

    def __dlpack_device__(self):
        self.attack()
        return self.value.__dlpack_device__()

    def __array_namespace__(self, **kwargs):
        self.attack()
        return np

    def __eq__(self, other):
        self.attack()
        return self is other

    def __hash__(self):
        self.attack()
        return id(self)

    def __repr__(self):
        self.attack()
        return "Evil"

    @property
    def dtype(self):
        self.attack()
        return "evil"

    @property
    def requires_grad(self):
        self.attack()
        return False


def inside(value, attack):
    """Ways to hand over a value with something evil in it."""
    if isinstance(value, str):
        return [type("EvilStr", (str,), {"__eq__": lambda a, b: attack() or False, "__hash__": str.__hash__})(value)]
    found = [Evil(value, attack)]
    if isinstance(value, (list, tuple)):
        found.append([Evil(item, attack) for item in value])
        found.append(type("EvilList", (list,), {"__iter__": lambda self: attack() or list.__iter__(self)})(value))
    if isinstance(value, dict):
        for row, (options, tokens) in value.items():
            found.append({row: (options, Evil(tokens, attack))})
            found.append({Evil(row, attack): (options, tokens)})
            key = type("EvilInt", (int,), {"__index__": lambda self: attack() or int(self), "__hash__": int.__hash__})
            found.append({key(row): (options, tokens)})
            found.append({row: (options, [Evil(token, attack) for token in tokens[-2:]])})
            found.append({row: (Evil(options, attack), tokens)})
            found.append({row: Evil((options, tokens), attack)})
    if torch is not None and isinstance(value, torch.Tensor):
        asks = {name: property(lambda self: attack() or False) for name in ("requires_grad", "dtype")}
        found.append(value.as_subclass(type("EvilTensor", (torch.Tensor,), asks)))
    return found


def make(function):
    """Arguments of a call, by name, with arrays of their own."""
    text = np.resize(np.array([LONG - 1, LONG - 2, 5]), LONG)
    logits = np.zeros((1, LONG), np.float32)
    queries, keys = np.ones((1, 1, 2, 8), np.float32), np.ones((1, 1, LONG // 8, 8), np.float32)
    slots, one = np.ones((LONG // 8, 8), np.float32), np.ones((1, 1), np.int64)
    blocks = np.ones((64, 1, 64, 8), np.float32)
    positions = np.arange(LONG // 16)[None, None]
    penalty = dict(strength=0.5, window=600, buffer=8, cost="lzss", min_match=1, gate=(2, 9), release=[7, [8, 9]],
                   release_rate=1.0, release_after=3, open=[11], skip=[[12, 13]], resume=[14])  # fmt: skip
    coder = {name: penalty[name] for name in ("window", "buffer", "cost", "min_match")}
    options = lzpenalty.LZOptions(**penalty)
    rest = dict(start=0, stop=LONG // 8)
    return {
        "lz_penalize_": lambda: dict(logits=logits, tokens=text[None], starts=one[0], **penalty),
        "lz_penalize_rows_": lambda: dict(logits=logits, rows={0: (options, text)}),
        "gather_tokens_": lambda: dict(tokens=np.zeros((1, LONG), np.int32), rows={0: (options, text)}),
        "dry_penalize_": lambda: dict(logits=logits, tokens=text[None], multiplier=1.0, base=1.5, allowed_length=1,
                                      window=600, sequence_breakers=[5], starts=one[0]),
        "codelength_deltas": lambda: dict(tokens=text, vocab_size=LONG, **coder),
        "token_bits": lambda: dict(tokens=text[:9000].copy(), vocab_size=LONG, **{**coder, "window": 4}),
        "repetition_period": lambda: dict(tokens=text[None], ngram=3, count=3, max_period=9, starts=one[0]),
        "loop_evidence": lambda: dict(tokens=text[None], gram=3, window=900, starts=one[0]),
        "attention_scores": lambda: dict(queries=queries, keys=keys, scale=1.0, kernel=3, aggregation="group", check=True,
                                         **rest),
        "select_top": lambda: dict(scores=keys.reshape(1, 1, -1).copy(), k=LONG // 2),
        "compact_": lambda: dict(keys=keys, values=keys.copy(), positions=positions, length=LONG // 8, **rest),
        "append_": lambda: dict(keys=keys, values=keys.copy(), new_keys=keys[:, :, 1:].copy(),
                                new_values=keys[:, :, 1:].copy(), position=1),
        "compact_blocks_": lambda: dict(keys=blocks, values=blocks.copy(), blocks=np.arange(64),
                                        positions=np.arange(2048)[None, None], start=0, stop=4096, length=4096,
                                        evidence=np.zeros((64, 64), np.float32)),
        "gather_blocks_": lambda: dict(out=np.ones((1, 1, 4096, 8), np.float32), cache=blocks, blocks=np.arange(64),
                                       start=0),
        "append_ragged_": lambda: dict(keys=slots, values=slots.copy(), new_keys=keys[:, :, 2:].copy(),
                                       new_values=keys[:, :, 2:].copy(), starts=one, lengths=one.copy()),
        "echo_scores_": lambda: dict(evidence=slots[:, 0].copy(), queries=queries, keys=slots, starts=0 * one,
                                     lengths=LONG // 8 * one, pads=one[0], scale=1.0, asked=queries.copy(), window=9,
                                     start=1),
        "echo_blocks_": lambda: dict(evidence=np.zeros((64, 64), np.float32), queries=queries, keys=blocks,
                                     blocks=np.arange(64)[None].copy(), lengths=4096 * one, start=1, scale=1.0,
                                     asked=queries.copy(), window=9),
        "attend": lambda: dict(queries=queries, keys=keys, values=keys.copy(), lengths=LONG // 8 * one, pads=one[0],
                               scale=1.0, softcap=3.0, out=queries.copy(), lse=queries[..., 0].copy()),
        "parse_lz77": lambda: dict(tokens=np.zeros(LONG // 8, np.int64), window=9),
        "parse_lz78": lambda: dict(tokens=np.zeros(LONG // 8, np.int64)),
        "find_loops": lambda: dict(tokens=np.zeros(LONG // 8, np.int64), min_repeats=2, tolerance=0.1, max_period=9),
    }[function]()  # fmt: skip


def arrays_in(values):
    for value in values:
        if isinstance(value, dict):
            yield from (tokens for _, tokens in value.values())
        elif isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor)):
            yield value


def as_torch(value):
    if isinstance(value, dict):
        return {row: (options, torch.from_numpy(tokens)) for row, (options, tokens) in value.items()}
    return torch.from_numpy(value).clone() if isinstance(value, np.ndarray) else value


def attack_all(function):
    calls = 0
    libraries = ["numpy"] + ["torch"] * (torch is not None)
    for library, attack, name in itertools.product(libraries, ATTACKS, make(function)):
        for way in itertools.count():
            values = make(function)
            if library == "torch":
                values = {key: as_torch(value) for key, value in values.items()}
            else:  # not views: an array that is another's can't be resized anyway
                values = {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in values.items()}
            targets = list(arrays_in(value for key, value in values.items() if key != name))

            def strike(attack=attack, targets=targets):
                for array in targets:
                    with contextlib.suppress(ValueError, RuntimeError, TypeError, IndexError):
                        attack(array)

            ways = inside(values[name], strike)
            if way == len(ways):
                break
            print(library, attack.__name__, name, type(ways[way]).__name__, way, flush=True)
            calls += 1
            with contextlib.suppress(ValueError, TypeError, RuntimeError, BufferError, MemoryError):
                getattr(_core, function)(**{**values, name: ways[way]})
    print("calls", calls, flush=True)


for function in sys.argv[1:]:
    print("function", function, flush=True)
    child = os.fork()
    if not child:
        try:
            attack_all(function)
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            os._exit(1)
        os._exit(0)
    print("ended with", os.waitpid(child, 0)[1], flush=True)
