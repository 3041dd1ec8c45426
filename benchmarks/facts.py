"""Texts and facts for recall.py, in two halves that share nothing: one for choosing rules, one for what is reported. And how
answers are counted.

Prose, code and mathematics are files that come with Python, and with mpmath and sympy, which torch needs; the dialogues were
written for this. Echo was found with the texts of the manual and with facts in the words of the half "choose".
"""

import heapq
import math
import pydoc_data.topics
import random
import re
import statistics
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HALVES = ("choose", "report")
KINDS = ("code", "name", "place", "date", "variable", "line")
AGES = (0, 1, 2, 4, 8)  # compressions between a fact and its question
_LIBRARY = Path(sysconfig.get_path("stdlib"))


def _package(name: str) -> Path:
    return Path(find_spec(name).submodule_search_locations[0])


def _markup(page: str) -> str:
    return re.sub(r"\n\s*\n+", "\n\n", re.sub(r"<[^>]+>", "", page))


def _docstrings(path: Path) -> str:
    found = re.findall(r'r?"""(.*?)"""', path.read_text(), re.DOTALL)
    return "\n\n".join(re.sub(r"^    ", "", text, flags=re.MULTILINE).strip() for text in found if len(text) > 400)


def _dialogues(half: str) -> list[str]:
    written = (Path(__file__).parent / "texts" / "dialogues.txt").read_text()
    parts = re.split(r"^== (\w+) \d+\n", written, flags=re.MULTILINE)[1:]
    return [text for of, text in zip(parts[::2], parts[1::2], strict=True) if of == half]


def texts(half: str) -> dict[str, list[str]]:
    """Of each sort four texts, or two, of 640 tokens at least; those that aren't dialogues have some thousands."""
    library, special = _LIBRARY, _package("sympy") / "functions" / "special"
    if half == "choose":
        topics = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
        manual = "\n\n".join(topics)
        return {
            "prose": [manual[:60_000], manual[200_000:260_000]],
            "code": [(library / name).read_text()[2000:] for name in ("ast.py", "fractions.py")],
            "mathematics": [_docstrings(special / name) for name in ("gamma_functions.py", "hyper.py")],
            "dialogue": _dialogues(half),
        }
    functions = _docstrings(_package("mpmath") / "function_docs.py")
    quarter = len(functions) // 4
    return {
        "prose": [
            _markup((library / "idlelib" / "help.html").read_text()),
            (library / "email" / "architecture.rst").read_text(),
            heapq.__about__,
            (library / "idlelib" / "NEWS.txt").read_text()[5000:],
        ],
        "code": [(library / name).read_text()[4000:] for name in ("argparse.py", "tarfile.py", "difflib.py", "tokenize.py")],
        "mathematics": [functions[i * quarter : (i + 1) * quarter] for i in range(4)],
        "dialogue": _dialogues(half),
    }


@dataclass(frozen=True)
class Fact:
    """`stated` is said once; `question` asks so that `answer` has to follow, and `asked` as one asks in a chat."""

    stated: str
    question: str
    answer: str
    asked: str


_FIRST = ["Clara", "Hugo", "Ingrid", "Paolo", "Yara", "Felix", "Nadia", "Oscar", "Priya", "Stefan", "Vera", "Walter"]
_LAST = ["Okonkwo", "Lindqvist", "Marchetti", "Takahashi", "Novak", "Haddad", "Jensen", "Petrov", "Moreau", "Silva"]
_TOWN = ["Tromso", "Lisbon", "Nairobi", "Osaka", "Porto", "Riga", "Quito", "Lyon", "Perth", "Dakar", "Lima", "Boston"]
_MONTH = ["January", "March", "April", "June", "July", "August", "October", "November"]
_WORD = ["zeta", "theta", "omega", "delta", "gamma", "kappa", "sigma", "lambda"]
_CALL = ["scale", "shift", "blend", "score", "weigh", "adjust", "limit", "spread"]


