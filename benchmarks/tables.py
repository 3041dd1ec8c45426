"""Fills the tables of README.md and the pages in docs/ from results/*.json.

    python benchmarks/tables.py [--check | --print NAME]

A table stands between <!-- table: NAME --> and <!-- end -->. With --check nothing is written, and the exit status says
whether everything is up to date. With --print the tables of results/NAME.json, NAME and NAME-..., are printed as well."""

import json
import math
import re
import statistics
import sys
from fnmatch import fnmatch
from pathlib import Path

from facts import AGES, KINDS, difference, known_of, shared, wilson

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLES = {}
VERSIONED = ("transformers", "torch", "numpy", "accelerate", "gguf", "lm_eval", "python")  # what passed with what


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


GONE = ("min_count", "escalation", "neutral")  # options whose rows the results still have


@table
def lz_parts() -> str:
    """Microseconds of the parts and options."""
    results = load("lz")
    texts = list(results["parts_us"])
    names = [name for name in results["parts_us"][texts[0]] if not any(option in name for option in GONE)]
    rows = [[name, *(f"{results['parts_us'][text][name]:.2f}" for text in texts)] for name in names]
    return markdown(["microseconds, V = 151,936, window 512, buffer 32", *texts], rows)


@table
def lz_presets() -> str:
    """What the presets' rows take of the default's, and what the repetition penalty takes of theirs."""
    results = load("lz-presets")
    cells = {(row["preset"], row["batch"], row["text"]): row for row in results["rows"]}
    texts = list(dict.fromkeys(row["text"] for row in results["rows"]))
    batches = list(dict.fromkeys(row["batch"] for row in results["rows"]))
    rows = []
    for name in dict.fromkeys(row["preset"] for row in results["rows"]):
        for batch in batches:
            found = [cells[name, batch, text] for text in texts]
            title = f"`{name}`" if name in ("gentle", "reasoning") else name
            ratios = (f"{row[key]:.2f}x" for key in ("preset_over_paper", "repetition_over_preset") for row in found)
            rows.append([title, batch, *(f"{row['us_per_row']:.2f}" for row in found), *ratios])
    columns = [f"{what}{text}" for what in ("us a row, ", "of the default's, ", "repetition penalty's, ") for text in texts]
    title = f"V = 151,936, window 512, float32; {provenance(results)}"
    return markdown(["", "B", *columns], rows) + f"\n\n{title}"


@table
def lz_sections() -> str:
    """What looking for sections adds to a row."""
    results = load("lz-sections")
    places = ("before the answer", "nowhere")
    rows = [[r["level"], r["ids"], f"`{r['marks']}`", *(f"{r[place]:.2f}" for place in places)] for r in results["rows"]]
    header = ["instructions", "ids", "marks", *(f"us, opened {place}" for place in places)]
    return markdown(header, rows) + f"\n\n32,768 tokens, the round of least time; {provenance(results)}"


@table
def lz_presets_worst() -> str:
    """The same in a sentence."""
    rows = load("lz-presets")["rows"]
    own = [row for row in rows if not row["preset"].endswith("processor")]
    others = [row for row in rows if row["preset"].endswith("processor")]
    worst = max(own, key=lambda row: row["preset_over_paper"])
    least = [min(row["repetition_over_preset"] for row in found) for found in (own, others)]
    return (
        f"At worst a row costs {worst['preset_over_paper']:.2f} of the default's ({worst['preset']}, {worst['text']}, "
        f"B = {worst['batch']}). The repetition penalty takes at least {least[0]:.0f} times as long as a row in place, and "
        f"{least[1]:.1f} times as long as the processor."
    )


