"""llama.cpp, by way of llama-cpp-python: the LZ penalty in the chain that it samples with. No Python runs for a token.

    with sampler(llama, strength=0.2):
        llama.create_completion(prompt, temperature=0)

The sampler is examples/c/llama_sampler_lz.c, which the package carries compiled; only where its layouts are those that
llama-cpp-python has in ctypes is it used.
"""

import ctypes as c
import threading
from contextlib import contextmanager
from pathlib import Path

from lzpenalty.engines.adaptor import PenaltyOptions
from lzpenalty.llama_cpp.penalty import _Tokenizer

__all__ = ["sampler"]

_COSTS = ["lzss", "pair", "distance"]


class _Mark(c.Structure):
    """lzpenalty_mark."""

    _fields_ = [("n", c.c_int32), ("ids", c.c_int32 * 8)]


class _Options(c.Structure):
    """lzpenalty_options."""

    _fields_ = [
        ("size", c.c_size_t),
        ("strength", c.c_float),
        ("window", c.c_int32),
        ("buffer", c.c_int32),
        ("cost", c.c_int32),
        ("min_match", c.c_int32),
        ("min_count", c.c_int32),
        ("escalation", c.c_float),
        ("horizon", c.c_int32),
        ("neutral", c.POINTER(c.c_int32)),
        ("n_neutral", c.c_int32),
        ("gate_from", c.c_float),
        ("gate_to", c.c_float),
        ("n_release", c.c_int32),
        ("release", c.POINTER(_Mark)),
        ("reset", c.POINTER(_Mark)),
        ("until", c.POINTER(_Mark)),
        ("n_reset", c.c_int32),
        ("n_until", c.c_int32),
        ("release_rate", c.c_float),
        ("release_after", c.c_int32),
    ]


def _structure(options: dict) -> _Options:
    """The options of LZOptions.keywords() as C has them."""
    apart = ("cost", "neutral", "gate", "release", "reset", "until")
    plain = {name: value for name, value in options.items() if name not in apart}
    made = _Options(size=c.sizeof(_Options), cost=_COSTS.index(options["cost"]), **plain)
    made.gate_from, made.gate_to = options["gate"] or (0, 0)
    ids = options["neutral"]
    made.neutral, made.n_neutral = (c.c_int32 * len(ids))(*ids), len(ids)
    for name in ("release", "reset", "until"):
        strings = [[mark] if isinstance(mark, int) else mark for mark in options[name] or ()]
        setattr(made, name, (_Mark * len(strings))(*[_Mark(len(ids), (c.c_int32 * 8)(*ids)) for ids in strings]))
        setattr(made, f"n_{name}", len(strings))
    return made


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


def _init(llama_cpp, options: _Options, n_vocab: int):
    """A new `llama_sampler *`, which belongs to the chain that it is added to."""
    library = c.CDLL(str(Path(__file__).parents[1] / "lib" / "llama_sampler_lz.so"))
    function = library.lzpenalty_llama_cpp_init
    function.restype, function.argtypes = llama_cpp.llama_sampler_p_ctypes, [c.c_void_p, c.POINTER(_Options), c.c_int32]
    init = llama_cpp.llama_cpp._lib.llama_sampler_init
    made = function(c.cast(init, c.c_void_p), options, n_vocab)
    if not made:
        raise ValueError(f"options: expected ids of a vocabulary of {n_vocab}, got others")
    return made


class _Penalised:
    """Stands where `Llama._init_sampler` was, for all blocks of a `Llama` that are open: they may end in any order."""

    def __init__(self, llama_cpp, llama):
        self.llama_cpp, self.llama, self.init = llama_cpp, llama, llama._init_sampler
        self.before = vars(llama).get("_init_sampler")  # somebody else's
        self.open: list[_Options] = []
        llama._init_sampler = self

    def __call__(self, *args, **kwargs):
        made = self.init(*args, **kwargs)
        ours = [_init(self.llama_cpp, options, self.llama.n_vocab()) for options in reversed(self.open)]
        n = self.llama_cpp.llama_sampler_chain_n(made.sampler)
        others = [self.llama_cpp.llama_sampler_chain_remove(made.sampler, 0) for _ in range(n)]
        for one in ours + others:
            self.llama_cpp.llama_sampler_chain_add(made.sampler, one)
        made.custom_samplers = [(i + len(ours), custom) for i, custom in made.custom_samplers]
        return made

    def close(self, options: _Options) -> None:
        self.open = [one for one in self.open if one is not options]
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
    strength: float | None = None,
    window: int | None = None,
    buffer: int | None = None,
    *,
    preset: str = "paper",
    **options,
):
    """While open, all that `llama` generates pays the LZ penalty (arXiv 2504.20131), in C.

    The tokens are those of :class:`~lzpenalty.llama_cpp.penalty.LZPenalty`: the penalty comes first, and only what is
    generated counts. But llama.cpp itself calls it, and no Python runs for a token.

    Of several blocks that are open, each adds its penalty, the newest first. They may end in any order.

    Parameters
    ----------
    llama : llama_cpp.Llama
    strength, window, buffer, ...
        As in :func:`lzpenalty.lz_penalize_`: nats a bit, tokens, tokens, ... None is what the preset says.
    preset
        As for :class:`lzpenalty.hf.LZPenaltyLogitsProcessor`.

    Raises
    ------
    TypeError, ValueError
        For options that :func:`lzpenalty.lz_penalize_` refuses, when the block is entered.
    RuntimeError
        If this version of llama-cpp-python has other layouts than those that the sampler was compiled with.
    """
    import llama_cpp

    checked = PenaltyOptions(strength, window, buffer, preset=preset, tokenizer=_Tokenizer(llama), **options)
    _check_layouts(llama_cpp)
    structure = _structure(checked.options)
    llama_cpp.llama_sampler_free(_init(llama_cpp, structure, llama.n_vocab()))  # ids are checked here
    with _lock:
        penalised = vars(llama).get("_init_sampler")
        if not isinstance(penalised, _Penalised):
            penalised = _Penalised(llama_cpp, llama)
        penalised.open = [*penalised.open, structure]
    try:
        yield llama
    finally:
        with _lock:
            penalised.close(structure)
