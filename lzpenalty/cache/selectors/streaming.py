"""StreamingLLM, arXiv 2309.17453."""

import torch

from lzpenalty.cache.selectors.base import Selector

__all__ = ["Streaming"]


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
