"""llama.cpp, by way of llama-cpp-python: the penalty as a logits processor (penalty.py), and in C (chain.py)."""

from lzpenalty.llama_cpp.chain import sampler
from lzpenalty.llama_cpp.penalty import LZPenalty

__all__ = ["LZPenalty", "sampler"]
