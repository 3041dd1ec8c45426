"""Fills the tables of README.md and the pages in docs/ from results/*.json.

    python benchmarks/tables.py [--check | --print NAME]

A table stands between <!-- table: NAME --> and <!-- end -->. With --check nothing is written, and the exit status says
whether everything is up to date. With --print the tables of results/NAME.json, NAME and NAME-..., are printed as well."""

import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
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


def worst_cells(results: dict) -> str:
    """The worst cells of the grid."""
    rows = []
    for dtype in ("float32", "bfloat16"):
        cells = [row for row in results["grid"] if row["dtype"] == dtype]
        one_thread = [row for row in cells if row["threads"] == 1]
        rows.append(
            [
                dtype,
                *(times(min(r["eager_over_ours"] for r in cells if r["threads"] == threads)) for threads in (1, 2)),
                f"{max(r['ours_mb'] / r['eager_mb'] for r in cells):.1%}",
                f"{max(r['ours_mb'] for r in cells):.1f} MB",
                f"{min(r['share_of_one_core'] for r in one_thread):.0%}",
            ]
        )
    append = results["append"]
    header = [
        "worst of all cells",
        "eager / ours, 1 thread",
        "2 threads",
        "ours / eager, memory",
        "most memory",
        "share of a core",
    ]
    return (
        markdown(header, rows)
        + f"\n\n`append_`, a token for 4 rows of 8 heads, float32: {append['append_us']:.1f} us; two slice copies take "
        + f"{times(append['slices_over_append'])}.\n\n{provenance(results)}"
    )


@table
def cache_summary() -> str:
    return worst_cells(load("cache"))


@table
def cache_summary_avx512() -> str:
    """`cache.json` of another machine."""
    return worst_cells(load("cache-avx512"))


@table
def cache_grid() -> str:
    """The whole grid."""
    results = load("cache")
    rows = []
    for r in results["grid"]:
        case = r["model"], r["batch"], f"{r['region']:,}", r["dtype"], r["threads"]
        speed = (f"{r['gflops']:.0f}", f"{r['share_of_one_core']:.0%}") if r["threads"] == 1 else ("", "")
        memory = f"{r['ours_mb']:.1f}", f"{r['eager_mb']:,.0f}"
        parts = (f"{r[name]:.1f}" for name in ("ours_ms", "scores_ms", "selection_ms", "compaction_ms"))
        rows.append([*case, *parts, times(r["eager_over_ours"]), *memory, *speed])
    header = ["model", "B", "region", "dtype", "threads", "ms", "scores", "selection", "compaction", "eager / ours", "MB"]
    return markdown([*header, "eager MB", "GFLOP/s", "of a core"], rows) + f"\n\n{provenance(results)}"


def attention_ratios(row: dict) -> list[str]:
    return [times(row["torch_over_ours"]), times(row["torch_grouped_over_ours"]), f"{row['share_of_reading']:.0%}"]


@table
def attention_summary() -> str:
    """Attention over a cache of 4,096 tokens and more, by model: the worst and the median cells."""
    results = load("attention")
    body = []
    for model in dict.fromkeys(row["model"] for row in results["grid"]):
        for dtype in ("float32", "bfloat16"):
            cells = [r for r in results["grid"] if r["model"] == model and r["dtype"] == dtype and r["tokens"] >= 4096]
            found = []
            for name, show in (
                ("torch_over_ours", times),
                ("torch_grouped_over_ours", times),
                ("share_of_reading", "{:.0%}".format),
            ):
                figures = [row[name] for row in cells]
                found += [show(min(figures)), show(statistics.median(figures))]
            body.append([model, dtype, *found])
    header = ["from 4,096 tokens on", "dtype", "PyTorch / ours: worst", "median", "grouped / ours: worst", "median"]
    header += ["of reading alone: worst", "median"]
    return markdown(header, body) + f"\n\n{provenance(results)}"


