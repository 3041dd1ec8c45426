"""What `analyze` and `view` read: token ids, or a text and what its tokens are. Ids and characters need NumPy alone."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Source", "TextError", "read"]


class TextError(Exception):
    """What is wrong with a file, in a line."""


@dataclass
class Source:
    """Token ids, and how to show some of them."""

    tokens: np.ndarray
    unit: str
    decode: Callable[[Sequence[int]], str]
    characters: str | None = None
    vocab_size: int | None = None
    guessed: bool = False  # nobody said that the file is a text


def read(file: str, tokenizer: str | None = None, characters: bool = False) -> Source:
    """The file, or standard input for "-". Without a word about its tokens a file of ids is that, and any other a text whose
    characters are taken. A JSON list is ids with a tokenizer, too, which then says what they mean."""
    try:
        source = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        return load(source, tokenizer, characters)
    except UnicodeDecodeError:
        raise TextError(f"{file}: expected UTF-8") from None
    except (OSError, ValueError) as error:
        raise TextError(f"{file}: {str(error).strip().splitlines()[0]}") from error


def load(source: str, tokenizer: str | None, characters: bool) -> Source:
    """Raises ValueError for ids that are none, TextError where transformers is missing, and what transformers raises for a
    tokenizer that isn't there."""
    if characters:
        return _characters(source)
    if tokenizer is not None:
        return _tokenized(source, tokenizer)
    ids = read_ids(source)
    if ids is None:
        text = _characters(source)
        text.guessed = True
        return text
    return Source(_array(ids), "tokens", lambda ids: " ".join(map(str, ids)))


def read_ids(source: str) -> list[int] | None:
    """The ids of a JSON list, or of numbers with spaces, commas or line ends between them; None if it is a text."""
    words = source.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    try:
        return [int(word) for word in words]
    except ValueError:
        pass
    try:
        other = isinstance(json.loads(source), list)
    except (ValueError, RecursionError):
        other = False
    if other:
        raise ValueError("a JSON list, but not one of token ids; --characters takes it as a text")
    return None


def _array(ids: list[int]) -> np.ndarray:
    if not all(0 <= i < 2**31 for i in ids):
        raise ValueError("a token id is a number from 0 to 2^31 - 1")
    return np.array(ids, np.int64)


def _characters(source: str) -> Source:
    return Source(np.array([ord(c) for c in source], np.int64), "characters", lambda ids: "".join(map(chr, ids)), source)


def _tokenized(source: str, tokenizer: str) -> Source:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise TextError("--tokenizer needs transformers: pip install 'lzpenalty[hf]'") from None
    tool = AutoTokenizer.from_pretrained(tokenizer)
    ids = read_ids(source) if source.lstrip().startswith("[") and source.rstrip().endswith("]") else None
    text = source if ids is None else None
    ids = tool(source, add_special_tokens=False, verbose=False).input_ids if ids is None else ids
    return Source(_array(ids), "tokens", tool.decode, text, max(len(tool), max(ids, default=0) + 1))
