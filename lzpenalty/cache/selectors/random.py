"""Chance, which every rule must beat."""

import torch

from lzpenalty.cache.selectors.base import Selector

__all__ = ["Random"]


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