@table
def attention_grid() -> str:
    """The whole grid."""
    results = load("attention")
    rows = [
        [r["model"], r["batch"], f"{r['tokens']:,}", r["dtype"], r["threads"], f"{r['ours_us']:,.0f}", *attention_ratios(r)]
        + [f"{r['gb_per_second']:.1f}", f"{r['gflops']:.0f}"]
        for r in results["grid"]
    ]
    header = ["model", "B", "tokens", "dtype", "threads", "us", "PyTorch / ours", "grouped / ours", "of reading", "GB/s"]
    return markdown([*header, "GFLOP/s"], rows) + f"\n\n{provenance(results)}"


@table
def launch() -> str:
    """Our share of a call on CUDA tensors."""
    results = load("launch")
    rows = [[name, f"{us:.2f}"] for name, us in results["us"].items()]
    return markdown(["microseconds before the driver launches", "8 rows"], rows) + f"\n\n{provenance(results)}"


def generate_rows(model: str, rows: list[dict], points: list[str]) -> list[list]:
    found = []
    for row in rows:
        base = next(r for r in rows if r["cache"] == "DynamicCache" and r["batch"] == row["batch"])
        ratios = (times(row["tokens_per_second"][p] / base["tokens_per_second"][p]) for p in points)
        found.append(
            [
                row["cache"],
                *([model, row["batch"], row["threads"]] if model else []),
                *ratios,
                f"{row['tokens_per_second'][points[-1]]:.1f}",
                f"{row['megabytes'][points[-1]]:,.0f}",
                f"{row['ms_per_token'][points[0]]:.0f} to {row['ms_per_token'][points[-1]]:.0f}",
            ]
        )
    return found


@table
def generate_summary() -> str:
    """Generation with a compressed cache against DynamicCache."""
    results = load("generate")
    rows = [r for r in results["models"]["smollm2"]["rows"] if r["batch"] == 4]
    names = ("DynamicCache", "RPCCache, interval=None", "RPC, P = 1024", "RPC, P = 256", "RPC, P = 256, budget 1024")
    points = list(rows[0]["tokens_per_second"])
    header = ["SmolLM2-135M, float32, batch 4", *(f"{int(p):,} tokens" for p in points), "tokens/s", "MB", "ms a step"]
    body = generate_rows("", [r for r in rows if r["cache"] in names], points)
    return markdown(header, body) + f"\n\n{provenance(results)}"


@table
def generate() -> str:
    """All caches, models and batches."""
    results = load("generate")
    body = []
    for model, found in results["models"].items():
        points = list(found["rows"][0]["tokens_per_second"])
        body += generate_rows(model, found["rows"], points)
    header = ["cache", "model", "batch", "threads", *(f"{int(p):,} tokens" for p in points), "tokens/s", "MB", "ms a step"]
    checks = [
        f"{name}, {model}, batch {c['batch']}, {c['tokens']} tokens: {c['seconds']:.0f} s, {c['sum']:.0f} s by the sum"
        for model, found in results["models"].items()
        for name, c in found.get("check", {}).items()
    ]
    wholes = [
        f"{w['cache']}, {model}, batch {w['batch']}, threads {w['threads']}, every step of one `generate` call for real, "
        "compressions included: " + ", ".join(f"{ms:.0f} ms a token at {int(p):,}" for p, ms in w["ms_per_token"].items())
        for model, found in results["models"].items()
        for w in [found.get("whole")]
        if w
    ]
    return "\n\n".join([markdown(header, body), *checks, *wholes, provenance(results)])


@table
def recall() -> str:
    """Text and passcodes after compressions."""
    results = load("recall")
    body = []
    for row in results["rows"]:
        low, high = row["known_interval"]
        worse = "" if row["selector"] == "full cache" else f"{row['worse_by']:+.3f} ± {row['interval']:.3f}"
        body.append(
            [
                row["selector"],
                f"{row['bits_per_token']:.3f}",
                worse,
                f"{row['known']} of {row['trials']}",
                f"{low:.0%} to {high:.0%}",
            ]
        )
    header = [f"P = {results['interval']}, c = {results['ratio']}", "bits per token", "worse by", "passcode known", "95%"]
    about = f"{results['model']}; {results['texts']} texts of {results['tokens']:,} tokens; {provenance(results)}"
    return markdown(header, body) + f"\n\n{about}"


