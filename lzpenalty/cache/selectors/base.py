"""What every selector has, and what several of them score with."""

import math

import torch
import torch.nn.functional as F

from lzpenalty._core import attention_scores

__all__ = ["Drawing", "Selector", "attention", "check_aggregation", "hidden", "region"]


def attention(layer, queries: torch.Tensor | None = None, stop: int | None = None, **options) -> torch.Tensor:
    """Attention of these queries, by default the layer's last R, to the region, or its part before `stop`, as
    :func:`lzpenalty.attention_scores` has it. Entries that are none of the text get nothing."""
    queries, stop = layer.queries if queries is None else queries, layer.stop if stop is None else stop
    options = {"kernel": layer.kernel, "aggregation": layer.aggregation, **options}
    mask = hidden(layer, stop)
    if mask is None:
        return attention_scores(queries, layer.keys, start=layer.start, stop=stop, scale=layer.scale, **options)
    return _attention(queries, layer.keys[:, :, layer.start : stop], mask, layer.scale, **options)


def _attention(queries, keys, mask, scale: float, kernel: int, aggregation: str) -> torch.Tensor:
    """The same by torch, with a mask [B, 1 or Hkv, n] of what gets nothing."""
    grouped = queries.float().unflatten(1, (keys.shape[1], -1)).flatten(2, 3)
    products = scale * grouped @ torch.where(mask[..., None], 0, keys.float()).mT
    shares = products.masked_fill(mask[:, :, None], -torch.inf).softmax(-1).nan_to_num()
    mean = shares.mean((1, 2))[:, None] if aggregation == "layer" else shares.mean(2)
    return F.avg_pool1d(mean, kernel, 1, kernel // 2)


def hidden(layer, stop: int | None = None) -> torch.Tensor | None:
    """Of the region, or its part before `stop`, the entries that are none of the text, bool [B, 1 or Hkv, n]; None if there
    are none."""
    mask = layer.hidden
    mask = None if mask is None else mask[..., layer.start : layer.stop if stop is None else stop]
    return None if mask is None or not mask.any() else mask


def region(layer, states: torch.Tensor) -> torch.Tensor:
    """Of the layer's keys or values those that may be dropped, float32; 0 where they are none of the text."""
    states, mask = states[:, :, layer.start : layer.stop].float(), hidden(layer)
    return states if mask is None else states.masked_fill(mask[..., None], 0)


def check_aggregation(aggregation: str) -> str:
    if aggregation not in ("layer", "group"):
        raise ValueError(f"aggregation: expected 'layer' or 'group', got {aggregation!r}")
    return aggregation


class Selector:
    """Base of all selectors; only `score` must be written."""

    keeps_evidence = False  # a number beside each key and value, that moves along with them; see RaggedLayer
    turns_queries = False  # asks for `layer.rotation`
    certain = math.inf  # scores above this say little more; see :mod:`lzpenalty.cache.budgets`

    def score(self, layer) -> torch.Tensor:
        """float32 [B, 1, stop - start], or [B, Hkv, stop - start] for a choice of its own for each key head."""
        raise NotImplementedError

    def agreed(self, scores: list[torch.Tensor], columns: list[torch.Tensor]) -> list[torch.Tensor]:
        """What decides in a row whose heads, of all layers, have these scores [n], which are of these columns of the text,
        int64 [n]. For selectors whose heads are compressed together."""
        return scores

    def crowded(self, layer, score: torch.Tensor, keep: int) -> torch.Tensor:
        """What a head goes by, [B, n], where more than `keep` of a row's scores [B, n] are above `certain`."""
        return score

    def observe(self, layer, queries: torch.Tensor) -> None:
        """After the attention of each step behind the prompt; queries [B, Hq, q, D] are the step's."""

    def compacted(self, positions: torch.Tensor, region: int) -> None:
        """Of the first `region` tokens behind the prompt only `positions`, [B, 1 or Hkv, keep], are left."""

    def select_rows(self, index: torch.Tensor) -> None:
        """The rows of the batch are now these of the old ones."""

    def state(self) -> dict:
        """What `set_state` of another one takes: tensors, numbers, lists and dictionaries."""
        return dict(vars(self))

    def set_state(self, state: dict) -> None:
        vars(self).update(state)


class Drawing(Selector):
    """A selector that draws: each layer's own sequence, the same at each run."""

    def __init__(self, seed: int):
        self.seed = seed
        self.generator = None

    def draws(self, layer) -> torch.Generator:
        """The generator. Rows share what is drawn, so that one keeps what it would keep alone."""
        if self.generator is None:
            self.generator = torch.Generator(layer.keys.device).manual_seed(self.seed + layer.index)
        return self.generator

    def state(self) -> dict:
        generator = self.generator and (str(self.generator.device), self.generator.get_state())
        return {**vars(self), "generator": generator}

    def set_state(self, state: dict) -> None:
        super().set_state(state)
        if self.generator is not None:
            device, drawn = self.generator
            self.generator = torch.Generator(device)
            self.generator.set_state(drawn)

    def __deepcopy__(self, memo):
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        if self.generator is not None:
            twin.generator = self.generator.clone_state()
        return twin
