"""A cache of ours beside transformers' own, with one model: the same tokens are fed to both, and logits and counts compared.

    python tests/served.py [ARCHITECTURE...]

prints what isn't right. Right is: the logits are those of DynamicCache, from which a mask hides what has been dropped, and
what is kept is as much as the rule says; or the cache is refused when it is made, with a message that says why.
"""

import inspect
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from transformers import DynamicCache, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer

import lzpenalty
from dropped import CAN_HIDE, hidden, told_apart
from every_architecture import LEFT_OUT, build, names
from lzpenalty.cache.selectors import RPC, Echo, Recorder
from lzpenalty.hf import CompressedCache, Forget, ForgetCache

INTERVAL, RATIO, RECENT = 16, 4, 4
SMALL = {"interval": INTERVAL, "ratio": RATIO, "recent": RECENT}
CLOSE, THEN = 18, (20, 21, 22, 19)
CACHES = {
    "interval=None": lambda model: CompressedCache(model, interval=None),
    "echo": lambda model, selector=None: CompressedCache(model, selector=selector, **SMALL),
    "rpc": lambda model, selector="rpc": CompressedCache(model, selector=selector, **SMALL),
    "ForgetCache": lambda model: ForgetCache(model, Forget(close=CLOSE, then=THEN)),
}
ATTENTIONS = ("sdpa", "eager")
TOLERANCE = 1e-4  # of the largest logit
# What transformers calls the argument: "cache" since 5.24.
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"


@dataclass(frozen=True)
class Situation:
    """`pieces` are the lengths in which the text comes, `pads` how much of the first row is padding. A row's thought ends
    with token `closes` behind the prompt, and began with token `begins`."""

    pieces: list[int]
    closes: tuple[int, int] = (9, 22)
    begins: tuple[int, int] = (0, 0)
    pads: int = 0

    @property
    def prompt(self) -> int:
        return sum(self.pieces[: self.pieces.index(1)])

    def ids(self) -> torch.Tensor:
        ids = torch.randint(30, 200, (2, sum(self.pieces)), generator=torch.Generator().manual_seed(1))
        for row, close in enumerate(self.closes):
            at = self.prompt + close
            ids[row, at : at + 1 + len(THEN)] = torch.tensor([CLOSE, *THEN])
        ids[:, -2:] = ids[0, -2:]
        return ids

    def mask(self) -> torch.Tensor:
        mask = torch.ones(2, sum(self.pieces), dtype=torch.int64)
        mask[0, : self.pads] = 0
        return mask


SITUATIONS = {
    "plain": Situation([20, *[1] * 38]),
    "left padding": Situation([20, *[1] * 38], pads=7),
    "chunks": Situation([8, 7, 5, *[1] * 38]),
    "two turns": Situation([12, *[1] * 6, 7, *[1] * 10, 6, *[1] * 10], closes=(15, 31), begins=(13, 29)),
}


@dataclass
class Found:
    """`status` is 'same', 'refused', 'own' if transformers' own cache can't do this, or 'wrong'; `says` why. `notes` are
    warnings of ours."""

    status: str
    says: str = ""
    notes: list[str] = field(default_factory=list)
    error: float = 0.0


def kept(generated: int) -> int:
    """Of so many generated tokens, which came one by one, those that stay."""
    held = done = 0
    for _ in range(generated):
        held += 1
        if held == RECENT + done * INTERVAL // RATIO + INTERVAL:
            done += 1
            held = RECENT + done * INTERVAL // RATIO
    return held


def feed(model, situation: Situation, cache, columns=None, now=None):
    """Yields the end of each piece, and its logits. With `columns`, what is hidden from each piece, `now` becomes that."""
    ids, mask = situation.ids(), situation.mask()
    known = inspect.signature(model.forward).parameters
    if CACHE not in known:
        raise TypeError(f"forward takes no {CACHE}")
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    end = 0
    for number, piece in enumerate(situation.pieces):
        end += piece
        if now is not None:
            now.update(columns[number])
        new = slice(end - piece, end)
        more = {"position_ids": positions[:, new]} if "position_ids" in known else {}
        with torch.no_grad():
            output = model(input_ids=ids[:, new], attention_mask=mask[:, :end], use_cache=True, **{CACHE: cache}, **more)
        if output.logits.shape[1] != piece:
            raise ValueError(f"{piece} tokens got logits of {output.logits.shape[1]}")
        yield end, output.logits.clone()


