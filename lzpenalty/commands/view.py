"""`lzpenalty view`: a text as a page, which needs a browser and nothing else."""

from pathlib import Path

from lzpenalty.commands.output import Progress, reason, say_bytes
from lzpenalty.commands.texts import Source, TextError
from lzpenalty.view import Text

LONG = 200_000  # tokens, from which on a step may take a second


def view(
    source: Source,
    file: str,
    path: str,
    *,
    window: int = 512,
    repeats: int = 3,
    tolerance: float = 0.0,
    quiet: bool = False,
) -> Text:
    """Writes the page of what was read from a file, to standard output for "-"."""
    if path != "-" and file != "-" and Path(path).exists() and Path(path).samefile(file):
        raise TextError(f"{path}: the page would take the place of its own text")
    if path != "-" and not Path(path).parent.is_dir():
        raise TextError(f"{path}: No such file or directory")
    with Progress("reading", quiet=quiet) as progress:
        size = f"{len(source.tokens):,} {source.unit}"
        try:
            text = Text(
                source.tokens,
                source.decode,
                vocab_size=source.vocab_size,
                window=window,
                min_repeats=repeats,
                tolerance=tolerance,
                title="standard input" if file == "-" else Path(file).name,
                unit=source.unit,
                progress=lambda step: progress.update(0, f"{step} of {size}" if len(source.tokens) >= LONG else None),
            )
            page = text.html().encode()
        except ValueError as error:
            raise TextError(f"{file}: {error}") from error
    if path == "-":
        say_bytes(page)
    else:
        try:
            Path(path).write_bytes(page)
        except OSError as error:
            raise TextError(f"{path}: {reason(error)}") from error
    return text
