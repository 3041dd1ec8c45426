"""Texts and prompts that penalties are measured on: what every Python brings, and what was written here.

The texts are of seven kinds, from prose to a song with a refrain. Half of each kind, and half of the prompts, are for
choosing options; the other half is for reporting what was chosen."""

import ast
import calendar
import csv
import errno
import inspect
import io
import json
import os
import pydoc_data.topics
import random
import sysconfig
import token
import unicodedata
from collections.abc import Iterable
from http import HTTPStatus
from importlib import import_module
from pathlib import Path

__all__ = ["HALVES", "KINDS", "prompts", "texts"]

HALVES = ("choose", "report")
HERE = Path(__file__).parent
KINDS = ("prose", "code", "json", "table", "maths", "chat", "song")


def _module(name: str) -> str:
    return inspect.getsource(import_module(name))


def _header(name: str) -> str:
    return (Path(sysconfig.get_paths()["include"]) / name).read_text()


def _own(name: str) -> str:
    return (HERE / "texts" / name).read_text()


def _json(value) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _csv(header: Iterable[str], rows: Iterable[Iterable]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def _statuses() -> str:
    return _json([{"code": s.value, "phrase": s.phrase, "description": s.description} for s in HTTPStatus])


def _characters() -> str:
    signs = map(chr, range(0x3A0, 0x400))
    return _json({
        f"U+{ord(c):04X}": {"character": c, "name": unicodedata.name(c), "category": unicodedata.category(c)}
        for c in signs
        if unicodedata.name(c, "")
    })  # fmt: skip


def _tree() -> str:
    """A small function as its syntax tree."""

    def plain(node):
        if isinstance(node, ast.AST):
            return {"node": type(node).__name__, **{name: plain(value) for name, value in ast.iter_fields(node)}}
        return [plain(part) for part in node] if isinstance(node, list) else node

    return _json(plain(ast.parse("def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return abs(a)\n")))


def _orders() -> str:
    rng, items = random.Random(1), ("tea", "bread", "soap", "rice", "apples", "paper", "candles", "salt")
    return _json({
        "orders": [
            {
                "id": rng.randrange(10_000, 99_999),
                "customer": {"city": rng.choice(["Ghent", "Turin", "Riga"]), "since": rng.randrange(2009, 2026)},
                "lines": [
                    {"item": item, "count": rng.randrange(1, 9), "price": rng.randrange(49, 999) / 100}
                    for item in rng.sample(items, rng.randrange(1, 4))
                ],
                "paid": rng.random() < 0.8,
            }
            for _ in range(12)
        ]
    })  # fmt: skip


def _errors() -> str:
    rows = [f"| {code} | `{name}` | {os.strerror(code)} |" for code, name in sorted(errno.errorcode.items())]
    return "\n".join(["| number | name | meaning |", "| ---: | --- | --- |", *rows])


def _months() -> str:
    rows = (
        (year, calendar.month_name[m], *calendar.monthrange(year, m)) for year in (2024, 2025, 2026) for m in range(1, 13)
    )
    return _csv(("year", "month", "first weekday", "days"), rows)


def _operators() -> str:
    rows = ((number, token.tok_name[number], sign) for sign, number in sorted(token.EXACT_TOKEN_TYPES.items()))
    return "\n".join("\t".join(map(str, row)) for row in [("number", "name", "sign"), *rows])


def _weather() -> str:
    rng, rows, warmth = random.Random(2), [], 4.0
    for day in range(1, 91):
        warmth += rng.gauss(0.1, 1.5)
        rows.append(
            (f"day {day}", f"{warmth:.1f}", f"{max(0, rng.gauss(0, 4)):.1f}", rng.choice(["N", "NE", "S", "SW", "W"]))
        )
    return _csv(("date", "degrees", "rain", "wind"), rows)


_TEXTS = {
    "prose": {
        "execution model": lambda: pydoc_data.topics.topics["execmodel"],
        "customization": lambda: pydoc_data.topics.topics["customization"],
        "data model": lambda: pydoc_data.topics.topics["objects"],
        "debugger": lambda: pydoc_data.topics.topics["debugger"],
    },
    "code": {
        "textwrap.py": lambda: _module("textwrap"),
        "pyerrors.h": lambda: _header("pyerrors.h"),
        "heapq.py": lambda: _module("heapq"),
        "shlex.py": lambda: _module("shlex"),
        "uuid.py": lambda: _module("uuid"),
        "listobject.h": lambda: _header("listobject.h"),
    },
    "json": {"statuses": _statuses, "characters": _characters, "syntax tree": _tree, "orders": _orders},
    "table": {"errors": _errors, "months": _months, "operators": _operators, "weather": _weather},
    "maths": {name: lambda name=name: _own(name) for name in ("maths-1.md", "maths-2.md")},
    "chat": {name: lambda name=name: _own(name) for name in ("chat-1.txt", "chat-2.txt")},
    "song": {name: lambda name=name: _own(name) for name in ("song-1.txt", "song-2.txt")},
}

_PROMPTS = """
How many prime numbers are there below 100? Think step by step.
Write a poem about the sea with eight verses.
Explain how a suspension bridge carries its load.
Prove that the square root of 2 is irrational.
Tell me a long story about a lighthouse keeper.
How do I sort a linked list? Show the code and discuss it.
List fifty animals, and one fact about each.
What is 17 * 23 + 41 * 19? Show every step, then check the result.
Write a Python class for a bank account, with tests.
A train leaves at 9:40 and drives 210 km at 84 km/h. When does it arrive? Think step by step and check your answer.
Describe a day in a medieval town, hour by hour.
Find all ways to write 30 as a sum of three primes.
Why is the sky blue? Explain it to a child, then to a physicist.
Write the rules of a board game that you invent.
Translate the numbers from 1 to 40 into English words.
Which is larger, 2^100 or 3^63? Reason carefully.
Write a dialogue between a baker and a customer who can't decide.
Explain recursion with three examples in JavaScript.
Draft a letter to the city that asks for a zebra crossing.
Give me a training plan for a first marathon, week by week.
Solve x^2 - 6x + 7 = 0, and discuss how the solutions change with the last coefficient.
Write a fairy tale in which the same thing goes wrong three times.
Compare bicycles, trains and cars for a way of ten kilometres.
How many ways are there to climb 12 stairs, one or two at a time? Explain how you count them.
Write an SQL schema for a library, and five queries.
Think out loud: I have 3 red and 5 blue socks in the dark. How many must I take to be sure of a pair?
Summarise what a compiler does, stage by stage.
Make a list of reasons to learn an instrument, with an anecdote for each.
"""


def texts(half: str) -> dict[str, dict[str, str]]:
    """{kind: {name: text}} of that half of the texts."""
    first = HALVES.index(half)
    return {kind: {name: _TEXTS[kind][name]() for name in [*_TEXTS[kind]][first::2]} for kind in KINDS}


def prompts(half: str) -> list[str]:
    """That half of the prompts."""
    return _PROMPTS.strip().splitlines()[HALVES.index(half) :: 2]
