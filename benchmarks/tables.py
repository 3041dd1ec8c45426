"""Fills the tables of README.md and benchmarks/README.md from results/*.json.

    python benchmarks/tables.py [--check]

A table stands between <!-- table: NAME --> and <!-- end -->. With --check nothing is written, and the exit status says
whether everything is up to date."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
TABLES = {}


def table(function):
    TABLES[function.__name__.replace("_", "-")] = function
    return function


def load(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def markdown(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def provenance(results: dict) -> str:
    m = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    return f"{m['cpu']}, {m['cores']} cores shared with others, {m['level']}; Python {m['python']}, {versions}; {m['date']}"


def times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.1f}x"


@table
def lz_summary() -> str:
    """What one row costs, and what the same costs elsewhere."""
    results = load("lz")
    texts = list(results["parts_us"])
    cells = {(row["vocab"], row["window"], row["batch"], row["text"]): row for row in results["grid"]}
    parts = results["parts_us"]

    def matches(text):
        return parts[text]["row, all ids outside the vocabulary"] - parts[text]["call with three tensors"]

    rows = [
        ["call with three torch tensors, nothing to do", *(f"{parts[t]['call with three tensors']:.2f} us" for t in texts)],
        ["matches and code lengths of a row", *(f"{matches(t):.2f} us" for t in texts)],
        ["the whole call for one row, written in place", *(f"{parts[t]['row']:.2f} us" for t in texts)],
    ]
    for batch in (1, 64):
        found = [cells[151_936, 512, batch, t] for t in texts]
        rows.append([f"per row in a batch of {batch}, caches cold", *(f"{r['us_per_row']:.2f} us" for r in found)])
        peer = f"... `RepetitionPenaltyLogitsProcessor` takes, batch {batch}"
        rows.append([peer, *(times(r["repetition_over_in_place"]) for r in found)])
    dense = {row["text"]: row for row in results["dense"]}
    rows.append(["... the formula in dense PyTorch takes", *(times(dense[t]["dense_over_lzss"]) for t in texts)])
    return markdown(["V = 151,936, window 512, buffer 32, float32", *texts], rows) + f"\n\n{provenance(results)}"


@table
def lz_grid() -> str:
    """The whole grid."""
    results = load("lz")
    rows = []
    for r in results["grid"]:
        ratios = times(r["repetition_over_in_place"]), times(r["repetition_over_processor"])
        rows.append([f"{r['vocab']:,}", r["window"], r["batch"], r["text"], f"{r['us_per_row']:.2f}", *ratios])
    header = ["V", "W", "B", "text", "us per row", "repetition penalty / in place", "repetition penalty / processor"]
    return markdown(header, rows) + f"\n\n{provenance(results)}"


@table
def lz_parts() -> str:
    """Microseconds of the parts and options."""
    results = load("lz")
    texts = list(results["parts_us"])
    names = list(results["parts_us"][texts[0]])
    rows = [[name, *(f"{results['parts_us'][text][name]:.2f}" for text in texts)] for name in names]
    return markdown(["microseconds, V = 151,936, window 512, buffer 32", *texts], rows)


@table
def lz_dense() -> str:
    """Against the dense formula."""
    rows = [
        [row["text"], f"{row['dense_ms']:,.0f}", times(row["dense_over_lzss"]), times(row["dense_over_pair"])]
        for row in load("lz")["dense"]
    ]
    return markdown(["text", "dense PyTorch, ms a row", "dense / lzss", "dense / pair"], rows)


@table
def vllm() -> str:
    """Throughput of the real engine with the penalty off and on."""
    results = load("vllm")
    rows = [
        [
            title,
            f"{results['tokens_per_second'][mode]:.1f}",
            "" if mode == "none" else f"{results['against_none'][mode]:.2f} ({spread[0]:.2f} to {spread[-1]:.2f})",
            "" if mode == "none" else f"{results['share_of_time'][mode]:.3%}",
        ]
        for mode, title in (
            ("none", "without the processor"),
            ("off", "loaded, no request asks"),
            ("on", "every request asks"),
        )
        for spread in [results["spread"].get(mode)]
    ]
    title = f"vLLM {results['vllm']}, SmolLM2-135M, {results['batch']} requests of {results['tokens']} tokens"
    header = [title, "tokens/s", "against without, median of rounds (range)", "time in the penalty"]
    return markdown(header, rows) + f"\n\n{provenance(results)}"


def fill(page: str) -> str:
    return re.sub(
        r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)",
        lambda match: match[1] + TABLES[match[2]]() + "\n" + match[3],
        page,
        flags=re.DOTALL,
    )


def main() -> int:
    stale = [page for page in PAGES if fill(page.read_text()) != page.read_text()]
    for page in stale:
        if "--check" in sys.argv:
            print(f"{page} is not what benchmarks/tables.py makes of the results")
        else:
            page.write_text(fill(page.read_text()))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
