"""What commands write: results to standard output, and to standard error how far they are."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["OutputError", "Progress", "forget_output", "reason", "say"]


class OutputError(Exception):
    """Standard output takes no more; the message says why. `gone`: its reader has left, as in `... | head -1`."""

    def __init__(self, error: OSError | None = None):
        super().__init__(f"standard output: {reason(error) if error else 'it is closed'}")
        self.gone = isinstance(error, BrokenPipeError)


def say(text: str, end: str = "\n") -> None:
    """Prints a result. What the terminal's encoding lacks is escaped."""
    if sys.stdout is None:
        raise OutputError
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, flush=True)
    except OSError as error:
        raise OutputError(error) from error


def say_bytes(data: bytes) -> None:
    """Writes a result whose encoding is not the terminal's to choose."""
    if sys.stdout is None:
        raise OutputError
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(error) from error


def forget_output() -> None:
    """Sends nowhere what is still to be written, so that the interpreter does not try and complain when it ends."""
    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def reason(error: Exception) -> str:
    """What went wrong, in a line; of a file that can't be opened without its name, which whoever reports it knows."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (said.strip().splitlines() or [type(error).__name__])[0]


class Progress:
    """How far a command is: on a terminal a line that is written over once it takes a second; in a log a new line a minute.

    Parameters
    ----------
    title : str
        What is being done.
    total : int
        Steps; 0: nobody knows.
    unit : str
        What the steps are.
    quiet : bool
        Nothing is written.
    stream, clock
        Standard error and a clock in seconds.
    """

    def __init__(
        self,
        title: str,
        total: int = 0,
        unit: str = "",
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.title, self.total, self.unit, self.note = title, total, unit, ""
        self.done = 0
        self.stream, self.clock = sys.stderr if stream is None else stream, clock
        self.quiet = quiet or self.stream is None
        self.terminal = not self.quiet and self.stream.isatty()
        self.began = clock()
        self.due = self.began + (1 if self.terminal else 60)
        self.wide = 0  # what stands on the terminal's line

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def update(self, steps: int = 1, title: str | None = None, note: str | None = None) -> None:
        """Some steps more; a step that takes long says its title before."""
        self.done += steps
        self.title = self.title if title is None else title
        self.note = self.note if note is None else note
        now = self.clock()
        # A new title is shown at once: what it announces may take a while, and nothing is heard of it.
        if now >= self.due or (self.terminal and title is not None):
            self._write(now)
            self.due = now + (0.1 if self.terminal else 60)

    def restart(self) -> None:
        """From no steps on, for what only begins now."""
        self.done, self.began = 0, self.clock()

    def close(self) -> None:
        """Takes the line from the terminal."""
        if self.wide:
            self._put("\r" + " " * self.wide + "\r")
            self.wide = 0

    def line(self, now: float) -> str:
        """For example "with: 120/400 tok, 30.1 tok/s, 0:09 left, kept 40"."""
        said = [f"{self.done:,}/{self.total:,} {self.unit}".strip()] if self.total else []
        seconds = now - self.began
        if self.unit and self.done and seconds > 0:
            rate = self.done / seconds
            said.append(f"{rate:.1f} {self.unit}/s")
            if self.total:
                left = max(0, round((self.total - self.done) / rate))
                said.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
        said += [self.note] if self.note else []
        return f"{self.title}: {', '.join(said)}" if said else self.title

    def _write(self, now: float) -> None:
        if not self.terminal:
            return self._put(self.line(now) + "\n")
        line = self.line(now)[: shutil.get_terminal_size().columns - 1]
        self._put("\r" + line.ljust(self.wide))
        self.wide = len(line)

    def _put(self, text: str) -> None:
        if self.quiet:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # a full disk or a closed terminal must not end what it was to tell of
            self.quiet = True
