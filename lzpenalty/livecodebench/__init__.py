"""LiveCodeBench (arXiv 2403.07974): prompts, programs, and whether they pass, on a file of its problems.

    python -m lzpenalty.lm_eval --model lzpenalty --model_args pretrained=MODEL --tasks livecodebench \\
        --data livecodebench=problems.jsonl

lm-evaluation-harness has no such task. A problem has the fields of the published files: question_content, starter_code,
public_test_cases, private_test_cases, metadata. The prompts are the benchmark's, the program is the answer's last block of
code, and each test runs in a process of its own (sandbox.py). Needs no torch.
"""

import base64
import contextlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

__all__ = ["Limits", "Test", "extract_code", "passes", "prompt", "read_tests"]

SANDBOX = Path(__file__).parent / "sandbox.py"
SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a correct "
    "Python program that matches the specification and passes all tests."
)
WITH_STARTER = (
    "### Format: You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters.\n```python\n{starter}\n```\n\n"
)
WITH_INPUT = (
    "### Format: Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the "
    "sample inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)


@dataclass(frozen=True)
class Test:
    """One run: what goes in, what must come out, and the function that is called, or None for standard input."""

    __test__ = False  # not pytest's

    input: str
    output: str
    function: str | None


@dataclass(frozen=True)
class Limits:
    """Of each run: seconds by the clock and of the processor, bytes of memory, bytes written to standard output."""

    seconds: float = 6
    memory: int = 4 << 30
    output: int = 16 << 20


def prompt(problem: dict) -> str:
    """What the benchmark asks a chat model; the system's part comes first."""
    starter = problem.get("starter_code") or ""
    form = WITH_STARTER.format(starter=starter) if starter else WITH_INPUT
    question = f"### Question:\n{problem['question_content']}\n\n"
    return f"{SYSTEM}\n\n{question}{form}### Answer: (use the provided format with backticks)\n\n"


def extract_code(answer: str) -> str:
    """The last block between lines of three backticks; empty without one. A block that is not closed does not count."""
    lines = answer.split("\n")
    fences = [i for i, line in enumerate(lines) if line.lstrip().startswith("```")]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) >= 2 else ""


def read_tests(problem: dict, trust_pickles: bool = False) -> list[Test]:
    """The public and private tests of a problem.

    Raises
    ------
    ValueError
        If private tests are a pickle, which can do anything when it is read, and `trust_pickles` is False; if a field is not
        what the benchmark publishes.
    """
    metadata = problem.get("metadata") or "{}"
    function = (json.loads(metadata) if isinstance(metadata, str) else metadata).get("func_name")
    tests = []
    for field in ("public_test_cases", "private_test_cases"):
        cases = problem.get(field) or "[]"
        if isinstance(cases, str):
            cases = _decode(field, cases, trust_pickles)
        for case in cases:
            called = function if case.get("testtype") == "functional" else None
            if case.get("testtype") == "functional" and not function:
                raise ValueError("metadata: expected func_name for tests that call a function, got none")
            tests.append(Test(case["input"], case["output"], called))
    return tests


def _decode(field: str, text: str, trust_pickles: bool):
    try:
        return json.loads(text)
    except ValueError:
        if not trust_pickles:
            raise ValueError(
                f"{field}: expected JSON, got a pickle, which can run any code when it is read; --trust-pickles reads it"
            ) from None
    try:
        return json.loads(pickle.loads(zlib.decompress(base64.b64decode(text))))
    except Exception as error:
        raise ValueError(f"{field}: expected JSON, or a pickle of it, compressed and in base64, got {error!r}") from error


def passes(code: str, tests: Iterable[Test], limits: Limits = Limits()) -> bool:  # noqa: B008  frozen
    """Whether the program passes all tests, of which none runs after the first that fails. No tests are not passed."""
    tests = list(tests)
    return bool(code.strip()) and bool(tests) and all(_passes(code, test, limits) for test in tests)


