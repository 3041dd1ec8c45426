"""What does llama.cpp gain, and lose, with a cache of fixed size?

    python benchmarks/llama_cache.py MODEL.gguf [--part speed | recall] [--quick]

Contestants: llama.cpp's full cache; RPCLlama with its selectors; and llama.cpp's context shift, which llama-server has and
llama-cpp-python lacks, made here of the same two calls: when the cache is full, the older half of all behind the prompt is
dropped, and the rest moves to the positions that are free then.

(a) Tokens a CPU second, of one thread, and cells in use, over one greedy text with the LZ penalty; the end of text is never
    taken. All grow side by side, a turn of some tokens each.
(b) Bits per token of real texts, teacher-forced as in recall.py: what is given counts as generated. Counted behind the token
    at which the caches of fixed size are full; paired with the full cache, with a 95% interval over texts.

Needs the environment of `make test-llama-cpp`. Writes results/llama-speed.json and
results/llama-recall.json."""

import argparse
import math
import time

import llama_cpp
import numpy as np
from llama_cpp import Llama

import corpus
from harness import write
from lzpenalty import lz_penalize_
from lzpenalty.llama_cpp import RPCLlama

MODEL = "SmolLM2-135M-Instruct, Q4_1"  # the one that the session gives
QUESTION = (
    "<|im_start|>user\nThink step by step and at length: why is the sky blue, how do birds fly, and how many primes are "
    "there?<|im_end|>\n<|im_start|>assistant\n"
)
TURN = 64  # tokens that one contestant writes before the next one's turn
PROMPT, CHUNK = 64, 32  # of a text that is read
INTERVAL, RATIO = 256, 4


class ContextShift(Llama):
    """llama-server's way to go on when the cache is full."""

    def eval(self, tokens):
        self.prompt = len(tokens) if self.n_tokens == 0 else self.prompt
        if self.n_tokens + len(tokens) > self.n_ctx():
            dropped = (self.n_tokens - self.prompt) // 2
            self._ctx.kv_cache_seq_rm(0, self.prompt, self.prompt + dropped)
            self._ctx.kv_cache_seq_shift(0, self.prompt + dropped, self.n_tokens, -dropped)
            self.n_tokens -= dropped
        super().eval(tokens)


def cells(llama: Llama) -> int:
    """In use."""
    return llama.stats()["kept"] if isinstance(llama, RPCLlama) else llama.n_tokens


def megabytes(llama: Llama) -> float:
    """Keys and values of all cells, float16."""
    found = {name.partition(".")[2]: value for name, value in llama.metadata.items()}
    size = int(found["embedding_length"]) // int(found["attention.head_count"])
    numbers = int(found["block_count"]) * int(found["attention.head_count_kv"]) * 2 * size
    return llama_cpp.llama_n_ctx(llama.ctx) * numbers * 2 / 1e6


def logits(llama: Llama) -> np.ndarray:
    return np.ctypeslib.as_array(llama._ctx.get_logits_ith(-1), (llama.n_vocab(),))


class Writer:
    """One greedy text."""

    def __init__(self, name: str, llama: Llama):
        self.name, self.llama, self.text, self.seconds, self.most = name, llama, [], 0.0, 0
        vocab = llama_cpp.llama_model_get_vocab(llama.model)
        self.ends = [token for token in range(llama.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocab, token)]
        llama.eval(llama.tokenize(QUESTION.encode(), special=True))

    def write(self, tokens: int) -> None:
        start = time.process_time()
        for _ in range(tokens):
            scores = logits(self.llama)
            scores[self.ends] = -np.inf
            if self.text:
                lz_penalize_(scores, np.array(self.text[-600:], np.int32))
            self.text.append(int(scores.argmax()))
            self.llama.eval(self.text[-1:])
            self.most = max(self.most, cells(self.llama)) if len(self.text) % 8 == 0 else self.most
        self.seconds += time.process_time() - start


