"""Builds, tests and measures on a machine with a GPU, without a network, into one report and one JSON.

    benchmarks/gpu_report.sh PYTHON OUT [PART ...] [--list]

PYTHON has torch with CUDA, transformers, NumPy, pytest and hypothesis; there is a C compiler. Nothing is installed. Each
part ends within eight minutes. OUT gets a file for each, and report.txt and report.json of all. Without PARTs all run that
have not passed yet, so that the same command goes on where an earlier one stopped; parts that are named run again. What
fails is named at the end, and the others go on.

Without a GPU this is a rehearsal: the emulator of tests/emulator takes the GPU's place in tests, benchmarks run in small on
the CPU, and what only a GPU can do says that there is none."""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 480  # seconds of a part
DONE = ("passed", "no GPU", "not installed")
UNFINISHED = 75  # what gpu.py ends with when its time is up and there is more to measure
SPAWNED = dict(cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@dataclass(frozen=True)
class Part:
    """Commands, of which the first that fails ends the part; PYTHON and OUT in them are replaced. `real`: an emulator won't
    do. `tool`: a program that it can't do without. `module`: a package of PYTHON's without which there is no such part."""

    about: str
    commands: tuple[tuple[str, ...], ...]
    real: bool = False
    tool: str | None = None
    module: str | None = None


def tests(*arguments: str) -> tuple[str, ...]:
    return ("PYTHON", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


def sanitizer(tool: str) -> Part:
    """On tests of values alone, since it is slow."""
    command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1")
    chosen = tests("tests/cuda/test_gpu.py", "-k", "values or scores or ragged")
    return Part(f"compute-sanitizer's {tool} on kernels that compute", ((*command, *chosen),), True, "compute-sanitizer")


def benchmark(name: str, about: str) -> Part:
    return Part(about, (("PYTHON", "benchmarks/gpu.py", name, "--seconds", "300", "--out", "OUT/gpu.json"),))


def in_vllm(runner: str) -> tuple[str, ...]:
    """One process for each of vLLM's model runners, since a process has room for one engine."""
    return ("env", f"VLLM_USE_V2_MODEL_RUNNER={runner}", *tests("tests/engines/real_vllm_cache.py"))


FORMULAS = ("formula", "edge_cases", "dry", "period", "half", "evidence")
PARTS = {
    "build": Part(
        "the extension, in place; what the package finds",
        (("PYTHON", "setup.py", "-q", "build_ext", "--inplace"), ("PYTHON", "-m", "lzpenalty.commands.cli", "doctor")),
    ),
    "ptx": Part("the committed PTX is what nvcc makes", (("PYTHON", "csrc/cuda/generate.py", "--check"),), tool="nvcc"),
    "gpu": Part("streams, graphs, no waiting, whole models", (tests("tests/cuda/test_gpu.py"),), real=True),
    "agree": Part("kernels compute what the CPU computes", (tests("tests/cuda/test_cuda_agrees.py"),)),
    "calls": Part("launches and failures", (tests("tests/cuda/test_cuda_calls.py", "tests/cuda/test_cuda_ptx.py"),)),
    "formulas": Part("kernels compute what the papers say", (tests(*(f"tests/lz/test_{name}.py" for name in FORMULAS)),)),
    "binding": Part("tensors and arguments", (tests("tests/binding/test_tensors.py", "tests/binding/test_bad_input.py"),)),
    "vllm": Part("caches in vLLM's blocks, its two runners", (in_vllm("0"), in_vllm("1")), real=True, module="vllm"),
    "memcheck": sanitizer("memcheck"),
    "racecheck": sanitizer("racecheck"),
    "synccheck": sanitizer("synccheck"),
    "bench-penalty": benchmark("penalty", "the penalty beside other penalties"),
    "bench-cache": benchmark("cache", "scores, selection and compaction beside torch's operations"),
    "bench-attention": benchmark("attention", "attention to ragged caches beside torch's"),
    "bench-generate-1b": benchmark("generate-1b", "generate() of a random model of 1 billion weights"),
    "bench-generate-7b": benchmark("generate-7b", "generate() of a random model of 7 billion weights"),
}


class Report:
    """A folder: NAME.txt is what a part printed, parts.json how each ended."""

    def __init__(self, out: Path, real: bool):
        self.out, self.real = out.resolve(), real
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "parts.json"
        saved = json.loads(path.read_text()) if path.exists() else {}
        self.parts = saved["parts"] if saved.get("gpu") == real else {}  # a rehearsal's are not gone on with

    def passed(self, name: str) -> bool:
        return self.parts.get(name, {}).get("state") in DONE

    def run(self, name: str, part: Part) -> str:
        started, said = time.monotonic(), self.out / f"{name}.txt"
        print(f"==== {name}: {part.about}", flush=True)
        with said.open("wb") as file:
            if part.real and not self.real:
                state = "no GPU"
            elif part.tool and not shutil.which(part.tool):
                state = f"no {part.tool}"
            elif part.module and not importlib.util.find_spec(part.module):
                state = "not installed"
            else:
                state = self._run(part, file, started + LIMIT)
        self.parts[name] = {
            "state": state,
            "seconds": round(time.monotonic() - started, 1),
            "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        (self.out / "parts.json").write_text(json.dumps({"gpu": self.real, "parts": self.parts}, indent=1) + "\n")
        print(f"---- {name}: {state}, {self.parts[name]['seconds']} s", flush=True)
        return state

    def _run(self, part: Part, file, until: float) -> str:
        for command in part.commands:
            words = [word.replace("PYTHON", sys.executable).replace("OUT/", f"{self.out}/") for word in command]
            if not self.real and "benchmarks/gpu.py" in words:
                words += ["--device", "cpu", "--tiny"]
            self._print(file, f"$ {' '.join(words)}\n".encode())
            # A session of its own, so that what a test has started ends with it.
            process = subprocess.Popen(words, env=self._environment(), start_new_session=True, **SPAWNED)
            status = self._follow(process, file, until)
            if status:
                return "unfinished" if status == UNFINISHED else status if isinstance(status, str) else f"failed ({status})"
        return "passed"

    def _follow(self, process, file, until: float):
        """Prints what the process prints until it ends, or time is up."""
        os.set_blocking(process.stdout.fileno(), False)
        try:
            while True:
                text = process.stdout.read()
                if text:
                    self._print(file, text)
                elif process.poll() is not None:
                    return process.returncode
                elif time.monotonic() > until:
                    return "out of time"
                else:
                    time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
            process.stdout.close()

    @staticmethod
    def _print(file, text: bytes) -> None:
        file.write(text)
        file.flush()
        sys.stdout.buffer.write(text)
        sys.stdout.flush()

    def _environment(self) -> dict:
        paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        more = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "LZPENALTY_WERROR": "1"}
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        asked = {name: value for name, value in os.environ.items() if name != "LZPENALTY_TEST_GPU"}
        return {**asked, **more, **offline, **({"LZPENALTY_TEST_GPU": "1"} if self.real else {})}

    def write(self) -> None:
        """report.json and report.txt of what there is, in the order of PARTS."""
        known = {name: self.parts[name] for name in PARTS if name in self.parts}
        figures = self.out / "gpu.json"
        whole = {
            "machine": described(),
            "rehearsal": not self.real,
            "parts": known,
            "benchmarks": json.loads(figures.read_text()) if figures.exists() else None,
        }
        (self.out / "report.json").write_text(json.dumps(whole, indent=1) + "\n")
        with (self.out / "report.txt").open("w") as file:
            if not self.real:
                file.write("A rehearsal: torch finds no GPU. No figure means anything.\n")
            file.write("".join(f"{name}: {word}\n" for name, word in whole["machine"].items()))
            file.write("\n".join(["", *(f"{name:18} {part['state']}, {part['seconds']} s" for name, part in known.items())]))
            for name, part in known.items():
                said = (self.out / f"{name}.txt").read_text(errors="replace")
                file.write(f"\n\n==== {name}: {PARTS[name].about}\n{said}---- {part['state']}")
            file.write("\n")


def asked(*command: str) -> str | None:
    """What a program says, if it is there and has something to say."""
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def described() -> dict:
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": asked("git", "log", "-1", "--format=%H"),
        "system": platform.platform(),
        "python": f"{platform.python_version()}, {sys.executable}",
        "GPU": asked("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"),
        "nvcc": next(iter(reversed((asked("nvcc", "--version") or "").splitlines())), None),
    }


def sees_gpu() -> bool:
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--list", action="store_true", help="name the parts, and run none")
    args = parser.parse_args(arguments)
    if args.list:
        print("\n".join(f"{name:18} {part.about}" for name, part in PARTS.items()))
        return 0
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"PART: expected one of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    needed = ("torch", "transformers", "numpy", "pytest", "hypothesis", "setuptools")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        print(f"gpu_report: {sys.executable} has no {', '.join(missing)}", file=sys.stderr)
        return 2
    report = Report(args.out, sees_gpu())
    if not report.real:
        print("A rehearsal: torch finds no GPU.", flush=True)
    for name in args.parts or [name for name in PARTS if not report.passed(name)]:
        report.run(name, PARTS[name])
        report.write()
    report.write()
    states = {name: report.parts[name]["state"] if name in report.parts else "not run" for name in PARTS}
    bad = {name: state for name, state in states.items() if state not in (*DONE, "not run")}
    done = sum(state in DONE for state in states.values())
    print(f"\n{report.out / 'report.txt'} and report.json: {done} of {len(states)} parts are done")
    for name, state in bad.items():
        print(f"  {name}: {state}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
