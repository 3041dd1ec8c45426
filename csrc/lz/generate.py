"""Writes what options.def says where a compiler can't read it: into lzpenalty.h, _core.pyi and docs/guides/options.md.

    python csrc/lz/generate.py [--check]

Between "options.def: PART" and "end of options.def" in these files stands what PARTS make. With --check nothing is written,
but fails if a file isn't what would be."""

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COSTS = ("lzss", "pair", "distance")


class Option(NamedTuple):
    kind: str
    name: str
    standard: str
    least: str
    most: str
    asked: str
    unit: str
    sentence: str


def read_options() -> list[Option]:
    text = (ROOT / "csrc/lz/options.def").read_text()
    lines = re.findall(r'^OPTION\((\w+), (\w+), ([\d.]+), (\d+), (\d+), (\d+), "([^"]*)", "([^"]*)"\)$', text, re.MULTILINE)
    assert len(lines) == len(re.findall("^OPTION", text, re.MULTILINE)), "options.def: a line that is not understood"
    return [Option(*line) for line in lines]


def statuses(options: list[Option]) -> str:
    """Of lzpenalty_status."""
    return ",\n".join(f"    LZPENALTY_BAD_{o.name.upper()} = {100 + i}" for i, o in enumerate(options))


def fields(options: list[Option]) -> str:
    """Of lzpenalty_options: in words of eight bytes, so that no field is cut in two where one of them ends."""
    types = {"FLOAT": "double", "RANGE": "lzpenalty_range", "MARKS": "lzpenalty_marks"}
    return "\n".join(f"    {types.get(o.kind, 'int64_t')} {o.name}; {c_comment(o)}" for o in options)


def c_comment(o: Option) -> str:
    standard = "" if o.kind in ("RANGE", "MARKS") else f" Default {o.standard}"
    return f"/* {o.sentence}{' In ' + o.unit + '.' if o.unit and o.unit != 'ids' else ''}{standard} */"


def default_of(o: Option) -> str:
    """As Python writes it."""
    if o.kind == "COST":
        return f'"{COSTS[int(o.standard)]}"'
    return "None" if o.kind in ("RANGE", "MARKS") else o.standard


def parameters(options: list[Option]) -> str:
    """Of the functions in _core.pyi."""
    types = {"FLOAT": "float", "INT": "SupportsIndex", "COST": "_Cost", "RANGE": "Iterable[float] | None", "MARKS": "_Marks"}
    return "\n".join(f"{o.name}: {types[o.kind]} = {default_of(o)}," for o in options)


def attributes(options: list[Option]) -> str:
    """Of LZOptions in _core.pyi."""
    types = {
        "FLOAT": "float",
        "INT": "int",
        "COST": "_Cost",
        "RANGE": "tuple[float, float] | None",
        "MARKS": "tuple[int | tuple[int, ...], ...] | None",
    }
    return "\n".join(f"@property\ndef {o.name}(self) -> {types[o.kind]}: ..." for o in options)


def table(options: list[Option]) -> str:
    """Of the guide."""
    rows = [f"| `{o.name}` | {default_of(o).strip(chr(34))} | {o.unit} | {o.sentence} |" for o in options]
    return "\n".join(["| option | default | unit | what it does |", "| --- | --- | --- | --- |", *rows])


PARTS = {"statuses": statuses, "fields": fields, "parameters": parameters, "attributes": attributes, "table": table}
FILES = ("csrc/include/lzpenalty.h", "lzpenalty/_core.pyi", "docs/guides/options.md")


def filled(text: str, options: list[Option]) -> str:
    def fill(match: re.Match) -> str:
        indent = re.match(r" *", match[1])[0] if match[2] in ("parameters", "attributes") else ""
        return match[1] + "".join(f"{indent}{line}\n" for line in PARTS[match[2]](options).splitlines()) + match[3]

    return re.sub(r"(^[^\n]*options\.def: (\w+)[^\n]*\n).*?(^[^\n]*end of options\.def)", fill, text, flags=re.S | re.M)


def main() -> None:
    options = read_options()
    for name in FILES:
        path = ROOT / name
        before = path.read_text()
        after = filled(before, options)
        if "--check" not in sys.argv:
            path.write_text(after)
        elif before != after:
            sys.exit(f"{name} is not what options.def says: run csrc/lz/generate.py")


if __name__ == "__main__":
    main()
