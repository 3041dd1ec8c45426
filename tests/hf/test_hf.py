"""The processor and the criterion in real `generate` calls, against transformers' own loop with the plain Python formula."""

import inspect
import threading

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, LogitsProcessor

import oracle
from lzpenalty import LZOptions, lz_penalize_, repetition_period  # noqa: F401
from lzpenalty.hf import LZPenaltyLogitsProcessor, RepetitionStoppingCriteria

VOCAB, PROMPT = 97, 10
SIZES = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=None,
)  # fmt: skip
GREEDY = dict(do_sample=False, max_new_tokens=40)


def tiny(seed, **changes):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES | changes)).eval().double()


@pytest.fixture(scope="module")
def model():
    return tiny(0)


@pytest.fixture(scope="module")
def prompt():
    return torch.randint(2, VOCAB, (3, PROMPT), generator=torch.Generator().manual_seed(1))


class Formula(LogitsProcessor):
    """The formula in plain Python, told where the prompt ends."""

    def __init__(self, prompt_length=PROMPT, **options):
        self.prompt_length, self.options = prompt_length, options

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        for row, text in zip(scores, input_ids.tolist(), strict=True):
            for token, penalty in oracle.penalties(text, len(row), start=self.prompt_length, **self.options).items():
                row[token] -= penalty
        return scores


def generate(model, ids, *processors, **kwargs):
    kwargs = {"attention_mask": torch.ones_like(ids)} | GREEDY | kwargs
    return model.generate(ids, logits_processor=list(processors), **kwargs)


def test_a_greedy_loop_ends(model, prompt):
    without = generate(model, prompt, max_new_tokens=200)
    with_penalty = generate(model, prompt, LZPenaltyLogitsProcessor(), max_new_tokens=200)
    looping = dict(ngram=8, count=3, starts=PROMPT)
    assert (repetition_period(without, **looping) > 0).any()
    assert not (repetition_period(with_penalty, **looping) > 0).any()


