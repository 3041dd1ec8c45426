"""What compressed requests came to, when they end: Prometheus counters, and a line of the log where a server asks for it.

The counters are in the engine's process. Where that is not the one that answers /metrics, as in `vllm serve`, they are seen
there if PROMETHEUS_MULTIPROC_DIR names a folder, as for all counters of several processes.
"""

import logging
from functools import cache

from lzpenalty.vllm.plan import RequestPlan

__all__ = ["COUNTERS", "report"]

logger = logging.getLogger("vllm.lzpenalty")  # below vLLM's, so that its settings hold

COUNTERS = {
    "tokens_seen": "Tokens computed of requests with a compressed cache.",
    "tokens_kept": "Of these, tokens that were still in the cache when their request ended.",
    "compressions": "Compressions of caches.",
    "blocks_freed": "Blocks that compressions gave back.",
    "seconds": "Seconds that compressions took, on a GPU those until they were launched.",
}


@cache
def _counters() -> list:
    """One of each for a process. vLLM brings prometheus_client along."""
    from prometheus_client import Counter

    return [Counter(f"lzpenalty_cache_{name}", text) for name, text in COUNTERS.items()]


def report(request_id: str, plan: RequestPlan, computed: int, freed: int, seconds: float, log: bool) -> None:
    """Counts a request that has ended after so many tokens, of which `plan` says how many are left."""
    kept, compressions = computed - plan.dropped(computed), plan.compressions(computed)
    for counter, value in zip(_counters(), (computed, kept, compressions, freed, seconds), strict=True):
        counter.inc(value)
    if log:
        logger.info(
            "request %s: %d tokens computed, %d of them kept, %d compressions in %.3f s, %d blocks given back",
            request_id, computed, kept, compressions, seconds, freed,
        )  # fmt: skip
