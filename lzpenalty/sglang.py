"""SGLang: the LZ penalty for requests that bring it along.

    python -m sglang.launch_server --model MODEL --enable-custom-logit-processor --disable-overlap-schedule

    {"custom_logit_processor": LZPenaltyProcessor().to_str(), "custom_params": lz_params(strength=0.15)}

SGLang's overlapped scheduling samples a token before the last one has been written down, so that a history lags behind by
one; `--disable-overlap-schedule` is what makes it complete. lzpenalty has to be installed where the server runs: a request
carries the processor's name only. Only generated tokens count.
"""

import logging
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

from lzpenalty._core import LZOptions
from lzpenalty.engines.serving import PREFIX, before, lz_params, penalize_rows_, request_options, supported

__all__ = ["LZPenaltyProcessor", "lz_params"]

logger = logging.getLogger("lzpenalty")


@lru_cache(maxsize=1024)
def _compiled(items: tuple, device: torch.device) -> LZOptions | None:
    try:
        options = request_options(dict(items), {PREFIX + "strength": 0.15})
    except ValueError as error:  # to raise would end the server
        logger.warning("a request goes without the penalty: %s", error)
        return None
    return options if options is not None and supported(options, device) else None


def _hashable(value):
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


@lru_cache(maxsize=1024)  # once, not once a token
def _refuse(items: str) -> None:
    logger.warning("a request goes without the penalty: custom_params: expected numbers and lists, got %s", items)


def _options(params: dict[str, Any], device: torch.device) -> LZOptions | None:
    items = tuple(
        (key, _hashable(value)) for key, value in params.items() if isinstance(key, str) and key.startswith(PREFIX)
    )
    try:
        return _compiled(items, device)
    except TypeError:  # a value that can't be hashed is no option's
        _refuse(repr(items))
        return None


_PROMPT = "__lz_before__"


def _before(options: LZOptions, params: dict[str, Any], request) -> tuple[int, ...]:
    """What of the prompt matters. It is looked for once: the dict is the request's own, and as long there."""
    known = params.get(_PROMPT)
    if known is None or known[0] != options:
        known = params[_PROMPT] = options, before(options, request.origin_input_ids)
    return known[1]


class LZPenaltyProcessor(CustomLogitProcessor):
    """Subtracts the LZ penalty from the rows of its requests, in place. Remembers nothing.

    A request's `custom_params` has to be a dict, which may be empty: SGLang adds the request itself to it, and with it the
    generated tokens. Requests without one, with options that are refused (a warning is logged) or with an `lz_strength` of 0
    are left alone, and so is everything under speculative decoding, where drafts are in no request's text.
    """

    def __call__(self, logits: torch.Tensor, custom_param_list: list[dict[str, Any]] | None = None) -> torch.Tensor:
        rows: dict[int, tuple[LZOptions, Any, tuple[int, ...]]] = {}
        last = None
        for row, params in enumerate(custom_param_list or ()):
            request = params.get("__req__") if isinstance(params, dict) else None
            if request is None:
                continue
            if params is last:
                logger.warning("requests go without the penalty: speculative decoding is not supported")
                return logits
            last = params
            options = _options(params, logits.device)
            if options is not None:
                tokens = request.output_ids
                if not isinstance(tokens, list):  # newer releases: an array, copied so that it can go on growing
                    tokens = np.array(tokens[-options.context :], dtype=np.int64)
                rows[row] = options, tokens, _before(options, params, request)
        return penalize_rows_(logits, rows)