def fact(half: str, kind: str, rng: random.Random) -> Fact:
    """One of that kind, in the words of that half."""
    report = half == "report"
    if kind == "code":
        digits = "".join(rng.choice("0123456789") for _ in range(5))
        if report:
            said = "The safe in the office opens with the number"
            return Fact(
                f"\n\n{said} {digits}, please keep this to yourself.\n\n",
                f"\n\n{said}",
                f" {digits}",
                "Which number opens the safe in the office?",
            )
        stated = f"\n\nRemember this: the passcode is {digits}. I will need it later.\n\n"
        return Fact(stated, "\n\nNow, what was it? The passcode is", f" {digits}", "Which passcode was I to remember?")
    if kind == "name":
        name = f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
        said = "The first prize went to" if report else "The window was broken by"
        asked = "Who did the first prize go to?" if report else "By whom was the window broken?"
        return Fact(f"\n\n{said} {name}, who was surprised.\n\n", f"\n\n{said}", f" {name}", asked)
    if kind == "place":
        town, name = rng.choice(_TOWN), rng.choice(_LAST)
        said = f"Professor {name} keeps her bees in" if report else f"Dr. {name} lives in"
        asked = f"Where does Professor {name} keep her bees?" if report else f"Where does Dr. {name} live?"
        return Fact(f" {said} {town} with two dogs.", f"\n\n{said}", f" {town}", asked)
    if kind == "date":
        date = f"{rng.randrange(1, 29)} {rng.choice(_MONTH)} {rng.randrange(1900, 2000)}"
        said = "The observatory closed its doors on" if report else "The old bridge was opened on"
        asked = "When did the observatory close its doors?" if report else "When was the old bridge opened?"
        return Fact(f" {said} {date} for good.", f"\n\n{said}", f" {date}", asked)
    if kind == "variable":
        name, value = f"{rng.choice(_WORD)}_{rng.randrange(10, 99)}", rng.randrange(10_000, 99_999)
        said = f"export {name.upper()}" if report else f"In this run the variable {name} was set to"
        sign = "=" if report else " "
        asked = f"Which value does {name.upper()} have?" if report else f"To which number was the variable {name} set?"
        return Fact(f"\n\n{said}{sign}{value}\n\n", f"\n\n{said}", f"{sign}{value}", asked)
    assert kind == "line"
    call, a, b, c = rng.choice(_CALL), rng.choice("abcd"), rng.choice("klmn"), rng.randrange(11, 99)
    if report:
        said = f"def {call}({a}, {b}):\n    return"
        asked = f"What does the function {call} return?"
        return Fact(f"\n\n{said} {b} * {c} - {a}\n\n", f"\n\n{said}", f" {b} * {c} - {a}", asked)
    said = f"{call} = lambda {a}, {b}:"
    asked = f"Which expression does the lambda {call} compute?"
    return Fact(f"\n\n{said} {a} + {c} * {b}\n\n", f"\n\n{said}", f" {a} + {c} * {b}", asked)


# What was found.


def shared(full: dict, other: dict, kind: str | None = None, age: int | None = None) -> tuple[int, int]:
    """How many of the facts that the full cache knows the other one knows, and how many these are."""
    known = of = 0
    for batch, answers in other.items():
        for key, found in answers.items() if batch in full else ():
            sort, when = key.split()
            if (kind is None or sort == kind) and (age is None or int(when) == age):
                pairs = [*zip(full[batch][key], found, strict=True)]
                of += sum(a == "1" for a, _ in pairs)
                known += sum(a == b == "1" for a, b in pairs)
    return known, of


def known_of(full: dict, other: dict) -> tuple[int, int]:
    """The same of documents, {number: {"facts": {kind: "1" or "0"}}}, over those that both have."""
    asked = [
        {
            number: {f"{kind} 0": one for kind, one in each["facts"].items()}
            for number, each in rule.items()
            if "facts" in each
        }
        for rule in (full, other)
    ]
    return shared(*asked)


def wilson(known: int, of: int) -> tuple[float, float]:
    """A 95% interval of the share, if each answer counted for itself."""
    z, share = 1.96, known / of
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def difference(full: dict[str, float], other: dict[str, float]) -> tuple[float, float]:
    """The mean of the paired differences, and half of its 95% interval."""
    worse = [other[name] - bits for name, bits in full.items()]
    return statistics.mean(worse), 1.96 * statistics.stdev(worse) / math.sqrt(len(worse))