@table
def peers() -> str:
    """A step of each penalty, ours and others'."""
    from peers import TITLES as names

    results = load("peers")
    cells = {(row["contestant"], row["batch"], row["text"]): row for row in results["rows"]}
    columns = list(dict.fromkeys((row["batch"], row["text"]) for row in results["rows"]))
    rows = []
    for name in dict.fromkeys(row["contestant"] for row in results["rows"]):
        found = [cells[(name, *column)] for column in columns]
        us = (f"{row['us_per_row']:,.1f}" for row in found)
        rows.append([names[name], *us, *(f"{row['contestant_over_reasoning']:,.1f}x" for row in found)])
    header = [f"B = {batch}, {text}" for batch, text in columns]
    title = f"us a row, V = {results['vocab']:,}, {results['tokens']} tokens; right: of `reasoning`'s"
    return markdown([title, *header, *header], rows) + f"\n\n{', '.join(results['versions'])}; {provenance(results)}"


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
    for dtype in dict.fromkeys(row["dtype"] for row in results["grid"]):
        cells = [row for row in results["grid"] if row["dtype"] == dtype]
        one_thread = [row for row in cells if row["threads"] == 1]
        two_threads = [row for row in cells if row["threads"] == 2]
        gains = [
            two.get("one_over_two_threads", one["ours_ms"] / two["ours_ms"])  # older results lack it
            for one, two in zip(one_thread, two_threads, strict=True)
        ]
        of_machine = [row["machine_one_over_two"] for row in two_threads if "machine_one_over_two" in row]
        rows.append(
            [
                dtype,
                *(times(min(r["eager_over_ours"] for r in some)) for some in (one_thread, two_threads)),
                *(f"{times(statistics.median(g))} ({times(min(g))})" if g else "" for g in (gains, of_machine)),
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
        "1 thread / 2, median (worst)",
        "the machine's",
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
def cache_summary_amx() -> str:
    """`cache.json` of a third one."""
    return worst_cells(load("cache-amx"))


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
    shares = (f"{row[name]:.0%}" for name in ("share_of_reading", "share_of_multiplying", "share_of_roof"))
    return [times(row["torch_over_ours"]), times(row["torch_grouped_over_ours"]), *shares]


def undisturbed(grid: list[dict]) -> list[dict]:
    """Cells in which the loop that multiplies had all of its processors: nothing else ran on the machine."""
    alone = statistics.median(row["peak_gflops"] for row in grid if row["threads"] == 1)
    return [row for row in grid if row["peak_gflops"] >= 0.85 * row["threads"] * alone]


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
                ("share_of_roof", "{:.0%}".format),
            ):
                figures = [row[name] for row in (undisturbed(cells) if name.startswith("share") else cells)]
                found += [show(min(figures)), show(statistics.median(figures))]
            body.append([model, dtype, *found])
    header = ["from 4,096 tokens on", "dtype", "PyTorch / ours: worst", "median", "grouped / ours: worst", "median"]
    header += ["of reading alone: worst", "median", "of the roof: worst", "median"]
    grid = results["grid"]
    long = [r for r in grid if r["tokens"] >= 4096]
    slower = [sum(r[name] < 1 for r in grid) for name in ("torch_over_ours", "torch_grouped_over_ours")]
    quiet = undisturbed(long)
    reached = [sum(r[name] >= 0.8 for r in quiet) for name in ("share_of_roof", "share_of_reading")]
    disturbed = len(grid) - len(undisturbed(grid))
    said = (
        f"Of {len(grid)} cells, {slower[0]} are slower than PyTorch with `enable_gqa` and {slower[1]} than grouped. "
        f"Something else ran on the machine in {disturbed}, as the loop that multiplies had less than 85% of its processors "
        f"there: they are left out of the shares. Of the other {len(quiet)} from 4,096 tokens on, {reached[0]} reach 80% of "
        f"the roof and {reached[1]} 80% of reading alone."
    )
    return markdown(header, body) + f"\n\n{said}\n\n{provenance(results)}"


@table
def attention_grid() -> str:
    """The whole grid."""
    results = load("attention")
    rows = [
        [r["model"], r["batch"], f"{r['tokens']:,}", r["dtype"], r["threads"], f"{r['ours_us']:,.0f}", *attention_ratios(r)]
        + [f"{r['gb_per_second']:.1f}", f"{r['gflops']:.0f}"]
        for r in results["grid"]
    ]
    header = ["model", "B", "tokens", "dtype", "threads", "us", "PyTorch / ours", "grouped / ours", "of reading"]
    return markdown([*header, "of multiplying", "of the roof", "GB/s", "GFLOP/s"], rows) + f"\n\n{provenance(results)}"


@table
def echo_scores() -> str:
    """What echo's scores cost beside attention."""
    results = load("echo")
    peaks = [name for name in ("attention_of_peak", "echo_of_peak") if name in results["rows"][0]]
    rows = [
        [r["model"], f"{r['entries']:,}", r["dtype"], f"{r['attention_ms']:.1f}", f"{r['echo_ms']:.1f}", f"{r['share']:.2f}"]
        + [f"{r[name]:.0%}" for name in peaks]
        for r in results["rows"]
    ]
    recent = results["rows"][0]["recent"]
    header = ["model", "entries", "dtype", f"{recent} x attend, ms", "echo, ms", "echo / attend"]
    header += ["attend, of the peak", "echo, of the peak"][: len(peaks)]
    return markdown(header, rows) + f"\n\n{provenance(results)}"


@table
def launch() -> str:
    """Our share of a call on CUDA tensors."""
    results = load("launch")
    rows = [[name, f"{us:.2f}"] for name, us in results["us"].items() if not any(option in name for option in GONE)]
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
def generate_first() -> str:
    """Generation with a compressed cache against DynamicCache, and what it forgets, for a first reading."""
    results, by_rule = load("generate"), load("recall")["facts"]["P = 256, c = 4"]
    rows = {r["cache"]: r for r in results["models"]["smollm2"]["rows"] if r["batch"] == 4}
    base, last = rows["DynamicCache"], list(rows["DynamicCache"]["tokens_per_second"])[-1]
    names = {
        "DynamicCache": ("transformers' own", None),
        "echo, P = 1024": ("`CompressedCache`", "echo"),
        "RPC, P = 1024": ("`RPCCache`, the paper's rule", "rpc"),
    }
    body = []
    for name, (title, rule) in names.items():
        speed = times(rows[name]["tokens_per_second"][last] / base["tokens_per_second"][last])
        known = later(by_rule, rule or "echo")
        body.append(
            [title, f"{speed}, {rows[name]['megabytes'][last]:,.0f} MB", f"{known[0] if rule else known[1]} of {known[1]}"]
        )
    documents = load("prompts")["documents"]["1572"]
    for share_kept, name in (("1/4", "a quarter"), ("1/8", "an eighth")):
        found = documents[f"echo, {share_kept}"]
        spent, peak = cost_of_reading(found)
        title = f"`CompressedCache(protect=4)`, {name} of a document"
        known = share(known_of(documents["full cache"], found))
        body.append([title, f"read in {spent:.2f}x the time, {peak:,} entries", known])
    header = ["cache", f"speed and memory at {int(last):,} tokens", "facts that are still known"]
    return (
        markdown(header, body)
        + "\n\nSmolLM2-135M-Instruct, on a CPU. Speed: `lzpenalty bench generate`, batch 4. Facts that transformers' own "
        "cache knew, after 1 to 8 compressions to a quarter: `lzpenalty bench recall`. Documents of 1,572 tokens, read "
        "once, and asked later: `lzpenalty bench prompts`."
    )


@table
def generate() -> str:
    """All caches, models and batches."""
    return generations(load("generate"))


@table
def generate_avx512() -> str:
    """`generate.json` of another machine, with another model as well."""
    return generations(load("generate-avx512"))


def generations(results: dict) -> str:
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


def share(counts: tuple[int, int]) -> str:
    known, of = counts
    return f"{known} of {of}" if of else ""


def interval(counts: tuple[int, int]) -> str:
    """A share in percent, and its 95% interval."""
    known, of = counts
    low, high = wilson(known, of)
    return f"{known / of:.0%} ({low:.0%} to {high:.0%})"


def asked(found: dict, age: int) -> tuple[int, int]:
    """Facts that are known, of all that were asked for at that age."""
    answers = "".join(known for batch in found.values() for key, known in batch.items() if key.endswith(f" {age}"))
    return answers.count("1"), len(answers)


def about_recall(results: dict) -> str:
    return f"{results['model']}; {provenance(results)}"


@table
def recall() -> str:
    """Facts that are still known after compressions, and the price in bits."""
    return recall_of("P = 256, c = 4")


@table
def recall_eighth() -> str:
    """The same with an eighth kept, of half as many tokens at a time."""
    return recall_of("P = 128, c = 8")


@table
def recall_budget() -> str:
    """The same with a cache that does not grow."""
    return recall_of("P = 256, budget 288")


def recall_of(setting: str) -> str:
    results = load("recall")
    by_rule, bits = results["facts"][setting], results["text"].get(setting, {})
    full = by_rule["full cache"]
    price = [f"{statistics.mean(bits['full cache']['bits'].values()):.3f}"] if bits else []
    rows = [["full cache", *price, *(share(asked(full, age)) for age in AGES), ""]]
    for rule in sorted(by_rule, key=lambda rule: -later(by_rule, rule)[0]):
        if rule != "full cache":
            counts = [shared(full, by_rule[rule], age=age) for age in AGES]
            price = [more_bits(bits, rule)] if bits else []
            rows.append([rule, *price, *map(share, counts), interval(later(by_rule, rule))])
    header = [setting, *(["bits per token"] if bits else []), "known at once", "after 1 compression", "after 2", "after 4"]
    return f"{markdown([*header, 'after 8', 'of all from 1 on'], rows)}\n\n{about_recall(results)}"


def more_bits(bits: dict, rule: str) -> str:
    """Than with the full cache, with a 95% interval over texts."""
    return "{:+.3f} ± {:.3f}".format(*difference(bits["full cache"]["bits"], bits[rule]["bits"])) if rule in bits else ""


@table
def recall_kinds() -> str:
    """By the kind of fact, and by what is kept."""
    return kinds_of("recall")


def kinds_of(name: str) -> str:
    results, rows, rules = load(name), [], ("echo", "rpc")
    settings = {name: found for name, found in results["facts"].items() if set(rules) <= set(found)}
    for kind in KINDS:
        row = [kind]
        for by_rule in settings.values():
            row += [share(later(by_rule, rule, kind)) for rule in rules]
        rows.append(row)
    all_of_them = [later(by_rule, rule) for by_rule in settings.values() for rule in rules]
    rows += [["all", *map(share, all_of_them)], ["95% interval", *map(interval, all_of_them)]]
    header = ["after 1 to 8 compressions", *(f"{name}: {rule}" for name in settings for rule in rules)]
    return f"{markdown(header, rows)}\n\n{about_recall(results)}"


def later(by_rule: dict, rule: str, kind: str | None = None) -> tuple[int, int]:
    """Known of what the full cache knows, once something has been dropped."""
    counts = [shared(by_rule["full cache"], by_rule[rule], kind, age) for age in AGES[1:]]
    return sum(known for known, _ in counts), sum(of for _, of in counts)


@table
def recall_choose() -> str:
    """Variants of echo, on the half that is there for choosing."""
    return variants_of("recall-choose")


@table
def recall_choose_gemma() -> str:
    """The same where heads find everything."""
    return variants_of("recall-choose-gemma-3-270m-q4_k_m")


def variants_of(name: str) -> str:
    results, rows = load(name), []
    for setting, by_rule in results["facts"].items():
        for rule in by_rule:
            if rule != "full cache":
                by_kind = [share(later(by_rule, rule, kind)) for kind in KINDS]
                price = more_bits(results["text"].get(setting, {}), rule)
                rows.append([f"{rule}, {setting}", *by_kind, interval(later(by_rule, rule)), price])
    header = ["after 1 to 8 compressions", *KINDS, "all", "bits per token"]
    return f"{markdown(header, rows)}\n\n{about_recall(results)}"


@table
def recall_gemma() -> str:
    """By the kind of fact, with Gemma 3 270M."""
    return kinds_of("recall-gemma-3-270m-q4_k_m")


@table
def recall_text() -> str:
    """Bits per token by the sort of text."""
    results, rows = load("recall"), []
    sorts = ("prose", "code", "mathematics", "dialogue")
    for setting, by_rule in results["text"].items():
        full = by_rule["full cache"]["bits"]
        for rule, found in by_rule.items():
            if rule == "full cache":
                continue
            worse = [statistics.mean(found["bits"][n] - full[n] for n in full if n.startswith(sort)) for sort in sorts]
            rows.append([f"{rule}, {setting}", more_bits(by_rule, rule), *(f"{one:+.3f}" for one in worse)])
    header = ["bits per token more than with the full cache", "16 texts", *sorts]
    return f"{markdown(header, rows)}\n\n{about_recall(results)}"


@table
def recall_passcode() -> str:
    """Random Attention's protocol."""
    results = load("recall")
    rows = [
        [rule, share((sum(map(int, found)), len(found)))]
        for by_rule in results["passcode"].values()
        for rule, batches in by_rule.items()
        for found in ["".join(batches.values())]
    ]
    return f"{markdown(['K = 512 + 64, 2,112 tokens later', 'passcode known'], rows)}\n\n{about_recall(results)}"


@table
def recall_generation() -> str:
    """Repetition in what the model writes."""
    results, rows = load("recall"), []
    written = [found for by_rule in results["generation"].values() for found in by_rule.values()]
    ways = [way for way in ("greedy", "sampled") if all(way in found for found in written)]
    for by_rule in results["generation"].values():
        for rule, found in by_rule.items():
            row = [rule]
            for answers in (found[way] for way in ways):
                row += [
                    f"{statistics.mean(one['seq_rep_4'] for one in answers):.2f}",
                    share((sum(one["loop"] for one in answers), len(answers))),
                ]
            rows.append(row)
    measures = [f"{way}: {what}" for way in ways for what in ("seq-rep-4", "end in a loop")]
    header = [", ".join(results["generation"]), *measures]
    return f"{markdown(header, rows)}\n\n{about_recall(results)}"


@table
def prompts() -> str:
    """What is left of documents that were read once."""
    return prompts_of("prompts")


@table
def prompts_choose() -> str:
    """The same on the half that is for choosing."""
    return prompts_of("prompts-choose")


@table
def prompts_kvpress() -> str:
    """The same by presses that see a whole document at once."""
    return prompts_of("prompts-kvpress", "prompts")


@table
def prompts_gemma() -> str:
    """With Gemma 3 270M."""
    return prompts_of("prompts-gemma-3-270m-q4_k_m")


@table
def prompts_tasks() -> str:
    """Tasks of RULER's, and questions of a chat, in documents that were read once."""
    results, rows = load("prompts"), []
    for cell, by_rule in results["documents"].items():
        tokens, _, task = cell.partition(", ")
        for rule in sorted(by_rule, key=lambda rule: (rule != "full cache", rule)) if task else ():
            full, found = by_rule["full cache"], by_rule[rule]
            answers = sum(len(each["facts"]) for each in found.values())
            known, of = known_of(full, found)
            asked = f"{known} of {answers} asked"
            counts = [asked, ""] if rule == "full cache" else [share((known, of)), interval((known, of))]
            rows.append([task, f"{int(tokens):,}", rule, len(found), *counts])
    header = ["task", "tokens", "rule, share kept", "documents", "answers that are known", "95% interval"]
    return f"{markdown(header, rows)}\n\n{about_recall(results)}"


def prompts_of(name: str, with_echo: str | None = None) -> str:
    """`with_echo` are the results that have echo's of the same documents, if others than these."""
    results, rows = load(name), []
    compared = load(with_echo)["documents"] if with_echo else results["documents"]
    for tokens, by_rule in results["documents"].items():
        if not tokens.isdigit():
            continue  # a task's
        full = by_rule["full cache"]
        bits = statistics.mean(each["bits"] for each in full.values())
        held = f"{int(tokens):,}"
        rows.append([held, "full cache", len(full), share(known_of(full, full)), "", "", f"{bits:.3f}", "1", held])
        rules = [rule for rule in by_rule if rule != "full cache"]
        for rule in sorted(rules, key=lambda rule: (int(rule.rpartition("1/")[2]), rule)):
            found, counts = by_rule[rule], known_of(full, by_rule[rule])
            base = compared[tokens].get(f"echo, {rule.rpartition(', ')[2]}", {})
            more = paired(*({n: _known(each) for n, each in one.items()} for one in (base, found)))
            spent, peak = cost_of_reading(found)
            bits = {n: each["bits"] for n, each in found.items() if "bits" in each}
            price = paired({n: full[n]["bits"] for n in bits}, bits)
            known = [share(counts), interval(counts), "" if base is found else more]
            rows.append([held, rule, len(found), *known, price, f"{spent:.2f}", f"{peak:,}"])
    header = ["tokens", "rule, share kept", "documents", "facts known", "95% interval", "more than echo, a document"]
    header += ["bits per token", "CPU time", "entries held at most"]
    return f"{markdown(header, rows)}\n\n{about_recall(results)}"


def cost_of_reading(found: dict) -> tuple[float, int]:
    """CPU time of documents to that of the full cache, the median, and the most entries that a head held."""
    spent = statistics.median(each["spent"] for each in found.values())
    return spent, max(each["peak"] for each in found.values())


def _known(document: dict) -> int:
    return [*document["facts"].values()].count("1")


def paired(base: dict, other: dict) -> str:
    """Of {number: measure}, how much more the other has, with a 95% interval over what both have; nothing for a few."""
    both = [number for number in base if number in other]
    if len(both) < 3:
        return ""
    one, two = ({number: each[number] for number in both} for each in (base, other))
    return "{:+.3f} ± {:.3f}".format(*difference(one, two))


@table
def decoding_press() -> str:
    """Beside kvpress: speed, memory, and facts that are known at the end."""
    results = load("decoding_press")
    known = results["recall"].get("asked at the end", {})
    rows = []
    for name in next(iter(results["speed"].values())):
        row = [name]
        for found in results["speed"].values():
            one = found[name]
            rates = (statistics.median(one[of]) for of in ("tokens_per_second", "at_the_end"))
            row += [*(f"{rate:.1f}" for rate in rates), f"{one['megabytes']:.0f}"]
        answers = "".join(known.get(name, {}).values())
        rows.append([*row, share((answers.count("1"), len(answers)))])
    header = [f"kvpress {results['kvpress']}, SmolLM2-135M, {results['tokens']:,} tokens"]
    header += [f"batch {batch}: {what}" for batch in results["speed"] for what in ("tokens/s", "in the last quarter", "MB")]
    return f"{markdown([*header, 'facts known'], rows)}\n\n{provenance(results)}"


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
    "none", "paper", "min_match 2", "strength 0.03", "strength 0.05", "gentle",
    "reasoning", "repetition=1.1", "ngram=6", "dry=0.8,1.75,2", "dry-breakers=0.8,1.75,2",
)  # fmt: skip
OURS = LONG[: LONG.index("repetition=1.1")]
GEMMA = "frontier-gemma-3-270m-q4_k_m"
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


