from collections.abc import Iterable
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias, TypeVar, final

class _Tensor(Protocol):
    """Anything with DLPack: torch.Tensor, numpy.ndarray, jax.Array, ..."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

_T = TypeVar("_T", bound=_Tensor)
_Cost: TypeAlias = Literal["lzss", "pair", "distance"]
_Ids: TypeAlias = Iterable[SupportsIndex] | SupportsIndex | None
_Marks: TypeAlias = Iterable[SupportsIndex | Iterable[SupportsIndex]] | SupportsIndex | None
_Text: TypeAlias = _Tensor | list[int] | tuple[int, ...]
_Rows: TypeAlias = dict[int, tuple[LZOptions, _Text] | tuple[LZOptions, _Text, tuple[int, ...]]]
_Starts: TypeAlias = _Tensor | SupportsIndex | None

def lz_penalize_(
    logits: _T,
    tokens: _Tensor,
    options: LZOptions | None = None,
    *,
    starts: _Starts = None,
    # options.def: parameters
    strength: float = 0.15,
    window: SupportsIndex = 512,
    buffer: SupportsIndex = 32,
    cost: _Cost = "lzss",
    min_match: SupportsIndex = 1,
    gate: Iterable[float] | None = None,
    release_rate: float = 2,
    release_after: SupportsIndex = 24,
    release: _Marks = None,
    open: _Marks = None,
    section_gate: Iterable[float] | None = None,
    skip: _Marks = None,
    resume: _Marks = None,
    # end of options.def
) -> _T: ...

@final
class LZOptions:
    def __new__(
        cls,
        *,
        # options.def: parameters
        strength: float = 0.15,
        window: SupportsIndex = 512,
        buffer: SupportsIndex = 32,
        cost: _Cost = "lzss",
        min_match: SupportsIndex = 1,
        gate: Iterable[float] | None = None,
        release_rate: float = 2,
        release_after: SupportsIndex = 24,
        release: _Marks = None,
        open: _Marks = None,
        section_gate: Iterable[float] | None = None,
        skip: _Marks = None,
        resume: _Marks = None,
        # end of options.def
    ) -> LZOptions: ...
    # options.def: attributes
    @property
    def strength(self) -> float: ...
    @property
    def window(self) -> int: ...
    @property
    def buffer(self) -> int: ...
    @property
    def cost(self) -> _Cost: ...
    @property
    def min_match(self) -> int: ...
    @property
    def gate(self) -> tuple[float, float] | None: ...
    @property
    def release_rate(self) -> float: ...
    @property
    def release_after(self) -> int: ...
    @property
    def release(self) -> tuple[int | tuple[int, ...], ...] | None: ...
    @property
    def open(self) -> tuple[int | tuple[int, ...], ...] | None: ...
    @property
    def section_gate(self) -> tuple[float, float] | None: ...
    @property
    def skip(self) -> tuple[int | tuple[int, ...], ...] | None: ...
    @property
    def resume(self) -> tuple[int | tuple[int, ...], ...] | None: ...
    # end of options.def
    @property
    def context(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def changed(self) -> tuple[int, ...]: ...
    @property
    def _as_parameter_(self) -> int: ...
    def keywords(self) -> dict[str, Any]: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def lz_penalize_rows_(logits: _T, rows: _Rows) -> _T: ...
def gather_tokens_(tokens: _T, rows: _Rows) -> _T: ...
def dry_penalize_(
    logits: _T,
    tokens: _Tensor,
    *,
    multiplier: float = 0.8,
    base: float = 1.75,
    allowed_length: int = 2,
    window: int = 1024,
    sequence_breakers: _Ids = (),
    starts: _Starts = None,
) -> _T: ...
def codelength_deltas(
    tokens: _T,
    vocab_size: SupportsIndex,
    options: LZOptions | None = None,
    *,
    # options.def: parameters
    strength: float = 0.15,
    window: SupportsIndex = 512,
    buffer: SupportsIndex = 32,
    cost: _Cost = "lzss",
    min_match: SupportsIndex = 1,
    gate: Iterable[float] | None = None,
    release_rate: float = 2,
    release_after: SupportsIndex = 24,
    release: _Marks = None,
    open: _Marks = None,
    section_gate: Iterable[float] | None = None,
    skip: _Marks = None,
    resume: _Marks = None,
    # end of options.def
) -> tuple[_T, _T]: ...
def token_bits(
    tokens: _T,
    vocab_size: SupportsIndex,
    options: LZOptions | None = None,
    *,
    # options.def: parameters
    strength: float = 0.15,
    window: SupportsIndex = 512,
    buffer: SupportsIndex = 32,
    cost: _Cost = "lzss",
    min_match: SupportsIndex = 1,
    gate: Iterable[float] | None = None,
    release_rate: float = 2,
    release_after: SupportsIndex = 24,
    release: _Marks = None,
    open: _Marks = None,
    section_gate: Iterable[float] | None = None,
    skip: _Marks = None,
    resume: _Marks = None,
    # end of options.def
) -> _T: ...
def repetition_period(
    tokens: _T, *, ngram: int = 30, count: int = 20, max_period: int = 512, starts: _Starts = None
) -> _T: ...
def loop_evidence(tokens: _T, *, gram: int = 6, window: int = 512, starts: _Starts = None) -> _T: ...
def attention_scores(
    queries: _Tensor,
    keys: _T,
    *,
    start: int,
    stop: int,
    scale: float | None = None,
    kernel: int = 7,
    aggregation: Literal["layer", "group"] = "layer",
    check: bool = True,
) -> _T: ...
def select_top(scores: _T, k: int) -> _T: ...
def compact_(keys: _Tensor, values: _Tensor, positions: _Tensor, *, start: int, stop: int, length: int) -> int: ...
def compact_blocks_(
    keys: _Tensor,
    values: _Tensor,
    blocks: _Tensor,
    positions: _Tensor,
    *,
    start: int,
    stop: int,
    length: int,
    evidence: _Tensor | None = None,
) -> int: ...
def gather_blocks_(out: _T, cache: _Tensor, blocks: _Tensor, *, start: int) -> _T: ...
def echo_blocks_(
    evidence: _Tensor,
    queries: _Tensor,
    keys: _Tensor,
    blocks: _Tensor,
    lengths: _Tensor,
    *,
    start: int,
    scale: float | None = None,
    asked: _Tensor | None = None,
    window: int = 256,
) -> None: ...
def append_(keys: _Tensor, values: _Tensor, new_keys: _Tensor, new_values: _Tensor, *, position: int) -> int: ...
def append_ragged_(
    keys: _Tensor, values: _Tensor, new_keys: _Tensor, new_values: _Tensor, *, starts: _Tensor, lengths: _Tensor
) -> None: ...
def echo_scores_(
    evidence: _Tensor,
    queries: _Tensor,
    keys: _Tensor,
    *,
    starts: _Tensor,
    lengths: _Tensor,
    pads: _Tensor | None = None,
    scale: float | None = None,
    asked: _Tensor | None = None,
    window: int = 256,
    start: int = 0,
) -> None: ...
def attend(
    queries: _T,
    keys: _Tensor,
    values: _Tensor,
    *,
    lengths: _Tensor | None = None,
    starts: _Tensor | None = None,
    pads: _Tensor | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    out: _Tensor | None = None,
    lse: _Tensor | None = None,
) -> _T: ...
def request_limits() -> dict[str, int]: ...
def attention_tap() -> tuple[int, int]: ...
def parse_lz77(tokens: _T, window: int) -> _T: ...
def parse_lz78(tokens: _T) -> _T: ...
def find_loops(tokens: _T, min_repeats: int, tolerance: float, max_period: int) -> _T: ...
def warmup(device: int = 0) -> None: ...
def cuda_devices() -> tuple[tuple[int, int], list[tuple[str, tuple[int, int], int, bool]]]: ...
def get_num_threads() -> int: ...
def set_num_threads(threads: int, /) -> None: ...
def cpu_level() -> str: ...
def cpu_levels() -> list[str]: ...
def set_cpu_level(level: str, /) -> None: ...
