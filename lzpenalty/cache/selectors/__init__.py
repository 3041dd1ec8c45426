"""What to keep of a key/value cache: one small class for each published rule.

A selector scores the tokens of a layer's evictable region, and the cache keeps those that score highest. It is asked once a
compression; a rule that watches every step overrides `observe` as well. Each layer of a cache has a selector of its own,
copied from the one that the cache was given, so state needs no keys.

A layer (:class:`lzpenalty.cache.even.EvenLayer`) shows a selector

    keys, values   [B, Hkv, s, D], the cache as it is, prompt included
    queries        [B, Hq, R, D], the last R queries after rotary embedding, oldest first
    start, stop    the evictable region within s: behind the prompt, before the last R tokens
    keep           how many of its tokens stay
    scale          what the model multiplies products of queries and keys with
    kernel, aggregation, index   as the cache was told; the number of the layer
    hidden         entries that are none of the text, bool [B, 1 or Hkv, s], or None: padding, and what a mask takes out
    rotation       how queries turn with their positions, for selectors that ask for it (`turns_queries`)

The rules differ in what competes: with the published codes that is the whole cache or all but its newest tokens, here always
the evictable region. The prompt stays whatever its scores are, and softmaxes, means and pieces leave it out, so that a row
that is padded scores as if it were alone.

What a row of a batch keeps must not depend on its neighbours, nor on entries that are `hidden`: they get no attention, and
go first whatever their scores are.

Where each key head has a budget of its own (`allocation="global"`), it has a selector of its own as well, in each row, and
shows itself as a layer of this one head and row (:class:`lzpenalty.cache.ragged.Cell`). Scores of all heads of a row may
be weighted by each other before they decide (`agreed`). A selector whose scores come to a limit says where that is
(`certain`), and what a head goes by where more comes to it than may stay (`crowded`).
"""

from lzpenalty.cache.selectors.base import Selector
from lzpenalty.cache.selectors.echo import Echo
from lzpenalty.cache.selectors.expected import Expected
from lzpenalty.cache.selectors.h2o import H2O
from lzpenalty.cache.selectors.keydiff import KeyDiff
from lzpenalty.cache.selectors.lagkv import LagKV
from lzpenalty.cache.selectors.random import Random
from lzpenalty.cache.selectors.recorder import Recorder
from lzpenalty.cache.selectors.rkv import RKV
from lzpenalty.cache.selectors.rpc import RPC
from lzpenalty.cache.selectors.snapkv import SnapKV
from lzpenalty.cache.selectors.streaming import Streaming
from lzpenalty.cache.selectors.tova import TOVA
from lzpenalty.cache.selectors.vase import VaSE

__all__ = [
    "Echo",
    "Expected",
    "H2O",
    "KeyDiff",
    "LagKV",
    "RKV",
    "RPC",
    "SELECTORS",
    "Random",
    "Recorder",
    "Selector",
    "SnapKV",
    "Streaming",
    "TOVA",
    "VaSE",
]

SELECTORS = {
    "rpc": RPC,
    "tova": TOVA,
    "h2o": H2O,
    "snapkv": SnapKV,
    "streaming": Streaming,
    "random": Random,
    "rkv": RKV,
    "vase": VaSE,
    "keydiff": KeyDiff,
    "lagkv": LagKV,
    "expected": Expected,
    "echo": Echo,
}