def speed(model: str, tokens: int) -> list[dict]:
    plain = dict(n_threads=1, n_threads_batch=1, verbose=False)
    rpc = dict(plain, n_ctx=tokens + 128, interval=INTERVAL, ratio=RATIO, max_prompt=128)
    writers = [
        Writer("full cache", Llama(model, n_ctx=tokens + 128, **plain)),
        Writer("RPC, budget 512", RPCLlama(model, budget=512, **rpc)),
        Writer("context shift", ContextShift(model, n_ctx=1024, **plain)),
    ]
    points = sorted({tokens // 4, tokens // 2, tokens})
    rows = {w.name: {"cache": w.name, "tokens_per_cpu_second": {}, "ms_per_token": {}} for w in writers}
    for at in range(TURN, tokens + 1, TURN):
        for writer in writers:
            before = writer.seconds
            writer.write(TURN)
            if at in points or at == TURN:
                row = rows[writer.name]
                row["ms_per_token"][at] = 1e3 * (writer.seconds - before) / TURN
                if at in points:
                    row["tokens_per_cpu_second"][at] = at / writer.seconds
                print(writer.name, at, f"{at / writer.seconds:.1f} tokens a CPU second", cells(writer.llama), flush=True)
    for writer in writers:
        llama = writer.llama
        rows[writer.name] |= {
            "cells_in_use_at_most": writer.most,
            "cells": llama_cpp.llama_n_ctx(llama.ctx),
            "megabytes": megabytes(llama),
        }
        llama.close()
    return [*rows.values()]


def read(llama: Llama, ids: list[int]) -> tuple[np.ndarray, int]:
    """Bits of each token but the first [T - 1], and the most cells in use."""
    llama.reset()
    bits, most, at = [], 0, 0
    while at < len(ids) - 1:
        size = PROMPT if at == 0 else 1 if at == PROMPT else CHUNK
        fed = ids[at : at + size]
        llama.eval(fed)
        rows = llama.scores[llama.n_tokens - len(fed) : llama.n_tokens].astype(np.float64)
        targets = ids[at + 1 : at + 1 + len(fed)]
        rows = rows[: len(targets)]
        top = rows.max(1)
        total = top + np.log(np.exp(rows - top[:, None]).sum(1))
        bits.append((total - rows[np.arange(len(targets)), targets]) / math.log(2))
        most, at = max(most, cells(llama)), at + len(fed)
    return np.concatenate(bits), most


def recall(model: str, tokens: int) -> dict:
    budget = 128
    full = PROMPT + budget + INTERVAL  # cells that contestants of fixed size have
    plain = dict(n_threads=1, n_threads_batch=1, verbose=False)
    rpc = dict(plain, n_ctx=tokens, interval=INTERVAL, ratio=RATIO, max_prompt=PROMPT)
    contestants = {
        "full cache": lambda: Llama(model, n_ctx=tokens, **plain),
        "RPC, budget 128": lambda: RPCLlama(model, budget=budget, **rpc),
        "streaming, budget 128": lambda: RPCLlama(model, budget=budget, selector="streaming", **rpc),
        "random, budget 128": lambda: RPCLlama(model, budget=budget, selector="random", **rpc),
        "context shift": lambda: Shift(model, n_ctx=full, **plain),
    }
    texts, found, rows = None, {}, []
    for name, make in contestants.items():
        llama = make()
        # A row of logits for each token of a batch, which RPCLlama refuses to make for texts of any length.
        llama._logits_all, llama.scores = True, np.empty((tokens, llama.n_vocab()), np.single)
        if texts is None:
            texts = long_texts(llama, tokens)
        readings = [read(llama, ids) for ids in texts.values()]
        found[name] = np.array([bits[full:].mean() for bits, _ in readings])
        rows.append({"cache": name, "bits_per_token": found[name].mean(), "cells": max(most for _, most in readings)})
        rows[-1] |= paired("worse_by", found[name] - found["full cache"])
        if name != "RPC, budget 128" and "RPC, budget 128" in found:
            rows[-1] |= paired("rpc_better_by", found[name] - found["RPC, budget 128"])
        print(rows[-1], flush=True)
        llama.close()
    return {"texts": [*texts], "tokens": tokens, "counted_from": full, "rows": rows}


class Shift(ContextShift):
    """In exactly so many cells: llama.cpp rounds them up."""

    def __init__(self, model, n_ctx, **options):
        self.size = n_ctx
        super().__init__(model, n_ctx=n_ctx, **options)

    def n_ctx(self):
        return self.size


def paired(name: str, differences: np.ndarray) -> dict:
    interval = 1.96 * differences.std(ddof=1) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return {name: differences.mean(), f"{name}_interval": interval}


def long_texts(llama: Llama, tokens: int) -> dict[str, list[int]]:
    """Of both halves, since nothing is chosen by them: those that are long enough."""
    found = {}
    for half in corpus.HALVES:
        for named in corpus.texts(half).values():
            for name, text in named.items():
                ids = llama.tokenize(text.encode(), add_bos=False)
                if len(ids) >= tokens:
                    found[name] = ids[:tokens]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--part", choices=["speed", "recall"], help="one of the two")
    parser.add_argument("--quick", action="store_true", help="little of it, and nothing is written")
    args = parser.parse_args()
    about = {"model": MODEL, "llama_cpp_python": llama_cpp.__version__, "interval": INTERVAL, "ratio": RATIO}
    if args.part != "recall":
        rows = speed(args.model, 512 if args.quick else 4096)
        if not args.quick:
            write("llama-speed", {**about, "rows": rows})
    if args.part != "speed":
        found = recall(args.model, 768 if args.quick else 1024)
        if not args.quick:
            write("llama-recall", {**about, **found})


if __name__ == "__main__":
    main()
