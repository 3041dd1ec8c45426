"""lzpenalty.view: the page says what lzpenalty.analysis measures, holds the text to the letter, and loads nothing."""

import base64
import hashlib
import html
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty import analysis, view
from lzpenalty.view import Text


def characters(ids):
    return "".join(map(chr, ids))


def of_bytes(ids):
    return bytes(ids).decode("utf-8", "replace")


class Page(HTMLParser):
    """What a page holds: the tags with their attributes, and the text in each kind of tag; blocks in main apart."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.blocks, self.cuts, self.inside = [], [], [], [], {}
        self.feed(source)
        self.close()
        self.data = json.loads(self.inside["script"][0])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)
            self.inside.setdefault(tag, []).append("")
            if tag == "div" and "main" in self.open:
                self.blocks.append("")
                self.cuts.append(dict(attrs) == {"class": "cut"})

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if self.open:
            self.inside[self.open[-1]][-1] += data
            if self.open[-1] == "div" and "main" in self.open:
                self.blocks[-1] += data


def pairs(flat, step=2):
    return [tuple(flat[i : i + step]) for i in range(0, len(flat), step)]


LOOP = "Once upon a time. " + "And so on, and so forth. " * 9 + "The end."


def test_the_page_says_what_analysis_measures():
    text = Text(LOOP, characters, window=64, vocab_size=1 << 20, title="A loop")
    bits = analysis.token_bits(LOOP, 1 << 20, window=64)
    phrases = analysis.factorize(LOOP, 64, vocab_size=1 << 20)
    assert (text.bits == bits).all() and (text.phrases == phrases).all()
    assert [(loop["start"], loop["length"], loop["period"]) for loop in text.loops] == [(16, 227, 25)]
    page = Page(text.html())
    assert page.inside["h1"] == ["A loop"] and page.inside["title"] == ["A loop"]
    assert "".join(page.blocks) == LOOP
    assert page.data["bits"] == [round(10 * b) for b in bits.tolist()]
    assert pairs(page.data["phrases"]) == [(p["length"], p["distance"]) for p in phrases]
    assert page.data["loops"] == [16, 227, 25] and page.data["literal"] == 20.0 and page.data["window"] == 64
    assert f"{len(LOOP)} tokens · {bits.mean():.2f} bits each · 1 loop with 90% of them" in page.inside["p"]


def test_arrays_and_lists_are_the_same_text():
    ids = [ord(c) for c in LOOP]
    assert Text(ids, characters).html() == Text(np.array(ids, np.int32), characters).html() == Text(LOOP, characters).html()


NASTY = "</script><script>alert(1)</script><!-- & &amp; &#0; \" ' ]]> ${x} $title \\u003c </div></main>"


def test_what_looks_like_markup_is_text():
    page = Page(Text(NASTY, characters, title=NASTY).html())
    assert "".join(page.blocks) == NASTY and page.inside["h1"] == [NASTY] == page.inside["title"]
    assert sum(tag == "script" for tag, _ in page.tags) == 2 and not page.open


@settings(deadline=None)
@given(st.text(st.characters(codec=None)))
def test_every_character_arrives(source):
    """But those that a browser changes: control characters are shown as pictures, half pairs of surrogates not at all."""
    text = Text(source, characters, title=source)
    page = Page(text.html())
    shown = re.sub("[\ud800-\udfff]", "\ufffd", re.sub("[\0-\x08\x0b-\x1f]", lambda c: chr(0x2400 + ord(c[0])), source))
    assert "".join(page.blocks) == shown.replace("\x7f", "\u2421")
    assert sum(page.data["pieces"]) == sum(len(block.encode("utf-16-le")) // 2 for block in page.blocks)


@settings(deadline=None)
@given(st.text(max_size=60), st.randoms())
def test_tokens_that_are_parts_of_characters(source, random):
    """Any cut of the bytes into tokens: the pieces make up the text, and none could be cut between its tokens."""
    data, vocabulary = source.encode(), []
    while data:
        size = random.randint(1, 5)
        vocabulary.append(data[:size])
        data = data[size:]

    def decode(ids):
        return b"".join(vocabulary[i] for i in ids).decode("utf-8", "replace")

    text = Text(list(range(len(vocabulary))), decode)
    assert "".join(piece for _, piece in text.pieces) == source
    at = 0
    for count, piece in text.pieces:
        if "\ufffd" not in source:
            for cut in range(at + 1, at + count):
                assert "\ufffd" in decode(range(at, cut))
            assert decode(range(at, at + count)) == piece
        at += count
    assert at == len(vocabulary)


@pytest.mark.parametrize("source", ["\ufffd", "\ufffda", "é\ufffd", "a\ufffd\ufffdb", "\ufffdé\ufffd", "é🙂\ufffd"])
def test_the_character_that_stands_for_broken_ones(source):
    """In every cut of its bytes, though a part of it is decoded to what the whole is."""
    data = source.encode()
    for cuts in itertools.product([False, True], repeat=len(data) - 1):
        ends = [at for at, cut in enumerate(cuts, 1) if cut] + [len(data)]
        vocabulary = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        text = Text(
            list(range(len(vocabulary))),
            lambda ids: b"".join(vocabulary[i] for i in ids).decode("utf-8", "replace"),  # noqa: B023
        )
        assert "".join(piece for _, piece in text.pieces) == source, vocabulary
        assert sum(count for count, _ in text.pieces) == len(vocabulary)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_text(data):
    text = Text(data, of_bytes)
    assert sum(count for count, _ in text.pieces) == len(data) == len(text.bits)
    whole = data.decode("utf-8", "replace")
    assert "".join(p for _, p in text.pieces).replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_a_character_of_several_tokens_in_the_page():
    page = Page(Text("a🙂b🙂".encode(), of_bytes).html())
    assert page.data["pieces"] == [1, 2, 1, 2] and pairs(page.data["clusters"]) == [(1, 4), (3, 4)]
    assert page.data["blocks"] == [4] and len(page.data["bits"]) == 10


def test_a_tokenizer_that_puts_spaces_between_words():
    words = {0: "the", 1: "end", 2: "<s>", 3: ""}
    text = Text([2, 0, 1, 3, 0], lambda ids: " ".join(words[i] for i in ids if words[i]))
    assert text.pieces == [(1, "<s>"), (1, " the"), (1, " end"), (1, "⟨3⟩"), (1, "the")]


POLYGLOT = "It was naïve, naïve: 你好世界, 🙂🙃🙂!\n\n\tשלום  नमस्ते e\u0301 𝔘 and \ufffd too. " * 3


@pytest.mark.parametrize("kind", ["ByteLevel", "Metaspace"])
def test_real_tokenizers(kind):
    """Byte-level BPE, as of GPT-2 and all after it; and words that begin with a mark for the space, as of SentencePiece."""
    tokenizers = pytest.importorskip("tokenizers")
    tool = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=kind == "Metaspace"))
    part = getattr(tokenizers.pre_tokenizers, kind)
    tool.pre_tokenizer = part(add_prefix_space=False) if kind == "ByteLevel" else part(prepend_scheme="first")
    tool.decoder = getattr(tokenizers.decoders, kind)()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=part.alphabet() if kind == "ByteLevel" else [])
    tool.train_from_iterator([POLYGLOT[:40]] if kind == "ByteLevel" else [POLYGLOT], trainer)
    ids = tool.encode(POLYGLOT).ids
    text = Text(ids, tool.decode, vocab_size=tool.get_vocab_size())
    assert "".join(piece for _, piece in text.pieces) == tool.decode(ids) == POLYGLOT
    assert (max(count for count, _ in text.pieces) > 1) == (kind == "ByteLevel")
    assert sum(count for count, _ in text.pieces) == len(ids)


@pytest.mark.parametrize("tokens", [[], "", b"", [5], [0]])
def test_hardly_any_text(tokens):
    text = Text(tokens, lambda ids: " ".join(map(str, ids)))
    page = Page(text.html())
    assert len(page.data["bits"]) == len(tokens) == len(page.data["blocks"]) and page.data["loops"] == []
    assert ("There is no token in it." in page.inside["p"]) == (not len(tokens))
    assert repr(text).startswith(f"<lzpenalty.view.Text: {len(tokens)} tokens")


def test_nothing_from_outside():
    source = Text(LOOP, characters).html()
    page = Page(source)
    for tag, attributes in page.tags:
        assert not {"src", "style", "srcdoc"} & set(attributes) and not any(name.startswith("on") for name in attributes)
        assert tag != "link" or attributes["href"] == "data:,"
    assert not re.search(r"https?:|@import|url\(|\bfetch\b|\bimport\b|eval", source)
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for kind, body in (("style", page.inside["style"][0]), ("script", page.inside["script"][1])):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_blocks_end_with_a_line_or_a_word():
    lines = "".join(f"This is line {i}.\n" for i in range(100))
    words = "word" + " word" * 400
    wall = "x" * 3000
    page = Page(Text(lines + words + "\n" + wall, characters).html())
    assert "".join(page.blocks) == lines + words + "\n" + wall
    assert max(map(len, page.blocks)) <= 1200 and len(page.blocks) < 20
    assert page.cuts == [not block.endswith("\n") for block in page.blocks[:-1]] + [False]
    words = [block for block in page.blocks if block.startswith(" word")]
    assert len(words) > 1 and all(block.endswith("word") for block in words[:-1])


def test_saved_and_in_a_notebook(tmp_path):
    text = Text(LOOP + "é🙂\r\n", characters)
    text.save(tmp_path / "it.html")
    assert (tmp_path / "it.html").read_bytes() == text.html().encode()
    frame = text._repr_html_()
    (document,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(document) == text.html() and 'sandbox="allow-scripts"' in frame


def test_a_long_text_stays_small():
    """Some bytes a token, and no more decoding than there are neighbours that differ."""
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, 100_000), 30_000)
    ids[60_000:70_000] = np.tile(ids[:100], 100)
    calls = 0

    def decode(some):
        nonlocal calls
        calls += 1
        return "".join(f" w{i}" for i in some)

    text = Text(ids, decode, vocab_size=32_000)
    page = text.html()
    pieces = sum(len(f" w{i}") for i in ids.tolist())
    assert len(page) < pieces + 12 * len(ids) + 30_000
    assert calls <= len(np.unique(ids)) + len(np.unique(ids[:-1] * 2**20 + ids[1:]))
    assert (60_000, 100) in [(loop["start"], loop["period"]) for loop in text.loops]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=60))
def test_loops_apart(ids):
    found = analysis.find_loops(ids)
    chosen, covered = [], set()
    for loop in sorted(found.tolist(), key=lambda loop: (-loop[2], loop[0], loop[1])):  # period, start, length, repeats
        span = set(range(loop[1], loop[1] + loop[2]))
        if not span & covered:
            chosen.append(loop)
            covered |= span
    assert analysis.apart(found).tolist() == chosen


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1, -2], str), {}, ValueError, "tokens: expected ids from 0 on, got -2"),
        (([[1], [2]], str), {}, ValueError, r"tokens: expected shape \[length\]"),
        (([1.5], str), {}, TypeError, "tokens: expected ids"),
        (([1, 2], "text"), {}, TypeError, "decode: expected a callable that gives the str of a list of ids, got str"),
        (([1, 2], lambda ids: ids), {}, TypeError, "decode: expected a str for a list of ids, got list"),
        (([1, 2], str), {"vocab_size": 2}, ValueError, "vocab_size: expected more than the largest id, 2, got 2"),
        (([1, 2], str), {"window": 0}, ValueError, "window: expected an integer from 1 on, got 0"),
        (([1, 2], str), {"window": 1.5}, TypeError, "window: expected an integer"),
        (([1, 2], str), {"min_loop": 0}, ValueError, "min_loop: expected an integer from 1 on, got 0"),
        (([1, 2], str), {"min_repeats": 1}, ValueError, "min_repeats: expected"),
        (([1, 2], str), {"tolerance": 1.0}, ValueError, "tolerance: expected"),
    ],
)
def test_mistakes_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        Text(*arguments, **options)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It was so.\n" + "Wait.\n" * 9 + "So.", "Wait.\n" * 9),  # ".\n" before it belongs to the loop, not to its lines
        ("It was so.\n\n" + "Wait.\n\n" * 9 + "So.", "Wait.\n\n" * 9),
        ("It was so.\r\n" + "Wait.\r\n" * 9 + "So.", "Wait.\r\n" * 9),
        ("Then\n" + "Wait.\n" * 9 + "Well", "Wait.\n" * 9),  # "W" after it
        ("Then\n" + "Wait.\n" * 9 + "W", "Wait.\n" * 9 + "W"),  # there the text ends
        ("So: ab\ncd\n" + "ab\ncd\n" * 9, "ab\ncd\n" * 10),  # half a turn stands on the line
        ("So: " + "abc " * 9 + "x", "abc " * 9),
        ("end" + "\n" * 30 + "x", "\n" * 29),
        ("\n" * 30, "\n" * 29),
    ],
)
def test_bars_stand_beside_the_lines_of_a_loop(text, shown):
    page = Text(text, lambda ids: "".join(map(chr, ids)))
    (loop,) = page.loops
    starts = np.arange(len(text) + 1)
    first, end = view._bar(loop, starts, page.pieces)
    assert text[first:end].strip() == shown.strip() and text[first:end].count("\n") == shown.count("\n")
    assert loop["start"] <= first < end <= loop["start"] + loop["length"]


def test_progress_is_told():
    told = []
    Text("over and over", lambda ids: "".join(map(chr, ids)), progress=told.append)
    assert told == ["phrases", "bits", "loops", "characters", "page"]
