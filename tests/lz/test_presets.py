"""Presets are options; what ends a thinking section is found in a tokenizer."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lzpenalty import LZOptions
from lzpenalty.engines.serving import lz_params, request_options
from lzpenalty.hf import LZPenaltyLogitsProcessor
from lzpenalty.presets import CLOSE_TAGS, PRESETS, close_ids, resolve

LETTERS = {letter: i for i, letter in enumerate("[]</>:|abcdefghijklmnopqrstuvwxyz_ENDTHIKG", 1)}


def tokenizer(tokens=(), template=None):
    """One that writes letters, and has these tokens besides."""
    model = models.WordLevel({"?": 0, **LETTERS}, unk_token="?")
    letters = Tokenizer(model)
    letters.decoder = decoders.Fuse()
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made = PreTrainedTokenizerFast(tokenizer_object=letters)
    made.add_tokens([*tokens])
    made.chat_template = template
    return made


def test_the_paper_is_the_default_of_everything():
    assert PRESETS["paper"] == LZOptions()
    assert LZPenaltyLogitsProcessor().options == LZPenaltyLogitsProcessor(preset="paper").options
    assert LZPenaltyLogitsProcessor().options == LZPenaltyLogitsProcessor(LZOptions()).options == LZOptions()


@pytest.mark.parametrize("name", ["paper", "gentle"])
def test_given_options_win(name):
    assert resolve(name, {}) == PRESETS[name]
    assert resolve(name, {"strength": None, "window": 9}) == LZOptions(**PRESETS[name].keywords() | {"window": 9})
    assert LZPenaltyLogitsProcessor(preset=name, strength=1.0).options.strength == 1.0


@pytest.mark.parametrize("tag", CLOSE_TAGS)
def test_a_tag_with_a_token_of_its_own(tag):
    made = tokenizer([tag])
    ids = [made.convert_tokens_to_ids(tag)]
    assert close_ids(made) == [ids]
    assert resolve("reasoning", {}, made) == LZOptions(**PRESETS["gentle"].keywords() | {"release": [ids], "reset": [ids]})
    options = LZPenaltyLogitsProcessor(preset="reasoning", tokenizer=made).options.keywords()
    assert options["release"] == options["reset"] == (ids[0],)


def test_a_tag_of_the_chat_template():
    assert close_ids(tokenizer()) == close_ids(tokenizer(template="<think>")) == []
    ids = [LETTERS[letter] for letter in "</think>"]
    assert close_ids(tokenizer(template="{{ '</think>' }}")) == [ids]
    assert close_ids(tokenizer(template="</seed:think>")) == []  # more than eight


def test_unknown_is_no_tag():
    assert close_ids(tokenizer(template="◁/think▷")) == []  # whose first and last signs it can't write


def test_given_ids_win():
    made = tokenizer(["</think>"])
    given = resolve("reasoning", {"release": [3]}, made).keywords()
    assert given["release"] == given["reset"] == (3,)
    assert resolve("reasoning", {"release": [3], "reset": [4]}) == LZOptions(
        **PRESETS["gentle"].keywords() | {"release": [3], "reset": [4]}
    )


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="preset: expected one of 'paper', 'gentle', 'reasoning', got 'hard'"):
        LZPenaltyLogitsProcessor(preset="hard")
    with pytest.raises(ValueError, match="preset: expected tokenizer=, .* with 'reasoning', or release="):
        LZPenaltyLogitsProcessor(preset="reasoning")
    with pytest.raises(ValueError, match="tokenizer: expected one that knows any of </think> .*, or release=ids"):
        LZPenaltyLogitsProcessor(preset="reasoning", tokenizer=tokenizer())


def test_a_request_names_the_ids_of_a_tokenizer():
    made = tokenizer(["</think>"])
    params = lz_params(preset="reasoning", tokenizer=made, window=64)
    assert params == {"lz_preset": "reasoning", "lz_window": 64, "lz_release": close_ids(made)}
    assert request_options(params) == resolve("reasoning", {"window": 64}, made)
    assert lz_params() == {"lz_strength": 0.15}
    with pytest.raises(ValueError, match="lz_preset: expected tokenizer="):
        lz_params(preset="reasoning", tokenizer=tokenizer())
