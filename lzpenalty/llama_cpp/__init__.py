"""llama.cpp, by way of llama-cpp-python: the penalty as a logits processor (penalty.py) and in C (chain.py), and a cache
that forgets (rpc.py). None needs torch.

The penalty needs no llama-cpp-python either, so that is imported only when `RPCLlama` is asked for."""

from lzpenalty.llama_cpp.chain import sampler
from lzpenalty.llama_cpp.penalty import LZPenalty

__all__ = ["LZPenalty", "RPCLlama", "sampler"]


def __getattr__(name):
    if name == "RPCLlama":
        from lzpenalty.llama_cpp.rpc import RPCLlama

        return RPCLlama
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
