"""What a user writes, as checkers of types see it: `make test-types`. Annotations say what is returned."""

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria

import lzpenalty
from lzpenalty.analysis import factorize, find_loops, running_rate
from lzpenalty.hf import CompressedCache, LZPenaltyLogitsProcessor, RepetitionStoppingCriteria


def by_hand(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    options = lzpenalty.LZOptions(strength=0.2, release=[7])
    same: torch.Tensor = lzpenalty.lz_penalize_(logits, tokens, options)
    lzpenalty.dry_penalize_(same, tokens)
    return lzpenalty.lz_penalize_(same, tokens, starts=torch.tensor([3, 4]), cost="pair", until=[[1, 2], 3])


def with_numpy(logits: npt.NDArray[np.float32], tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return lzpenalty.lz_penalize_(logits, tokens, window=256)


def in_generate(model: PreTrainedModel) -> str:
    penalty: LogitsProcessor = LZPenaltyLogitsProcessor(strength=0.2)
    stop: StoppingCriteria = RepetitionStoppingCriteria()
    LogitsProcessorList([penalty])
    with CompressedCache(model, interval=64, ratio=4) as cache:
        return f"{stop} {cache.stats()}"


def looks_back(tokens: list[int]) -> int:
    rates = running_rate(factorize(tokens))
    return len(find_loops(tokens)) + len(rates)
