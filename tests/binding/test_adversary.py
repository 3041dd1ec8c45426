"""Nothing that an argument does when it is asked takes the memory of the others from under a call: it raises, or computes
with what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lzpenalty import _core, lz_penalize_

FUNCTIONS = ["lz_penalize_", "lz_penalize_rows_", "gather_tokens_", "dry_penalize_", "codelength_deltas", "token_bits",
             "repetition_period", "loop_evidence", "attention_scores", "select_top", "compact_", "append_",
             "compact_blocks_", "gather_blocks_", "append_ragged_", "echo_scores_", "echo_blocks_", "attend", "parse_lz77",
             "parse_lz78", "find_loops"]  # fmt: skip


def test_every_function_that_takes_tensors_is_attacked():
    other = {"attention_tap", "warmup", "cuda_devices", "get_num_threads", "set_num_threads", "cpu_level", "cpu_levels",
             "set_cpu_level", "request_limits"}  # fmt: skip
    assert {name for name in dir(_core) if callable(getattr(_core, name)) and name[0].islower()} == {*FUNCTIONS, *other}


@pytest.fixture(scope="module")
def attacked():
    """What was said while each function was attacked."""
    command = [sys.executable, Path(__file__).with_name("adversary.py"), *FUNCTIONS]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    said = re.split(r"^function (\w+)\n", done.stdout, flags=re.MULTILINE)
    return dict(zip(said[1::2], said[2::2], strict=True))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arguments_that_attack_the_others(function, attacked):
    said = attacked[function]
    assert said.endswith("\nended with 0\n"), said[-2000:]
    assert int(re.search(r"^calls (\d+)$", said, re.MULTILINE)[1]) >= 8


def test_another_type_than_wanted_is_refused_by_its_name():
    with pytest.raises(TypeError, match="tokens: expected dtype int32, got uint8"):
        _core.gather_tokens_(np.zeros((2, 3), np.uint8), {})
    with pytest.raises(TypeError, match="evidence: expected dtype float32, got uint8"):
        one = np.ones((1, 1), np.int64)
        slots = np.zeros((4, 8), np.float32)
        _core.echo_scores_(np.zeros(4, np.uint8), np.zeros((1, 1, 1, 8), np.float32), slots, starts=one, lengths=one)


def test_an_array_refuses_to_be_resized_while_it_is_borrowed():
    logits, tokens = np.zeros(50), np.arange(20)
    refused = []

    class Starts:
        def __dlpack__(self, **kwargs):
            for array in (logits, tokens):
                with pytest.raises(ValueError, match="cannot resize"):
                    array.resize(1, refcheck=False)
                refused.append(array.shape)
            return np.array(0).__dlpack__()

    lz_penalize_(logits, tokens, starts=Starts())
    assert refused == [(50,), (20,)]
    tokens.resize(1, refcheck=False)  # and lets it happen afterwards
