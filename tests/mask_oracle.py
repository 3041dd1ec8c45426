"""What a cache whose heads have budgets of their own should do, by masks: nothing is ever moved or dropped.

Within `masked(model, ...)` the model keeps transformers' own full cache, and its attention function is this one, written
from the definitions in float64: an entry that a head has dropped is masked from then on. Positions are rotated as complex
numbers. Nothing here is shared with the package.
"""

import inspect
import itertools
from contextlib import contextmanager
from fractions import Fraction
from unittest import mock

import torch
import transformers

from schedule import token_by_token
from tiny import SIZES

ROTATED = {"cohere2": lambda layer: False, "smollm3": lambda layer: layer % 4 != 3}  # the others in all layers


class Masks:
    """The rule's state: for each full layer, which entries [B, Hkv, n] are left, and the evidence for them."""

    def __init__(self, interval, ratio, recent, rule="echo", allocation="global", budget=None, kernel=7, angles=None,
                 interleaved=False, protect=None, rivals=256):  # fmt: skip
        self.interval, self.ratio, self.recent, self.kernel = interval, ratio, recent, kernel
        self.rule, self.allocation, self.budget = rule, allocation, budget
        self.rivals = rivals  # entries before those of the queries that these look at where they stand; 0: they don't
        # angles(layer): radians a position that each pair of numbers is rotated by, or None if they are not
        self.angles, self.interleaved = angles or (lambda layer: None), interleaved
        self.left, self.evidence, self.queries, self.keys, self.scale = {}, {}, {}, {}, {}
        self.prompt = self.seen = self.behind = self.intervals = self.scored = self.compressions = self.crowded = 0
        self.answering = False
        self.budgets = None
        if protect is not None:  # the first so many tokens are what a prompt is else
            self.prompt, self.scored, self.answering = protect, protect, True

    def attention(self, layer, last_layer, query, key, value, mask, scale, softcap):
        query, key, value = query.double(), key.double(), value.double()
        (rows, heads, new, _), (n, key_heads) = query.shape, (key.shape[2], key.shape[1])
        if layer not in self.left:
            self.left[layer] = torch.ones(rows, key_heads, 0, dtype=torch.bool)
            self.evidence[layer] = torch.zeros(rows, key_heads, 0, dtype=torch.float64)
            self.queries[layer] = query[:, :, :0]
        grown = n - self.left[layer].shape[2]
        self.left[layer] = torch.cat([self.left[layer], torch.ones(rows, key_heads, grown, dtype=torch.bool)], 2)
        self.evidence[layer] = torch.cat([self.evidence[layer], torch.zeros(rows, key_heads, grown)], 2)
        self.keys[layer], self.scale[layer] = key, scale
        may = torch.ones(new, n, dtype=torch.bool).tril(n - new).expand(rows, new, n)
        if mask is not None:
            may = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] >= 0
        self.visible = may[:, -1]
        self.queries[layer] = torch.cat([self.queries[layer], self.of_the_text(layer, query, may)], 2)
        group = heads // key_heads
        may = self.left[layer][:, :, None, None] & may[:, None, None]
        products = scale * torch.einsum("bhgqd,bhtd->bhgqt", query.unflatten(1, (key_heads, group)), key)
        if softcap:
            products = softcap * (products / softcap).tanh()
        weights = products.masked_fill(~may, -torch.inf).softmax(-1).nan_to_num()
        output = torch.einsum("bhgqt,bhtd->bhgqd", weights, value).flatten(1, 2).transpose(1, 2)
        if layer == last_layer:
            self.step(n, new)
        return output

    def of_the_text(self, layer, query, may):
        """Queries of tokens that don't see themselves are none of the text: behind the prompt the newest one that is stands
        for them."""
        query, new = query.clone(), query.shape[2]
        if self.answering or new == 1:
            for row, i in itertools.product(range(query.shape[0]), range(new)):
                if not may[row, i, may.shape[2] - new + i]:
                    query[row, :, i] = query[row, :, i - 1] if i else self.queries[layer][row, :, -1]
        return query

    def step(self, n, new):
        self.answering |= new == 1
        self.seen = n
        if not self.answering:
            self.prompt = self.scored = n
            return
        if self.rule == "echo":
            while self.seen - self.scored >= self.recent:
                self.scored += self.recent
                for layer in self.left:
                    self.ask_again(layer, self.scored)
        times, self.behind = token_by_token(n - self.prompt, self.interval, self.recent, self.kept)
        if times > self.intervals:
            self.intervals = times
            self.compress(self.kept(times))

    def kept(self, intervals):
        return intervals * self.interval // self.ratio if self.budget is None else self.budget - self.recent

    def rotate(self, layer, x, positions):
        angles = self.angles(layer)
        if angles is None:
            return x
        size = 2 * len(angles)
        head, rest = x[..., :size], x[..., size:]
        pairs = head.unflatten(-1, (-1, 2)) if self.interleaved else head.unflatten(-1, (2, -1)).mT
        turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(
            torch.ones(len(positions), len(angles), dtype=torch.float64), positions[:, None] * angles.double()
        )
        pairs = torch.view_as_real(turned)
        return torch.cat([pairs.flatten(-2) if self.interleaved else pairs.mT.flatten(-2), rest], -1)

    def ask_again(self, layer, n):
        """Step 1: the queries n - R - 1 .. n - 1, asked at n + P."""
        first = max(0, n - self.recent - 1)  # where nothing always stays, there is no query before the first block
        asked = torch.arange(first, n).double()
        plain = queries = self.queries[layer][:, :, first:n]
        queries = self.rotate(layer, self.rotate(layer, queries, -asked), torch.full_like(asked, n + self.interval))
        keys, heads = self.keys[layer][:, :, :n], self.left[layer].shape[1]
        products = self.scale[layer] * torch.einsum("bhgqd,bhtd->bhgqt", queries.unflatten(1, (heads, -1)), keys)
        there = self.left[layer][..., :n] & self.visible[:, None, :n]
        products = products.masked_fill(~there[:, :, None, None], -torch.inf)
        if self.rivals:
            products = torch.cat([products, self.nearby(layer, plain, keys, there, first, n)], -1)
        weights = products.softmax(-1)[..., :n]
        evidence = self.evidence[layer][..., :n]
        evidence.copy_(torch.maximum(evidence, weights.amax((2, 3))))

    def nearby(self, layer, queries, keys, there, first, n):
        """Products of queries, which stand at first .. n - 1, with what they see there of the newest entries."""
        products = self.scale[layer] * torch.einsum("bhgqd,bhtd->bhgqt", queries.unflatten(1, (keys.shape[1], -1)), keys)
        after = self.left[layer][..., :n].flip(-1).cumsum(-1).flip(-1)  # entries from each on
        near = there & (after <= n - first + self.rivals) & (torch.arange(n) >= self.prompt)
        seen = torch.arange(n) <= torch.arange(first, n)[:, None]
        return products.masked_fill(~(near[:, :, None, None] & seen), -torch.inf)

    def attention_to_region(self, layer, row, head, entries):
        """Of SnapKV and RPC by group: the last R queries, softmax over the region, mean; smoothed over what is left."""
        group = self.queries[layer].shape[1] // self.left[layer].shape[1]
        last = self.seen - self.behind
        queries = self.queries[layer][row, head * group : (head + 1) * group, last - self.recent : last].flatten(0, 1)
        products = self.scale[layer] * queries @ self.keys[layer][row, head, entries].T
        mean = products.masked_fill(~self.visible[row, entries], -torch.inf).softmax(-1).nan_to_num().mean(0)
        reach = self.kernel // 2
        around = torch.nn.functional.pad(mean, (reach, reach)).unfold(0, self.kernel, 1)
        return around.amax(1) if self.rule == "snapkv" else around.mean(1)

    def compress(self, keep):
        """Steps 2 to 4."""
        regions = {}
        for layer, left in self.left.items():
            for head in range(left.shape[1]):
                for row in range(left.shape[0]):
                    entries = left[row, head].nonzero()[:, 0]
                    entries = entries[(entries >= self.prompt) & (entries < self.seen - self.recent - self.behind)]
                    if self.rule == "echo":
                        scores = self.evidence[layer][row, head, entries].clone()
                    else:
                        scores = self.attention_to_region(layer, row, head, entries)
                    scores[~self.visible[row, entries]] = -torch.inf  # the first to go
                    regions[layer, head, row] = entries, scores
        if self.rule == "echo":
            regions = self.agreed(regions)
        self.budgets = {}
        for row in sorted({row for _, _, row in regions}):
            of_row = {key: scores for key, (_, scores) in regions.items() if key[2] == row}
            self.budgets |= self.of_row(of_row, keep)
        for (layer, head, row), (entries, scores) in regions.items():
            budget = self.budgets[layer, head, row]
            if self.rule == "echo" and (scores > 0.1).sum() > budget:
                attended = self.attention_to_region(layer, row, head, entries).tolist()
                scores = torch.stack([scores[max(i - 1, 0) : i + 2].max() for i in range(len(scores))])
                scores[sorted(range(len(scores)), key=lambda i: -attended[i])[: budget // 4]] = 2
                scores[~self.visible[row, entries]] = -torch.inf
            best = sorted(zip((-scores).tolist(), entries.tolist(), strict=True))[budget:]
            self.left[layer][row, head, [t for _, t in best]] = False
        self.compressions += 1

    def agreed(self, regions):
        """Step 2 of echo: each head's evidence times what all heads of the row found of the token, relative to the mean."""
        every = {}
        for row in {row for _, _, row in regions}:
            of_row = [each for key, each in regions.items() if key[2] == row]
            said = {}
            for entries, scores in of_row:
                for t, score in zip(entries.tolist(), scores.tolist(), strict=True):
                    said[t] = said.get(t, 0) + (max(score, 0) ** 0.5) / len(of_row)
            some = [each for each in said.values() if each > 0]
            every[row] = {t: each / (sum(some) / len(some)) for t, each in said.items()}
        return {
            key: (entries, torch.tensor([
                score * every[key[2]][t] if score > 0 else score
                for t, score in zip(entries.tolist(), scores.tolist(), strict=True)
            ], dtype=torch.float64))
            for key, (entries, scores) in regions.items()
        }  # fmt: skip

    def of_row(self, scores, keep):
        """Step 3: how many entries each head of a row keeps, of {head: scores}; each row has a budget of its own."""
        heads = sorted(scores)
        if self.allocation == "even":
            return dict.fromkeys(heads, keep)
        # By echo: what some query gave more than a tenth of its attention.
        counts = {head: int((scores[head] > 0.1).sum()) if self.rule == "echo" else 0 for head in heads}
        whole = keep * len(heads)
        if sum(counts.values()) > whole:
            self.crowded += 1
        else:
            every = sorted((-score, head) for head in heads for score in scores[head].tolist())
            counts = dict.fromkeys(heads, 0)
            for _, head in every[:whole]:
                counts[head] += 1
        exact = {head: Fraction(whole * count, max(sum(counts.values()), 1)) for head, count in counts.items()}
        budgets = {head: int(each) for head, each in exact.items()}
        remainders = sorted(heads, key=lambda head: (int(exact[head]) - exact[head], head))
        for head in remainders[: whole - sum(budgets.values())]:
            budgets[head] += 1
        return budgets


def angles(model):
    """What each pair of numbers is rotated by, from the configuration."""
    config = model.config
    if transformers.__version__ < "5":
        scaling = getattr(config, "rope_scaling", None) or {}
        parameters = {"rope_theta": config.rope_theta, "rope_type": "default", **scaling}
        parameters["partial_rotary_factor"] = getattr(config, "partial_rotary_factor", 1)
    else:
        parameters = config.rope_parameters.get("full_attention", config.rope_parameters)
    rotary = next((module for module in model.modules() if hasattr(module, "inv_freq")), None)
    size = int(getattr(config, "head_dim", SIZES["head_dim"]) * parameters.get("partial_rotary_factor", 1))
    plain = parameters["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)

    def of_layer(layer):
        if not ROTATED.get(config.model_type, lambda layer: True)(layer):
            return None
        return plain if parameters["rope_type"] == "default" else rotary.inv_freq.double()

    return of_layer


@contextmanager
def masked(model, **options):
    masks = Masks(**options)
    attentions = [module for module in model.modules() if hasattr(module, "layer_idx") and hasattr(module, "scaling")]
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"] * len(attentions)
    full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    space = inspect.unwrap(type(attentions[0]).forward).__globals__
    table, name = space["ALL_ATTENTION_FUNCTIONS"], model.config._attn_implementation
    before = space["eager_attention_forward"] if name == "eager" else table[name]

    def attention(module, query, key, value, attention_mask, scaling=None, softcap=None, **kwargs):
        if module.layer_idx not in full:
            kwargs |= {} if softcap is None else {"softcap": softcap}
            return before(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        output = masks.attention(module.layer_idx, full[-1], query, key, value, attention_mask, scaling, softcap)
        return output.to(query.dtype).contiguous(), None

    place = space if name == "eager" else table._local_mapping
    with mock.patch.dict(place, {"eager_attention_forward" if name == "eager" else name: attention}):
        yield masks