def by_own_cache(model, situation: Situation) -> list[torch.Tensor]:
    """Raises what transformers raises, or ValueError where its answers say nothing."""
    logits = [of_piece for _, of_piece in feed(model, situation, DynamicCache(config=model.config))]
    again = next(feed(model, situation, DynamicCache(config=model.config)))[1]
    if not all(of_piece.isfinite().all() for of_piece in logits):
        raise ValueError("logits are not finite")
    if not torch.equal(again, logits[0]):
        raise ValueError("two runs have different logits")
    spread = (logits[-1][0] - logits[-1][1]).abs().max()
    if not spread > 100 * TOLERANCE * logits[-1].abs().max():
        raise ValueError("logits don't depend on the tokens before")
    return logits


def compare(model, situation: Situation, kind: str, right: list[torch.Tensor], recorder=None) -> Found:
    """One cache in one situation; `recorder` is a selector that says what was kept."""
    cache = CACHES[kind](model, recorder) if recorder else CACHES[kind](model)
    columns, logits, worst = [{}], [], 0.0
    with cache:
        for (end, ours), theirs in zip(feed(model, situation, cache), right, strict=True):
            if not columns[-1]:
                worst = max(worst, _error_of(situation, kind, end, ours, theirs))
            told, rule = _counts(cache.stats(), kind), _expected(situation, kind, end)
            if told != rule:
                raise Wrong(f"kept {told}, expected {rule}, {end - situation.prompt} tokens behind the prompt")
            logits.append(ours)
            columns.append(_dropped(model, cache, situation, kind, end + 1))
    if columns[-1] and CAN_HIDE:
        theirs, now = told_apart(DynamicCache(config=model.config)), {}
        with hidden(now):
            for ours, (end, of_piece) in zip(logits, feed(model, situation, theirs, columns, now), strict=False):
                worst = max(worst, _error_of(situation, kind, end, ours, of_piece))
    return Found("same", error=worst)


class Wrong(Exception):
    """What is not as it should be."""


