"""What the adaptors for engines have in common. Needs no torch.

An engine hands over prompt and answer as one text and does not say where one ends and the other begins. What was seen in an
earlier call could not tell: the next prompt may be the last answer and one token more. The call that is running knows, so
its frame is asked.
"""

import sys
from collections.abc import Iterator
from types import FrameType


def callers() -> Iterator[FrameType]:
    """The frames that are running, from that of the caller outwards."""
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def check_prompt_length(prompt_length: int | None) -> int | None:
    if prompt_length is not None and (not isinstance(prompt_length, int) or prompt_length < 0):
        raise ValueError(f"prompt_length: expected an integer >= 0 or None, got {prompt_length!r}")
    return prompt_length
