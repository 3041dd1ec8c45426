"""csrc/llama_cpp/llama_sampler_lz.c in the llama.cpp that llama-cpp-python carries, with SmolLM2: the tokens are those of
the Python processor. `make test-llama-cpp`."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/capi"))

import header  # noqa: E402
import sampler  # noqa: E402

import lzpenalty.llama_cpp  # noqa: E402
from engines.real_llama_cpp import QUESTION, answer, llama, tokens  # noqa: E402, F401
from engines.sections import SKIPPED, THINKING  # noqa: E402
from lzpenalty import lz_penalize_  # noqa: E402
from lzpenalty.llama_cpp import LZPenalty  # noqa: E402

SOURCE = ROOT / "csrc/llama_cpp/llama_sampler_lz.c"
FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
LLAMA = Path(llama_cpp.__file__).parent / "lib"


@pytest.fixture(scope="module")
def compile(tmp_path_factory):
    """Makes a program or a shared library of sources, with llama.cpp and lzpenalty."""
    headers = [*Path(llama_cpp.__file__).parents[1].rglob("llama.h"), *Path(sys.prefix).rglob("include/llama.h")]
    assert headers, "llama-cpp-python has brought no llama.h"
    folder = tmp_path_factory.mktemp("compiled")

    def compile(name, *arguments):
        includes = ["-isystem", headers[0].parent, "-I", lzpenalty.get_include(), "-I", SOURCE.parent]
        link = [Path(lzpenalty.get_library_dir(), "liblzpenalty.a"), f"-L{LLAMA}", f"-Wl,-rpath,{LLAMA}", "-lllama"]
        link += [*[f"-l{path.name[3:-3]}" for path in sorted(LLAMA.glob("libggml*.so"))], "-lm", "-pthread"]
        command = [os.environ.get("CC", "cc"), *FLAGS, *includes, *arguments, *link, "-o", folder / name]
        subprocess.run(list(map(str, command)), check=True)
        return folder / name

    return compile


@pytest.fixture(scope="module")
def library(compile):
    """The sampler, and the functions of the C interface that make its options."""
    path = compile("libsampler.so", "-shared", "-fPIC", SOURCE)
    loaded = sampler.load(path)
    loaded.options_init = loaded.lzpenalty_options_init
    loaded.options_init.restype, loaded.options_init.argtypes = header.FUNCTIONS["options_init"]
    return loaded


def new_sampler(library, llama, **options):  # noqa: F811
    made = library.init_lz(header.options(library, **options), llama.n_vocab())
    assert made
    return made


OPTIONS = [{}, dict(strength=0.4, min_match=2), dict(gate=(2, 12), release=[[2], 5]), THINKING, SKIPPED]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_tokens_are_the_processors(llama, options):  # noqa: F811
    prompt = tokens(llama)
    wanted = answer(llama, prompt, LZPenalty(**options), 80)
    with lzpenalty.llama_cpp.sampler(llama, **options):
        for _ in range(2):  # each call has a sampler of its own, and the prompt, which the chain isn't told, doesn't count
            assert answer(llama, prompt, None, 80) == wanted
        seen = []  # a processor runs after it, and finds what it has done
        answer(llama, prompt, lambda ids, scores: seen.append(len(ids)) or scores, 5)
        assert len(seen) == 5
    if not options:
        assert answer(llama, prompt, None, 80) != wanted


def test_options_of_the_chain(llama):  # noqa: F811
    for bad in (dict(strength=-1.0), dict(release=[llama.n_vocab()])):
        with pytest.raises(ValueError), lzpenalty.llama_cpp.sampler(llama, **bad):
            pass
    assert "_init_sampler" not in vars(llama)


def logits_of(llama, random):  # noqa: F811
    return random.normal(scale=3, size=llama.n_vocab()).astype(np.float32)


def test_after_top_k(library, llama):  # noqa: F811
    """What llama.cpp's own top-k leaves, sorted and truncated, pays what it would have paid before."""
    random = np.random.default_rng(3)
    logits, text = logits_of(llama, random), None
    best = np.argsort(-logits)[:200]
    text = np.resize(best[random.permutation(200)[:30]], 100)
    smpl = sampler.Sampler(library, new_sampler(library, llama, strength=0.5))
    smpl.accept(text)
    candidates = sampler.candidates_of(logits)
    array = sampler.Candidates(candidates.ctypes.data, len(candidates), -1, False)
    top_k = llama_cpp.llama_sampler_init_top_k(64)
    apply = library.llama_sampler_apply
    apply(ctypes.cast(top_k, ctypes.c_void_p), ctypes.byref(array))
    assert array.size == 64
    left = candidates[:64] if array.data == candidates.ctypes.data else None
    assert left is not None
    ids = left["id"].copy()
    apply(ctypes.c_void_p(smpl.pointer), ctypes.byref(array))
    wanted = lz_penalize_(logits.copy(), text, strength=0.5)
    np.testing.assert_allclose(left["logit"], wanted[ids], rtol=1e-6, atol=1e-6)
    assert (left["id"] == ids).all() and not array.sorted and (wanted[ids] != logits[ids]).any()
    llama_cpp.llama_sampler_free(top_k)


def test_clone_and_reset_of_a_chain(library, llama):  # noqa: F811
    random = np.random.default_rng(4)
    logits = logits_of(llama, random)
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    ours = ctypes.cast(new_sampler(library, llama), llama_cpp.llama_sampler_p_ctypes)
    llama_cpp.llama_sampler_chain_add(chain, ours)
    assert llama_cpp.llama_sampler_name(ours) == b"lz"

    def apply(chain):
        candidates = sampler.candidates_of(logits)
        array = sampler.Candidates(candidates.ctypes.data, len(candidates), -1, False)
        library.llama_sampler_apply(ctypes.cast(chain, ctypes.c_void_p), ctypes.byref(array))
        return candidates["logit"]

    text = random.integers(0, 50, 60)
    for token in text:
        llama_cpp.llama_sampler_accept(chain, int(token))
    clone = llama_cpp.llama_sampler_clone(chain)
    llama_cpp.llama_sampler_reset(chain)
    assert (apply(chain) == logits).all()
    llama_cpp.llama_sampler_free(chain)
    assert (apply(clone) == lz_penalize_(logits.copy(), text)).all()
    llama_cpp.llama_sampler_free(clone)


def test_a_program(compile, llama):  # noqa: F811
    """examples/c/llama_generate.c answers like llama-cpp-python with the processor."""
    program = compile("llama_generate", ROOT / "examples/c/llama_generate.c", SOURCE)
    printed = subprocess.run([program, os.environ["LZPENALTY_GGUF"], QUESTION], check=True, capture_output=True, text=True)
    wanted = answer(llama, tokens(llama), LZPenalty(), 60)
    assert len(wanted) > 100 and printed.stdout.startswith(wanted[:100])
    assert subprocess.run([program], capture_output=True).returncode == 1


def test_the_benchmark_runs(compile):
    program = compile("llama_sampler", ROOT / "benchmarks/llama_sampler.c", SOURCE)
    printed = subprocess.run([program, os.environ["LZPENALTY_GGUF"]], check=True, capture_output=True, text=True).stdout
    assert '"dry"' in printed
    print(printed)
