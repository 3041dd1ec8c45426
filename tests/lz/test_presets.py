"""Presets are options; what opens and closes sections is found in a tokenizer."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lzpenalty import LZOptions
from lzpenalty.engines.serving import lz_params, request_options
from lzpenalty.hf import LZPenaltyLogitsProcessor
from lzpenalty.presets import PRESETS, THINKING, TOOLS, resolve, thinking_ids, tool_ids

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


def id_of(made, tag):
    return [made.convert_tokens_to_ids(tag)]


@pytest.mark.parametrize(("open", "close"), THINKING)
def test_tags_with_tokens_of_their_own(open, close):
    made = tokenizer([open, close])
    marks = {"open": [id_of(made, open)], "release": [id_of(made, close)]}
    assert thinking_ids(made) == marks
    assert resolve("reasoning", {}, made) == LZOptions(**PRESETS["reasoning"].keywords() | marks)
    options = LZPenaltyLogitsProcessor(preset="reasoning", tokenizer=made).options
    assert (options.open, options.release) == (tuple(id_of(made, open)), tuple(id_of(made, close)))


@pytest.mark.parametrize(("open", "close"), TOOLS)
def test_calls_of_tools(open, close):
    made = tokenizer(["<think>", "</think>", open, close])
    assert tool_ids(made) == {"skip": [id_of(made, open)], "resume": [id_of(made, close)]}
    options = resolve("reasoning", {}, made)
    assert (options.skip, options.resume) == (tuple(id_of(made, open)), tuple(id_of(made, close)))
    assert tool_ids(tokenizer([open])) == tool_ids(tokenizer()) == {}


def test_tags_of_the_chat_template():
    opening, closing = ([LETTERS[letter] for letter in tag] for tag in ("<think>", "</think>"))
    assert thinking_ids(tokenizer()) == thinking_ids(tokenizer(template="<think>")) == {}
    assert thinking_ids(tokenizer(template="{{ '<think>' }} {{ '</think>' }}")) == {"open": [opening], "release": [closing]}
    assert thinking_ids(tokenizer(template="<seed:think> </seed:think>")) == {}  # more than eight


def test_a_model_that_thinks_without_an_opening_tag():
    """DeepSeek-R1's template takes thoughts out of what was said, and opens none, though there is a token for it."""
    made = tokenizer(["<think>", "</think>"], template="{{ content.split('</think>')[-1] }}")
    assert thinking_ids(made) == {"release": [id_of(made, "</think>")]}
    options = resolve("reasoning", {}, made)
    assert options.release == tuple(id_of(made, "</think>")) and options.open is None
    assert thinking_ids(tokenizer(["</think>"])) == {"release": [id_of(tokenizer(["</think>"]), "</think>")]}


def test_what_closes_without_saying_what_needs_its_opening():
    """`<|end|>` ends every message of some models."""
    assert thinking_ids(tokenizer(["<|end|>"])) == thinking_ids(tokenizer(["</seed:think>"])) == {}


def test_unknown_is_no_tag():
    assert thinking_ids(tokenizer(template="◁think▷ ◁/think▷")) == {}  # whose first and last signs it can't write


def test_given_ids_win():
    made = tokenizer(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    given = resolve("reasoning", {"release": [3]}, made)
    assert given == LZOptions(**PRESETS["reasoning"].keywords() | {"release": [3]})
    assert resolve("reasoning", {"open": [4], "skip": [5]}, made) == LZOptions(
        **PRESETS["reasoning"].keywords() | thinking_ids(made) | tool_ids(made) | {"open": [4], "skip": [5]}
    )


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="preset: expected one of 'paper', 'gentle', 'reasoning', got 'hard'"):
        LZPenaltyLogitsProcessor(preset="hard")
    with pytest.raises(ValueError, match="preset: expected tokenizer=, .* with 'reasoning', or release="):
        LZPenaltyLogitsProcessor(preset="reasoning")
    with pytest.raises(ValueError, match="tokenizer: expected one that knows any of </think> .*, or release=ids"):
        LZPenaltyLogitsProcessor(preset="reasoning", tokenizer=tokenizer())


def test_a_request_names_the_ids_of_a_tokenizer():
    made = tokenizer(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    params = lz_params(preset="reasoning", tokenizer=made, window=64)
    marks = {"lz_" + name: ids for name, ids in (thinking_ids(made) | tool_ids(made)).items()}
    assert params == {"lz_preset": "reasoning", "lz_window": 64, **marks} and len(marks) == 4
    assert request_options(params) == resolve("reasoning", {"window": 64}, made)
    assert lz_params() == {"lz_strength": 0.15}
    with pytest.raises(ValueError, match="lz_preset: expected lz_release with 'reasoning'"):
        lz_params(preset="reasoning", tokenizer=tokenizer())
