"""What a model's attention mask lets new tokens see, column by column.

A column is a token of the text, padding included, whether or not a cache still holds it. transformers makes masks for all of
them, as if nothing had been dropped, so a mask means the same before a compression and after it: `follow` takes out the
columns that are left. What kernels of ours compute is one pattern, padding on the left and new tokens in order (`plain`).
Everything else is a matter for the model's own function, or for torch with the mask as it is.
"""

from functools import cached_property

import torch

__all__ = ["View", "follow"]

_NOTHING = -1e30  # what is added to a score so that exp() of it is 0, whatever the score


def _shown(mask: torch.Tensor) -> torch.Tensor:
    """Of a mask of booleans, or of numbers that are added: which columns a query sees at all."""
    return mask if mask.dtype == torch.bool else mask > max(torch.finfo(mask.dtype).min, _NOTHING)


class View:
    """What the `new` tokens at the end of a text see of its `columns` tokens, by the mask [B, 1 or Hq, new, columns] that
    attention functions get: booleans, or numbers to add. None is the mask of a text in which each token sees all before it.

    Everything is found out when it is asked for, since that may have to wait for a GPU."""

    def __init__(self, mask: torch.Tensor | None, new: int, columns: int):
        self.mask, self.new, self.columns = mask, new, columns
        self.fits = mask is None or (mask.ndim == 4 and mask.shape[2:] == (new, columns))

    def check(self) -> None:
        """Raises ValueError for a mask whose columns are not the text's tokens."""
        if not self.fits:
            raise ValueError(
                f"attention_mask: expected {self.new} rows of {self.columns} columns, one for each token of the text, got "
                f"{list(self.mask.shape)}; masks that a model makes for the keys that it gets can't be followed once some "
                "of them have been dropped, use interval=None"
            )

    @cached_property
    def plain(self) -> bool:
        """Whether each token sees just what comes before it in the text and is no padding on the left, in all heads alike,
        and nothing is added to scores. Tokens that are padding themselves may see anything."""
        if self.mask is None or not self.fits:
            return self.mask is None
        mask = self.mask
        shown = _shown(mask)
        if mask.dtype != torch.bool and bool((shown & (mask != 0)).any()):
            return False
        own = torch.arange(self.columns - self.new, self.columns, device=mask.device)[:, None]
        column = torch.arange(self.columns, device=mask.device)
        pads = self._pads[:, None, None]
        wanted = (column <= own) & (column >= pads)
        alike = (shown == wanted[:, None]) | (own < pads)[:, None]
        return bool(alike.all())

    @cached_property
    def _pads(self) -> torch.Tensor:
        """int64 [B]: the columns before the first one that the newest token sees; all, if it sees none."""
        last = _shown(self.mask[:, :, -1]).any(1)
        return torch.where(last.any(1), last.int().argmax(1), self.columns)

    @cached_property
    def pads(self) -> torch.Tensor | None:
        """Where `plain`: how many of each row's first columns are padding, int64 [B], or None if none is."""
        return None if self.mask is None or not self._pads.any() else self._pads

    @cached_property
    def empty(self) -> bool:
        """Whether some new token sees nothing at all."""
        return self.mask is not None and not bool(_shown(self.mask).any(-1).all())

    @cached_property
    def hidden(self) -> torch.Tensor | None:
        """Columns that the newest token does not see, bool [B, columns], or None if it sees all."""
        if self.mask is None or not self.fits:
            return None
        hidden = ~_shown(self.mask[:, :, -1]).any(1)
        return hidden if hidden.any() else None

    @cached_property
    def filler(self) -> torch.Tensor | None:
        """New tokens that don't see themselves, bool [B, new], or None if all do: they are no part of the text."""
        if self.mask is None or not self.fits:
            return None
        shown = _shown(self.mask).any(1).diagonal(self.columns - self.new, 1, 2)
        return None if shown.all() else ~shown


def follow(mask: torch.Tensor, columns: torch.Tensor, heads: int) -> torch.Tensor:
    """A mask [B, 1 or Hq, q, C] for entries that stand in these columns, int64 [B, 1 or Hkv, n], of `heads` query heads:
    [B, 1 or Hq, q, n]."""
    rows = columns.shape[0]
    if columns.shape[1] > 1:
        columns = columns.repeat_interleave(heads // columns.shape[1], dim=1)
    count = max(mask.shape[1], columns.shape[1])
    index = columns[:, :, None].expand(rows, count, mask.shape[2], -1)
    return mask.expand(rows, count, -1, -1).gather(3, index)
