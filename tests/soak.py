"""Long runs of what users and engines call: the process's memory stays flat, and a random sample of rows is what the formula
says.

    python tests/soak.py [RUN ...]      `make soak`: all of RUNS
"""

import itertools
import random
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import torch

import oracle
from devices import Emulated
from emulator import Emulator
from engines import fake_vllm
from engines.load import adaptor
from lzpenalty import lz_penalize_
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.hf import CompressedCache, LZPenaltyLogitsProcessor
from mask_oracle import angles, masked
from resident import resident_bytes
from rpc_oracle import Reference, following
from tiny import generate, prompt, tiny

vllm = adaptor("vllm.penalty", fake_vllm)
CPU = torch.device("cpu")
ROWS = 256
WARM_UP = 5  # a fifth of each run: allocators and caches of Python and torch fill up
MOST_GROWTH = 8 * 2**20  # bytes from then on, in all; 10^6 steps that lose a pointer each lose as much


def next_token(rng: random.Random, text: list[int], period: int, vocab: int) -> int:
    """Of a text that is in a loop most of the time, and speaks of few things often."""
    if len(text) >= period and rng.random() < 0.95:
        return text[-period]
    return int(vocab ** rng.random()) - 1


def compare(before: torch.Tensor, after: torch.Tensor, text: list[int], options: dict) -> None:
    """One row of logits, against the formula."""
    wanted = before.clone()
    for token, penalty in oracle.penalties(text, len(wanted), **options).items():
        wanted[token] -= penalty
    torch.testing.assert_close(after, wanted, atol=3e-5, rtol=1e-5)


def steps_of_generate(rng: random.Random, share: float):
    """The processor of lzpenalty.hf, as `generate` calls it: four rows, a vocabulary of 50,257, one token more each time."""
    rows, vocab, longest = 4, 50_257, 1200
    scores = torch.randn(rows, vocab)
    while True:
        options = {"strength": rng.choice([0.15, 0.5]), "window": rng.choice([64, 512])}
        texts, periods = [[] for _ in range(rows)], [rng.randrange(1, 200) for _ in range(rows)]
        ids = torch.randint(vocab, (rows, rng.randrange(1, 40)))
        processor = LZPenaltyLogitsProcessor(**options, prompt_length=ids.shape[1])
        while ids.shape[1] < longest:
            penalised = processor(ids, scores)
            compared = [row for row in range(rows) if rng.random() < share]
            for row in compared:
                compare(scores[row], penalised[row], texts[row], options)
            for text, period in zip(texts, periods, strict=True):
                text.append(next_token(rng, text, period, vocab))
            ids = torch.cat([ids, torch.tensor([text[-1:] for text in texts])], dim=1)
            yield 1, len(compared)


class Request:
    """What a client of a server asked for, and the text that it got so far."""

    VOCAB, LONGEST = 4096, 1000

    def __init__(self, rng: random.Random):
        self.options = {}
        if rng.random() < 0.8:
            self.options = {"strength": rng.choice([0.15, 1.0]), "window": rng.choice([8, 64, 512])}
            self.options |= rng.choice([{}, {"cost": "pair"}, {"min_match": 2}, {}])
            self.options |= rng.choice([{}, {}, {"buffer": 8}])
        params = {f"lz_{name}": value for name, value in self.options.items()} or rng.choice([None, {}, {"lz_strength": 0}])
        self.params = SimpleNamespace(extra_args=params)
        self.prompt = [rng.randrange(self.VOCAB) for _ in range(rng.randrange(1, 20))]
        self.period, self.output = rng.randrange(1, 100), []

    def compare(self, before: torch.Tensor, after: torch.Tensor) -> None:
        if self.options:
            compare(before, after, self.output, self.options)
        else:
            assert torch.equal(after, before)


class Server:
    """Requests that come, go, and are preempted, in random order: there are 256 at most, and now and then none."""

    def __init__(self, rng: random.Random, share: float):
        self.rng, self.share, self.preempted = rng, share, []
        self.logits = torch.randn(ROWS, Request.VOCAB)

    def leaves(self, request: Request, all_leave: bool) -> bool:
        leaves = all_leave or self.rng.random() < 1 / 200 or len(request.output) == Request.LONGEST
        if leaves and self.rng.random() < 0.3 and len(request.output) < Request.LONGEST:
            self.preempted.append(request)
        return leaves

    def coming(self, room: int) -> list[Request]:
        count = min(room, self.rng.choice([0, 0, 1, 2, 3, 20]))
        again = [self.preempted.pop() for _ in range(min(count, len(self.preempted)))]
        for request in again:
            request.output = [*request.output]  # what is computed anew is in a list of its own
        return again + [Request(self.rng) for _ in range(count - len(again))]

    def sample(self, requests: list[Request], penalised: torch.Tensor) -> int:
        """Compares some rows with the formula; then every request gets a token."""
        compared = [row for row in range(len(requests)) if self.rng.random() < self.share]
        for row in compared:
            requests[row].compare(self.logits[row], penalised[row])
        for request in requests:
            request.output.append(next_token(self.rng, request.output, request.period, Request.VOCAB))
        return len(compared)


