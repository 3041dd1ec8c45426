"""vLLM: the LZ penalty (lzpenalty.vllm.penalty), and a compressed key/value cache whose blocks are really freed.

    vllm serve MODEL --logits-processors lzpenalty.vllm:LZPenalty \\
        --worker-cls lzpenalty.vllm.Worker --scheduler-cls lzpenalty.vllm.Scheduler

The penalty needs the first line alone. With all of them a request asks for a compressed cache with
`vllm_xargs={"cache_interval": 4096}`, and the rest of lzpenalty.vllm.options.

    options      what requests and servers say
    plan         slots of a request, by how many tokens were computed
    checks       what is refused
    spec, scheduler, metrics                in the engine's process: blocks, what is computed when, and what came of it
    worker, runners, compressor, blocks     in those of workers: queries, and compressions
    echo, heads, explode                    the same where heads differ: the rule, who owns which sub-block, attention
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lzpenalty.vllm.penalty import LZPenalty
    from lzpenalty.vllm.scheduler import Scheduler
    from lzpenalty.vllm.worker import Worker

__all__ = ["LZPenalty", "Scheduler", "Worker"]

_MODULES = {"LZPenalty": "penalty", "Scheduler": "scheduler", "Worker": "worker"}


def __getattr__(name: str):
    """Imported when vLLM asks for it: the penalty works with more versions and platforms than the cache, and what counts
    tokens needs no vLLM."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"lzpenalty.vllm.{_MODULES[name]}"), name)
