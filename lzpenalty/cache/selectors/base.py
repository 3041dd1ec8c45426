"""What every selector has, and what several of them score with."""

import math

import torch

from lzpenalty._core import attention_scores

__all__ = ["Drawing", "Selector", "attention", "check_aggregation", "region"]


def attention(layer, **options) -> torch.Tensor:
    """Attention of the layer's last R queries, as :func:`lzpenalty.attention_scores` has it."""
    options = {"kernel": layer.kernel, "aggregation": layer.aggregation, **options}
    return attention_scores(layer.queries, layer.keys, start=layer.start, stop=layer.stop, scale=layer.scale, **options)


def region(layer, states: torch.Tensor) -> torch.Tensor:
    """Of the layer's keys or values those that may be dropped, float32."""
    return states[:, :, layer.start : layer.stop].float()


def check_aggregation(aggregation: str) -> str:
    if aggregation not in ("layer", "group"):
        raise ValueError(f"aggregation: expected 'layer' or 'group', got {aggregation!r}")
    return aggregation


class Selector:
    """Base of all selectors; only `score` must be written."""

    keeps_evidence = False  # a number beside each key and value, that moves along with them; see RaggedLayer
    turns_queries = False  # asks for `layer.rotation`
    certain = math.inf  # scores above this are alike; see :mod:`lzpenalty.cache.budgets`

    def score(self, layer) -> torch.Tensor:
        """float32 [B, 1, stop - start], or [B, Hkv, stop - start] for a choice of its own for each key head."""
        raise NotImplementedError

    def crowded(self, layer, score: torch.Tensor, keep: int) -> torch.Tensor:
        """What a head goes by, [B, n], where more than `keep` of a row's scores [B, n] are `certain`."""
        return score

    def observe(self, layer, queries: torch.Tensor) -> None:
        """After the attention of each step behind the prompt; queries [B, Hq, q, D] are the step's."""

    def compacted(self, positions: torch.Tensor, region: int) -> None:
        """Of the first `region` tokens behind the prompt only `positions`, [B, 1 or Hkv, keep], are left."""

    def select_rows(self, index: torch.Tensor) -> None:
        """The rows of the batch are now these of the old ones."""


class Drawing(Selector):
    """A selector that draws: each layer's own sequence, the same at each run."""

    def __init__(self, seed: int):
        self.seed = seed
        self.generator = None

    def draws(self, layer) -> torch.Generator:
        if self.generator is None:
            self.generator = torch.Generator(layer.keys.device).manual_seed(self.seed + layer.index)
        return self.generator

    def __deepcopy__(self, memo):
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        if self.generator is not None:
            twin.generator = self.generator.clone_state()
        return twin
