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

from lzpenalty.cache.attend import attend_padded, placed, special
from lzpenalty.cache.attention import CACHE_ARGUMENT, Call, mark, watched

__all__ = ["Attention", "Rotation", "examine", "rotated"]

_DISTANCE = 61  # of the two positions: most frequencies tell them apart, and no model is too short
_stance = threading.RLock()


@dataclass(frozen=True)
class Rotation:
    """How a layer's queries are rotated: `pairs` is 'half' if the first half of the numbers is paired with the second,
    'interleaved' if neighbours are, 'none' if they are the same at all positions, 'unknown' if nothing fits or the positions
    that were given were not used. The last two leave queries as they are."""

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
    return rotated(queries, angles.cos(), angles.sin(), pairs)


def rotated(queries: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, pairs: str) -> torch.Tensor:
    """Queries [..., q, D] with the pairs of their first numbers rotated by angles of these cosines and sines, [q, pairs]."""
    size = 2 * cos.shape[-1]
    paired, rest = queries[..., :size], queries[..., size:]
    if pairs == "half":
        a, b = paired.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)
    a, b = paired[..., ::2], paired[..., 1::2]
    return torch.cat([torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2), rest], dim=-1)


class _Probe(DynamicLayer):
    """A layer that remembers the calls of attention since its last update."""

    shown = None

    def __init__(self):
        super().__init__()
        self.calls: list[Call] = []

    def update(self, key_states, value_states, *args, **kwargs):
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        self.calls, self.shown = [], values
        mark(keys, self)
        return keys, values

    def attend(self, call: Call) -> None:
        pass

    def attended(self, call: Call) -> None:
        self.calls.append(call)

    # What is said of it.

    def placed(self) -> str | None:
        """What ties attention to places that no key may be dropped from."""
        for call in self.calls:
            own = call.mask is not None and (call.mask.ndim != 4 or call.mask.shape[1] > 1 or _adds(call.mask))
            if what := placed(call) or ("masks of its own" if own else None):
                return what
        return None

    def special(self) -> str | None:
        """What only the model's own function can compute."""
        if len(self.calls) > 1:
            return f"{len(self.calls)} calls of attention a layer"
        for call in self.calls:
            if what := special(call):
                return what
            if call.values is not self.shown or call.keys.shape[1] != call.values.shape[1]:
                return "attention to other values than the cache's"
            if not _is_plain(call):
                return "attention that is more than a softmax of scaled products"
        return None


def _adds(mask: torch.Tensor) -> bool:
    """Whether a mask adds anything to a score that counts."""
    return mask.dtype != torch.bool and bool((mask.float().clamp(min=-1e30) * (mask > -1e30)).any())


def _is_plain(call: Call) -> bool:
    """Whether what came of a call is what kernels of ours would compute."""
    held = call.keys.shape[2]
    lengths = torch.full(call.keys.shape[:2], held, device=call.keys.device)
    in_order = torch.ones(1, 1, call.new, held, dtype=torch.bool, device=call.keys.device).tril(held - call.new)
    ours = attend_padded(call, call.keys, call.values, lengths, in_order).float()
    theirs = call.output.float()
    tolerance = 1e-3 if call.output.dtype == torch.float32 else 0.05
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= tolerance * (1e-6 + theirs.abs().max()))


@contextlib.contextmanager
def _uncompiled():
    """A model whose forward goes through torch.compile runs as it is: a graph would show a probe nothing. Compilers are off
    in the whole process meanwhile. One thread at a time, or the last would leave behind what the first had set."""
    with _stance:
        old = not hasattr(torch.compiler, "set_stance")  # before torch 2.6
        with contextlib.nullcontext() if old else torch.compiler.set_stance("force_eager"):
            yield


