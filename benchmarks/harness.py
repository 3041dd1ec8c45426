"""What all benchmarks share: timing side by side, a description of the machine, results as JSON."""

import atexit
import json
import multiprocessing
import os
import platform
import signal
import statistics
import time
from datetime import date
from importlib import metadata
from pathlib import Path

import history

RESULTS = Path(__file__).parent / "results"

PROCESSORS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

prepared = {}  # what a contestant's process times, by name


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


class Contestant:
    """A process of its own. All of its threads are stopped while it isn't its turn, those too that spin in wait of work, as
    OpenMP's do: nothing that another contestant does costs this one time. The main thread has the first processor, all
    others share the rest: some virtual machines pack threads on one, and whether two ran at once was a matter of chance."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_take_part, args=(theirs,), daemon=True)
        self.process.start()
        atexit.register(self.process.kill)  # what is stopped ends by nothing less
        theirs.close()
        self.connection.recv()
        os.kill(self.process.pid, signal.SIGSTOP)

    def run(self, function, *arguments):
        """function(*arguments) over there, both picklable."""
        os.kill(self.process.pid, signal.SIGCONT)
        self.connection.send((function, arguments))
        result = self.connection.recv()
        os.kill(self.process.pid, signal.SIGSTOP)
        if isinstance(result, Exception):
            raise result
        return result


def _take_part(connection):
    connection.send("here")
    while True:
        function, arguments = connection.recv()
        try:
            result = function(*arguments)
        except Exception as problem:  # the other side raises it
            result = problem
        connection.send(result)


def prepare(make, *arguments) -> None:
    """Runs over there: `make` gives the functions to time, by name, and as "before" what is called before each turn."""
    os.sched_setaffinity(0, PROCESSORS)
    prepared.clear()
    prepared.update(make(*arguments))


def _spread() -> None:
    """Gives the threads that there are now processors of their own."""
    first, *others = sorted(PROCESSORS)
    for thread in map(int, os.listdir("/proc/self/task")):
        os.sched_setaffinity(thread, {first} if thread == os.getpid() else others or {first})


def _loops(name: str, least: float) -> int:
    _turn(name, 1)
    _spread()
    if "before" in prepared:
        return 1
    seconds = _turn(name, 1)
    return max(1, round(least / max(seconds, 1e-7)))


def _turn(name: str, loops: int) -> float:
    """Seconds per call. The first call of the turn isn't timed: threads wake up, and caches hold what another contestant
    left there."""
    function = prepared[name]
    function()
    if "before" in prepared:
        prepared["before"]()
    start = time.perf_counter()
    for _ in range(loops):
        function()
    return (time.perf_counter() - start) / loops


def taking_turns(contestants: dict[str, Contestant], rounds: int = 9, least: float = 2e-3) -> dict[str, list[float]]:
    """As side_by_side, of functions that were prepared under these names in the contestants' processes."""
    loops = {name: contestant.run(_loops, name, least) for name, contestant in contestants.items()}
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            times[name].append(contestant.run(_turn, name, loops[name]))
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
