"""What to keep of a key/value cache: one small class for each published rule.

A selector scores the tokens of a layer's evictable region, and the cache keeps those that score highest. It is asked once a
compression; a rule that watches every step overrides `observe` as well. Each layer of a cache has a selector of its own,
copied from the one that the cache was given, so state needs no keys.

A layer (:class:`lzpenalty.rpc.RPCLayer`) shows a selector

    keys, values   [B, Hkv, s, D], the cache as it is, prompt included
    queries        [B, Hq, R, D], the last R queries after rotary embedding, oldest first
    start, stop    the evictable region within s: behind the prompt, before the last R tokens
    keep           how many of its tokens stay
    scale          what the model multiplies products of queries and keys with
    kernel, aggregation, index   as the cache was told; the number of the layer
"""

import torch
import torch.nn.functional as F

from lzpenalty._core import attention_scores, select_top

__all__ = ["H2O", "RKV", "RPC", "SELECTORS", "TOVA", "Random", "Recorder", "Selector", "SnapKV", "Streaming", "VaSE"]


def _attention(layer, **options) -> torch.Tensor:
    options = {"kernel": layer.kernel, "aggregation": layer.aggregation, **options}
    return attention_scores(layer.queries, layer.keys, start=layer.start, stop=layer.stop, scale=layer.scale, **options)


class Selector:
    """Base of all selectors; only `score` must be written."""

    def score(self, layer) -> torch.Tensor:
        """float32 [B, 1, stop - start], or [B, Hkv, stop - start] for a choice of its own for each key head."""
        raise NotImplementedError

    def observe(self, layer, queries: torch.Tensor) -> None:
        """After the attention of each step behind the prompt; queries [B, Hq, q, D] are the step's."""

    def compacted(self, positions: torch.Tensor, region: int) -> None:
        """Of the first `region` tokens behind the prompt only `positions`, [B, 1 or Hkv, keep], are left."""

    def select_rows(self, index: torch.Tensor) -> None:
        """The rows of the batch are now these of the old ones."""


class RPC(Selector):
    """Reasoning Path Compression (arXiv 2505.13866): attention of the last R queries, averaged over neighbours."""

    def score(self, layer):
        return _attention(layer)


