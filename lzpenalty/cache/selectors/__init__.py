"""What to keep of a key/value cache: one small class for each published rule.

A selector scores the tokens of a layer's evictable region, and the cache keeps those that score highest. It is asked once a
compression; a rule that watches every step overrides `observe` as well. Each layer of a cache has a selector of its own,
copied from the one that the cache was given, so state needs no keys.

A layer (:class:`lzpenalty.cache.layer.RPCLayer`) shows a selector

    keys, values   [B, Hkv, s, D], the cache as it is, prompt included
    queries        [B, Hq, R, D], the last R queries after rotary embedding, oldest first
    start, stop    the evictable region within s: behind the prompt, before the last R tokens
    keep           how many of its tokens stay
    scale          what the model multiplies products of queries and keys with
    kernel, aggregation, index   as the cache was told; the number of the layer

Where each key head has a budget of its own (`allocation="global"`), it has a selector of its own as well, and shows itself
as a layer of this one head (:class:`lzpenalty.cache.ragged.Head`).
"""

from lzpenalty.cache.selectors.base import Selector
from lzpenalty.cache.selectors.echo import Echo
from lzpenalty.cache.selectors.h2o import H2O
from lzpenalty.cache.selectors.random import Random
from lzpenalty.cache.selectors.recorder import Recorder
from lzpenalty.cache.selectors.rkv import RKV
from lzpenalty.cache.selectors.rpc import RPC
from lzpenalty.cache.selectors.snapkv import SnapKV
from lzpenalty.cache.selectors.streaming import Streaming
from lzpenalty.cache.selectors.tova import TOVA
from lzpenalty.cache.selectors.vase import VaSE

__all__ = ["Echo", "H2O", "RKV", "RPC", "SELECTORS", "TOVA", "Random", "Recorder", "Selector", "SnapKV", "Streaming", "VaSE"]

SELECTORS = {
    "rpc": RPC,
    "tova": TOVA,
    "h2o": H2O,
    "snapkv": SnapKV,
    "streaming": Streaming,
    "random": Random,
    "rkv": RKV,
    "vase": VaSE,
    "echo": Echo,
}
