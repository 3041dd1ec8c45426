"""What pictures show is what was measured: the data behind them against plain Python."""

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

matplotlib.use("Agg")
from matplotlib import pyplot

from lzpenalty import plots
from lzpenalty.cache import selectors
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.hf import CompressedCache
from tiny import generate, prompt, tiny

texts = st.lists(st.integers(0, 3), max_size=30)


@pytest.fixture(autouse=True)
def close():
    yield
    pyplot.close("all")


@given(texts)
def test_similarity_is_the_common_suffix(tokens):
    lengths = plots.self_similarity(tokens)
    assert lengths.shape == (len(tokens), len(tokens))
    for i in range(len(tokens)):
        for j in range(len(tokens)):
            common = 0
            while common <= min(i, j) and tokens[i - common] == tokens[j - common]:
                common += 1
            assert lengths[i, j] == common


def test_long_texts_have_no_similarity_map():
    with pytest.raises(ValueError, match=r"tokens: expected at most 4,096 in one dimension, got shape \(4097,\)"):
        plots.plot_similarity(np.zeros(4097, int))
    assert plots.plot_similarity([1, 2, 1, 2]).images[0].get_array().shape == (4, 4)


@given(st.lists(st.floats(0, 20), max_size=60), st.integers(1, 20))
def test_bits_are_means_of_the_last_tokens(bits, span):
    axes = plots.plot_bits(bits, span=span, axes=_axes(), label="text")
    (line,) = axes.lines
    for x, y in zip(*line.get_data(), strict=True):
        assert np.isclose(y, np.mean(bits[max(0, x - span) : x]) if len(bits) >= span else bits[x - 1])


def _axes():
    pyplot.close("all")
    return pyplot.figure().gca()


def test_an_arc_for_each_copy():
    fields = [("position", np.int64), ("distance", np.int64), ("length", np.int64), ("bits", np.float64)]
    phrases = np.array([(0, 0, 1, 8), (1, 1, 1, 3), (2, 2, 4, 3), (6, 6, 2, 4)], fields)
    arcs = plots.plot_matches(phrases).patches
    assert [(arc.center[0], arc.width) for arc in arcs] == [(1, 2), (3, 6)]
    assert arcs[0].get_linewidth() > arcs[1].get_linewidth()
    assert not plots.plot_matches(phrases[:0]).patches


def test_curves_of_a_cache():
    curve = {"tokens": [256, 512], "tokens_per_second": [10.0, 9.0], "megabytes": [5, 6]}
    speed, memory = plots.plot_cache({"one": curve, "two": curve})
    assert [line.get_label() for line in memory.lines] == ["one", "two"]
    assert list(speed.lines[0].get_ydata()) == [10, 9] and list(memory.lines[1].get_ydata()) == [5, 6]


@given(st.lists(st.tuples(st.integers(0, 6), st.randoms(use_true_random=False)), max_size=6))
def test_the_record_is_of_the_tokens_themselves(compressions):
    recorder, left, seen = selectors.Recorder(selectors.RPC()), [], 0
    for new, rng in compressions:
        region = left + list(range(seen, seen + new))
        seen += new
        positions = sorted(rng.sample(range(len(region)), rng.randint(0, len(region))))
        left = [region[i] for i in positions]
        recorder.compacted(torch.tensor(positions, dtype=torch.int64).reshape(1, 1, -1), len(region))
        assert recorder.history[-1].flatten().tolist() == left and recorder.seen == seen


def test_what_layers_kept():
    with CompressedCache(tiny(), 16, 4, 4, 3, selector=selectors.Recorder(selectors.Streaming(2))) as cache:
        generate(tiny(), prompt(), 16 + 4 + 12 + 12 + 1, **{CACHE_ARGUMENT: cache})
    compressions = cache.stats()["compressions"]
    assert compressions >= 2
    outlived = plots.survived(cache, row=1)
    seen = cache.selectors[0].seen
    assert outlived.shape == (3, seen) and [len(s.history) for s in cache.selectors] == 3 * [compressions]
    for layer in outlived:  # two sinks and the newest of what was there each time
        assert (layer[:2] == compressions).all()
        assert layer.sum() == sum(k * 16 // 4 for k in range(1, compressions + 1))
        assert layer[14:16].all() and not layer[2:14].any()
    assert plots.plot_kept(cache).images[0].get_array().shape == outlived.shape


def test_a_record_needs_a_selector_and_follows_the_rows():
    with pytest.raises(TypeError, match="selector: expected a Selector, got str"):
        selectors.Recorder("rpc")
    recorder = selectors.Recorder(selectors.RPC())
    recorder.compacted(torch.tensor([[[1]], [[2]]]), 4)
    recorder.select_rows(torch.tensor([1, 1]))
    assert recorder.history[0].flatten().tolist() == [2, 2]


def test_a_recorder_changes_nothing():
    answers = []
    for selector in (selectors.H2O(), selectors.Recorder(selectors.H2O())):
        with CompressedCache(tiny(), 16, 4, 4, 3, selector=selector) as cache:
            answers.append(generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache}, num_beams=3))
    assert torch.equal(*answers)
