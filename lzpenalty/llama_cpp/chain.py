"""llama.cpp, by way of llama-cpp-python: the LZ penalty in the chain that it samples with. No Python runs for a token.

    with sampler(llama, strength=0.2):
        llama.create_completion(prompt, temperature=0)

The sampler is csrc/llama_cpp/llama_sampler_lz.c, which the package carries compiled; only where its layouts are those that
llama-cpp-python has in ctypes is it used.
"""

import ctypes as c
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from lzpenalty._core import LZOptions
from lzpenalty.engines.prompts import llama_prompt
from lzpenalty.llama_cpp.penalty import _Tokenizer
from lzpenalty.presets import resolve

__all__ = ["sampler"]


def _check_layouts(llama_cpp) -> None:
    """Whether llama.cpp's structs are what csrc/abi/llama.h says."""
    candidate, candidates = llama_cpp.llama_token_data, llama_cpp.llama_token_data_array
    expected = {
        llama_cpp.llama_sampler_i: ["name", "accept", "apply", "reset", "clone", "free"],
        llama_cpp.llama_sampler: ["iface", "ctx"],
        candidate: ["id", "logit", "p"],
        candidates: ["data", "size", "selected", "sorted"],
    }
    for structure, names in expected.items():
        got = [field[0] for field in structure._fields_]
        if got[: len(names)] != names or (structure is not llama_cpp.llama_sampler_i and len(got) != len(names)):
            raise RuntimeError(f"llama_cpp: expected a {structure.__name__} that begins with {names}, got {got}")
    pointer = c.sizeof(c.c_void_p)
    sizes = [c.sizeof(candidate), c.sizeof(candidates), candidates.selected.offset, candidates.sorted.offset]
    if sizes != [12, 4 * pointer, 2 * pointer, 3 * pointer] or c.sizeof(llama_cpp.llama_sampler_i) > 16 * pointer:
        raise RuntimeError("llama_cpp: expected the layouts of llama-cpp-python 0.3.36, got others")


def _init(llama_cpp, options: LZOptions, n_vocab: int, prompt: Sequence[int] = ()):
    """A new `llama_sampler *` for the answer to a prompt, which belongs to the chain that it is added to."""
    library = c.CDLL(str(Path(__file__).parents[1] / "lib" / "llama_sampler_lz.so"))
    function = library.lzpenalty_llama_cpp_init
    function.restype = llama_cpp.llama_sampler_p_ctypes
    function.argtypes = [c.c_void_p, c.c_void_p, c.c_int32, c.c_void_p, c.c_size_t]
    init = llama_cpp.llama_cpp._lib.llama_sampler_init
    made = function(c.cast(init, c.c_void_p), options, n_vocab, (c.c_int32 * len(prompt))(*prompt), len(prompt))
    if not made:
        raise ValueError(f"options: expected ids of a vocabulary of {n_vocab}, got others")
    return made


class _Penalised:
    """Stands where `Llama._init_sampler` was, for all blocks of a `Llama` that are open: they may end in any order."""

    def __init__(self, llama_cpp, llama):
        self.llama_cpp, self.llama, self.init = llama_cpp, llama, llama._init_sampler
        self.before = vars(llama).get("_init_sampler")  # somebody else's
        self.open: list[LZOptions] = []
        llama._init_sampler = self

    def __call__(self, *args, **kwargs):
        made = self.init(*args, **kwargs)
        prompt = llama_prompt(self.llama) if any(options.open or options.skip for options in self.open) else ()
        ours = [_init(self.llama_cpp, options, self.llama.n_vocab(), prompt) for options in reversed(self.open)]
        n = self.llama_cpp.llama_sampler_chain_n(made.sampler)
        others = [self.llama_cpp.llama_sampler_chain_remove(made.sampler, 0) for _ in range(n)]
        for one in ours + others:
            self.llama_cpp.llama_sampler_chain_add(made.sampler, one)
        made.custom_samplers = [(i + len(ours), custom) for i, custom in made.custom_samplers]
        return made

    def close(self, options: LZOptions) -> None:
        at = next(i for i, one in enumerate(self.open) if one is options)  # once: blocks may share them
        self.open = [*self.open[:at], *self.open[at + 1 :]]
        # Under what somebody has put in its place meanwhile it stays, and does nothing.
        if not self.open and vars(self.llama).get("_init_sampler") is self:
            if self.before is None:
                del self.llama._init_sampler
            else:
                self.llama._init_sampler = self.before


_lock = threading.Lock()  # blocks open and end one at a time


@contextmanager
def sampler(
    llama,
    options: LZOptions | None = None,
    *,
    preset: str = "paper",
    **keywords,
):
    """While open, all that `llama` generates pays the LZ penalty (arXiv 2504.20131), in C.

    The tokens are those of :class:`~lzpenalty.llama_cpp.penalty.LZPenalty`: the penalty comes first, and only what is
    generated counts. But llama.cpp itself calls it, and no Python runs for a token.

    Of several blocks that are open, each adds its penalty, the newest first. They may end in any order.

    Parameters
    ----------
    llama : llama_cpp.Llama
    options : LZOptions, optional
        In the place of a preset.
    preset
        As for :class:`lzpenalty.hf.LZPenaltyLogitsProcessor`.
    strength, window, buffer, ... : optional
        As in :class:`lzpenalty.LZOptions`; None is what the options or the preset say.

    Raises
    ------
    TypeError, ValueError
        For options that :func:`lzpenalty.lz_penalize_` refuses, when the block is entered.
    RuntimeError
        If this version of llama-cpp-python has other layouts than those that the sampler was compiled with.
    """
    import llama_cpp

    compiled = resolve(preset, keywords, _Tokenizer(llama), options)
    _check_layouts(llama_cpp)
    llama_cpp.llama_sampler_free(_init(llama_cpp, compiled, llama.n_vocab()))  # ids are checked here
    with _lock:
        penalised = vars(llama).get("_init_sampler")
        if not isinstance(penalised, _Penalised):
            penalised = _Penalised(llama_cpp, llama)
        penalised.open = [*penalised.open, compiled]
    try:
        yield llama
    finally:
        with _lock:
            penalised.close(compiled)
