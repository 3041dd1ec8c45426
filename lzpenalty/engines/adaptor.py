"""What the adaptors for engines have in common. Needs no torch."""

from lzpenalty.engines.prompts import callers

__all__ = ["callers", "check_prompt_length"]


def check_prompt_length(prompt_length: int | None) -> int | None:
    if prompt_length is not None and (not isinstance(prompt_length, int) or prompt_length < 0):
        raise ValueError(f"prompt_length: expected an integer >= 0 or None, got {prompt_length!r}")
    return prompt_length