TITLES = {
    "none": "no penalty",
    "paper": "`paper`",
    "gentle": "`gentle`",
    "reasoning": "`reasoning`",
    "repetition=1.1": "repetition penalty 1.1",
    "ngram=6": "no 6 tokens twice",
    "dry=0.8,1.75,2": "DRY .8/1.75/2",
    "dry-breakers=0.8,1.75,2": "DRY .8/1.75/2 with breakers",
}
SHORT = ("none", "paper", "gentle", "repetition=1.1", "ngram=6", "dry-breakers=0.8,1.75,2")
LONG = (
    "none", "paper", "min_match 2", "min_match 2, min_count 2", "horizon 128", "strength 0.03", "strength 0.05", "gentle",
    "reasoning", "repetition=1.1", "ngram=6", "dry=0.8,1.75,2", "dry-breakers=0.8,1.75,2",
)  # fmt: skip
OTHER_KINDS = ("json", "table", "maths", "chat")


def frontier_about(results: dict) -> str:
    prompts = results["report"]["none"]["answers"]
    return (
        f"{results['model']}, greedy, {prompts} prompts, at most {results['limit']:,} tokens an answer; "
        f"{results['limit']:,} tokens of each text; {provenance(results)}"
    )


def harm_of(row: dict, kind: str) -> str:
    return f"{row['harm'][kind]:.3f}" if any(row["harm"].values()) else ""


def second(row: dict, kind: str, copy: int = 0) -> str:
    """Of copies of 200 tokens."""
    return f"{row['copies'][kind]['200'][copy]:.1%}"


def answers_of(row: dict) -> list[str]:
    return [
        f"{row['loops']} of {row['answers']}",
        f"{row['approximate_loops']} of {row['answers']}",
        f"{row['near_duplicates']:.1%}",
        f"{row['tokens']:.0f}",
    ]


@table
def frontier_summary() -> str:
    """Loops that the penalties end, and what they cost text that is fine."""
    results = load("frontier")
    rows = []
    for name in SHORT:
        row = results["report"][name]
        worst = max(OTHER_KINDS, key=row["harm"].get)
        others = f"{harm_of(row, worst)} ({worst})" if any(row["harm"].values()) else ""
        harm = [harm_of(row, "prose"), harm_of(row, "code"), others]
        rows.append([TITLES.get(name, f"`{name}`"), *answers_of(row), *harm, second(row, "prose"), second(row, "code")])
    header = [
        "",
        "in a loop",
        "nearly",
        "circling",
        "tokens",
        "nats lost: prose",
        "code",
        "worst other",
        "copies: prose",
        "code",
    ]
    return markdown(header, rows) + f"\n\n{frontier_about(results)}"


def frontier_half(half: str, names) -> tuple[str, str, str]:
    rows = load("frontier")[half]
    kinds = list(rows["none"]["harm"])
    lengths = list(rows["none"]["copies"]["prose"])
    answers, harm, copies = [], [], []
    for name in names:
        row, title = rows[name], TITLES.get(name, name)
        answers.append([title, *answers_of(row), f"{row['seq_rep_4']:.3f}", row["cut"]])
        harm.append([title, *(harm_of(row, kind) for kind in kinds)])
        shares = [row["copies"][kind][length][copy] for kind in ("prose", "code") for length in lengths for copy in (0, 1)]
        copies.append([title, *(f"{100 * share:.1f}" for share in shares)])
    parts = [f"{kind} {length}, {copy}" for kind in ("prose", "code") for length in lengths for copy in ("second", "third")]
    return (
        markdown(["answers", "in a loop", "nearly", "circling", "tokens", "seq-rep-4", "cut"], answers),
        markdown(["nats a token lost", *kinds], harm),
        markdown(["% of copies kept", *parts], copies),
    )


@table
def frontier() -> str:
    """Everything that was measured on the half that is reported."""
    results = load("frontier")
    return "\n\n".join([*frontier_half("report", [n for n in LONG if n in results["report"]]), frontier_about(results)])


@table
def frontier_choose() -> str:
    """What "gentle" was chosen among, on the other half."""
    rows = load("frontier")["choose"]
    names = ["none", "paper", *(name for name in rows if name.startswith("gate "))]
    return "\n\n".join(frontier_half("choose", names))


