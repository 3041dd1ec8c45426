"""What all layers of a cache know of the text that they hold entries of: where the prompt ends, and what is no part of it.

A forward goes through the layers one after the other, and each asks the same. So it is found out once, for all.
"""

import copy

import torch

from lzpenalty.cache.masks import View

__all__ = ["Text"]


class Text:
    """One text a row. `prompt_length` is what the user says about where the prompt ends, in tokens, `protect` how many
    tokens of each row always stay in the prompt's place; `modules` are those whose attention it is.

    `prompt` is where it ends, None as long as that is not known; `seen` tokens came before the forward that is under way,
    `new` ones with it. `filler`, bool [B, tokens], are those that are no part of the text: what generate puts behind a row
    that has ended, and what a mask takes out; None if there are none. `ended`, bool [B], are rows that have."""

    def __init__(self, prompt_length: int | None, modules=None, protect: int | None = None):
        self.prompt_length, self.modules, self.protect = prompt_length, modules, protect
        self.reset()

    def reset(self) -> None:
        self.prompt = self.prompt_length
        self.seen = self.new = 0
        self.view = self.filler = self.ended = self._told = self._finished = None
        # Of each row: tokens of it among the first ones, up to `protect`, and the columns that these end in, None as long as
        # they are not all there. None: no row had anything else among them.
        self._counted: list[int] | None = None
        self._stays: list[int | None] | None = None

    def copy(self) -> "Text":
        """One for copies of the layers. Nothing in it is ever written to in place."""
        return copy.copy(self)

    def state(self) -> dict:
        """What `set_state` takes, between two forwards."""
        protected = {"counted": self._counted, "stays": self._stays}
        return {"prompt": self.prompt, "seen": self.seen + self.new, "filler": self.filler, **protected}

    def set_state(self, state: dict) -> None:
        self.reset()
        self.prompt, self.seen, self.filler = state["prompt"], state["seen"], state["filler"]
        self._counted, self._stays = state["counted"], state["stays"]

    # Around a forward.

    def begins(self, seen: int, new: int, prompt: int | None, unfinished: torch.Tensor | None) -> None:
        """A forward of so many new tokens begins. `prompt` is what a `generate` that is running says of its length, None if
        none is: then what comes before the first single token is the prompt. `unfinished` is generate's, int [B]."""
        self.seen, self.new, self.view, self._told = seen, new, None, None
        # The token that ends a row is fed when generate knows already that it has ended, and is part of the text.
        finished, self._finished = self._finished, None if unfinished is None else unfinished == 0
        self.ended = None
        if finished is not None and self._finished is not None:
            ended = finished & self._finished
            if ended.device.type != "cpu" or ended.any():
                self.ended = ended
        if self.protect is None and self.prompt is None and seen and (new == 1 if prompt is None else seen >= prompt):
            self.prompt = seen

    def check(self, seen: int, new: int, prompt: int | None) -> None:
        """Raises ValueError where a forward of these tokens can't tell whether they are the prompt."""
        if self.prompt is None and prompt is None and seen == 0 and new == 1:
            raise ValueError(
                "prompt_length: expected the number of tokens in the prompt where the first forward is of one token alone, "
                "which outside of generate can't be told from an answer, got None"
            )

    def sees(self, mask: torch.Tensor | None) -> View:
        """What the new tokens see by a layer's mask. Where all layers get the same one it is looked at once."""
        if self.view is None or self.view.mask is not mask:
            self.view = View(mask, self.new, self.seen + self.new)
        if self._told is None:
            behind = self.protect is not None or (self.prompt is not None and self.seen >= self.prompt)
            self._told = behind and self._fills(self.view)
            if self.protect is not None:
                self._count()
        return self.view

    def _fills(self, view: View) -> torch.Tensor | bool:
        """Notes which of the new tokens, behind the prompt, are none of the text. Returns them, bool [B, new], or False if
        all are."""
        new = None if view.plain else view.filler  # padding on the left is in each forward's mask
        if self.ended is not None:
            ended = self.ended[:, None].expand(-1, self.new)
            new = ended if new is None else new | ended
        if new is not None or self.filler is not None:
            rows = (new if new is not None else self.filler).shape[0]
            old = self.filler
            if old is None:
                old = torch.zeros(rows, self.seen, dtype=torch.bool, device=new.device)
            fresh = torch.zeros(rows, self.new, dtype=torch.bool, device=old.device) if new is None else new
            self.filler = torch.cat([old, fresh], dim=1)
        return False if new is None else new

    # What always stays.

    def stays(self, row: int) -> int | None:
        """How many columns of a row always stay; None as long as that is not known."""
        if self.protect is None:
            return self.prompt
        return self.protect if self._stays is None else self._stays[row]

    @property
    def alike(self) -> bool:
        """Whether that is the same for all rows."""
        return self._stays is None or len({*self._stays}) == 1

    def check_alike(self) -> None:
        """Raises ValueError where it isn't."""
        if not self.alike:
            raise ValueError(
                "attention_mask: expected rows with as much padding where protect is given and all heads keep as many "
                "entries, got rows that differ; use allocation='global', in which rows are compressed one by one"
            )

    def _count(self) -> None:
        """Notes where the first `protect` tokens of each row end, columns of padding before and among them included."""
        least = max(self.protect, 1)  # where nothing always stays, what is in front of the first token does
        if self._stays is None and self.seen >= least or self._stays is not None and None not in self._stays:
            return
        part = self._part()
        if part is None and self._stays is None:
            return
        rows = len(self._counted) if part is None else part.shape[0]
        if part is None:
            part = torch.ones(rows, self.new, dtype=torch.bool)
        if self._stays is None:
            self._counted, self._stays = [self.seen] * rows, [None] * rows
        counts = part.cumsum(1) + torch.tensor(self._counted, device=part.device)[:, None]
        enough = counts >= least
        at = (self.seen + enough.int().argmax(1) + (self.protect > 0)).tolist()
        for row, (there, count) in enumerate(zip(enough.any(1).tolist(), counts[:, -1].tolist(), strict=True)):
            if self._stays[row] is None:
                self._stays[row], self._counted[row] = at[row] if there else None, count

    def _part(self) -> torch.Tensor | None:
        """Which of the new tokens are a part of the text, bool [B, new], or None if all are."""
        filler = self._told
        if filler is not False:
            return ~filler
        if not self.view.plain or self.view.pads is None:
            return None
        return torch.arange(self.seen, self.seen + self.new, device=self.view.pads.device) >= self.view.pads[:, None]

    # What selection asks.

    @property
    def is_plain(self) -> bool:
        """Whether all rows that have not ended are padding on the left and then a text without gaps."""
        if not self.view.plain or self.filler is None:
            return self.view.plain
        return self.ended is not None and not bool(self.filler[~self.ended].any())

    def check_module(self, module, what: str) -> None:
        """Raises ValueError for attention of another model than the cache was made for."""
        if self.modules is not None and module not in self.modules:
            raise ValueError(
                f"cache: expected the model that {what} was made for, got another one's {type(module).__name__}"
            )

    @property
    def hidden(self) -> torch.Tensor | None:
        """Tokens that are none of the text, or that the newest one does not see, bool [B, tokens]; None for none."""
        masked = None if self.view is None else self.view.hidden
        if masked is None or self.filler is None:
            return self.filler if masked is None else masked
        return masked | self.filler

    def live(self, queries: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
        """The step's queries [B, Hq, q, D], with those of tokens that are none of the text replaced by the newest one that
        is; `last` [B, Hq, 1, D] is that of the tokens before. So what filler says has no say in what is kept."""
        filler = self._told
        if filler is None or filler is False:
            return queries
        if last is None:  # what comes before the first token has no say anyway
            last = torch.zeros_like(queries[:, :, :1])
        at = torch.arange(1, self.new + 1, device=queries.device).expand(filler.shape)
        newest = torch.where(filler, 0, at).cummax(1).values  # 0: that of the tokens before
        index = newest[:, None, :, None].expand(-1, queries.shape[1], -1, queries.shape[3])
        return torch.cat([last, queries], dim=2).gather(2, index)

    def select_rows(self, index: torch.Tensor) -> None:
        """The rows of the batch are now these of the old ones."""
        if self.filler is not None:
            self.filler = self.filler[index.to(self.filler.device)]
        if self._stays is not None:
            chosen = torch.arange(len(self._stays))[index.cpu()].tolist()
            self._counted = [self._counted[row] for row in chosen]
            self._stays = [self._stays[row] for row in chosen]
        self.view = self.ended = self._told = self._finished = None
