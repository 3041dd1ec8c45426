"""Compiles kernels.cu to PTX and writes it as C: ptx/ptx.c, which is committed, so that nobody else needs CUDA to build.

    python csrc/cuda/generate.py [--check] [--print]

Needs nvcc and ptxas of CUDA 13.0; another version writes other PTX, which may be as good but is not what was tested. The
text claims to be PTX of CUDA 11.0, whose driver is the oldest with all entry points that are called; ptxas confirms it. With
--check nothing is written, but fails if the committed file is not what would be; --print shows the PTX instead."""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
VERSION, TARGET = "7.0", "75"  # CUDA 11.0, Turing
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
HEADER = """/* The kernels as PTX, made by generate.py from kernels.cu: not to be edited. */
#include "ptx.h"

/* clang-format off */
const char cuda_ptx[] =
"""


def compile_ptx() -> str:
    # Without contraction to fma everywhere, results agree with the CPU's; what is meant to be fused says fmaf.
    command = ["nvcc", "-ptx", f"-arch=compute_{TARGET}", "-fmad=false", "-std=c++17", "kernels.cu", "-o", "-"]
    return subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout


def tidy(ptx: str) -> str:
    """Without comments, hints that old versions of PTX lack, and names that depend on the compiler's run."""
    ptx = re.sub(r"//.*", "", ptx)
    ptx = re.sub(r"\.version .*", f".version {VERSION}", ptx)
    ptx = re.sub(r"^\s*\.pragma .*", "", ptx, flags=re.M)
    ptx = re.sub(r"^\s*\.file\b.*", "", ptx, flags=re.M)
    names = dict.fromkeys(re.findall(r"\b_Z\w+", ptx))
    for i, name in enumerate(names):
        ptx = re.sub(rf"\b{name}\b", f"local_{i}", ptx)
    lines = (re.sub(r"\s+", " ", line).strip() for line in ptx.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def assemble(ptx: str) -> None:
    """Raises if an architecture refuses the text."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        for architecture in ARCHITECTURES:
            subprocess.run(["ptxas", f"-arch=sm_{architecture}", file.name, "-o", "/dev/null"], check=True)


def as_c(ptx: str) -> str:
    lines = ["    " + '"' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"' for line in ptx.splitlines()]
    return HEADER + "\n".join(lines) + ";\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args()
    ptx = tidy(compile_ptx())
    if args.print:
        print(ptx, end="")
        return
    path = HERE / "ptx/ptx.c"
    if args.check:
        if path.read_text() != as_c(ptx):
            sys.exit("ptx/ptx.c is not what kernels.cu compiles to: run csrc/cuda/generate.py")
        return
    assemble(ptx)
    path.write_text(as_c(ptx))
    print(f"{path.name}: {len(ptx)} bytes of PTX {VERSION} for sm_{TARGET}, accepted for sm_{', '.join(ARCHITECTURES)}")


if __name__ == "__main__":
    main()