@table
def frontier_cost() -> str:
    """The same in sentences."""
    rows = load("frontier")["report"]

    def lost(name):
        return [f"{rows[name]['harm'][kind]:.2f}" for kind in ("prose", "code")]

    def points(name):
        return [f"{100 * (1 - rows[name]['copies'][kind]['200'][0]):.0f}" for kind in ("prose", "code")]

    worst = max(("prose", "code", *OTHER_KINDS), key=rows["gentle"]["harm"].get)
    gentle = [f"{rows['gentle']['harm'][worst]:.3f}", worst, f"{rows['gentle']['harm']['song']:.2f}"]
    return (
        "With the paper's options a token that counts as generated loses {} nats in prose and {} in code. In exact copies "
        "of 200 tokens the model's first choice changes for {}% of the tokens of prose and {}% of code. Repetition penalty "
        "1.1 costs {} and {} nats, and {}% and {}%. `gentle` costs at most {} nats ({}), but {} in a song with a refrain, "
        "and {}% and {}%."
    ).format(
        *lost("paper"), *points("paper"), *lost("repetition=1.1"), *points("repetition=1.1"), *gentle, *points("gentle")
    )


@table
def thinking() -> str:
    """Who circles in the thinking section, and who is closed."""
    results = load("thinking")
    rows = []
    for name, row in results["rows"].items():
        sections = row["sections"]
        rows.append(
            [
                TITLES[name],
                f"{sum(s['alarm'] is not None for s in sections)} of {len(sections)}",
                f"{sum(s['circles'] or s['loop'] for s in sections)} of {len(sections)}",
                f"{sum(s['closed'] is not None for s in sections)} of {len(sections)}",
                f"{row['tokens']:.0f}",
            ]
        )
    header = ["", "alarm in the section", "loop in it", "closed", "tokens an answer"]
    return markdown(header, rows) + f"\n\n{thinking_says(results)}\n\n{provenance(results)}"


def thinking_says(results: dict) -> str:
    found = results["judged"]
    return (
        f"Of {found['counted']} answers that circled in their thinking, {found['in_time']} closed it within "
        f"{results['in_time']} tokens of the alarm, half of them within {found['median_wait']:.0f}. "
        f"Of {found['quiet']} that did not circle, {found['closed_without_reason']} were closed. "
        f"{results['model']}, greedy, `<think>` forced, at most {results['limit']} tokens; `</think>` is "
        f"{results['closer']} tokens to it."
    )


@table
def thinking_summary() -> str:
    """The same in sentences."""
    return thinking_says(load("thinking"))


@table
def recall_lost() -> str:
    """The same in sentences."""
    results = load("recall")
    full, *others = results["rows"]
    least, most = min(row["known"] for row in others), max(row["known"] for row in others)
    known = f"in {least}, with each of" if least == most else f"in {least} to {most}, depending on which of"
    losses = [row["worse_by"] for row in others]
    trials = f"{full['known']} of {full['trials']} trials"
    return (
        f"A passcode was stated once, among other generated text, and asked for later. The full cache knew it in {trials}. "
        f"A compressed cache knew it {known} {len(others)} rules. Ordinary text took "
        f"{min(losses):.2f} to {max(losses):.2f} bits a token more. The model was {results['model']}, an interval "
        f"{results['interval']} tokens, and 1/{results['ratio']} of it was kept."
    )


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


@table
def analysis() -> str:
    """Seconds for a million tokens."""
    results = load("analysis")
    texts = results["texts"]
    rows = [[name, *(f"{text['seconds'][name]:.2f} s" for text in texts)] for name in texts[0]["seconds"]]
    for name in texts[0]["ratios"]:
        rows.append([name, *(times(text["ratios"][name]) for text in texts)])
    title = f"{texts[0]['tokens']:,} tokens, one thread, pydivsufsort {results['pydivsufsort']}"
    header = [title, *(f"{text['text']}, {text['phrases']:,} phrases, {text['loops']:,} loops" for text in texts)]
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
    for wanted in sys.argv[2:] if sys.argv[1:2] == ["--print"] else ():
        for name, make in TABLES.items():
            if name == wanted or name.startswith(f"{wanted}-"):
                print(f"\n{make()}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
