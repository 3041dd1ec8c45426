"""Caches of ours beside transformers' own: with a sample of architectures that differ in how they attend, and with all where
LZPENALTY_ARCHITECTURES says "all", as in `make test-architectures`."""

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from architectures import CAUSAL, VARIANTS, names  # noqa: E402
from served import examine  # noqa: E402

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

SAMPLE = {
    "llama": "heads that share keys",
    "phi": "a key head for each query head, part of it turned",
    "gpt_bigcode": "one key head for all, learnt positions",
    "gemma3_text": "layers with a sliding window",
    "gemma2": "soft-capped scores",
    "gpt_oss": "attention sinks",
    "inkling_text": "a position bias",
    "deepseek_v3": "latent keys (MLA)",
    "jetmoe": "keys that are made anew behind the cache",
    "deepseek_v32": "an index of its own",
    "smollm3": "layers without positions",
    "bloom": "ALiBi",
    "gemma4_text, num_kv_shared_layers": "keys of another layer",
    "jamba": "Mamba between attention",
    "falcon_h1": "Mamba beside attention",
    "mamba": "no attention",
    "diffllama": "two calls of attention a layer, with values of their own",
    "doge": "numbers as a mask, by head",
    "qwen2": "biases",
    "qwen3_moe": "experts",
    "mllama": "layers that see no text",
    "zaya": "convolutions in attention",
}
ALL = os.environ.get("LZPENALTY_ARCHITECTURES") == "all"


@pytest.mark.parametrize("name", names() if ALL else SAMPLE)
def test_logits_are_those_of_transformers_own_cache(name):
    if VARIANTS.get(name, (name,))[0] not in CAUSAL and not ALL:
        pytest.skip("not in this version of transformers")
    report = examine(name)
    assert not report.wrong
    refusals = {found.says for found in report.found.values() if found.status == "refused"}
    assert all(message.startswith("model: ") and report.model in message for message in refusals), refusals
    if not report.found:
        pytest.skip("; ".join(sorted(set(report.untried.values()))))