MODES = {
    "greedy": {},
    "sampling": dict(do_sample=True, temperature=0.8, top_k=20),
    "sampling, several answers": dict(do_sample=True, num_return_sequences=2),
    "beam search": dict(num_beams=3),
    "beam search, several answers": dict(num_beams=4, num_return_sequences=2, length_penalty=0.5),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(min_match=2, strength=0.5),
        dict(gate=(6, 9), release=[[3, 4], 7], release_after=7, open=[*range(20)][:16], skip=9, resume=[*range(10, 20)]),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_transformers_with_the_formula(model, prompt, mode, options):
    results = []
    for processors in ([Formula(**options)], [LZPenaltyLogitsProcessor(**options)], []):
        torch.manual_seed(5)
        results.append(generate(model, prompt, *processors, **MODES[mode]))
    formula, ours, without = results
    assert torch.equal(ours, formula)
    assert options or not torch.equal(ours, without)


def test_a_gentle_loop_ends(model, prompt):
    without = generate(model, prompt, max_new_tokens=200)
    gentle = generate(model, prompt, LZPenaltyLogitsProcessor(preset="gentle"), max_new_tokens=200)
    looping = dict(ngram=12, count=3, starts=PROMPT)
    assert (repetition_period(without, **looping) > 0).all()
    assert not (repetition_period(gentle, **looping) > 0).any()


def test_a_loop_that_is_let_go_closes(model, prompt):
    close = [VOCAB - 2, VOCAB - 1]
    release = LZPenaltyLogitsProcessor(gate=(1e6, 2e6), release=[close])
    for row, looped in zip(
        generate(model, prompt, release, max_new_tokens=200)[:, PROMPT:].tolist(),
        generate(model, prompt, max_new_tokens=200)[:, PROMPT:].tolist(),
        strict=True,
    ):
        alarm = next(n for n in range(201) if oracle.loop_evidence(looped[:n]) >= 24)
        closed = next(n for n in range(201) if row[:n][-2:] == close)
        assert row[:alarm] == looped[:alarm] and alarm + 2 <= closed <= alarm + 20


def test_assisted_decoding_changes_nothing(model, prompt):
    row, processor, end = prompt[:1], LZPenaltyLogitsProcessor(), dict(eos_token_id=VOCAB - 1)
    plain = generate(model, row, processor, **end)
    for draft in (dict(assistant_model=tiny(3)), dict(assistant_model=model), dict(prompt_lookup_num_tokens=3)):
        assert torch.equal(plain, generate(model, row, processor, **draft, **end))


def test_rows_of_a_left_padded_batch_equal_the_rows_alone(model, prompt):
    pads = [0, 4, 7]
    ids, mask = prompt.clone(), torch.ones_like(prompt)
    for row, pad in enumerate(pads):
        ids[row, :pad], mask[row, :pad] = 0, 0
    batch = generate(model, ids, LZPenaltyLogitsProcessor(), attention_mask=mask)
    for row, pad in enumerate(pads):
        alone = generate(model, prompt[row : row + 1, pad:], LZPenaltyLogitsProcessor())
        assert torch.equal(batch[row, PROMPT:], alone[0, PROMPT - pad :])


def test_a_finished_row_does_not_disturb_the_others(model, prompt):
    processor = LZPenaltyLogitsProcessor()
    free = generate(model, prompt, processor)
    end = int(free[0, PROMPT + 5])  # becomes the end of text: row 0 finishes, others go on until they meet it
    stopped = generate(model, prompt, processor, eos_token_id=end, pad_token_id=0)
    for row in range(3):
        where = (free[row, PROMPT:] == end).nonzero()
        length = PROMPT + (int(where[0]) + 1 if len(where) else GREEDY["max_new_tokens"])
        assert torch.equal(stopped[row, :length], free[row, :length])
        assert not stopped[row, length:].any()


def test_the_result_does_not_depend_on_the_past_of_the_object(model, prompt):
    used, assistant, few = LZPenaltyLogitsProcessor(), tiny(3), dict(max_new_tokens=20)
    answer = generate(model, prompt, LZPenaltyLogitsProcessor(), **few)
    for ids in (
        prompt,
        prompt,  # the same prompt again
        answer,  # the old text is the new prompt
        torch.cat([answer, prompt[:, :1]], 1),  # ... and one token more, as if the first call went on
        answer[:, :-5],
        prompt[:, :4],
        torch.cat([answer, prompt], 1),
        prompt[:1],
        prompt,
    ):
        assert torch.equal(generate(model, ids, used, **few), generate(model, ids, Formula(ids.shape[1]), **few))
        generate(model, ids[:1], used, assistant_model=assistant, max_new_tokens=5)
        generate(model, ids, used, num_beams=2, max_new_tokens=5)

    class Dies(LogitsProcessor):
        def __call__(self, input_ids, scores):
            if input_ids.shape[1] > PROMPT + 3:
                raise RuntimeError("in the middle")
            return scores

    with pytest.raises(RuntimeError, match="in the middle"):
        generate(model, prompt, used, Dies())
    assert torch.equal(generate(model, prompt, used, **few), answer)


def test_threads_may_share_one_processor(model, prompt):
    shared, results = LZPenaltyLogitsProcessor(), {}
    prompts = {n: prompt[:, :n] for n in (3, 5, 8, 10)}

    def run(n):
        results[n] = generate(model, prompts[n], shared)

    threads = [threading.Thread(target=run, args=(n,)) for n in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, ids in prompts.items():
        assert torch.equal(results[n], generate(model, ids, LZPenaltyLogitsProcessor(prompt_length=n)))


def test_prompt_length_can_be_given(model, prompt):
    for length in (0, 4, PROMPT, 10**6):
        given = generate(model, prompt, LZPenaltyLogitsProcessor(prompt_length=length))
        assert torch.equal(given, generate(model, prompt, Formula(length)))


def test_embeddings_as_prompt(model, prompt):
    embedded = model.get_input_embeddings()(prompt)
    ids = generate(model, prompt, LZPenaltyLogitsProcessor())
    tail = model.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones_like(prompt),
        logits_processor=[LZPenaltyLogitsProcessor()],
        **GREEDY,
    )
    assert torch.equal(tail, ids[:, PROMPT:])


def test_encoder_decoder():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "t5", vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    ids = torch.randint(2, VOCAB, (2, 7))
    got = generate(model, ids, LZPenaltyLogitsProcessor(strength=1.0))
    assert torch.equal(got, generate(model, ids, Formula(1, strength=1.0)))


def test_outside_of_generate_every_token_counts():
    ids, scores = torch.tensor([[5, 6, 5]]), torch.zeros(1, 9)
    penalised = LZPenaltyLogitsProcessor()(ids, scores)
    assert torch.equal(penalised, lz_penalize_(torch.zeros(1, 9), ids))
    assert not scores.any()


def test_scores_are_copied_unless_asked(model, prompt):
    kwargs = dict(output_logits=True, output_scores=True, return_dict_in_generate=True)
    output = generate(model, prompt, LZPenaltyLogitsProcessor(), **kwargs)
    raw = generate(model, prompt, Formula(), **kwargs)
    for got, wanted in zip(output.logits, raw.logits, strict=True):
        assert torch.equal(got, wanted)
    for got, wanted in zip(output.scores, raw.scores, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    scores = torch.zeros(1, 9)
    assert LZPenaltyLogitsProcessor(inplace=True)(torch.tensor([[5]]), scores) is scores and scores.any()
    assert torch.equal(generate(model, prompt, LZPenaltyLogitsProcessor(inplace=True)), output.sequences)


def test_what_transformers_asks_of_a_processor():
    assert list(inspect.signature(LZPenaltyLogitsProcessor.__call__).parameters) == ["self", "input_ids", "scores"]
    assert LZPenaltyLogitsProcessor.supports_continuous_batching is False
    assert eval(repr(LZPenaltyLogitsProcessor(strength=0.3, skip=7, cost="pair"))).options.skip == (7,)


@pytest.mark.parametrize(
    "options",
    [dict(strength=-1), dict(window=-1), dict(buffer=0), dict(cost="x"), dict(skip=[-1]), dict(release_after=1.5),
     dict(prompt_length=-1), dict(prompt_length=2.5)],
)  # fmt: skip
def test_bad_options_are_refused_at_construction(options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        LZPenaltyLogitsProcessor(**options)


def test_generation_stops_a_row_that_has_looped_for_too_long(model, prompt):
    looped = generate(model, prompt, max_new_tokens=300)
    criterion = RepetitionStoppingCriteria(ngram=10, count=4)
    rows = generate(model, prompt, max_new_tokens=300, stopping_criteria=[criterion], eos_token_id=None, pad_token_id=0)
    stops = []
    for row in looped[:, PROMPT:].tolist():
        ends = (n for n in range(1, 301) if oracle.period(row[:n], 10, 4, 512))
        stops.append(next(ends, 300))
    assert min(stops) < 300
    assert rows.shape[1] == PROMPT + max(stops)
    for row, stop in enumerate(stops):
        assert torch.equal(rows[row, : PROMPT + stop], looped[row, : PROMPT + stop])


def test_a_looping_prompt_does_not_stop_the_answer(model):
    ids = torch.tensor([[5, 6] * 60])
    stopped = generate(model, ids, stopping_criteria=[RepetitionStoppingCriteria()], max_new_tokens=4)
    assert stopped.shape[1] == 124
    assert RepetitionStoppingCriteria()(ids, None).tolist() == [True]  # outside of generate every token counts
    assert RepetitionStoppingCriteria(prompt_length=120)(ids, None).tolist() == [False]


def test_generation_stops_a_row_that_circles(model, prompt):
    looped = generate(model, prompt, max_new_tokens=300)
    stopped = generate(
        model, prompt, max_new_tokens=300, stopping_criteria=[RepetitionStoppingCriteria(evidence=30)], pad_token_id=0
    )
    stops = []
    for row in looped[:, PROMPT:].tolist():
        stops.append(next((n for n in range(1, 301) if oracle.loop_evidence(row[:n]) >= 30), 300))
    assert min(stops) < 300 and stopped.shape[1] == PROMPT + max(stops)
    for row, stop in enumerate(stops):
        assert torch.equal(stopped[row, : PROMPT + stop], looped[row, : PROMPT + stop])


@pytest.mark.parametrize(
    "options",
    [
        dict(ngram=0),
        dict(count=1),
        dict(max_period=0),
        dict(evidence=0),
        dict(evidence=1.5),
        dict(window=-1),
        dict(prompt_length=-1),
    ],
)
def test_bad_options_of_the_criterion(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RepetitionStoppingCriteria(**options)
