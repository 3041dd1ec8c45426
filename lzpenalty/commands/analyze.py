"""`lzpenalty analyze`: how repetitive is this file?"""

import textwrap
from collections.abc import Callable

import numpy as np

from lzpenalty import analysis, repetition_period
from lzpenalty.commands.output import Progress
from lzpenalty.commands.texts import Source

LONG = 200_000  # tokens, from which on a step may take a second


def measures(text: Source, window: int) -> dict[str, Callable[[], float]]:
    """The measures by name, each to be called; rates in bits per token."""
    tokens = text.tokens
    n = max(1, len(tokens))
    found = {
        "distinct": lambda: len(np.unique(tokens)),
        "lz77_rate": lambda: analysis.codelength(tokens) / n,
        f"lz77_rate_window_{window}": lambda: analysis.codelength(tokens, window) / n,
        "lz78_rate": lambda: float(analysis.lz78(tokens)["bits"].sum()) / n,
        "entropy_3": lambda: analysis.ngram_entropy(tokens, 3),
        "seq_rep_4": lambda: analysis.seq_rep(tokens, 4),
        "distinct_2": lambda: analysis.distinct_n(tokens, 2),
        "ser_4": lambda: analysis.suffix_extension_rate(tokens, 4),
        "ser_8": lambda: analysis.suffix_extension_rate(tokens, 8),
    }
    if text.characters is not None:
        found["zlib_ratio"] = lambda: analysis.zlib_ratio(text.characters)
    return found


def loops(text: Source, most: int, repeats: int, tolerance: float) -> list[dict]:
    """The longest stretches that repeat themselves, without those that lie within longer ones."""
    found = analysis.apart(analysis.find_loops(text.tokens, min_repeats=repeats, tolerance=tolerance))[:most]
    return [
        {name: loop[name].item() for name in ("start", "length", "period", "repeats")}
        | {"turn": text.decode(text.tokens[loop["start"] : loop["start"] + loop["period"]].tolist())}
        for loop in np.sort(found, order="start")
    ]


def last_loop(tokens: np.ndarray, ngram: int, count: int) -> dict | None:
    """The period of the loop that ends last, as :func:`lzpenalty.repetition_period` has it, and how many tokens come after
    it: none, if the text ends in it. Of a loop that stopped there are two turns and more."""
    if period := int(repetition_period(tokens, ngram=ngram, count=count, max_period=max(1, len(tokens)))):
        return {"period": period, "after": 0}
    loops = analysis.find_loops(tokens)
    loops = loops[loops["length"] >= ngram + (count - 1) * loops["period"]]
    if not len(loops):
        return None
    ends = loops["start"] + loops["length"]
    period = loops["period"][ends == ends.max()].min()
    return {"period": int(period), "after": int(len(tokens) - ends.max())}


def analyze(
    text: Source,
    *,
    window: int = 512,
    most: int = 10,
    repeats: int = 3,
    tolerance: float = 0.0,
    ngram: int = 8,
    count: int = 3,
    quiet: bool = False,
) -> dict:
    """Everything that is found, as plain numbers and strings. Shows how far it is where that takes a while."""
    wanted = measures(text, window) | {
        "loops": lambda: loops(text, most, repeats, tolerance),
        "last_loop": lambda: last_loop(text.ending, ngram, count),
    }
    found = {}
    with Progress("measures", len(wanted), quiet=quiet) as progress:
        for name, find in wanted.items():
            progress.update(0, name if len(text.tokens) >= LONG else None)
            found[name] = find()
            progress.update()
    last = found.pop("last_loop")
    return {
        "unit": text.unit,
        "length": len(text.tokens),
        "loops": found.pop("loops"),
        "ends_in_loop_of": last["period"] if last and not last["after"] else 0,
        "last_loop": last,
        "measures": found,
    }


def draw(text: Source, path: str, window: int = 512) -> None:
    """Bits per token over time, and an arc from each phrase to where it stood before."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from lzpenalty.plots import plot_bits, plot_matches

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(10, 5), sharex=True, layout="constrained")
    vocab = int(text.tokens.max(initial=1)) + 1
    plot_bits(analysis.token_bits(text.tokens, vocab, window=window), axes=above)
    plot_matches(analysis.factorize(text.tokens), shortest=8, axes=below)
    above.label_outer()
    below.set_xlabel(text.unit)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def report(found: dict) -> str:
    """What `analyze` found, for people."""
    named = {
        "distinct": "different ones",
        "lz77_rate": "LZ77, whole history, bits each",
        "lz78_rate": "LZ78, bits each",
        "entropy_3": "3-gram entropy, bits",
        "seq_rep_4": "seq-rep-4, share of 4-grams that stood before",
        "distinct_2": "distinct-2, share of 2-grams that are new",
        "ser_4": "SER@4, share that prolong 4 repeated ones",
        "ser_8": "SER@8, share that prolong 8 repeated ones",
        "zlib_ratio": "zlib ratio; degenerate from 2.4 on",
    }
    lines = [f"{found['unit']:46} {found['length']:>12,}"]
    for name, value in found["measures"].items():
        title = named.get(name) or f"LZ77, window {name.rpartition('_')[2]}, bits each"
        lines.append(f"{title:46} {value:>12,}" if isinstance(value, int) else f"{title:46} {value:>12.3f}")
    last = found["last_loop"]
    period = found["ends_in_loop_of"]
    lines.append(f"{'ends in a loop of':46} {f'{period:,}' if period else 'none':>12}")
    if last and last["after"]:
        title = f"the last one, of {last['period']:,}, stopped before the end by"
        lines.append(f"{title:46} {last['after']:>12,}")
    if found["loops"]:
        lines.append(f"\n{'start':>10} {'length':>8} {'period':>7} {'turns':>7}  one turn")
        for loop in found["loops"]:
            turn = textwrap.shorten(" ".join(loop["turn"].split()), 60, placeholder=" ...") or repr(loop["turn"][:58])
            lines.append(f"{loop['start']:>10,} {loop['length']:>8,} {loop['period']:>7,} {loop['repeats']:>7.1f}  {turn}")
    return "\n".join(lines)
