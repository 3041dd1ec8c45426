"""Reasoning Path Compression (arXiv 2505.13866), to the letter of its rule and its defaults."""

from lzpenalty.cache.compressed import CompressedCache

__all__ = ["RPCCache"]


class RPCCache(CompressedCache):
    """A cache that is compressed as in Reasoning Path Compression (arXiv 2505.13866).

    Each time that P generated tokens have come, the 1 / c of them stay that the last R queries attended to most, by the mean
    over all heads of a layer and over `kernel` neighbours; the prompt and the newest R tokens always stay. It is used as
    :class:`CompressedCache` is, which has other rules, budgets and options besides.

    Parameters
    ----------
    model : PreTrainedModel
        Of transformers, with attention "sdpa", "eager" or "flash_attention_*".
    interval : int, default 4096
        P, tokens, a multiple of `ratio`; the paper also has 1024.
    ratio : int, default 4
        c; the paper also has 8.
    recent : int, optional
        R, tokens, less than `interval`. By default 32.
    kernel : int, default 7
        Tokens that scores are averaged over, odd: 2 w + 1 in the paper.
    aggregation : {'layer', 'group'}, default 'layer'
        Whether all heads of a layer keep the same tokens, the paper's best, or each key head its own.
    max_new_tokens, prompt_length : int, optional
        As in :class:`CompressedCache`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As :class:`CompressedCache`.
    """

    def __init__(
        self,
        model,
        interval: int = 4096,
        ratio: int = 4,
        recent: int | None = None,
        kernel: int = 7,
        aggregation: str = "layer",
        max_new_tokens: int | None = None,
        prompt_length: int | None = None,
    ):
        if interval is None:
            raise TypeError(
                "interval: expected an integer, got None; CompressedCache(model, interval=None) never compresses"
            )
        super().__init__(
            model,
            interval,
            ratio,
            recent,
            kernel,
            aggregation,
            "rpc",
            max_new_tokens=max_new_tokens,
            prompt_length=prompt_length,
        )
