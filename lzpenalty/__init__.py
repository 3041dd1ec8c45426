"""Ends the loops of reasoning language models, and keeps their key/value cache small.

The functions here are C routines that work directly on the memory of DLPack tensors (torch, NumPy, ...). A trailing
underscore means in place. Importing this package imports neither torch nor transformers; the adaptors for them and for the
serving engines are modules of their own:

    lzpenalty.hf        transformers: LZPenaltyLogitsProcessor, RepetitionStoppingCriteria
    lzpenalty.analysis  how repetitive is a text?
"""

from lzpenalty._core import codelength_deltas, dry_penalize_, lz_penalize_, repetition_period

__all__ = ["codelength_deltas", "dry_penalize_", "lz_penalize_", "repetition_period"]
__version__ = "0.1.0"
