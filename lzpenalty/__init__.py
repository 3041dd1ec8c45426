"""Ends the loops of reasoning language models, and keeps their key/value cache small.

The functions here are C routines that work directly on the memory of DLPack tensors (torch, NumPy, ...). A trailing
underscore means in place. Importing this package imports neither torch nor transformers; the adaptors for them and for the
serving engines are modules of their own:

    lzpenalty.hf        transformers: LZPenaltyLogitsProcessor, RepetitionStoppingCriteria
    lzpenalty.presets   options by name, and their reasons
    lzpenalty.cache.rpc transformers: CompressedCache
    lzpenalty.analysis  how repetitive is a text?
    lzpenalty.lm_eval   lm-evaluation-harness: a model with both, tasks on local files
    lzpenalty.vllm, lzpenalty.sglang, lzpenalty.llama_cpp, lzpenalty.mlx
                        the same for the engines of these names

Programs in C link the same routines: get_include() and get_library_dir() say where header and archive are.
"""

from pathlib import Path

from lzpenalty._core import (
    LZOptions,
    append_,
    append_ragged_,
    attend,
    attention_scores,
    codelength_deltas,
    compact_,
    compact_blocks_,
    dry_penalize_,
    echo_blocks_,
    echo_scores_,
    gather_blocks_,
    gather_tokens_,
    get_num_threads,
    loop_evidence,
    lz_penalize_,
    lz_penalize_rows_,
    repetition_period,
    select_top,
    set_num_threads,
    warmup,
)

__all__ = [
    "LZOptions",
    "append_",
    "append_ragged_",
    "attend",
    "attention_scores",
    "codelength_deltas",
    "compact_",
    "compact_blocks_",
    "dry_penalize_",
    "gather_blocks_",
    "echo_blocks_",
    "echo_scores_",
    "gather_tokens_",
    "get_include",
    "get_library_dir",
    "get_num_threads",
    "loop_evidence",
    "lz_penalize_",
    "lz_penalize_rows_",
    "repetition_period",
    "select_top",
    "set_num_threads",
    "warmup",
]
__version__ = "0.1.0"


def get_include() -> str:
    """The folder of lzpenalty.h, the interface for C and C++: ``cc -I$(python -c 'import lzpenalty;
    print(lzpenalty.get_include())')``."""
    return str(Path(__file__).parent / "include")


def get_library_dir() -> str:
    """The folder of liblzpenalty.a, to be linked with ``-llzpenalty -lm -pthread``. It needs no Python."""
    return str(Path(__file__).parent / "lib")
