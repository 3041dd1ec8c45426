"""What CompressedCache should hold, in NumPy float64 straight from the published rules.

A `Reference` watches the attention function itself: it is shown the queries, keys and values of every step, keeps its own
copy of every layer's cache from the newest tokens alone, and drops what the rule says. At each step the model's attention
must get exactly what the reference holds.
"""

from collections import defaultdict
from contextlib import contextmanager
from unittest import mock

import numpy as np

from lzpenalty.cache.even import EvenLayer
from schedule import token_by_token


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


def turned(queries, places, theta=10_000.0):
    """Queries [..., q, D] as if asked so many tokens later, by the rotary embedding of Llama."""
    half = queries.shape[-1] // 2
    angles = np.asarray(places, float)[:, None] * theta ** (-np.arange(half) / half)
    numbers = (queries[..., :half] + 1j * queries[..., half:]) * np.exp(1j * angles)
    return np.concatenate([numbers.real, numbers.imag], axis=-1)


def units(keys):
    return keys / np.maximum(np.linalg.norm(keys, axis=-1, keepdims=True), 1e-12)  # the padding's token has keys of 0


def redundancy(keys):
    """R-KV's: the mean cosine between a key and the others, each of which leaves out its own newest near-duplicate."""
    unit = units(keys)
    cosines = unit @ unit.swapaxes(2, 3)
    n = keys.shape[2]
    cosines[..., np.arange(n), np.arange(n)] = 0
    for of_head in cosines.reshape(-1, n, n):
        for row in of_head:
            near = np.flatnonzero(row > 0.5)
            row[near[-1] if len(near) else 0] = 0
    return cosines.mean(2)


class Layer:
    def __init__(self):
        self.keys = self.values = None
        self.prompt = self.generated = self.intervals = self.left = self.behind = 0
        self.queries, self.mass, self.answering = [], None, False
        self.since = []  # all queries since the last compression


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
        layer.generated += new
        layer.queries += np.split(queries, new, axis=2)
        layer.since.append(queries)
        if self.selector == "h2o":
            self.accumulate(layer, queries, scale)
        times, layer.behind = token_by_token(layer.generated, self.interval, self.recent, self.kept)
        if times == layer.intervals:
            return None
        layer.intervals = times
        return lambda positions: self.compress(layer, scale, positions)

    def accumulate(self, layer, queries, scale):
        generated = layer.keys[:, :, layer.prompt :]
        n, new = generated.shape[2], queries.shape[2]
        mass = np.zeros((*generated.shape[:2], n))
        if layer.mass is not None:
            mass[..., : layer.mass.shape[-1]] = layer.mass
        for i in range(new):
            seen = n - new + i + 1
            attention = weights(queries[:, :, i : i + 1], generated[:, :, :seen], scale)
            mass[..., :seen] += by_head(attention, generated.shape[1], "group")
        layer.mass = mass

    def scores(self, layer, scale, keep):
        start, stop = layer.prompt, layer.keys.shape[2] - self.recent - layer.behind
        keys, values = layer.keys[:, :, start:stop], layer.values[:, :, start:stop]
        heads, n = keys.shape[1:3]
        attention = weights(self.newest(layer), keys, scale)
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
            return weight * self.largest(layer, keys, scale) - (1 - weight) * softmax(redundancy(keys))
        if self.selector == "keydiff":
            unit = units(keys)
            anchor = unit.mean(2, keepdims=True)
            return -(unit * anchor).sum(-1) / np.linalg.norm(anchor, axis=-1)
        if self.selector == "lagkv":
            return self.lagged(layer, keep, self.options.get("lag", 128))
        assert self.selector == "expected"
        return self.expected(layer, keys, scale, self.options.get("future", 512)) * np.linalg.norm(values, axis=-1)

    def largest(self, layer, keys, scale):
        """R-KV's attention: the largest product of the group, mean over 8 queries, maximum over 7 neighbours."""
        queries = self.newest(layer)[:, :, -8:]
        products = scale * queries @ np.repeat(keys, queries.shape[1] // keys.shape[1], axis=1).swapaxes(2, 3)
        grouped = products.reshape(*keys.shape[:2], -1, *products.shape[2:]).max(2)
        return pooled(softmax(grouped).mean(2), 7, lambda stacked: stacked.max(0))

    def lagged(self, layer, keep, lag):
        start, n = layer.prompt, layer.keys.shape[2] - self.recent - layer.behind - layer.prompt
        old = layer.left if layer.left < keep else 0
        scores = np.full((*layer.keys.shape[:2], n), np.inf)
        for first in range(old, n, lag):
            last = min(first + lag, n)
            news = 0
            for states in (layer.keys[:, :, start:], layer.values[:, :, start:]):
                after = states[:, :, last : last + lag]
                low, high = after.min(2, keepdims=True), after.max(2, keepdims=True)
                with np.errstate(all="ignore"):
                    share = np.where(high > low, (states[:, :, first:last] - low) / (high - low), 0)
                news = news + softmax(share.std(-1, ddof=1))
            better = (news[..., None, :] > news[..., None]).sum(-1)
            scores[..., first:last] = 1 - better / (last - first)
        return scores

    def expected(self, layer, keys, scale, future):
        """Expected Attention's: the queries' distribution before their rotation, then the mean rotation of what is ahead."""
        queries = np.concatenate(layer.since, axis=2)
        count, size = queries.shape[2:]
        queries = turned(queries, -np.arange(count))
        mean = queries.mean(2)
        covariance = np.einsum("bhni,bhnj->bhij", queries - mean[:, :, None], queries - mean[:, :, None]) / count
        ahead = np.arange(count, count + future)
        turn = np.stack([turned(np.tile(row, (future, 1)), ahead).mean(0) for row in np.eye(size)], axis=1)
        group = queries.shape[1] // keys.shape[1]
        keys = np.repeat(keys, group, axis=1)
        products = np.einsum("bhni,ij,bhj->bhn", keys, turn, mean) * scale
        products += np.einsum("bhni,bhij,bhnj->bhn", keys, turn @ covariance @ turn.T, keys) * scale**2 / 2
        return softmax(products).reshape(keys.shape[0], -1, group, keys.shape[2]).mean(2)

    def newest(self, layer):
        """The last R queries before the compression was due."""
        end = len(layer.queries) - layer.behind
        return np.concatenate(layer.queries[end - self.recent : end], axis=2)

    def compress(self, layer, scale, got):
        start, stop = layer.prompt, layer.keys.shape[2] - self.recent - layer.behind
        keep = self.kept(layer.intervals)
        got = np.asarray(got)
        if self.selector == "random":
            heads = 1 if self.options.get("draws") == "once" else layer.keys.shape[1]
            assert got.shape == (layer.keys.shape[0], heads, keep)
        elif self.selector == "vase":
            values = layer.values[:, :, start:stop]
            ranges = values.max(-1) - values.min(-1)
            largest = np.sort(ranges, axis=-1)[..., stop - start - int(self.options.get("share", 0.25) * keep) :]
            kept = np.sort(np.take_along_axis(ranges, got, axis=-1), axis=-1)
            assert np.array_equal(kept[..., keep - largest.shape[-1] :], largest)
        else:
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
        layer.left, layer.since = keep, []
        self.compressions += 1


@contextmanager
def following(reference):
    """Every attention call to the cache's layers within the block is shown to the reference first."""
    attended = EvenLayer.attended

    def shown(layer, call):
        then = reference.step(layer.index, call.queries, layer.keys, layer.values, call.scale)
        attended(layer, call)
        if then:
            then(layer.positions)

    with mock.patch.object(EvenLayer, "attended", shown):
        yield
