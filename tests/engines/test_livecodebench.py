"""LiveCodeBench's problems: right programs pass, wrong ones don't, and what a program does wrong harms nobody."""

import base64
import contextlib
import json
import os
import pickle
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import pytest

from lzpenalty import livecodebench
from lzpenalty.livecodebench import Limits, Test, extract_code, passes, prompt, read_tests, same_output

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes so much away")
SHORT = Limits(seconds=2)


def reads(*pairs):
    """Tests by standard input."""
    return [Test(given, wanted, None) for given, wanted in pairs]


ADD = {
    "question_content": "Add two numbers.",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": json.dumps([{"input": "10\n20\n", "output": "30", "testtype": "stdin"}]),
    "metadata": "{}",
}
LONGEST = {
    "question_content": "Find the longest word.",
    "starter_code": "class Solution:\n    def longest(self, words: List[str], least: int) -> str:\n        ",
    "public_test_cases": json.dumps([{"input": '["a", "bcd"]\n1', "output": '"bcd"', "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": '["a"]\n2', "output": '""', "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "longest"}),
}
RIGHT = "import sys\nprint(sum(map(int, sys.stdin.read().split())))"
RIGHT_METHOD = """
class Solution:
    def longest(self, words: List[str], least: int) -> str:
        print("what is printed does not count")
        return max((w for w in words if len(w) >= least), key=len, default="")
"""


def test_programs_that_read_and_print():
    tests = read_tests(ADD)
    assert [test.function for test in tests] == [None, None]
    assert passes(RIGHT, tests)
    assert not passes("print(3)", tests)  # right for the first test alone
    assert not passes("raise SystemExit(print(sum(map(int, input().split()))))", tests)
    assert not passes("this is no Python", tests)
    assert not passes("", tests) and not passes(RIGHT, [])


def test_programs_whose_function_is_called():
    tests = read_tests(LONGEST)
    assert [test.function for test in tests] == ["longest", "longest"]
    assert passes(RIGHT_METHOD, tests)
    assert passes(
        "def longest(words, least):\n    return max((w for w in words if len(w) >= least), key=len, default='')", tests
    )
    assert not passes(RIGHT_METHOD.replace("max", "min"), tests)
    assert not passes("class Solution: pass", tests)
    assert not passes(RIGHT_METHOD.replace("return", "return object() or"), tests)  # which no JSON can say
    assert passes("def pair(n): return (n, [n])", [Test("4", "[4, [4]]", "pair")])


@pytest.mark.parametrize(
    ("got", "wanted", "same"),
    [
        ("3\n", "3", True),
        ("  1  \n2", "1\n2\n\n", True),
        ("1.0 2", "1 2.00", True),
        ("1 2", "1 3", False),
        ("1", "1\n1", False),
        ("yes", "Yes", False),
        ("1 x", "1 x ", True),
        ("", "0", False),
    ],
)
def test_what_counts_as_the_same_output(got, wanted, same):
    assert same_output(got, wanted) is same


HARMFUL = {
    "an endless loop": "while True: pass",
    "a long sleep": "import time\ntime.sleep(60)",
    "huge output": "while True: print('x' * 100_000)",
    "huge memory": "x = bytearray(1 << 40)\nprint(1)",
    "an error": "print(1)\nraise ValueError",
    "a signal": "import os, signal\nprint(1, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)",
    "endless recursion": "def f(): return f()\nprint(1)\nf()",
}


@pytest.mark.parametrize("what", HARMFUL)
def test_accidents_cost_the_test_alone(what):
    assert not passes(HARMFUL[what], reads(("", "1")), SHORT)
    assert passes("print(1)", reads(("", "1")))


@LINUX
def test_a_fork_bomb_ends():
    assert not passes("import os\nwhile True: os.fork()", reads(("", "")), SHORT)
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            left.append((process / "cmdline").read_bytes())
    assert left and not any(b"sandbox.py" in command for command in left)


@LINUX
def test_few_processes_and_threads_are_to_be_had():
    assert passes("import threading\nt = threading.Thread(target=print, args=(1,))\nt.start()\nt.join()", reads(("", "1")))
    code = """
import os
n = 0
try:
    while n < 500:
        if not os.fork():
            os._exit(0)
        n += 1
except OSError:
    pass
print(n < 500)
"""
    assert passes(code, reads(("", "True")))


@LINUX
def test_files_stay_in_the_folder(tmp_path):
    inside = "open('note', 'w').write('x')\nprint(open('note').read())"
    assert passes(inside, reads(("", "x")))
    assert passes("open('/dev/null', 'w').write('x')\nprint(1)", reads(("", "1")))
    tmp_path.chmod(0o777)
    (tmp_path / "mine").write_text("mine")
    outside = f"import os\ntry:\n    os.remove({str(tmp_path / 'mine')!r})\nexcept OSError: print('no')"
    passes(outside, reads(("", "no")))
    passes(f"open({str(tmp_path / 'new')!r}, 'w').write('x')", reads(("", "")))
    if not landlock():
        pytest.skip("this kernel has no Landlock")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def landlock():
    import ctypes

    return ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1)) > 0


@LINUX
def test_no_network_where_namespaces_are_to_be_had():
    unshare = (
        "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x70000000 if __import__('os').getuid() else 0x60000000))"
    )
    if subprocess.run([sys.executable, "-c", unshare]).returncode:
        pytest.skip("this system gives out no namespaces")
    code = """
import socket
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
try:
    socket.create_connection(server.getsockname(), 1)
except OSError:
    print("no")
"""
    assert passes(code, reads(("", "no")))


def test_the_environment_is_not_shown(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    assert passes("import os\nprint('SECRET' in os.environ)", reads(("", "False")))


def test_folders_go_away(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    passes("open('left', 'w').write('x')", reads(("", "")))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\na\n```", "a"),
        ("first\n```\nold\n```\nthen\n```py\nnew\nline\n```\nbye", "new\nline"),
        ("```python\nnever closed", ""),
        ("none", ""),
        ("  ```python\nx = 1\n  ```", "x = 1"),
    ],
)
def test_the_last_block_is_the_program(answer, code):
    assert extract_code(answer) == code


def test_prompts():
    assert "Add two numbers." in prompt(ADD) and "# YOUR CODE HERE" in prompt(ADD)
    assert LONGEST["starter_code"] in prompt(LONGEST) and "YOUR CODE" not in prompt(LONGEST)


def packed(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


class Trap:
    def __reduce__(self):
        return os.putenv, ("LZPENALTY_TRAP", "1")


def test_pickles_are_read_only_by_those_who_trust_them():
    cases = json.dumps([{"input": "4 5", "output": "9", "testtype": "stdin"}])
    problem = {**ADD, "private_test_cases": packed(cases)}
    with pytest.raises(ValueError, match="private_test_cases: expected JSON, got a pickle.*--trust-pickles"):
        read_tests(problem)
    assert read_tests(problem, trust_pickles=True)[1:] == [Test("4 5", "9", None)]
    with pytest.raises(ValueError, match="got a pickle"):
        read_tests({**ADD, "private_test_cases": packed(Trap())})
    with pytest.raises(ValueError, match="private_test_cases: expected JSON, or a pickle of it"):
        read_tests({**ADD, "private_test_cases": "no base64!"}, trust_pickles=True)


def test_calls_need_a_name():
    with pytest.raises(ValueError, match="metadata: expected func_name"):
        read_tests({**LONGEST, "metadata": "{}"})


ANSWERS = {
    "right": f"Here:\n```python\n{RIGHT}\n```",
    "wrong": "```python\nprint(3)\n```",
    "thinks": f"<think>\n```python\nprint(3)\n```\n</think>\n```python\n{RIGHT}\n```",
}


def test_the_task_in_the_harness(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'lzpenalty[eval]'")
    datasets = pytest.importorskip("datasets")
    from lm_eval.tasks import TaskManager

    from lzpenalty.lm_eval import local_task

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, (ADD, LONGEST))))
    (tmp_path / "tasks").mkdir()
    for name, content in local_task("livecodebench", tmp_path / "problems.jsonl", samples=3).items():
        (tmp_path / "tasks" / name).write_text(content)
    task = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False).load(["livecodebench"])["tasks"]
    task = task["livecodebench"]
    first, second = task.eval_docs
    assert task.doc_to_text(first) == prompt(ADD) and LONGEST["starter_code"] in task.doc_to_text(second)
    assert task.config.repeats == 3
    score = partial(task.process_results, first)
    assert score([[ANSWERS["right"], ANSWERS["wrong"], ANSWERS["thinks"]]])["pass@1"] == pytest.approx(2 / 3)
    assert score([ANSWERS["wrong"]])["pass@1"] == 0


def test_files_are_refused_before_a_model_answers(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({**ADD, "private_test_cases": packed("[]")}))
    with pytest.raises(ValueError, match="line 1: private_test_cases: expected JSON, got a pickle"):
        livecodebench.task(path, 1, False)
    path.write_text(json.dumps(ADD) + "\n[1]")
    with pytest.raises(ValueError, match="line 2: "):
        livecodebench.task(path, 1, False)
