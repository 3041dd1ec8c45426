"""`lzpenalty view`: a text as a page, which needs a browser and nothing else."""

import sys
from pathlib import Path

from lzpenalty.commands.texts import Source, TextError
from lzpenalty.view import Text


def view(source: Source, file: str, path: str, *, window: int = 512, repeats: int = 3, tolerance: float = 0.0) -> Text:
    """Writes the page of what was read from a file, to standard output for "-"."""
    if path != "-" and Path(path).exists() and file != "-" and Path(path).samefile(file):
        raise TextError(f"{path}: the page would take the place of its own text")
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
        )
    except ValueError as error:
        raise TextError(f"{file}: {error}") from error
    try:
        if path == "-":
            sys.stdout.write(text.html())
        else:
            text.save(path)
    except OSError as error:
        raise TextError(f"{path}: {error}") from error
    return text
