"""Pictures of what lzpenalty.analysis measures and of what a cache keeps. Needs matplotlib.

Each function draws into the axes that it is given, or into new ones, and returns them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot
from matplotlib.patches import Arc

__all__ = ["plot_bits", "plot_cache", "plot_kept", "plot_matches", "plot_similarity", "self_similarity", "survived"]


def plot_bits(bits, *, span: int = 16, axes=None, **style):
    """Bits per token over time, `bits` [T], averaged over the last `span` tokens. `style` is a line's: color, label, ..."""
    axes = axes or pyplot.subplots(layout="constrained")[1]
    bits = np.asarray(bits, dtype=np.float64)
    smooth = np.convolve(bits, np.ones(span) / span, mode="valid") if len(bits) >= span else bits
    axes.plot(np.arange(len(smooth)) + len(bits) - len(smooth) + 1, smooth, **style)
    axes.set(xlabel="token", ylabel="bits per token", ylim=(0, None))
    return axes


def plot_matches(phrases, *, shortest: int = 2, axes=None):
    """An arc from each phrase of :func:`lzpenalty.analysis.factorize` to where it stood before, as wide as it is long.
    Phrases of fewer than `shortest` tokens are left out."""
    axes = axes or pyplot.subplots(layout="constrained")[1]
    copies = phrases[(phrases["distance"] > 0) & (phrases["length"] >= shortest)]
    longest = copies["length"].max(initial=1)
    for position, distance, length in zip(copies["position"], copies["distance"], copies["length"], strict=True):
        middle, share = position - distance / 2, length / longest
        axes.add_patch(
            Arc((middle, 0), distance, distance, theta1=0, theta2=180, lw=0.4 + 3 * share, color=pyplot.cm.viridis(share))
        )
    end = int(phrases["position"][-1] + phrases["length"][-1]) if len(phrases) else 1
    axes.set(xlim=(0, end), ylim=(0, copies["distance"].max(initial=2) / 2 * 1.05), xlabel="token", yticks=[])
    return axes


def self_similarity(tokens) -> np.ndarray:
    """[T, T], int32: how many tokens up to and with i are the same as those up to and with j; T at most 4,096."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or len(tokens) > 4096:
        raise ValueError(f"tokens: expected at most 4,096 in one dimension, got shape {tokens.shape}")
    lengths = np.zeros((len(tokens) + 1, len(tokens) + 1), np.int32)
    for i, token in enumerate(tokens):
        lengths[i + 1, 1:] = (lengths[i, :-1] + 1) * (tokens == token)
    return lengths[1:, 1:]


def plot_similarity(tokens, *, axes=None):
    """A map of :func:`self_similarity`, logarithmic: repeats are diagonals, and a loop is a corner full of them."""
    axes = axes or pyplot.subplots(layout="constrained")[1]
    axes.imshow(np.log2(1 + self_similarity(tokens)), cmap="magma", origin="lower", interpolation="nearest")
    axes.set(xlabel="token", ylabel="token")
    return axes


def plot_cache(curves: Mapping[str, Mapping[str, Sequence[float]]], *, axes=None):
    """Throughput and memory against generated length, side by side.

    `curves` is {name: {"tokens": [...], "tokens_per_second": [...], "megabytes": [...]}}, as benchmarks/generate.py measures
    it; `axes` two of them.
    """
    axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")[1] if axes is None else axes
    for axis, key, label in zip(axes, ("tokens_per_second", "megabytes"), ("tokens/s over all so far", "MB"), strict=True):
        for name, curve in curves.items():
            axis.plot(curve["tokens"], curve[key], label=name)
        axis.set(xlabel="tokens generated", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[1].legend()
    return axes


def survived(cache, row: int = 0) -> np.ndarray:
    """[layers, tokens]: how many compressions each generated token has outlived, mean over the heads of a layer; [heads,
    tokens], layer by layer, where heads have budgets of their own.

    `cache` is an :class:`~lzpenalty.hf.CompressedCache` whose selector is a :class:`~lzpenalty.cache.selectors.Recorder`;
    tokens are those that have been up for selection.
    """
    recorders = cache.selectors_of(row)
    counts = np.zeros((len(recorders), recorders[0].seen))
    for layer, recorder in enumerate(recorders):
        for kept in recorder.history:
            heads = kept[row if len(kept) > 1 else 0].cpu().numpy()
            np.add.at(counts[layer], heads, 1 / len(heads))
    return counts


def plot_kept(cache, *, row: int = 0, axes=None):
    """Which generated tokens each layer kept, brighter the more compressions they outlived; see :func:`survived`."""
    axes = axes or pyplot.subplots(layout="constrained")[1]
    image = axes.imshow(survived(cache, row), aspect="auto", cmap="magma", origin="lower", interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, label="compressions outlived")
    axes.set(xlabel="generated token", ylabel="layer with full attention")
    return axes
