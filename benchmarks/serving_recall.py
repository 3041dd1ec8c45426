"""What does a model in vLLM still know? The facts of recall.py asked of the engine itself, with full caches and compressed
ones. Needs the environment of `make test-vllm`.

    python benchmarks/serving_recall.py MODEL [--questions 48] [--age 3] [RULE ...]

A request is given the first tokens of its answer, up to the end of a question, by a logits processor that lets no others
through. So its cache is compressed as if the model had written the text. What it says then is compared with the fact, which
was stated so many compressions before. Results go to results/vllm-recall.json after each rule; what is there already is not
measured again.
"""

import argparse
import json

from vllm_cpu import engine  # isort: skip  (sets what vllm reads when it is imported)
import vllm
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from facts import KINDS
from harness import RESULTS, write
from recall import PROMPT, RECENT, Row, fillers

INTERVAL, RATIO, ROWS = 256, 4, 16
RULES = {
    "full": None,
    "rpc": {"cache_selector": "rpc", "cache_interval": INTERVAL, "cache_ratio": RATIO, "cache_recent": RECENT},
    "echo": {"cache_selector": "echo", "cache_interval": INTERVAL, "cache_ratio": RATIO, "cache_recent": RECENT},
    "echo, c = 8": {"cache_selector": "echo", "cache_interval": INTERVAL, "cache_ratio": 8, "cache_recent": RECENT},
}


class Given(LogitsProcessor):
    """`extra_args={"given": ids}`: the first tokens of the answer."""

    def __init__(self, vllm_config, device, is_pin_memory):
        self.rows = {}

    def is_argmax_invariant(self):
        return False

    def update_state(self, batch_update):
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.rows.pop(row, None)
        for row, params, _, tokens in batch_update.added:
            self.rows[row] = (params.extra_args or {}).get("given", ()), tokens
        for source, target, direction in batch_update.moved:
            going, coming = self.rows.pop(source, None), self.rows.pop(target, None)
            if going is not None:
                self.rows[target] = going
            if coming is not None and direction is MoveDirectionality.SWAP:
                self.rows[source] = coming

    def apply(self, logits):
        for row, (given, tokens) in self.rows.items():
            if len(tokens) < len(given):
                logits[row] = -float("inf")
                logits[row, given[len(tokens)]] = 0
        return logits


def questions(tokenizer, count: int, age: int):
    """(prompt, what is given of the answer, what should follow, kind), of the first fact of each text."""
    pool = fillers(tokenizer, "report", PROMPT + 10 * INTERVAL + 3 * RECENT)
    for number in range(count):
        row = Row(tokenizer, "report", pool[number % len(pool)], INTERVAL, number)
        asked = PROMPT + age * INTERVAL + RECENT  # as many compressions have come by then
        yield row.ids[:PROMPT], row.ids[PROMPT:asked] + row.questions[0], row.answers[0], KINDS[number % len(KINDS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rules", nargs="*", metavar="RULE", help=f"{', '.join(RULES)}; all if none is named")
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--age", type=int, default=3)
    args = parser.parse_args()
    file = RESULTS / "vllm-recall.json"
    results = json.loads(file.read_text()) if file.exists() else {"known": {}}
    results.pop("machine", None)
    rules = [rule for rule in args.rules or RULES if rule not in results["known"]]
    if not rules:
        return
    llm, _, _ = engine(
        args.model, max_model_len=2048, max_num_seqs=ROWS, block_size=32, logits_processors=[f"{__name__}:Given"],
        worker_cls="lzpenalty.vllm.Worker", scheduler_cls="lzpenalty.vllm.Scheduler", enable_prefix_caching=False,
    )  # fmt: skip
    asked = list(questions(llm.get_tokenizer(), args.questions, args.age))
    for rule in rules:
        params = [
            SamplingParams(
                temperature=0, max_tokens=len(given) + len(answer), ignore_eos=True,
                extra_args={**(RULES[rule] or {}), "given": given},
            )
            for _, given, answer, _ in asked
        ]  # fmt: skip
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt, *_ in asked], params)
        known = {}
        for (_, given, answer, kind), output in zip(asked, outputs, strict=True):
            tokens = list(output.outputs[0].token_ids)
            assert tokens[: len(given)] == given
            known[kind] = known.get(kind, "") + str(int(tokens[len(given) :] == answer))
        results["known"][rule] = known
        print(rule, known, flush=True)
        results |= {
            "vllm": vllm.__version__, "questions": args.questions, "age": args.age, "interval": INTERVAL, "ratio": RATIO,
            "recent": RECENT,
        }  # fmt: skip
        write("vllm-recall", results)


if __name__ == "__main__":
    main()
