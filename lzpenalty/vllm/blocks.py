"""A layer's blocks as keys and values with the axes [blocks, heads, tokens, size], whatever their order in memory."""

import torch

__all__ = ["find_layout"]


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
    """The function that gives the keys and values of this layer's cache, found by writing to it as its backend does. Names
    of backends don't say it: on a CPU it depends on the dtype and the processor.

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