def _error_of(situation: Situation, kind: str, end: int, ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """How far a piece's logits are off, as a part of the largest. Raises Wrong if that is too far."""
    new, worst = slice(end - ours.shape[1], end), 0.0
    for row in range(2):
        if kind == "ForgetCache" and 0 <= new.start - situation.prompt - situation.closes[row] < len(THEN):
            continue  # they say what has to follow
        seen = situation.mask()[row, new].bool()
        error = (ours - theirs)[row, seen].abs().max() / theirs.abs().max() if seen.any() else torch.tensor(0.0)
        if not error <= TOLERANCE:
            raise Wrong(f"logits of row {row} are off by {error:.1%}, {end - situation.prompt} tokens behind the prompt")
        worst = max(worst, error.item())
    return worst


def _dropped(model, cache, situation: Situation, kind: str, end: int) -> dict[int, torch.Tensor]:
    """Of each layer, [B, 1 or Hkv, n], the columns that are hidden from tokens up to `end`. Nothing if there is none."""
    own = [i for i, layer in enumerate(DynamicCache(config=model.config).layers) if type(layer) is DynamicLayer]
    if kind == "interval=None":
        return {}
    if kind == "ForgetCache":
        gone = torch.zeros(2, 1, sum(situation.pieces), dtype=torch.bool)
        for row, (begin, close) in enumerate(zip(situation.begins, situation.closes, strict=True)):
            if end - situation.prompt > close + len(THEN):
                gone[row, :, situation.prompt + begin : situation.prompt + close + 1] = True
        return dict.fromkeys(own, gone) if gone.any() else {}
    if not cache.selectors or not cache.selectors[0].history:
        return {}
    rows = [cache.selectors_of(row) for row in range(2)]
    heads = len(rows[0]) // len(own)  # that have a recorder of their own
    return {
        layer: torch.stack([_by_head(of[i * heads : (i + 1) * heads], row, situation) for row, of in enumerate(rows)])
        for i, layer in enumerate(own)
    }


def _by_head(recorders: list[Recorder], row: int, situation: Situation) -> torch.Tensor:
    """[heads, n]: what was shown of a row, and not kept."""
    found = []
    for recorder in recorders:
        kept = recorder.history[-1]
        for positions in kept[row] if len(kept) > 1 else kept[0]:  # a recorder of all rows, or of this one
            gone = torch.zeros(sum(situation.pieces), dtype=torch.bool)
            gone[situation.prompt : situation.prompt + recorder.seen] = True
            gone[situation.prompt + positions] = False
            found.append(gone)
    return torch.stack(found)


def _counts(stats: dict, kind: str):
    """Of each row, or the one number that all of them must have, the mean of all layers and heads."""
    if kind == "ForgetCache":
        return list(stats["kept_by_row"])
    by_head = stats.get("kept_by_head", [[[stats["kept"]]]])  # of each layer, of each row
    totals = [sum(sum(of_row) for of_row in rows) / sum(map(len, rows)) for rows in zip(*by_head, strict=True)]
    return {stats["kept"], *totals}


def _expected(situation: Situation, kind: str, end: int):
    generated = max(0, end - situation.prompt)
    if kind == "interval=None":
        return {end}
    if kind != "ForgetCache":
        return {end - generated + kept(generated)}
    lost = [
        close + 1 - begin if generated > close + len(THEN) else 0
        for close, begin in zip(situation.closes, situation.begins, strict=True)
    ]
    return [end - of_row for of_row in lost]


def made(model, kind: str) -> Found:
    """Whether the cache can be had."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            CACHES[kind](model)
        except Exception as error:
            if is_ours(error) and isinstance(error, ValueError | TypeError | RuntimeError):
                return Found("refused", str(error))
            return Found("wrong", f"construction: {short(error)}")
    package = str(Path(lzpenalty.__file__).parent)
    ours = [str(one.message) for one in caught if one.filename.startswith((package, __file__))]
    return Found("same", notes=ours)


def is_ours(error: BaseException) -> bool:
    """Whether the package itself raised this."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return Path(frames[-1].f_code.co_filename).is_relative_to(Path(lzpenalty.__file__).parent)


def short(error: BaseException) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({Path(place.filename).name}:{place.lineno})"


@dataclass
class Report:
    """What was found of an architecture, by attention, cache and situation, or why it could not be tried, by attention."""

    name: str
    found: dict[tuple[str, str, str], Found] = field(default_factory=dict)
    untried: dict[str, str] = field(default_factory=dict)
    model: str = ""  # its class

    @property
    def wrong(self) -> dict[tuple[str, str, str], str]:
        return {case: found.says for case, found in self.found.items() if found.status == "wrong"}


def examine(name: str) -> Report:
    report = Report(name)
    for attention in ATTENTIONS:
        if name in LEFT_OUT:
            report.untried[attention] = LEFT_OUT[name]
            continue
        try:
            model = build(name, attention)
        except Exception as error:
            report.untried[attention] = short(error)
            continue
        report.model = type(model).__name__
        for (kind, situation), found in _of_model(model).items():
            report.found[attention, kind, situation] = found
    return report


def _of_model(model) -> dict:
    right, found = {}, {}
    for name, situation in SITUATIONS.items():
        try:
            right[name] = by_own_cache(model, situation)
        except Exception as error:
            right[name] = Found("own", short(error))
    for kind in CACHES:
        first = made(model, kind)
        for situation, logits in right.items():
            if isinstance(logits, Found) and first.status != "refused":
                found[kind, situation] = logits
            elif first.status != "same":
                found[kind, situation] = first
            else:
                found[kind, situation] = _compared(model, situation, kind, logits, first.notes)
    return found


def _compared(model, situation, kind, logits, notes) -> Found:
    recorder = None
    if kind in ("echo", "rpc"):  # what the default falls back to is said
        recorder = Recorder(RPC() if kind == "rpc" or any("'rpc' is used" in note for note in notes) else Echo())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = compare(model, SITUATIONS[situation], kind, logits, recorder)
    except Wrong as error:
        found = Found("wrong", str(error))
    except Exception as error:
        found = Found("wrong", f"{'refused late' if is_ours(error) else 'raised'}: {short(error)}")
    found.notes = notes
    return found


def main() -> int:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    wrong = 0
    for name in sys.argv[1:] or names():
        started = time.perf_counter()
        report = examine(name)
        wrong += len(report.wrong)
        for attention, why in report.untried.items():
            print(f"{name} | {attention} | not built: {why}")
        for case, found in report.found.items():
            print(name, *case, found.status, f"{found.error:.0e}", found.says, found.notes, sep=" | ")
        print(f"{name} took {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
