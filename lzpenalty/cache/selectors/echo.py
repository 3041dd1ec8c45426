"""Echo: what would be found again if the same were asked later. A rule of this package."""

import torch
from torch.nn.functional import max_pool1d

from lzpenalty._core import select_top
from lzpenalty.cache.attend import echo_heads
from lzpenalty.cache.plan import check_integer
from lzpenalty.cache.selectors.base import Selector, attention

__all__ = ["Echo"]


class Echo(Selector):
    """Keeps what the queries of the text would find if they were asked an interval later, at the time when it may have been
    dropped.

    Every R = `recent` tokens, with n seen, the last R + 1 queries j are turned to position n + P and compared with all that
    the cache holds; the evidence for an entry t is the largest share of attention that any of them gave it:

        x[g, j, t] = scale * <Rot(n + P) Rot(j)^-1 q[g, j], k[t]>                       without a causal mask
        y[g, j, u] = scale * <q[g, j], k[u]>                                            for u <= j, where it stands
        a[g, j, t] = exp(x[g, j, t]) / (sum over t' of exp(x[g, j, t']) + sum over u of exp(y[g, j, u]))
        e[t] = max(e[t], max over j and the group of a[g, j, t])

    The second sum is of rivals: what a query looks at where it stands competes with what it would find, and gets no
    evidence. Without it a head that looks nearby is made to look far, since what is near when it is asked later has not been
    written. The entries u are those up to the query's own, at most `rivals` of them before the block, and none of those that
    always stay; with `rivals=0` there are none.

    Evidence stays with its entry. One query more than there are new tokens, because the query before a token is often the
    one that finds it, as in induction heads: text that stood behind this word once will be looked for when it comes again.

    Heads agree before they compete: what will be needed is needed in many of them at once, and a head alone can't tell it
    from what only looks alike. At a compression e is weighted by what the heads of all layers found of the token, in which
    many that found a little count for more than one that found much:

        s[t]  = mean over all heads of sqrt(e[head, t])                   0 in heads that don't hold t any more
        e'[t] = e[t] s[t] / (mean of s over the tokens of which any head found something)

    Where e' is more than a tenth the entry was found. Some heads find nearly everything so, and e' then tells a .9 from a
    .8. If more has been found than may stay, a head keeps as large a part of it as any other
    (``lzpenalty.cache.budgets``). A quarter of that goes by the attention of the newest queries, as RPC does, the rest by e'
    again, the largest of three neighbours.

    KVzip (2505.23416) and Compactor (2507.08143) score prompts by related attention without a causal mask, Ada-KV
    (2407.11550) shares a budget between the heads of a layer.
    """

    keeps_evidence = True
    certain = 0.1

    def __init__(self, rivals: int = 256):
        check_integer("rivals", rivals, 0)
        self.rivals = rivals
        self.pending = []  # queries [B, Hq, q, D]: the one of overlap, and those since the last block
        self.new = 0

    def observe(self, track, queries):
        recent, interval = track.layer.settings.plan.recent, track.layer.settings.plan.interval
        if not self.pending:
            self.pending = [queries[:, :, :0] if track.before is None else track.before]
        self.pending.append(queries)
        self.new += queries.shape[2]
        if self.new < recent:
            return
        pending = torch.cat(self.pending, dim=2)
        while self.new >= recent:
            self.new -= recent
            end = pending.shape[2] - self.new
            block = pending[:, :, max(0, end - recent - 1) : end]
            distances = interval + torch.arange(block.shape[2], 0, -1)  # from the queries n - R - 1 .. n - 1 to n + P
            self.ask(track, block, track.layer.rotation(block, distances), behind=self.new)
        self.pending = [pending[:, :, end - 1 :].clone()]

    def ask(self, track, queries, turned, behind):
        """Queries [b, Hq, R + 1, D], turned, raise the evidence of all entries but the last ones, `behind` of them."""
        if self.rivals:
            echo_heads(track.layer, turned, behind, track.rows, queries, self.rivals, track.start)
        else:
            echo_heads(track.layer, turned, behind, track.rows)

    def score(self, layer):
        return layer.evidence[..., layer.start : layer.stop]

    def agreed(self, scores, columns):
        first, sizes = scores[0], [score.numel() for score in scores]
        found = torch.cat([score.to(first.device) for score in scores])
        at = torch.cat([each.to(first.device) for each in columns])
        # In double precision, so that the order in which they are added decides nothing.
        sums = first.new_zeros(int(at.max()) + 1, dtype=torch.float64).index_add_(0, at, found.clamp(min=0).double().sqrt())
        agreement = (sums / sums[sums > 0].mean())[at].float()
        found = torch.where(found > 0, found * agreement, found)
        return [each.to(score.device) for each, score in zip(found.split(sizes), scores, strict=True)]

    def crowded(self, layer, score, keep):
        score = max_pool1d(score, 3, stride=1, padding=1)
        if keep < 4:
            return score
        return score.scatter(1, select_top(attention(layer), keep // 4)[:, 0], torch.inf)

    def select_rows(self, index):
        self.pending = [queries[index] for queries in self.pending]
