"""What the adaptors for engines have in common. Needs no torch."""

from lzpenalty._core import LZOptions
from lzpenalty.engines.prompts import callers
from lzpenalty.presets import resolve

__all__ = ["PenaltyOptions", "callers", "check_prompt_length"]


def check_prompt_length(prompt_length: int | None) -> int | None:
    if prompt_length is not None and (not isinstance(prompt_length, int) or prompt_length < 0):
        raise ValueError(f"prompt_length: expected an integer >= 0 or None, got {prompt_length!r}")
    return prompt_length


class PenaltyOptions:
    """The options of a penalty that is called with one text at a time, checked when it is made."""

    def __init__(
        self,
        strength: float | None = None,
        window: int | None = None,
        buffer: int | None = None,
        *,
        preset: str = "paper",
        tokenizer=None,
        prompt_length: int | None = None,
        **options,
    ):
        self.prompt_length = check_prompt_length(prompt_length)
        options = {"strength": strength, "window": window, "buffer": buffer, **options}
        self.compiled = LZOptions(**resolve(preset, options, tokenizer))
        self.options = self.compiled.keywords()

    @property
    def listed(self) -> list[int]:
        """The ids whose logits may change without standing in the text."""
        release = self.options["release"] or ()
        return [*self.options["neutral"], *(i for ids in release for i in ([ids] if isinstance(ids, int) else ids))]

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options}, prompt_length={self.prompt_length})"
