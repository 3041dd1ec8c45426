"""Fixtures of the commands' tests."""

import io

import pytest


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """terminal(): makes standard error one, and returns it."""

    def terminal():
        stream = Terminal()
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return terminal  # pytest sets the stream itself when a test begins


@pytest.fixture
def typed(monkeypatch):
    """typed(bytes or str): what standard input says."""

    def typed(said):
        data = said if isinstance(said, bytes) else said.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    return typed


@pytest.fixture
def words(tmp_path):
    """The folder of a tokenizer that knows three words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "rose": 2, "is": 3}, unk_token="[UNK]")
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path / "words")
    return tmp_path / "words"