class FirstRunner(Server):
    """vLLM's persistent batch: new requests take the rows that others left; rows that stay empty are filled from the end."""

    def __init__(self, rng: random.Random, share: float):
        super().__init__(rng, share)
        self.processor = vllm.LZPenalty(SimpleNamespace(), CPU, False)
        self.batch = []

    def step(self) -> int:
        batch, rng, all_leave = self.batch, self.rng, self.rng.random() < 1 / 500
        added, moved = [], []
        removed = [row for row, request in enumerate(batch) if self.leaves(request, all_leave)]
        holes = list(removed)
        for request in self.coming(ROWS - len(batch) + len(holes)):
            row = holes.pop(0) if holes else len(batch)
            removed = [other for other in removed if other != row]
            batch[row : row + 1] = [request]
            added.append((row, request.params, request.prompt, request.output))
        while holes:
            row, last = holes[0], len(batch) - 1
            if last in holes:
                holes.remove(last)
            else:
                batch[row] = batch[last]
                moved.append((last, row, vllm.MoveDirectionality.UNIDIRECTIONAL))
                removed.remove(holes.pop(0))
            batch.pop()
        if len(batch) > 1 and rng.random() < 0.3:
            a, b = rng.sample(range(len(batch)), 2)
            batch[a], batch[b] = batch[b], batch[a]
            moved.append((a, b, vllm.MoveDirectionality.SWAP))
        update = SimpleNamespace(removed=removed, added=added, moved=moved)
        self.processor.update_state(update if removed or added or moved else None)
        return self.sample(batch, self.processor.apply(self.logits[: len(batch)].clone()))


class SecondRunner(Server):
    """vLLM's slots, whose texts lie in tensors; rows are in another order at each step."""

    def __init__(self, rng: random.Random, share: float):
        super().__init__(rng, share)
        texts = torch.zeros(ROWS, Request.LONGEST + 20, dtype=torch.int32)
        texts, prompts, lengths = (SimpleNamespace(gpu=t) for t in (texts, *torch.zeros(2, ROWS, dtype=torch.int32)))
        self.state = SimpleNamespace(
            device=CPU, max_num_reqs=ROWS, all_token_ids=texts, prompt_len=prompts, total_len=lengths
        )
        self.processor = vllm.LZPenalty(SimpleNamespace(), self.state)
        self.slots = {}

    def step(self) -> int:
        state, rng, all_leave = self.state, self.rng, self.rng.random() < 1 / 500
        self.slots = {slot: request for slot, request in self.slots.items() if not self.leaves(request, all_leave)}
        free = [slot for slot in range(ROWS) if slot not in self.slots]
        rng.shuffle(free)
        for slot, request in zip(free, self.coming(len(free)), strict=False):
            self.slots[slot] = request
            assert self.processor.add_request(slot, request.params) == bool(request.options)
            state.prompt_len.gpu[slot] = len(request.prompt)
            text = torch.tensor(request.prompt + request.output, dtype=torch.int32)
            state.all_token_ids.gpu[slot, : len(text)] = text
        self.processor.apply_staged_writes()
        order = rng.sample(sorted(self.slots), len(self.slots))
        if not order:
            return 0
        rows, requests = torch.tensor(order, dtype=torch.int32), [self.slots[slot] for slot in order]
        lengths = torch.tensor([len(request.prompt) + len(request.output) for request in requests])
        newest = torch.tensor([(request.output or request.prompt)[-1] for request in requests], dtype=torch.int32)
        state.all_token_ids.gpu[order, lengths - 1] = newest
        state.total_len.gpu[order] = lengths.int()
        context = SimpleNamespace(
            expanded_idx_mapping=rows,
            idx_mapping_np=rows.numpy(),
            expanded_local_pos=torch.zeros_like(rows),
            seq_lens_upper_bound_np=lengths.numpy(),
        )
        penalised = self.processor.apply(self.logits[: len(order)].clone(), context)
        return self.sample(requests, penalised)