def frontier_short(results: dict, names) -> str:
    """A line for each penalty."""
    rows = []
    for name in names:
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


@table
def frontier_first() -> str:
    """For somebody who reads of this for the first time: three columns."""
    results = load("frontier")
    rows = []
    for name in SHORT:
        row = results["report"][name]
        harm = {kind: 1 - math.exp(-nats) for kind, nats in row["harm"].items() if kind in ("prose", "code", *OTHER_KINDS)}
        worst = max(harm, key=harm.get)
        lost = f"{harm['prose']:.0%} in prose, {harm[worst]:.0%} in {worst}" if any(harm.values()) else ""
        left = f"{row['loops']} of {row['answers']}, and {row['approximate_loops'] - row['loops']} nearly"
        rows.append([TITLES.get(name, f"`{name}`"), left, lost])
    header = ["", "answers that end in a loop", "how much less likely good text becomes, a token"]
    return (
        markdown(header, rows)
        + f"\n\n{results['model']}, {results['report']['none']['answers']} prompts; `lzpenalty bench frontier`."
    )


@table
def frontier_summary() -> str:
    """Loops that the penalties end, and what they cost text that is fine."""
    return frontier_short(load("frontier"), SHORT)


def frontier_half(rows: dict, names) -> tuple[str, str, str]:
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


