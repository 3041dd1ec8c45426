"""How do the benchmarks' ratios move over time?

    python benchmarks/history.py

results/history/ has a file for each day and machine: of every benchmark that ended there, what harness.write found to be a
ratio. Ratios are of contestants that took turns, so that they say more than times do about another day or machine.

Prints a table and draws build/bench-history.png: a panel for each benchmark, medians over its cells."""

import json
import re
import statistics
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parent.parent / "build" / "bench-history.png"


def _is_ratio(key: str) -> bool:
    return "_over_" in key or " / " in key or key == "share"


def ratios(results: dict) -> dict[str, list[float]]:
    """{name: numbers} of all that a benchmark calls X_over_Y, X / Y or a share, or keeps in `ratios` or `against_...`,
    wherever it stands."""
    collected: dict[str, list[float]] = {}

    def look(value, name="", inside=False):
        if isinstance(value, dict):
            for key, part in ((str(key), part) for key, part in value.items()):
                group = key == "ratios" or key.startswith("against_")
                full = f"{name} {key}" if inside and name else key
                look(part, "" if key == "ratios" else full, inside=group or inside)
        elif isinstance(value, list):
            for part in value:
                look(part, name, inside)
        elif isinstance(value, int | float) and not isinstance(value, bool) and (inside or _is_ratio(name)):
            collected.setdefault(name, []).append(value)

    look({key: value for key, value in results.items() if key != "machine"})
    return collected


def keep(folder: Path, name: str, results: dict) -> None:
    """Puts a benchmark's ratios into the file of its machine and day, in place of those that it had there. Benchmarks
    without ratios leave nothing."""
    short = {
        key: {"median": statistics.median(numbers), "lowest": min(numbers), "cells": len(numbers)}
        for key, numbers in ratios(results).items()
    }
    if not short:
        return
    machine = results["machine"]
    words = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['level']}".lower()).strip("-")
    path = folder / f"{machine['date']}-{words}.json"
    there = json.loads(path.read_text()) if path.exists() else {"ratios": {}}
    kept = {"machine": machine, "ratios": {**there["ratios"], name: short}}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def points(folder: Path) -> dict[str, dict[tuple[str, str], list[tuple[str, float]]]]:
    """{benchmark: {(ratio, machine): [(day, median), ...]}}, oldest first."""
    found: dict = {}
    for path in sorted(folder.glob("*.json")):
        day = json.loads(path.read_text())
        machine = f"{day['machine']['cpu']}, {day['machine']['level']}"
        for name, by_ratio in day["ratios"].items():
            for ratio, short in by_ratio.items():
                line = found.setdefault(name, {}).setdefault((ratio, machine), [])
                line.append((day["machine"]["date"], short["median"]))
    return found


def table(found) -> str:
    """For people: a line for each ratio on each machine."""
    lines = []
    for name, by_line in sorted(found.items()):
        lines.append(name)
        for (ratio, machine), line in sorted(by_line.items()):
            shown = ", ".join(f"{day} {value:.4g}" for day, value in line)
            lines.append(f"  {ratio} ({machine}): {shown}")
    return "\n".join(lines)


def draw(found, path: Path) -> None:
    """A panel for each benchmark, a line for each ratio on each machine."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * len(found)), layout="constrained")
    for axis, (name, by_line) in zip(figure.subplots(len(found), squeeze=False)[:, 0], sorted(found.items()), strict=True):
        for (ratio, machine), line in sorted(by_line.items()):
            axis.plot(*zip(*line, strict=True), "o-", label=f"{ratio} ({machine})")
        axis.set_title(name)
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    found = points(RESULTS / "history")
    print(table(found))
    draw(found, PICTURE)
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
