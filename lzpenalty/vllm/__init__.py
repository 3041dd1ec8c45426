"""vLLM: see lzpenalty.vllm.penalty."""

from lzpenalty.vllm.penalty import LZPenalty

__all__ = ["LZPenalty"]