@contextlib.contextmanager
def _evaluated(model):
    """Modules that are in training are not, meanwhile."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


class _Positions:
    """Whether modules that rotate were told the positions that the model was given. In a model that has none any module is
    asked: its positions are written otherwise, or nowhere."""

    def __init__(self, model, positions: torch.Tensor):
        self.positions, self.used = positions, False
        rotary = [module for module in model.modules() if any(True for _ in _frequencies(module))]
        asked = rotary or [module for module in model.modules() if module is not model]
        self._handles = [module.register_forward_pre_hook(self._told, with_kwargs=True) for module in asked]

    def _told(self, module, args, kwargs) -> None:
        for given in (*args, *kwargs.values()):
            if (
                isinstance(given, torch.Tensor)
                and given.shape[-2:] == self.positions.shape
                and not given.is_floating_point()
            ):
                self.used |= bool((given == self.positions.to(given.device)).all())

    def __enter__(self) -> "_Positions":
        return self

    def __exit__(self, *exception) -> None:
        for handle in self._handles:
            handle.remove()


def _frequencies(module):
    for name, buffer in module.named_buffers(recurse=False):
        if name.endswith("inv_freq") and "original" not in name:
            yield name, buffer


@dataclass(frozen=True)
class Attention:
    """How a model's layers with full attention, in their order, attend. `special` names what caches with budgets by head
    can't compute, `placed` what none can that drops keys; None if there is nothing. `unseen` says that attention never gets
    the keys that the cache returns, but others that are made of them. `calls` are those of attention in a layer's step."""

    rotations: list[Rotation]
    special: str | None
    placed: str | None
    unseen: bool
    calls: list[int]


def examine(model) -> Attention:
    """Shows the model one token at two positions, then another, and looks at what its attention is asked and answers."""
    cache = DynamicCache(config=model.config)
    cache.layers = [_Probe() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    probes = [layer for layer in cache.layers if isinstance(layer, _Probe)]
    device = _device(model)
    ids, positions = torch.full((2, 1), 1, device=device), torch.tensor([[0], [_DISTANCE]], device=device)
    found, rotations = [], []
    with torch.no_grad(), watched(model), _uncompiled(), _evaluated(model), _Positions(model, positions) as told:
        for step in range(2):
            given = {"input_ids": ids, "use_cache": True, CACHE_ARGUMENT: cache}
            try:
                try:
                    model(position_ids=positions + step, **given)
                except TypeError:  # a model that takes no positions
                    model(**given)
            except Exception as error:
                raise ValueError(
                    f"model: expected one that goes on from a token and a cache, {type(model).__name__} raised "
                    f"{type(error).__name__}: {error}"
                ) from error
            rotations = rotations or [_rotation(model, probe, told) for probe in probes]
            found.append([(len(probe.calls), probe.placed(), probe.special()) for probe in probes])
    every = [each for step in found for each in step]
    kinds = next((what for _, _, what in every if what), None)
    if getattr(model.config.get_text_config(decoder=True), "kv_lora_rank", None):
        kinds = kinds or "latent keys and values (MLA)"
    calls = [count for count, _, _ in found[-1]]
    unseen = any(probe.is_initialized and not count for probe, count in zip(probes, calls, strict=True))
    return Attention(rotations, kinds, next((what for _, what, _ in every if what), None), unseen, calls)


def _device(model) -> torch.device:
    """Where the model wants its input: parts of it that are offloaded are nowhere until they are used."""
    there = (each.device for each in (model.get_input_embeddings().weight, *model.parameters(), *model.buffers()))
    return next((device for device in there if device.type != "meta"), torch.device("cpu"))


def _rotation(model, probe: _Probe, told: _Positions) -> Rotation:
    queries = probe.calls[0].queries if probe.calls else None
    if queries is None or queries.shape[0] != 2 or queries.shape[2] != 1 or not told.used:
        return Rotation("unknown")
    before, after = queries[:1].float(), queries[1:].float()
    distance = torch.tensor([_DISTANCE])
    candidates = [(before, Rotation("none"))]
    for module in model.modules():
        for name, frequencies in _frequencies(module):
            if frequencies.is_meta or 2 * frequencies.numel() > queries.shape[-1]:
                continue  # offloaded, and not there between two forwards; or not of these queries
            for pairs in ("half", "interleaved"):
                turned = _turn(before, distance, frequencies.float(), pairs)
                candidates.append((turned, Rotation(pairs, weakref.ref(module), name)))
    errors = [(turned - after).abs().max().item() for turned, _ in candidates]
    best = min(range(len(candidates)), key=lambda i: errors[i])
    tolerance = after.abs().max().item() * (1e-3 if queries.dtype == torch.float32 else 0.03)
    return candidates[best][1] if errors[best] <= tolerance else Rotation("unknown")