def steps_of_first_runner(rng: random.Random, share: float):
    """256 rows joining, leaving and moving, each with options of its own, through the first interface of lzpenalty.vllm."""
    runner = FirstRunner(rng, share)
    while True:
        yield 1, runner.step()


def steps_of_second_runner(rng: random.Random, share: float):
    """The same through the second interface."""
    runner = SecondRunner(rng, share)
    while True:
        yield 1, runner.step()


def compressions(rng: random.Random, share: float):
    """CompressedCache with a tiny random model: new caches, 10 compressions in each."""
    selectors = itertools.cycle(sorted(SELECTORS))
    for conversation in itertools.count():
        options = {"interval": 16, "ratio": 4, "recent": 8, "budget": rng.choice([None, 24]), "selector": next(selectors)}
        compared, ids = rng.random() < share, prompt(2, seed=conversation)
        if options["selector"] == "echo":
            options |= {"allocation": rng.choice(["global", "even"])}
            made, seen = budgets(ids, options, compared)
        else:
            options |= {"aggregation": rng.choice(["layer", "group"])}
            made, seen = choices(ids, options, compared)
        assert seen == (made if compared else 0)
        yield made, seen


def choices(ids: torch.Tensor, options: dict, compared: bool) -> tuple[int, int]:
    """Compressions that were made, and that a reference followed."""
    reference = Reference(**options)
    with CompressedCache(tiny(), **options) as cache, following(reference) if compared else nullcontext():
        generate(tiny(), ids, 16 * 11, **{CACHE_ARGUMENT: cache})
    return cache.stats()["compressions"], reference.compressions // len(cache.layers)


def budgets(ids: torch.Tensor, options: dict, compared: bool) -> tuple[int, int]:
    """The same for heads with budgets of their own, whose reference, masks over a full cache, is slow: so shorter texts."""
    tokens = 16 * (4 if compared else 11)
    with CompressedCache(tiny(), **options) as cache:
        text = generate(tiny(), ids, tokens, **{CACHE_ARGUMENT: cache})
    made, seen = cache.stats()["compressions"], 0
    if compared:
        masks = {name: value for name, value in options.items() if name != "selector"}
        with masked(tiny(), **masks, angles=angles(tiny())) as reference:
            assert torch.equal(generate(tiny(), ids, tokens), text)
        seen = reference.compressions
    return made, seen


def steps_on_cuda(rng: random.Random, share: float):
    """lz_penalize_ on the emulated device, whose memory stays flat, too."""
    emulated = Emulated(Emulator())
    penalize = emulated.of(lz_penalize_)
    while True:
        texts, periods = [[], []], [rng.randrange(1, 20) for _ in range(2)]
        options = {"strength": 0.5, "window": rng.choice([8, 32]), "cost": rng.choice(["lzss", "pair", "distance"])}
        logits = torch.randn(2, 300)
        allocations = emulated.driver.emulator_allocations()
        for _ in range(64):
            penalised = penalize(logits.clone(), np.array(texts, np.int32).reshape(2, -1), **options)
            compared = [row for row in range(2) if rng.random() < share]
            for row in compared:
                compare(logits[row], penalised[row], texts[row], options)
            for text, period in zip(texts, periods, strict=True):
                text.append(next_token(rng, text, period, 300))
            yield 1, len(compared)
        assert emulated.driver.emulator_allocations() <= allocations + 1  # what all devices have, with the first call


RUNS = {  # steps, and the share of rows, or conversations, that are compared
    "generate": (steps_of_generate, 1_000_000, 0.0005),
    "first-runner": (steps_of_first_runner, 20_000, 0.01),
    "second-runner": (steps_of_second_runner, 5_000, 0.01),
    "cache": (compressions, 1_000, 0.2),
    "cuda": (steps_on_cuda, 10_000, 0.05),
}


def soak(name: str) -> None:
    run, steps, share = RUNS[name]
    done = compared = reported = 0
    warm, began = None, time.monotonic()
    print(f"{name}: {run.__doc__}", flush=True)
    for count, sample in run(random.Random(0), share):
        done, compared = done + count, compared + sample
        if done * 20 // steps == reported:
            continue
        reported, now = done * 20 // steps, resident_bytes()
        print(f"{done:9} steps {compared:6} compared {now / 2**20:8.1f} MiB {time.monotonic() - began:6.0f} s", flush=True)
        if warm is None and done * WARM_UP >= steps:
            warm = now
        if warm is not None and now - warm > MOST_GROWTH:
            sys.exit(f"{name}: {(now - warm) / 2**20:.1f} MiB more than after {steps // WARM_UP} steps")
        if done >= steps:
            return


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or RUNS:
        soak(name)