class SnapKV(Selector):
    """SnapKV (arXiv 2404.14469): as RPC, but each key head chooses for itself; scores are pooled by 'max' or 'avg'."""

    def __init__(self, pooling: str = "max"):
        if pooling not in ("max", "avg"):
            raise ValueError(f"pooling: expected 'max' or 'avg', got {pooling!r}")
        self.pooling = pooling

    def score(self, layer):
        if self.pooling == "avg":
            return _attention(layer, aggregation="group")
        return F.max_pool1d(_attention(layer, aggregation="group", kernel=1), layer.kernel, 1, layer.kernel // 2)


class TOVA(Selector):
    """TOVA (arXiv 2401.06104): attention of the newest query alone, mean over heads."""

    def score(self, layer):
        return attention_scores(
            layer.queries[:, :, -1:], layer.keys, start=layer.start, stop=layer.stop, scale=layer.scale, kernel=1
        )


class H2O(Selector):
    """H2O (arXiv 2306.14048): the attention that a token got at all steps since it entered, mean over heads."""

    def __init__(self):
        self.mass = None

    def observe(self, layer, queries):
        n, steps = layer.length - layer.start, queries.shape[2]
        mass = queries.new_zeros((queries.shape[0], 1, 0), dtype=torch.float32) if self.mass is None else self.mass
        self.mass = F.pad(mass, (0, n - mass.shape[2]))
        for step in range(steps):  # each query attends to what came before it, and to itself
            seen = n - steps + step + 1
            self.mass[..., :seen] += attention_scores(
                queries[:, :, step : step + 1],
                layer.keys,
                start=layer.start,
                stop=layer.start + seen,
                scale=layer.scale,
                kernel=1,
            )

    def score(self, layer):
        return self.mass[..., : layer.stop - layer.start].contiguous()

    def compacted(self, positions, region):
        self.mass = torch.cat([self.mass[..., :region].gather(2, positions), self.mass[..., region:]], dim=2)

    def select_rows(self, index):
        if self.mass is not None:
            self.mass = self.mass[index]


class Streaming(Selector):
    """StreamingLLM (arXiv 2309.17453): the `sinks` oldest generated tokens, and the newest."""

    def __init__(self, sinks: int = 4):
        if not isinstance(sinks, int) or sinks < 0:
            raise ValueError(f"sinks: expected an integer >= 0, got {sinks!r}")
        self.sinks = sinks

    def score(self, layer):
        age = torch.arange(layer.stop - layer.start, dtype=torch.float32, device=layer.keys.device)
        age[: self.sinks] = float("inf")
        return age.repeat(layer.keys.shape[0], 1, 1)


class Random(Selector):
    """Uniform, seeded. Keeps up with most rules on average tasks, and fails where one fact must be kept."""

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.generator = None

    def score(self, layer):
        if self.generator is None:
            self.generator = torch.Generator(layer.keys.device).manual_seed(self.seed + layer.index)
        shape = (layer.keys.shape[0], 1, layer.stop - layer.start)
        return torch.rand(shape, generator=self.generator, device=layer.keys.device)

    def __deepcopy__(self, memo):
        twin = type(self)(self.seed)
        if self.generator is not None:
            twin.generator = self.generator.clone_state()
        return twin


class RKV(Selector):
    """R-KV (arXiv 2505.24133): weight * attention + (1 - weight) * (1 - redundancy), where the redundancy of a token is the
    softmax of the mean cosine similarity between its key and all keys of the region."""

    def __init__(self, weight: float = 0.1):
        if not 0 <= weight <= 1:
            raise ValueError(f"weight: expected a number from 0 to 1, got {weight!r}")
        self.weight = weight

    def score(self, layer):
        unit = F.normalize(layer.keys[:, :, layer.start : layer.stop].float(), dim=-1)
        # The mean over all pairs of a token is its product with the mean key.
        redundancy = (unit @ unit.mean(2, keepdim=True).mT).squeeze(-1).softmax(-1)
        if layer.aggregation == "layer":
            redundancy = redundancy.mean(1, keepdim=True)
        return self.weight * _attention(layer) + (1 - self.weight) * (1 - redundancy)


class VaSE(Selector):
    """VaSE (arXiv 2606.03928): as RPC, but the tokens with the largest values (Euclidean norm, mean over heads) always stay:
    models fall into loops without them. `share` is their part of all that is kept."""

    def __init__(self, share: float = 0.1):
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected a number from 0 to 1, got {share!r}")
        self.share = share

    def score(self, layer):
        norms = layer.values[:, :, layer.start : layer.stop].float().norm(dim=-1)
        if layer.aggregation == "layer":
            norms = norms.mean(1, keepdim=True)
        protected = round(self.share * layer.keep)
        scores = _attention(layer)
        return scores.scatter(2, select_top(norms, protected), float("inf")) if protected else scores


class Recorder(Selector):
    """Another selector, with a record of what it kept, for pictures.

    `history` has an int64 tensor [B, 1 or Hkv, keep] for each compression: the generated tokens, counted from 0, that were
    left of the first `seen` ones. `cache.selectors` are the recorders of a cache's layers.
    """

    def __init__(self, selector: Selector):
        if not isinstance(selector, Selector):
            raise TypeError(f"selector: expected a Selector, got {type(selector).__name__}")
        self.selector, self.history, self.seen = selector, [], 0

    def score(self, layer):
        return self.selector.score(layer)

    def observe(self, layer, queries):
        self.selector.observe(layer, queries)

    def compacted(self, positions, region):
        self.selector.compacted(positions, region)
        left = self.history[-1] if self.history else positions[..., :0]
        new = torch.arange(self.seen, self.seen + region - left.shape[2], device=positions.device)
        self.history.append(torch.cat([left, new.expand(*left.shape[:2], -1)], dim=2).gather(2, positions))
        self.seen += len(new)

    def select_rows(self, index):
        self.selector.select_rows(index)
        self.history = [kept[index] for kept in self.history]


SELECTORS = {
    "rpc": RPC,
    "tova": TOVA,
    "h2o": H2O,
    "snapkv": SnapKV,
    "streaming": Streaming,
    "random": Random,
    "rkv": RKV,
    "vase": VaSE,
}
