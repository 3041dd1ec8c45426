"""The demo's prompts in llama.cpp, without and with the LZ penalty: `python llama_cpp_demo.py MODEL.gguf`. Needs no torch.

Greedy answers side by side, whether each ends in a loop, tokens per second.
"""

import argparse
import textwrap
import time

import numpy as np
from llama_cpp import Llama, LogitsProcessorList

from lzpenalty import repetition_period
from lzpenalty.commands.prompts import PROMPTS
from lzpenalty.llama_cpp import LZPenalty


def answer(llama: Llama, prompt: str, penalty: LZPenalty | None, most: int) -> tuple[str, int, int, float]:
    """Text, tokens, period of the loop at its end or 0, seconds."""
    start = time.perf_counter()
    completion = llama.create_chat_completion(
        [{"role": "user", "content": prompt}],
        max_tokens=most,
        temperature=0,
        repeat_penalty=1.0,
        logits_processor=LogitsProcessorList([penalty]) if penalty else None,
    )
    seconds = time.perf_counter() - start
    text = completion["choices"][0]["message"]["content"]
    ids = np.array(llama.tokenize(text.encode(), add_bos=False), np.int64)
    period = int(repetition_period(ids, ngram=8, count=3, max_period=200))
    return text, completion["usage"]["completion_tokens"], period, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--max-new-tokens", type=int, default=300)
    parser.add_argument("--strength", type=float, default=0.15, help="nats a bit")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the prompts")
    arguments = parser.parse_args()
    llama = Llama(arguments.model, n_ctx=arguments.max_new_tokens + 256, verbose=False)
    penalty = LZPenalty(strength=arguments.strength)
    totals = {"without": [0, 0, 0.0], "with": [0, 0, 0.0]}
    for prompt in PROMPTS[: arguments.prompts]:
        print(f"\n{prompt}")
        for title, processor in (("without", None), ("with", penalty)):
            text, tokens, period, seconds = answer(llama, prompt, processor, arguments.max_new_tokens)
            end = textwrap.shorten(text[-220:], 200, placeholder=" ...")
            print(f"  [{title}] {tokens} tokens, {f'loop of {period}' if period else 'no loop'}: ... {end}")
            for at, value in enumerate((tokens, period > 0, seconds)):
                totals[title][at] += value
    print()
    for title, (tokens, loops, seconds) in totals.items():
        print(f"{title:8} {loops} of {arguments.prompts} end in a loop; {tokens} tokens, {tokens / seconds:.1f} tokens/s")


if __name__ == "__main__":
    main()