def frontier_whole(results: dict) -> str:
    names = [name for name in LONG if name in results["report"]]
    return "\n\n".join([*frontier_half(results["report"], names), frontier_about(results)])


@table
def frontier() -> str:
    """Everything that was measured on the half that is reported."""
    return frontier_whole(load("frontier"))


@table
def frontier_gemma() -> str:
    """The same with another model."""
    return frontier_whole(load(GEMMA))


@table
def frontier_gemma_short() -> str:
    """The summary of that."""
    return frontier_short(load(GEMMA), SHORT)


@table
def frontier_choose() -> str:
    """What "gentle" was chosen among, on the other half."""
    rows = load("frontier")["choose"]
    return "\n\n".join(frontier_half(rows, ["none", "paper", *candidates_of(rows)]))


def candidates_of(rows: dict) -> list[str]:
    return [name for name in rows if name.startswith("gate ")]


def third_copies(row: dict) -> str:
    """Of all kinds and lengths."""
    shares = [100 * copies[1] for by_length in row["copies"].values() for copies in by_length.values()]
    return f"{min(shares):.0f} to {max(shares):.0f}"


@table
def frontier_nearest() -> str:
    """The sets that "gentle" was chosen among, by what third copies keep."""
    rows = load("frontier")["choose"]
    lines = []
    for name in ("paper", *candidates_of(rows)):
        row = rows[name]
        harm = [harm_of(row, "json"), harm_of(row, "song")]
        lines.append([TITLES.get(name, name), third_copies(row), *answers_of(row)[:3], *harm])
    header = ["", "% of third copies kept", "in a loop", "nearly", "circling", "nats lost: json", "song"]
    return markdown(header, lines)


