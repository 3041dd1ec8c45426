"""What RPCCache should hold, in NumPy float64 straight from the published rules.

A `Reference` watches the attention function itself: it is shown the queries, keys and values of every step, keeps its own
copy of every layer's cache from the newest tokens alone, and drops what the rule says. At each step the model's attention
must get exactly what the reference holds.
"""

from collections import defaultdict
from contextlib import contextmanager
from unittest import mock

import numpy as np

from lzpenalty.cache.layer import RPCLayer


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def weights(queries, keys, scale):
    """[B, Hq, R, n] from queries [B, Hq, R, D] and keys [B, Hkv, n, D]."""
    keys = np.repeat(keys, queries.shape[1] // keys.shape[1], axis=1)
    return softmax(scale * queries @ keys.swapaxes(2, 3))


def by_head(attention, heads, aggregation):
    """Mean over queries, and over all heads or those that share keys."""
    b, _, _, n = attention.shape
    grouped = attention.mean(2).reshape(b, heads, -1, n).mean(2)
    return grouped.mean(1, keepdims=True) if aggregation == "layer" else grouped


def pooled(x, kernel, function=None):
    reach = kernel // 2
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(reach, reach)])
    stacked = np.stack([padded[..., i : i + x.shape[-1]] for i in range(kernel)])
    return stacked.mean(0) if function is None else function(stacked)


class Layer:
    def __init__(self):
        self.keys = self.values = None
        self.prompt = self.intervals = 0
        self.queries, self.mass, self.answering = [], None, False


