"""A text as a page: each token tinted by the bits that the Lempel-Ziv coder pays for it, phrases with a line to where they
stood before, and loops at the margin.

The page is one file: view.html, with view.css and view.js in it, and the text. It loads nothing else.
"""

import base64
import hashlib
import html
import json
import os
import string
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import takewhile

import numpy as np

from lzpenalty import analysis

__all__ = ["Text"]

LEVELS = 8  # tints, besides none; view.css has a class for each
LONGEST_CLUSTER = 16  # tokens that may be needed for whole characters; a character is at most 4 bytes, a token at least one
LINES, LIMIT = 200, 600  # pieces after which a block of the page may end with a line, and has to end with a word

# What a browser would drop or could not be told: a picture of a control character, and half a pair of surrogates.
_VISIBLE = {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n"} | {0x7F: 0x2421}
_VISIBLE |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)


class Text:
    """A text to look at. In a notebook the last line of a cell shows it; :meth:`save` writes a page.

    Tints show D(a) of arXiv 2504.20131 in bits, as :func:`lzpenalty.analysis.token_bits` measures it; phrases are those of
    :func:`lzpenalty.analysis.factorize`, in the same window; loops those of :func:`lzpenalty.analysis.find_loops` that have
    at least `min_loop` tokens and share none with a longer one.

    Parameters
    ----------
    tokens : sequence of int, str or bytes, [T]
        Ids from 0 to 2^31 - 1.
    decode : callable
        The str of a list of ids, as a tokenizer's `decode`. Tokens that are not whole characters alone are shown with
        their neighbours, as one piece; those that stay broken, as U+FFFD.
    vocab_size : int or None
        A token that the window does not hold costs log2(vocab_size) bits; None: one more than the largest id.
    window : int
        Tokens back that count, >= 1.
    min_repeats, tolerance
        As in :func:`lzpenalty.analysis.find_loops`.
    min_loop : int
        Tokens that a loop has at least, >= 1.
    title : str
        The heading of the page.
    unit : str
        What the tokens are, in the plural.
    progress : callable or None
        Called with the name of what comes next, a few times.

    Attributes
    ----------
    bits : ndarray [T], float64
    phrases, loops : structured ndarray
        With the fields of `factorize` and `find_loops`.
    pieces : list of (int, str)
        How many tokens a piece of the text has, mostly one, and what it says.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is wanted.
    """

    def __init__(
        self,
        tokens,
        decode: Callable[[Sequence[int]], str],
        *,
        vocab_size: int | None = None,
        window: int = 512,
        min_repeats: int = 3,
        tolerance: float = 0.0,
        min_loop: int = 24,
        title: str = "A text",
        unit: str = "tokens",
        progress: Callable[[str], object] | None = None,
    ):
        if not callable(decode):
            raise TypeError(f"decode: expected a callable that gives the str of a list of ids, got {type(decode).__name__}")
        ids = analysis._read(tokens)
        least = analysis._integer(min_loop, "min_loop", 1)
        self.window = analysis._integer(window, "window", 1)
        tell = progress or (lambda step: None)
        tell("phrases")
        self.phrases = analysis.factorize(ids, self.window, vocab_size=vocab_size)
        self.vocab_size = int(ids.max(initial=0)) + 1 if vocab_size is None else vocab_size
        tell("bits")
        self.bits = analysis.token_bits(ids, self.vocab_size, window=self.window)
        tell("loops")
        loops = analysis.find_loops(ids, min_repeats=min_repeats, tolerance=tolerance)
        self.loops = np.sort(analysis.apart(loops[loops["length"] >= least]), order="start")
        tell("characters")
        self.pieces = _pieces(ids.tolist(), decode)
        tell("page")
        self.title, self.unit = title, unit

    def __repr__(self) -> str:
        return f"<lzpenalty.view.Text: {self.facts}>"

    @property
    def facts(self) -> str:
        """How many tokens, bits and loops there are, in a line."""
        facts = [f"{len(self.bits):,} {self.unit}"]
        if len(self.bits):
            facts.append(f"{self.bits.mean():.2f} bits each")
        if count := len(self.loops):
            share = self.loops["length"].sum() / len(self.bits)
            facts.append(f"{count:,} loop{'s' if count > 1 else ''} with {share:.0%} of them")
        else:
            facts.append("no loops")
        return " · ".join(facts)

    def html(self) -> str:
        """The page."""
        style, script = _file("view.css"), _file("view.js")
        shown = [(count, piece.translate(_VISIBLE)) for count, piece in self.pieces]
        blocks = _blocks([piece for _, piece in shown])
        starts = np.cumsum([0, *(count for count, _ in self.pieces)])
        data = {
            "unit": self.unit,
            "window": self.window,
            "literal": round(float(np.log2(self.vocab_size)), 1),  # bits of a new token
            "bits": np.rint(self.bits * 10).astype(int).tolist(),  # tenths, of each token
            "phrases": _flat(self.phrases, "length", "distance"),
            "loops": _flat(self.loops, "start", "length", "period"),
            "bars": [at for loop in self.loops for at in _bar(loop, starts, self.pieces)],  # first token of each, and end
            "blocks": [end - start for start, end, _ in blocks],  # pieces in each
            "pieces": [_utf16(piece) for _, piece in shown],
            "clusters": [x for k, (count, _) in enumerate(shown) if count > 1 for x in (k, count)],  # and its tokens
        }
        text = (
            f"<div{' class=cut' if cut else ''}>{html.escape(''.join(piece for _, piece in shown[start:end]))}</div>"
            for start, end, cut in blocks
        )
        return string.Template(_file("view.html")).substitute(
            title=html.escape(self.title.translate(_VISIBLE)),
            facts=html.escape(self.facts),
            literal=f"{data['literal']:g}",
            swatches="".join(f"<i class=b{level}></i>" for level in range(LEVELS + 1)),
            text="\n".join(text) or "<p>There is no token in it.</p>",
            data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
            style=style,
            script=script,
            style_hash=_hash(style),
            script_hash=_hash(script),
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes the page to a file."""
        page = self.html()
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)

    def _repr_html_(self) -> str:
        # A frame of its own: the page's style stays in it, and the text can reach nothing of the notebook.
        return (
            '<iframe sandbox="allow-scripts" style="width:100%;height:32rem;border:0;resize:vertical" '
            f'title="{html.escape(self.title)}" srcdoc="{html.escape(self.html())}"></iframe>'
        )


def _pieces(ids: list[int], decode) -> list[tuple[int, str]]:
    """The text in pieces of the fewest tokens that are whole characters, and what each says after the piece before it: a
    tokenizer may put a space between two words that neither has alone."""
    known: dict[tuple[int, ...], str] = {(): ""}

    def say(tokens: tuple[int, ...]) -> str:
        if tokens not in known:
            text = decode(list(tokens))
            if not isinstance(text, str):
                raise TypeError(f"decode: expected a str for a list of ids, got {type(text).__name__}")
            known[tokens] = text
        return known[tokens]

    def say_after(before: tuple[int, ...], tokens: tuple[int, ...]) -> str:
        both, first = say(before + tokens), say(before)
        more = both[len(first) :] if both.startswith(first) else ""
        return more or say(tokens)  # one U+FFFD may stand for the broken ends of both

    pieces, before, start = [], (), 0
    while start < len(ids):
        broken: list[str] = []
        for end in range(start + 1, min(start + LONGEST_CLUSTER, len(ids)) + 1):
            text = say_after(before, tuple(ids[start:end]))
            if "\ufffd" not in text:
                break
            broken.append(text)
        else:  # no characters, or U+FFFD itself: as many tokens as say what stays, whatever follows
            count = next(n for n, text in enumerate(broken) if all(more.startswith(text) for more in broken[n:]))
            text = broken[count]
            end = start + count + sum(1 for _ in takewhile(text.__eq__, broken[count:]))
        tokens = tuple(ids[start:end])
        if not text:  # there is a token all the same
            text = f"⟨{','.join(map(str, tokens))}⟩"
        pieces.append((len(tokens), text))
        before, start = tokens, start + len(tokens)
    return pieces


def _blocks(pieces: list[str]) -> list[tuple[int, int, bool]]:
    """First piece, end, and whether the line goes on: the blocks that a browser lays out one by one, when they are looked
    at. A block ends with a line where that is possible."""
    blocks, start = [], 0
    for k, piece in enumerate(pieces):
        count, last = k + 1 - start, k + 1 == len(pieces)
        line = piece.endswith("\n")
        word = not last and pieces[k + 1][:1].isspace()
        if last or (line and count >= LINES) or (word and count >= LIMIT) or count >= 2 * LIMIT:
            blocks.append((start, k + 1, not line and not last))
            start = k + 1
    return blocks


def _bar(loop, starts: np.ndarray, pieces: list[tuple[int, str]]) -> tuple[int, int]:
    """The first token and the end of what the bar of a loop stands beside. A loop reaches as far as its tokens go round: the
    end of a line before it, or the beginning of one after it, may be like its own by chance. They count as its lines if half
    a turn stands there."""
    start, period = int(loop["start"]), int(loop["period"])
    end = start + int(loop["length"])
    first, last = int(np.searchsorted(starts, start)), int(np.searchsorted(starts, end, side="right")) - 1
    if first >= last:
        return start, end
    blank = True
    for k in range(first, last):
        if starts[k] >= start + period:
            break
        blank = blank and pieces[k][1].isspace()
        if "\n" in pieces[k][1]:
            if blank or 2 * (starts[k + 1] - start) < period:
                words = (j for j in range(k + 1, last) if not pieces[j][1].isspace())
                first = next(words, min(k + 1, last - 1))
            break
    if last < len(pieces) and not pieces[last][1].startswith("\n"):
        for k in range(last - 1, first, -1):
            if 2 * (end - starts[k + 1]) >= period:
                break
            if "\n" in pieces[k][1]:
                last = k + 1
                break
    return int(starts[first]), int(starts[last])


def _flat(records: np.ndarray, *names: str) -> list[int]:
    """The fields of a structured array, one record after the other."""
    return np.stack([records[name] for name in names], axis=1).ravel().tolist()


def _utf16(text: str) -> int:
    """The length of a string in JavaScript."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _file(name: str) -> str:
    return resources.files("lzpenalty").joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """For the content security policy: this style or script is ours, and no other may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