@table
def frontier_options() -> str:
    """What our options do, each alone."""
    rows = load("frontier")["report"]
    lines = []
    for name in (name for name in LONG if name in OURS):
        row = rows[name]
        worst = max(row["harm"], key=row["harm"].get)
        harm = f"{harm_of(row, worst)} ({worst})" if any(row["harm"].values()) else ""
        copies = [second(row, kind, copy) for copy in (0, 1) for kind in ("prose", "code")]
        lines.append([TITLES.get(name, f"`{name}`"), *answers_of(row), harm_of(row, "prose"), harm, *copies])
    header = ["", "in a loop", "nearly", "circling", "tokens", "nats lost: prose", "worst"]
    return markdown([*header, "second copies: prose", "code", "third copies: prose", "code"], lines)


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
def frontier_release() -> str:
    """What "reasoning" costs texts that are no thinking, beside "gentle"."""
    results = load("frontier")
    ours, gentle = (results["report"][preset] for preset in ("reasoning", "gentle"))
    more = max(abs(ours["harm"][kind] - nats) for kind, nats in gentle["harm"].items())
    is_same = more < 5e-6 and ours["copies"] == gentle["copies"]  # the rows are of processors that round in other orders
    same = "the same to the fifth decimal, copies too" if is_same else f"up to {more:.3f} nats more"
    return (
        f"No text here has a section of thinking. Under `reasoning` they lose what they lose under `gentle`: {same}. "
        f"{ours['loops']} of {ours['answers']} answers end in a loop, and {gentle['loops']} under `gentle`."
    )


@table
def thinking() -> str:
    """Who circles in the thinking section, and who is closed; what it takes."""
    results = load("thinking")
    rows = []
    for name, row in results["rows"].items():
        sections, of = row["sections"], f" of {len(row['sections'])}"
        counts = (
            sum(s["alarm"] is not None for s in sections),
            sum(s["loop"] for s in sections),
            sum(s["circles"] for s in sections),
            sum(s["closed"] is not None for s in sections),
            sum(map(came, sections)),
        )
        spent = sum(s["tokens"] for s in sections)
        circling = sum(s["circling"] for s in sections) / spent
        rows.append([TITLES[name], *(f"{count}{of}" for count in counts), f"{100 * circling:.1f}%", f"{spent:,}"])
    header = ["", "alarm in the section", "ends in a loop", "nearly", "closed", "answers came", "circling", "tokens in all"]
    return markdown(header, rows) + f"\n\n{thinking_says(results)}\n\n{provenance(results)}"


