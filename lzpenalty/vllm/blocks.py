"""A layer's blocks as keys and values with the axes [blocks, heads, tokens, size], whatever their order in memory."""

import torch

from lzpenalty._core import compact_, compact_blocks_, gather_blocks_

__all__ = ["Blocks", "find_layout"]


def _beside(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of [blocks, heads, tokens, 2 * size], with a token's key and value beside each other. Most GPU backends."""
    return cache.chunk(2, dim=3)


def _halves(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Half a block of keys, and half a block of values."""
    n, heads, tokens, _ = cache.shape
    return cache.view(n, heads, 2 * tokens, -1).chunk(2, dim=2)


def _transposed(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, with tokens last in the half of the keys. CPUs."""
    keys, values = _halves(cache)
    n, heads, tokens, size = keys.shape
    return keys.as_strided((n, heads, tokens, size), (*keys.stride()[:2], 1, tokens)), values


LAYOUTS = (_beside, _transposed, _halves)


def find_layout(layer):
    """How this layer's cache is read, found by writing to it as its backend does. Names of backends don't say it: on a CPU
    it depends on the dtype and the processor.

    Raises
    ------
    ValueError
        If it is none of those that are known.
    """
    cache, impl = layer.kv_cache, layer.impl
    if not isinstance(cache, torch.Tensor) or cache.dim() != 4 or not hasattr(impl, "do_kv_cache_update"):
        raise ValueError(f"the compressed cache does not know how {type(impl).__name__} stores keys and values")
    heads, tokens = cache.shape[1:3]
    size = impl.head_size
    written = [torch.randn(tokens, heads, size, device=cache.device).to(cache.dtype) for _ in range(2)]
    before = cache[0].clone()  # the null block, which no request has
    impl.do_kv_cache_update(layer, *written, cache, torch.arange(tokens, device=cache.device))
    found = [layout for layout in LAYOUTS if _reads(layout, cache, written)]
    cache[0] = before
    if not found:
        raise ValueError(
            f"the compressed cache does not know how {type(impl).__name__} stores keys and values of {cache.dtype} in "
            f"blocks of {tokens}"
        )
    return found[0]


def _reads(layout, cache: torch.Tensor, written: list[torch.Tensor]) -> bool:
    try:
        views = layout(cache)
    except RuntimeError:  # a view that these strides don't allow
        return False
    return all(
        view.shape[3] == x.shape[2] and torch.equal(view[0].transpose(0, 1), x)
        for view, x in zip(views, written, strict=True)
    )


class Blocks:
    """The keys and values of one layer."""

    def __init__(self, layer, layout):
        self.keys, self.values = layout(layer.kv_cache)

    def gather(self, which: torch.Tensor, row: torch.Tensor, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """out[0, :, i] = token start + i of `which`, one of `keys` and `values`, of the request with this row of blocks."""
        if out.device.type == "cpu":
            return gather_blocks_(out, which, row, start=start)
        return out.copy_(self._pick(which, row, start, stop))

    def compact_(self, row: torch.Tensor, positions: torch.Tensor, start: int, stop: int, length: int) -> None:
        """Of the request's tokens [start, stop) only those at start + positions stay."""
        if self.keys.device.type == "cpu":
            compact_blocks_(self.keys, self.values, row, positions, start=start, stop=stop, length=length)
        else:
            self._compact_copies_(row, positions, start, stop, length)

    # There are no CUDA kernels for blocks yet: tokens are copied out, moved, and copied back.

    def _compact_copies_(self, row: torch.Tensor, positions: torch.Tensor, start: int, stop: int, length: int) -> None:
        both = [self._pick(which, row, start, length).contiguous() for which in (self.keys, self.values)]
        left = compact_(*both, positions, start=0, stop=stop - start, length=length - start)
        slots = torch.arange(start, start + left, device=row.device)
        block, offset = row[slots // self.keys.shape[2]].long(), slots % self.keys.shape[2]
        for which, tokens in zip((self.keys, self.values), both, strict=True):
            which[block, :, offset] = tokens[0, :, :left].transpose(0, 1)

    @staticmethod
    def _pick(which: torch.Tensor, row: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        slots = torch.arange(start, stop, device=row.device)
        return which[row[slots // which.shape[2]].long(), :, slots % which.shape[2]].transpose(0, 1)[None]