def _passes(code: str, test: Test, limits: Limits) -> bool:
    # A folder on its own, which whoever runs the program may write to.
    folder = tempfile.mkdtemp(prefix="lzpenalty-")
    try:
        os.chmod(folder, 0o777)
        (Path(folder) / "solution.py").write_text(code, encoding="utf-8", errors="surrogateescape")
        given = test.input
        if test.function is not None:
            given = json.dumps([json.loads(line) for line in test.input.split("\n") if line.strip()])
        output = _run(folder, test.function, given, limits)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if output is None:
        return False
    if test.function is None:
        return same_output(output, test.output)
    try:
        return json.loads(output) == json.loads(test.output)
    except ValueError:
        return False


def _run(folder: str, function: str | None, given: str, limits: Limits) -> str | None:
    """Standard output; None if the program failed, took too long or wrote too much."""
    command = [sys.executable, "-I", "-B", SANDBOX, folder, str(int(limits.seconds) + 1), str(limits.memory)]
    process = subprocess.Popen(
        [*command, *([function] if function else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={"PATH": os.defpath, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
    )
    chunks, size = [], 0

    def read():
        nonlocal size
        while size <= limits.output and (chunk := process.stdout.read1(1 << 16)):
            chunks.append(chunk)
            size += len(chunk)
        if size > limits.output:
            _kill(process)

    def write():
        with contextlib.suppress(OSError), process.stdin as stdin:  # it need not read all of it
            stdin.write(given.encode())

    threads = [threading.Thread(target=read, daemon=True), threading.Thread(target=write, daemon=True)]
    for thread in threads:
        thread.start()
    try:
        status = process.wait(limits.seconds)
        threads[0].join(limits.seconds)  # a child of it may hold the pipe open
    except subprocess.TimeoutExpired:
        status = None
    finally:
        _kill(process)
        process.wait()
        for thread in threads:
            thread.join(1)
        process.stdout.close()
    return b"".join(chunks).decode(errors="replace") if status == 0 and size <= limits.output else None


def _kill(process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def same_output(got: str, wanted: str) -> bool:
    """The same lines but for space around them; or, line by line, the same numbers however they are written."""
    got, wanted = ([line.strip() for line in text.strip().split("\n")] for text in (got, wanted))
    return len(got) == len(wanted) and all(map(_same_line, got, wanted))


def _same_line(got: str, wanted: str) -> bool:
    if got == wanted:
        return True
    try:
        return [Decimal(word) for word in got.split()] == [Decimal(word) for word in wanted.split()]
    except InvalidOperation:
        return False


def task(file: Path, samples: int, trust_pickles: bool) -> dict[str, str]:
    """{file name: content} of the task for lm-evaluation-harness. Raises ValueError, as :func:`read_tests` does, before any
    model has answered."""
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                read_tests(json.loads(line), trust_pickles)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"line {number}: {error}") from error
    yaml = {
        "task": "livecodebench",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_target": "",
        "repeats": samples,
        "generation_kwargs": {"until": [], "do_sample": samples > 1, "max_gen_toks": 32768}
        | ({"temperature": 0.6, "top_p": 0.95} if samples > 1 else {}),
        "filter_list": [{"name": "none", "filter": [{"function": "take_first_k", "k": samples}]}],
        "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
    }
    functions = (
        "doc_to_text: !function lzpenalty_livecodebench.ask\nprocess_results: !function lzpenalty_livecodebench.judge\n"
    )
    python = (
        "from functools import partial\n\nfrom lzpenalty.livecodebench import prompt as ask, score\n\n"
        f"judge = partial(score, trust_pickles={trust_pickles})\n"
    )
    settings = "".join(f"{name}: {json.dumps(value)}\n" for name, value in yaml.items())  # JSON is YAML
    return {"livecodebench.yaml": settings + functions, "lzpenalty_livecodebench.py": python}


def score(problem: dict, answers: list, trust_pickles: bool = False) -> dict[str, float]:
    """pass@1: the share of the answers whose program passes all tests."""
    tests = read_tests(problem, trust_pickles)
    flat = [text for answer in answers for text in (answer if isinstance(answer, list) else [answer])]
    return {"pass@1": sum(passes(extract_code(re.sub(r"(?s)^.*</think>", "", text)), tests) for text in flat) / len(flat)}