@table
def thinking_candidates() -> str:
    """What the gate of a section was chosen among."""
    results = load("thinking")
    tried = results["candidates"]
    still = {at: section["tokens"] for at, section in enumerate(tried["none"]["sections"]) if is_quiet(section)}
    rows = []
    for name, row in tried.items():
        sections = row["sections"]
        spent = sum(s["tokens"] for s in sections)
        kept = sum(sections[at]["tokens"] == tokens for at, tokens in still.items())
        cells = (sum(s["loop"] for s in sections), sum(s["circles"] for s in sections))
        closed, answers = sum(s["closed"] is not None for s in sections), sum(map(came, sections))
        circling = f"{100 * sum(s['circling'] for s in sections) / spent:.1f}%"
        rows.append([TITLES.get(name, name), *cells, circling, closed, answers, f"{spent:,}", f"{kept} of {len(still)}"])
    header = ["section_gate", "in a loop", "nearly", "circling", "closed", "answers came", "tokens", "quiet ones as long"]
    about = f"{len(tried['none']['sections'])} prompts, `<think>` forced, at most {results['limit']} tokens"
    return markdown(header, rows) + f"\n\n{about}; {provenance(results)}"


def is_quiet(section: dict) -> bool:
    """A thought that neither circles nor loops where nothing is penalised."""
    return not (section["circles"] or section["loop"]) and section["alarm"] is None


def came(section: dict) -> bool:
    """Whether there is an answer, as thinking.py counts it."""
    return section["ended"] and (section["closed"] is None or section["behind"] > 0)


def quiet_ones(judged: dict, none: list[dict], ours: list[dict]) -> str:
    """What became of thoughts that had nothing wrong with them, if there were any."""
    tokens = [(one["tokens"], other["tokens"]) for one, other in zip(none, ours, strict=True) if is_quiet(one)]
    as_long, says = sum(abs(took - spent) <= 0.05 * spent for spent, took in tokens), ""
    if judged["quiet"]:
        says += f"Of {judged['quiet']} that did not circle, {judged['closed_without_reason']} were closed. "
    if tokens:
        says += f"Of {len(tokens)} that were quiet without a penalty, {as_long} stayed as long, within 5%. "
    return says


def thinking_says(results: dict) -> str:
    found = results["judged"]
    none, ours = (results["rows"][name]["sections"] for name in ("none", "reasoning"))
    spent, took = (sum(section["tokens"] for section in sections) for sections in (none, ours))
    return (
        f"Of {found['counted']} answers that circled in their thinking, {found['in_time']} closed it within "
        f"{results['in_time']} tokens of the alarm, half of them within {found['median_wait']:.0f}. "
        f"{quiet_ones(found, none, ours)}"
        f"Thinking took {took:,} "
        f"tokens where it took {spent:,} without a penalty, and {sum(map(came, ours))} of {len(ours)} answers came in place "
        f"of {sum(map(came, none))}. {results['model']}, greedy, `<think>` forced, at most {results['limit']} tokens; "
        f"`</think>` is {results['closer']} tokens to it."
    )


@table
def thinking_summary() -> str:
    """The same in sentences."""
    return thinking_says(load("thinking"))


@table
def thinking_second() -> str:
    """The same with a model that has been trained for nothing but to go on with texts."""
    results = load("thinking-gemma-3-270m-q4_k_m")
    return f"{thinking_says(results)} {provenance(results)}"


@table
def recall_weakest() -> str:
    """What echo forgets, in sentences."""
    results = load("recall")
    quarter, eighth = (results["facts"][setting] for setting in ("P = 256, c = 4", "P = 128, c = 8"))
    by_kind = {kind: later(quarter, "echo", kind) for kind in KINDS}
    worst = sorted(KINDS, key=lambda kind: by_kind[kind][0] / by_kind[kind][1])
    rest = tuple(map(sum, zip(*(by_kind[kind] for kind in worst[2:]), strict=True)))
    first, second = (f"{share(by_kind[kind])} {kind}s" for kind in worst[:2])
    (known, of), paper = later(eighth, "echo"), later(eighth, "rpc")[0]
    return (
        f"Where `echo` forgets most: it knew {first}, {second}, and {share(rest)} of the other four kinds. With "
        f"an interval of 128 tokens and an eighth of them kept it knew {known} of {of} ({known / of:.0%}), `rpc` {paper}."
    )


