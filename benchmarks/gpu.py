"""How fast are the routines on a GPU?

    python benchmarks/gpu.py [PART ...] [--device cuda] [--tiny] [--seconds 420] [--out FILE]

Parts: penalty, cache, attention, generate-1b, generate-7b; on_gpu/ says what each measures, and beside whom. What was
measured is kept from cell to cell: after `--seconds` the program ends with status 75, and measures the rest when it is
called again. A cell that ended the program is not begun again. `--device cpu --tiny` runs everything in small, which
proves that it runs, and measures nothing. Writes results/gpu.json, or FILE."""

import argparse
import json
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from harness import RESULTS, machine
from lzpenalty import warmup
from on_gpu import cache, generation, penalty
from on_gpu.clock import Clock, card

PARTS = {
    "penalty": penalty.cells,
    "cache": cache.cells,
    "attention": cache.attention_cells,
    "generate-1b": lambda clock: generation.cells(clock, "1b"),
    "generate-7b": lambda clock: generation.cells(clock, "7b"),
}
UNFINISHED = 75  # sysexits.h: a failure that is over if one tries again


def rounded(value):
    """Four digits of each number, which is more than is known."""
    if isinstance(value, dict):
        return {name: rounded(x) for name, x in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def described(cell: dict):
    """Lines on what was measured."""
    for what, found in cell.items():
        if not isinstance(found, dict):
            yield f"{what}: {found:,}" if not isinstance(found, str) else f"{what}: {found}"
        elif "failed" in found:
            yield f"{what}: failed, {found['failed']}"
        else:
            words = [f"{found['called_us']:,} us"]
            if found["replayed_us"]:
                words.append(f"{found['replayed_us']:,} us in a graph")
            if "share_of_copy" in found:
                words.append(f"{found['share_of_copy']:.0%} of the copy's bandwidth")
            yield f"{what}: {', '.join(words)}"


class Record:
    """A file of measured cells, by part and name. One of another device or size is not gone on with."""

    def __init__(self, path: Path, device: str, tiny: bool):
        self.path = path
        self.content = json.loads(path.read_text()) if path.exists() else {}
        kind = {"device": device, "tiny": tiny}
        if {name: self.content.get(name) for name in kind} != kind:
            self.content = {**kind, "parts": {}}

    def cells(self, part: str) -> dict:
        return self.content["parts"].setdefault(part, {"cells": {}})["cells"]

    def save(self, part: str, **facts) -> None:
        self.content["machine"] = machine()
        self.content["parts"][part] |= facts
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unsaved = self.path.with_suffix(".new")
        unsaved.write_text(json.dumps(self.content, indent=1) + "\n")
        unsaved.replace(self.path)


def measure(part: str, clock: Clock, record: Record, until: float) -> int:
    """How many cells are left when the time is up."""
    done, left = record.cells(part), 0
    facts = {"before": card(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    for name, cell in PARTS[part](clock):
        if name in done:
            continue
        if time.monotonic() > until:
            left += 1
            continue
        done[name] = {"failed": "the program did not outlive this"}
        record.save(part, **facts)
        done[name] = rounded(cell())
        record.save(part, after=card())
        print(name, *described(done[name]), sep="\n    ", flush=True)
    record.save(part, left=left)
    return left


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=420, help="to begin further cells in, for all parts together")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    args = parser.parse_args(arguments)
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"PART: expected one of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu: expected --tiny with it; the CPU has benchmarks of its own")
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: torch finds no GPU", file=sys.stderr)
        return 1
    clock, until = Clock(args.device, args.tiny), time.monotonic() + args.seconds
    record = Record(args.out, args.device, args.tiny)
    with torch.no_grad():
        if args.device == "cuda":
            warmup()
        left = sum([measure(part, clock, record, until) for part in args.parts or PARTS])
    if left:
        print(f"{left} cells are left: the same command again measures them")
    return UNFINISHED if left else 0


if __name__ == "__main__":
    sys.exit(main())
