"""What all benchmarks share: timing side by side, a description of the machine, results as JSON."""

import json
import os
import platform
import statistics
import time
from datetime import date
from importlib import metadata
from pathlib import Path

import history

RESULTS = Path(__file__).parent / "results"


def side_by_side(functions: dict, rounds: int = 9, least: float = 2e-3, before=None) -> dict[str, list[float]]:
    """Seconds per call of each function, one figure a round. The functions take turns within a round, so that what else the
    machine does hits all of them; a turn lasts at least `least` seconds. With `before`, which is called before each turn and
    not timed, a turn is one call."""
    loops = {}
    for name, function in functions.items():
        function()
        if before:
            loops[name] = 1
            continue
        start = time.perf_counter()
        function()
        loops[name] = max(1, round(least / max(time.perf_counter() - start, 1e-7)))
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            repeat = range(loops[name])
            if before:
                before()
            start = time.perf_counter()
            for _ in repeat:
                function()
            times[name].append((time.perf_counter() - start) / loops[name])
    return times


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of slow / fast."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def machine() -> dict:
    """What the figures were measured on."""
    from lzpenalty import _core

    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as info:
            cpu = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), cpu)
    installed = {distribution.name for distribution in metadata.distributions()}
    versions = {
        name: metadata.version(name) for name in ("lzpenalty", "numpy", "torch", "transformers") if name in installed
    }
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "level": _core.cpu_level(),
        "python": platform.python_version(),
        "versions": versions,
        "date": date.today().isoformat(),
    }


def with_model(name: str, model: str | None) -> tuple[str, str]:
    """The name of a benchmark's results with a model, and what the model is called: by default the demo's, else a hub id, a
    folder or a GGUF file."""
    if model is None:
        return name, "SmolLM2-135M-Instruct"
    called = Path(model).name.removesuffix(".gguf")
    return f"{name}-{called.lower()}", called


def write(name: str, results: dict) -> None:
    """benchmarks/results/<name>.json; the tables of README and docs are made from these files by tables.py. What history.py
    shows goes to results/history."""
    RESULTS.mkdir(exist_ok=True)
    path, whole = RESULTS / f"{name}.json", {"machine": machine(), **results}
    path.write_text(json.dumps(whole, indent=1) + "\n")
    history.keep(RESULTS / "history", name, whole)
    print(f"wrote {path}")
