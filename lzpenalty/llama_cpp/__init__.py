"""llama.cpp, by way of llama-cpp-python: see lzpenalty.llama_cpp.penalty."""

from lzpenalty.llama_cpp.penalty import LZPenalty

__all__ = ["LZPenalty"]