class Reference:
    def __init__(self, interval, ratio=4, recent=32, kernel=7, aggregation="layer", selector="rpc", budget=None, **options):
        self.interval, self.ratio, self.recent, self.kernel = interval, ratio, recent, kernel
        self.aggregation, self.selector, self.budget, self.options = aggregation, selector, budget, options
        self.layers = defaultdict(Layer)
        self.compressions = 0

    def kept(self, intervals):
        return intervals * self.interval // self.ratio if self.budget is None else self.budget - self.recent

    def step(self, index, queries, keys, values, scale, positions=None):
        """One attention call. `positions()`, if given, are what the cache chose; they decide between equal scores."""
        queries, keys, values = (np.asarray(x.detach().float(), np.float64) for x in (queries, keys, values))
        layer, new = self.layers[index], queries.shape[2]
        for name, got in (("keys", keys), ("values", values)):
            held = getattr(layer, name)
            newest = got[:, :, got.shape[2] - new :]
            held = newest if held is None else np.concatenate([held, newest], axis=2)
            setattr(layer, name, held)
            assert held.shape == got.shape, f"layer {index}: attention got {got.shape[2]} {name}, expected {held.shape[2]}"
            assert np.array_equal(held, got), f"layer {index}: attention got other {name} than the reference holds"
        layer.answering |= new == 1
        if not layer.answering:
            layer.prompt = layer.keys.shape[2]
            return None
        layer.queries = [*layer.queries, *np.split(queries, new, axis=2)][-self.recent :]
        if self.selector == "h2o":
            self.accumulate(layer, queries, scale)
        region = layer.keys.shape[2] - layer.prompt - self.recent
        if region < self.kept(layer.intervals) + self.interval:
            return None
        return lambda positions: self.compress(layer, scale, positions)

    def accumulate(self, layer, queries, scale):
        generated = layer.keys[:, :, layer.prompt :]
        n, new = generated.shape[2], queries.shape[2]
        mass = np.zeros((queries.shape[0], 1, n))
        if layer.mass is not None:
            mass[..., : layer.mass.shape[-1]] = layer.mass
        for i in range(new):
            seen = n - new + i + 1
            mass[..., :seen] += weights(queries[:, :, i : i + 1], generated[:, :, :seen], scale).mean((1, 2))[:, None]
        layer.mass = mass

    def scores(self, layer, scale, keep):
        start, stop = layer.prompt, layer.keys.shape[2] - self.recent
        keys, values = layer.keys[:, :, start:stop], layer.values[:, :, start:stop]
        heads, n = keys.shape[1:3]
        attention = weights(np.concatenate(layer.queries, axis=2), keys, scale)
        rpc = pooled(by_head(attention, heads, self.aggregation), self.kernel)
        if self.selector == "rpc":
            return rpc
        if self.selector == "tova":
            return attention[:, :, -1:].mean((1, 2))[:, None]
        if self.selector == "h2o":
            return layer.mass[..., :n]
        if self.selector == "snapkv":
            function = None if self.options.get("pooling") == "avg" else lambda stacked: stacked.max(0)
            return pooled(by_head(attention, heads, "group"), self.kernel, function)
        if self.selector == "streaming":
            sinks = self.options.get("sinks", 4)
            age = np.array([np.inf if t < sinks else t for t in range(n)], float)
            return np.broadcast_to(age, (keys.shape[0], 1, n))
        if self.selector == "rkv":
            weight = self.options.get("weight", 0.1)
            unit = keys / np.maximum(np.linalg.norm(keys, axis=-1, keepdims=True), 1e-12)  # padding has keys of 0
            redundancy = softmax((unit @ unit.swapaxes(2, 3)).mean(-1))
            if self.aggregation == "layer":
                redundancy = redundancy.mean(1, keepdims=True)
            return weight * rpc + (1 - weight) * (1 - redundancy)
        assert self.selector == "vase"
        norms = np.linalg.norm(values, axis=-1)
        if self.aggregation == "layer":
            norms = norms.mean(1, keepdims=True)
        largest = np.argsort(-norms, axis=-1, kind="stable")[..., : round(self.options.get("share", 0.1) * keep)]
        rpc = rpc.copy()
        np.put_along_axis(rpc, largest, np.inf, axis=-1)
        return rpc

    def compress(self, layer, scale, got):
        start, stop = layer.prompt, layer.keys.shape[2] - self.recent
        intervals = layer.intervals + (stop - start - self.kept(layer.intervals)) // self.interval
        keep = self.kept(intervals)
        got = np.asarray(got)
        if self.selector != "random":
            scores = self.scores(layer, scale, keep)
            assert got.shape == (*scores.shape[:2], keep)
            for row, chosen in zip(scores.reshape(-1, scores.shape[2]), got.reshape(-1, keep), strict=True):
                best = np.sort(np.argsort(-row, kind="stable")[:keep])
                odd = np.setxor1d(best, chosen)
                # Only what ties with the last that is kept, to rounding, may differ.
                assert len(chosen) == len(set(chosen)) and np.allclose(row[odd], np.sort(row)[-keep], rtol=1e-4, atol=1e-9)
        assert (np.diff(got, axis=-1) > 0).all() and (got >= 0).all() and (got < stop - start).all()
        index = np.broadcast_to(got, (got.shape[0], layer.keys.shape[1], keep))[..., None]
        for name in ("keys", "values"):
            held = getattr(layer, name)
            chosen = np.take_along_axis(held[:, :, start:stop], index, axis=2)
            setattr(layer, name, np.concatenate([held[:, :, :start], chosen, held[:, :, stop:]], axis=2))
        if layer.mass is not None:
            region = stop - start
            mass = np.take_along_axis(layer.mass[..., :region], got, axis=2)
            layer.mass = np.concatenate([mass, layer.mass[..., region:]], axis=2)
        layer.intervals = intervals
        self.compressions += 1


@contextmanager
def following(reference):
    """Every attention call to RPCCache's layers within the block is shown to the reference first."""
    attended = RPCLayer.attended

    def shown(layer, queries, scale):
        then = reference.step(layer.index, queries, layer.keys, layer.values, scale)
        attended(layer, queries, scale)
        if then:
            then(layer.positions)

    with mock.patch.object(RPCLayer, "attended", shown):
        yield