@table
def recall_lost() -> str:
    """The same in sentences."""
    results = load("recall")
    setting = "P = 256, c = 4"
    by_rule, bits = results["facts"][setting], results["text"].get(setting, {})
    known = {rule: later(by_rule, rule)[0] for rule in by_rule if rule != "full cache"}
    worse = {rule: difference(bits["full cache"]["bits"], bits[rule]["bits"])[0] for rule in bits if rule != "full cache"}
    facts, bits = ([of[rule] for rule in of if not rule.startswith(("echo", "rpc"))] for of in (known, worse))
    return (
        "Texts stated a fact in each interval of 256 tokens, of which a quarter was kept, and it was asked for after 1 to 8 "
        f"compressions. Of {later(by_rule, 'echo')[1]} answers that the full cache knew, `echo` knew {known['echo']}, `rpc` "
        f"knew {known['rpc']}, the {len(facts)} other rules {min(facts)} to {max(facts)}. Real text took more bits a token: "
        f"{worse['echo']:.3f} with `echo`, {worse['rpc']:.3f} with `rpc`, {min(bits):.3f} to {max(bits):.3f} with the "
        f"others. The model was {results['model']}."
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
def vllm_cache() -> str:
    """Throughput of the real engine where full caches don't fit."""
    return vllm_pool(load("vllm-cache"))


@table
def vllm_cache_4096() -> str:
    """The same with answers four times as long."""
    return vllm_pool(load("vllm-cache-4096"))


@table
def vllm_cache_2048() -> str:
    """Echo beside an even rule."""
    return vllm_pool(load("vllm-cache-2048"))


@table
def vllm_cache_fits() -> str:
    """What compressing costs where nothing is gained by it."""
    results = load("vllm-cache-fits")
    rows = []
    for mode, found in results["modes"].items():
        least, *_, most = found["spread"]
        rows.append([mode, f"{found['median']:.3f}", f"{least:.3f} to {most:.3f}"])
    title = (
        f"vLLM {results['vllm']}, SmolLM2-135M, {results['requests']} requests of {results['prompt']} tokens in and "
        f"{results['tokens']:,} out, all of which fit"
    )
    header = [title, "CPU seconds, of full caches", f"{results['rounds']} rounds"]
    return markdown(header, rows) + f"\n\n{provenance(results)}"


@table
def vllm_recall() -> str:
    """What a model in the real engine still knows."""
    results = load("vllm-recall")
    rows = []
    for rule, known in results["known"].items():
        every = "".join(known.values())
        rows.append([rule, f"{every.count('1')} of {len(every)}"])
    title = (
        f"vLLM {results['vllm']}, SmolLM2-135M, facts stated {results['age']} compressions ago, P = {results['interval']}, "
        f"R = {results['recent']}, c = {results['ratio']} unless said"
    )
    return markdown([title, "known"], rows) + f"\n\n{provenance(results)}"


def vllm_pool(results: dict) -> str:
    full = results["modes"]["full"]["tokens_per_cpu_second"]
    rows = [
        [
            f"{mode} (the classes loaded, no request asks)" if mode == "full" else mode,
            f"{found['tokens_per_cpu_second']:.1f}",
            times(found["tokens_per_cpu_second"] / full),
            f"{found['steps']:,}",
            f"{found['mean_batch']:.1f}",
            found["preemptions"],
            f"{found['share_of_time']:.1%}",
        ]
        for mode, found in sorted(results["modes"].items(), key=lambda each: each[0] != "full")
    ]
    blocks, cost = results["blocks"], results.get("cpu_with_the_classes")
    title = (
        f"vLLM {results['vllm']}, SmolLM2-135M, {results['requests']} requests of {results['prompt']} tokens in and "
        f"{results['tokens']:,} out, {blocks['pool']} blocks of {blocks['needed']} that full caches need, watermark "
        f"{results['watermark']}"
    )
    header = [title, "tokens a CPU second", "of full", "steps", "mean batch", "preemptions", "time of its own work"]
    about = provenance(results)
    if cost:
        few, *_, many = cost["spread"]
        about = (
            f"With the classes loaded and no request asking, a batch that fits takes {cost['median']:.3f} of the CPU "
            f"seconds without them (median of {results['rounds']} rounds, {few:.3f} to {many:.3f}). {about}"
        )
    return markdown(header, rows) + f"\n\n{about}"


@table
def llama_speed() -> str:
    """llama.cpp with a cache of fixed size: how fast."""
    results = load("llama-speed")
    rows = []
    for row in results["rows"]:
        speeds, ms = row["tokens_per_cpu_second"], row["ms_per_token"]
        first, *_, last = ms
        rows.append(
            [
                row["cache"],
                *(f"{speed:.1f}" for speed in speeds.values()),
                f"{ms[first]:.1f} to {ms[last]:.1f}",
                f"{row['cells_in_use_at_most']:,}",
                f"{row['cells']:,}",
                f"{row['megabytes']:.0f}",
            ]
        )
    points = results["rows"][0]["tokens_per_cpu_second"]
    columns = [f"to {int(point):,}" for point in points]
    header = ["tokens a CPU second", *columns, "ms a token", "cells in use at most", "cells", "MB"]
    about = f"{results['model']}, one thread, llama-cpp-python {results['llama_cpp_python']}, P = {results['interval']}; "
    return markdown(header, rows) + f"\n\n{about}{provenance(results)}"


@table
def llama_gain() -> str:
    """The same in a sentence."""
    results = load("llama-speed")
    full, ours, shift = results["rows"]
    end = [*full["tokens_per_cpu_second"]][-1]

    def said(row):
        return f"{row['tokens_per_cpu_second'][end]:.0f} a CPU second in {row['megabytes']:.0f} MB of keys and values"

    return (
        f"{results['model']}, on one thread, wrote {int(end):,} tokens at {said(ours)} ({ours['cache']}), at {said(full)} "
        f"with the full cache, and at {said(shift)} with llama.cpp's context shift."
    )


@table
def llama_recall() -> str:
    """llama.cpp with a cache of fixed size: what it costs."""
    results = load("llama-recall")

    def difference(row, name):
        return f"{row[name]:+.3f} ± {row[f'{name}_interval']:.3f}" if name in row and row["cache"] != "full cache" else ""

    rows = [
        [
            row["cache"],
            f"{row['bits_per_token']:.3f}",
            difference(row, "worse_by"),
            difference(row, "rpc_better_by"),
            f"{row['cells']:,}",
        ]
        for row in results["rows"]
    ]
    header = ["", "bits per token", "worse than the full cache by", "worse than RPC, budget 128, by", "cells in use at most"]
    about = (
        f"{results['model']}, P = {results['interval']}; {len(results['texts'])} texts of {results['tokens']:,} tokens, "
        f"counted from token {results['counted_from']}; "
    )
    return markdown(header, rows) + f"\n\n{about}{provenance(results)}"


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


@table
def cache_peers() -> str:
    """Tokens a CPU second and megabytes of each cache and engine, and what they were."""
    return peers_of("cache_peers")


@table
def cache_peers_layers() -> str:
    """The same with a few layers, which compile faster."""
    return peers_of("cache_peers_layers")


def peers_of(name: str) -> str:
    results, rows = load(name), []
    found = {(row["cache"], row["batch"], row["tokens"]): row for row in results["rows"]}
    columns = sorted({key[1:] for key in found})
    for name in dict.fromkeys(row["cache"] for row in results["rows"]):
        cells = [found.get((name, *column)) for column in columns]
        held = [f"{cell['megabytes']:,.0f}" if cell and cell["megabytes"] else "" for cell in cells]
        rows.append([name, *(f"{cell['tokens_per_cpu_second']:.1f}" if cell else "" for cell in cells), *held])
    places = [f"batch {batch}, {tokens:,}" for batch, tokens in columns]
    header = ["", *(f"tokens a CPU second, {place}" for place in places), *(f"MB, {place}" for place in places)]
    versions = {f"{name} {version}" for row in results["rows"] for name, version in row["versions"].items()}
    return f"{markdown(header, rows)}\n\n{provenance(results)}. Measured with {', '.join(sorted(versions))}"


@table
def versions() -> str:
    """What passed with what, by package, as sessions of nox noted it."""
    rows = []
    for command, runs in load("versions").items():
        for installed, day in runs.items():
            found = dict(each.split() for each in installed.split(", "))
            rows.append([found.get(name, "") for name in VERSIONED] + [f"`{command}`", day])
    rows.sort(key=lambda row: [int(part) for part in re.findall(r"\d+", row[0])], reverse=True)
    return markdown([*VERSIONED, "with", "last"], rows)


@table
def versions_line() -> str:
    """The same in a sentence."""
    found = {}
    for runs in load("versions").values():
        for name, version in (each.split() for installed in runs for each in installed.split(", ")):
            found.setdefault(name, set()).add(version)
    titles = {"transformers": "transformers", "torch": "torch", "numpy": "NumPy"}
    parts = (
        f"{title} {', '.join(sorted(found[name], key=lambda v: [int(n) for n in v.split('.')]))}"
        for name, title in titles.items()
    )
    return f"Its tests last passed with {'; '.join(parts)}."


@table
def instructions() -> str:
    """Counts of the hot functions, of the compilers that they are known of."""
    counts = load("instructions")["counts"]
    names = list(dict.fromkeys(name for found in counts.values() for name in found))
    rows = [[name, *(f"{found[name]:,}" if name in found else "" for found in counts.values())] for name in names]
    return markdown(["instructions", *counts], rows)


# What becomes of an architecture with interval=None, with echo, with rpc, and with ForgetCache.
SERVED_BY = {
    "all": ("served", "served", "served", "served"),
    "compressed": ("served", "served", "served", "refused"),
    "plain": ("served", "refused", "refused", "*ed"),
    "none": ("refused", "refused", "refused", "refused"),
}


def architectures(group: str) -> dict[str, dict]:
    """What each cache says to the architectures of a group of SERVED_BY; of "others", which are in no group, if tried."""
    caches = {name: row["caches"] for name, row in load("architectures")["architectures"].items() if row["caches"]}
    if group == "others":
        known = {name for of in SERVED_BY for name in architectures(of)}
        return {name: of_name for name, of_name in caches.items() if name not in known}
    status = {name: [cell["status"] for cell in of_name.values()] for name, of_name in caches.items()}
    return {name: caches[name] for name in caches if all(map(fnmatch, status[name], SERVED_BY[group]))}


def by_reason(header: str, reasons: dict[str, str]) -> str:
    """Architectures by what is said of them, what is said of most first."""
    rows, names = load("architectures")["architectures"], {}
    for name, why in reasons.items():
        text = f" (text: `{rows[name]['text']}`)" if header == "why" and "text" in rows[name] else ""
        names.setdefault(plain(why), []).append(f"`{name}`{text}")
    lines = [[why, ", ".join(names[why])] for why in sorted(names, key=lambda why: -len(names[why]))]
    return markdown([header, "architectures"], lines).replace("---:", "---") if lines else "None."


def plain(message: str) -> str:
    """A message as it stands in a table, without the numbers of layers and the place in transformers that it is from."""
    message = re.sub(r"^model: |the model: | \([\w.]+:\d+\)$|\d+ of \d+ (?=layers)", "", message)
    message = re.sub(r"(?<=layers )\d+", "some", message)
    return message.replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def warnings_of(caches: dict) -> str:
    return " ".join(caches["echo"].get("notes", []))


@table
def architectures_summary() -> str:
    """How many there are, and what was run."""
    results = load("architectures")
    count = {group: len(architectures(group)) for group in (*SERVED_BY, "others")}
    errors = [cell.get("error", 0) for row in results["architectures"].values() for cell in row["caches"].values()]
    return (
        f"Of {sum(count.values())} architectures and variants {count['all']} are served by all caches, "
        f"{count['compressed']} by all but `ForgetCache`, {count['plain']} without compression only. {count['none']} are "
        f"refused. Where they are served, logits are off by {max(errors):.0e} of the largest at most. "
        f"interval {results['interval']}, ratio {results['ratio']}, recent {results['recent']}; {provenance(results)}"
    )


@table
def architectures_all() -> str:
    """What all caches serve, by the warnings that they give."""
    return by_reason("warning", {name: warnings_of(caches) for name, caches in architectures("all").items()})


@table
def architectures_compressed() -> str:
    """What all serve but the one that forgets."""
    found = architectures("compressed").items()
    says = {
        name: "; the others warn: ".join(filter(None, (caches["ForgetCache"]["says"], warnings_of(caches))))
        for name, caches in found
    }
    return by_reason("`ForgetCache` says", says)


@table
def architectures_plain() -> str:
    """What is served as long as nothing is dropped."""
    says = {name: caches["echo"]["says"] for name, caches in architectures("plain").items()}
    return by_reason("a cache that compresses says", says)


@table
def architectures_none() -> str:
    """What no cache serves."""
    says = {name: caches["interval=None"]["says"] for name, caches in architectures("none").items()}
    return by_reason("all caches say", says)


@table
def architectures_others() -> str:
    """What could not be tried, and what isn't right."""
    untried = {name: row.get("untried") for name, row in load("architectures")["architectures"].items()}
    tried = {
        name: next(f"{kind}: {cell['says']}" for kind, cell in caches.items() if cell["status"] in ("wrong", "own"))
        for name, caches in architectures("others").items()
    }
    return by_reason("why", {name: why for name, why in untried.items() if why} | tried)


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
                try:
                    print(f"\n{make()}")
                except FileNotFoundError as error:  # it was measured with another model, or by another program
                    print(f"\n{name}: there is no {Path(error.filename).name}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
