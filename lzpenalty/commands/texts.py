"""What `analyze` and `view` read: token ids, or a text and what its tokens are. Ids and characters need NumPy alone."""

import codecs
import functools
import io
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lzpenalty.commands.output import reason

__all__ = ["Source", "TextError", "read"]

_NUMBERS = re.compile(r"[][\s\d,.eE+-]*", re.ASCII)  # of which lists of numbers consist, whole ones and others
_IDS = re.compile(r"[\s\d,+-]*", re.ASCII)
# What may stand where JSON was cut off within a word, a number or an escape.
_STUMP = re.compile(r"t(ru?)?|f(a(ls?)?)?|n(ul?)?|-|\.|[eE][+-]?|\\?u?[0-9a-fA-F]{0,4}")
_HINT = "; --characters takes it as a text"


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
    ending: np.ndarray | None = None  # the tokens without white space at the end; None: the same

    def __post_init__(self):
        if self.ending is None:
            self.ending = self.tokens


def read(file: str, tokenizer: str | None = None, characters: bool = False) -> Source:
    """The file, or standard input for "-". Without a word about its tokens a file of ids is that, and any other a text whose
    characters are taken. A JSON list is ids with a tokenizer, too, which then says what they mean.

    The text is UTF-8, or UTF-16 if a byte-order mark says so, which is no part of it. Every line ends with "\\n"."""
    try:
        return load(_decode(_bytes(file)), tokenizer, characters)
    except UnicodeDecodeError:
        raise TextError(f"{file}: expected UTF-8, or UTF-16 with a byte-order mark") from None
    except (OSError, ValueError) as error:
        raise TextError(f"{file}: {reason(error)}") from error


def _bytes(file: str) -> bytes:
    if file != "-":
        return Path(file).read_bytes()
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    return sys.stdin.buffer.read()


def _decode(data: bytes) -> str:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-16" if wide else "utf-8-sig").read()


def load(source: str, tokenizer: str | None, characters: bool) -> Source:
    """Raises ValueError for ids that are none, and TextError for a tokenizer that isn't there."""
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
    text = source.strip()
    if text.startswith("[") and text.endswith("]") and "," not in text and _IDS.fullmatch(text, 1, len(text) - 1):
        text = text[1:-1]  # as NumPy prints them
    if text.startswith(("[", "{")):
        return _json_ids(text)
    if not _IDS.fullmatch(text):
        return None
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        return None


def _json_ids(text: str) -> list[int] | None:
    """The ids of a JSON list; None for a text that only begins like JSON. What is JSON as far as it goes, or made of nothing
    but numbers, was meant to be ids, and is wrong."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        cut = isinstance(error, json.JSONDecodeError) and (
            error.msg.startswith("Unterminated string") or _STUMP.fullmatch(text, error.pos)
        )
        if cut or _NUMBERS.fullmatch(text):
            raise ValueError(f"not valid JSON: {'it is cut off' if cut else reason(error)}{_HINT}") from None
        return None
    if not isinstance(found, list):
        raise ValueError(f"not valid JSON of token ids: expected a list, got an object{_HINT}")
    if not all(type(i) is int for i in found):
        raise ValueError(f"a JSON list, but not one of token ids{_HINT}")
    return found


def _array(ids: list[int]) -> np.ndarray:
    if not all(0 <= i < 2**31 for i in ids):
        raise ValueError("a token id is a number from 0 to 2^31 - 1")
    return np.array(ids, np.int64)


def _blank(text: str) -> bool:
    """Whether nothing of it can be seen: white space, and characters that control or mark."""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def _stripped(text: str) -> str:
    """Without what editors and shells put at its end, where a loop would seem to have ended."""
    end = len(text)
    while end and _blank(text[end - 1]):
        end -= 1
    return text[:end]


def _characters(source: str) -> Source:
    tokens = np.frombuffer(source.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    ending = tokens[: len(_stripped(source))]
    return Source(tokens, "characters", lambda ids: "".join(map(chr, ids)), source, ending=ending)


@functools.cache
def _tokenizer(name: str):
    try:
        from transformers import AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise TextError("--tokenizer needs transformers: pip install 'lzpenalty[hf]'") from None
    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # of as many kinds as there are tokenizers
        raise TextError(f"--tokenizer: {reason(error)}") from error


def _tokenized(source: str, tokenizer: str) -> Source:
    tool = _tokenizer(tokenizer)

    def encode(text: str) -> list[int]:
        return tool(text, add_special_tokens=False, verbose=False).input_ids

    # A model's answer may be JSON, and cut off: what is not a list of numbers is a text.
    text = source.strip()
    ids = read_ids(text) if text.startswith("[") and _NUMBERS.fullmatch(text) else None
    if ids is None:
        ids, stripped = encode(source), _stripped(source)
        # White space may be in one token with the sign before it, so that only the text can tell where it begins.
        ending = ids if stripped == source else encode(stripped)
        characters = source
    else:
        characters, end = None, len(ids)
        _array(ids)
        while end and _blank(tool.decode(ids[end - 1 : end])):
            end -= 1
        ending = ids[:end]
    size = max(len(tool), max(ids, default=0) + 1)
    return Source(_array(ids), "tokens", tool.decode, characters, size, ending=_array(ending))
