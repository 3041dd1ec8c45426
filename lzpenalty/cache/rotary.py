"""Turning queries to other positions, for models that write positions into queries and keys by rotating them.

A rotary embedding multiplies the pair i of a query's numbers at position p by a rotation by p * f[i]. Rotations add up, so a
query of any position becomes one of a position that is d tokens later by a rotation by d * f: neither its own position nor
the padding before it matters, nor a factor that the model multiplied it with. The frequencies f are those of the model's
rotary module, whatever they were scaled by (linear, dynamic, YaRN, Llama 3's).

Which numbers form pairs, and whether a layer's queries are rotated at all, differs from model to model. So nothing is taken
for granted: the model is shown one token at two positions, and what turns one query of each layer into the other is looked
for. The two are rows of a batch that see nothing but themselves, so that all but the positions is equal in all layers.
"""

import contextlib
import threading
import weakref
from dataclasses import dataclass

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lzpenalty.cache.attend import check_options, check_places
from lzpenalty.cache.attention import mark, watched

__all__ = ["Attention", "Rotation", "examine"]

_DISTANCE = 61  # of the two positions: most frequencies tell them apart, and no model is too short
_stance = threading.RLock()


@dataclass(frozen=True)
class Rotation:
    """How a layer's queries are rotated: `pairs` is 'half' if the first half of the numbers is paired with the second,
    'interleaved' if neighbours are, 'none' if they are the same at all positions, 'unknown' if nothing fits. The last two
    leave queries as they are."""

    pairs: str
    module: weakref.ref | None = None
    name: str = ""

    @property
    def frequencies(self) -> torch.Tensor:
        """Read anew each time: some models change them as texts grow."""
        return getattr(self.module(), self.name).float()

    def __call__(self, queries: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """Queries [..., q, D] as if asked `distances` [q] tokens later, float32."""
        queries = queries.float()
        return queries if self.module is None else _turn(queries, distances, self.frequencies, self.pairs)


def _turn(queries: torch.Tensor, distances: torch.Tensor, frequencies: torch.Tensor, pairs: str) -> torch.Tensor:
    angles = distances.to(queries.device, torch.float32)[:, None] * frequencies.to(queries.device)
    cos, sin = angles.cos(), angles.sin()
    size = 2 * frequencies.shape[0]
    rotated, rest = queries[..., :size], queries[..., size:]
    if pairs == "half":
        a, b = rotated.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)
    a, b = rotated[..., ::2], rotated[..., 1::2]
    return torch.cat([torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2), rest], dim=-1)


class _Probe(DynamicLayer):
    """A layer that remembers what its attention is asked, and with which options."""

    queries = options = None

    def update(self, key_states, value_states, *args, **kwargs):
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        mark(keys, self)
        return keys, values

    def attends(self, attention_mask, flash) -> None:
        pass

    def attend(self, queries, attention_mask, scale, options) -> None:
        self.queries, self.options = queries.detach(), options

    def attended(self, queries, scale) -> None:
        pass


@contextlib.contextmanager
def _uncompiled():
    """A model whose forward goes through torch.compile runs as it is: a graph would show a probe nothing. Compilers are off
    in the whole process meanwhile. One thread at a time, or the last would leave behind what the first had set."""
    with _stance:
        old = not hasattr(torch.compiler, "set_stance")  # before torch 2.6
        with contextlib.nullcontext() if old else torch.compiler.set_stance("force_eager"):
            yield


@dataclass(frozen=True)
class Attention:
    """How a model's layers with full attention, in their order, attend. `special` names what caches with budgets by head
    can't compute, `placed` what none can that drops keys; None if there is nothing. `unseen` says that attention never gets
    the keys that the cache returns, but others that are made of them."""

    rotations: list[Rotation]
    special: str | None
    placed: str | None
    unseen: bool


def examine(model) -> Attention:
    """Shows the model one token at two positions, and looks at what its attention is asked."""
    cache = DynamicCache(config=model.config)
    cache.layers = [_Probe() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    probes = [layer for layer in cache.layers if isinstance(layer, _Probe)]
    device = model.get_input_embeddings().weight.device
    try:
        with torch.no_grad(), watched(model), _uncompiled():
            ids, positions = torch.full((2, 1), 1, device=device), torch.tensor([[0], [_DISTANCE]], device=device)
            model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    except TypeError:  # a model without positions to be told
        pass
    special = next((what for probe in probes if (what := check_options(probe.options or {}))), None)
    if getattr(model.config.get_text_config(decoder=True), "kv_lora_rank", None):
        special = special or "latent keys and values (MLA)"
    placed = next((what for probe in probes if (what := check_places(probe.options or {}))), None)
    unseen = any(probe.is_initialized and probe.queries is None for probe in probes)
    return Attention([_rotation(model, probe.queries) for probe in probes], special, placed, unseen)


def _rotation(model, queries: torch.Tensor | None) -> Rotation:
    if queries is None:
        return Rotation("unknown")
    before, after = queries[:1].float(), queries[1:].float()
    distance = torch.tensor([_DISTANCE])
    candidates = [(before, Rotation("none"))]
    for module in model.modules():
        for name, frequencies in module.named_buffers(recurse=False):
            if name.endswith("inv_freq") and "original" not in name and 2 * frequencies.numel() <= queries.shape[-1]:
                for pairs in ("half", "interleaved"):
                    turned = _turn(before, distance, frequencies.float(), pairs)
                    candidates.append((turned, Rotation(pairs, weakref.ref(module), name)))
    errors = [(turned - after).abs().max().item() for turned, _ in candidates]
    best = min(range(len(candidates)), key=lambda i: errors[i])
    tolerance = after.abs().max().item() * (1e-3 if queries.dtype == torch.float32 else 0.03)
    return candidates[best][1] if errors[best] <= tolerance else Rotation("unknown")
