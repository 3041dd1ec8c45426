"""How many instructions do the hot functions take?

    python benchmarks/instructions.py [--record]

Counts what instructions.c calls, with callgrind and the C library as `make lib` builds it, at each level of instructions
that valgrind knows. A count is the same on every run and under any load, so that a slow-down is seen without a clock.

Compares with results/instructions.json, which holds counts by compiler and level, and fails if one is more than 5% higher.
Another version of the compiler has no counts there: they are recorded, which is said. --record replaces those of this
one."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from harness import RESULTS, write

ROOT = Path(__file__).parent.parent
BUILD = Path("build/instructions")  # in ROOT
LEVELS = ("scalar", "avx2")  # valgrind knows no AVX-512, and other processors have one level
CALLGRIND = ["valgrind", "-q", "--tool=callgrind"]
MORE = 1.05


def counts_of(parts: list[str]) -> dict[str, int]:
    """{name: instructions} of callgrind's files, each of which was written when a call had been counted."""
    found = {}
    for text in parts:
        name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
        total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
        if name and total:
            found[name[1]] = int(total[1])
    return found


def compare(known: dict[str, int], found: dict[str, int]) -> tuple[str, bool]:
    """A line for each count and its ratio to the known one, and whether all are as they should be: none is missing, and none
    more than 5% higher."""
    wide = max(map(len, [*known, *found]))
    lines, good = [], True
    for name in {**known, **found}:
        if name not in found:
            lines.append(f"{name:{wide}} {'missing':>14}")
            good = False
        elif name not in known:
            lines.append(f"{name:{wide}} {found[name]:14,}  new")
        else:
            ratio = found[name] / known[name]
            lines.append(f"{name:{wide}} {found[name]:14,}  {ratio:.3f}{'  MORE' if ratio > MORE else ''}")
            good = good and ratio <= MORE
    return "\n".join(lines), good


def compiler() -> str:
    """The first line in which it says its version."""
    said = subprocess.run([os.environ.get("CC", "cc"), "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0]


def build() -> Path:
    """The program, linked with a library of its own."""
    subprocess.run(["make", "-s", f"LIB={BUILD}", f"{BUILD}/liblzpenalty.a"], cwd=ROOT, check=True)
    program = ROOT / BUILD / "instructions"
    source = ["benchmarks/instructions.c", f"{BUILD}/liblzpenalty.a", "-lm", "-pthread"]
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Icsrc/include"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, *source, "-o", str(program)], cwd=ROOT, check=True)
    return program


def count(program: Path, level: str) -> dict[str, int]:
    """Of all calls, at a level; empty if it isn't there."""
    out = program.with_name(f"counts-{level}")
    for old in out.parent.glob(f"{out.name}*"):
        old.unlink()
    done = subprocess.run([*CALLGRIND, f"--callgrind-out-file={out}", program, level])
    if done.returncode == 2:
        return {}
    done.check_returncode()
    parts = sorted(out.parent.glob(f"{out.name}.*"), key=lambda path: int(path.suffix[1:]))
    return counts_of([path.read_text() for path in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="these counts are the ones to compare with from now on")
    record = parser.parse_args().record
    path = RESULTS / "instructions.json"
    known = json.loads(path.read_text())["counts"] if path.exists() else {}
    program, all_good, new = build(), True, False
    for level in LEVELS:
        key = f"{compiler()}, {level}"
        if not (found := count(program, level)):
            print(f"{level}: this machine hasn't got it\n")
            continue
        print(f"{key}\n")
        if record or key not in known:
            if not record:
                print("no counts of this compiler and level: recorded now, compared from the next run on\n")
            known[key], new = found, True
        said, good = compare(known[key], found)
        print(said + "\n")
        all_good = all_good and good
    if new:
        write("instructions", {"counts": known})
    if not all_good:
        sys.exit(f"more than {MORE - 1:.0%} more instructions, or a call that is no longer counted: see above")


if __name__ == "__main__":
    main()
