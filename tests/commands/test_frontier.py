"""benchmarks/frontier.py and thinking.py: what they count, by hand; rows that are there are not computed again."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import oracle
from lzpenalty import LZOptions
from lzpenalty.commands import penalties
from lzpenalty.presets import PRESETS
from tiny import VOCAB, generate, tiny, tokenizer, words

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import frontier  # noqa: E402
import thinking  # noqa: E402
from harness import with_model  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def under(ids, options):
    """Nats of each token but the first, and whether it is the most likely one."""
    nats, best = [], []
    for at in range(1, len(ids)):
        with torch.no_grad():
            logits = tiny(spread=0.15)(torch.tensor([ids[:at]])).logits[0, -1].double()
        for token, penalty in oracle.penalties(ids[:at], VOCAB, **options).items():
            logits[token] -= penalty
        nats.append(-float(logits.log_softmax(-1)[ids[at]]))
        best.append(int(logits.argmax()) == ids[at])
    return nats, best


class Beginning:
    """A tokenizer that begins each text with a token of its own."""

    bos_token_id = 1

    def __call__(self, text):
        return SimpleNamespace(input_ids=[1, *tokenizer()(text).input_ids])


@pytest.mark.parametrize("begins", [False, True])
def test_harm_and_copies_by_hand(monkeypatch, begins):
    reads = Beginning() if begins else tokenizer()
    likely = generate(tiny(spread=0.15), torch.tensor([[24]]))[
        0
    ].tolist()  # so that there are tokens that may stay the likeliest
    given = {"prose": {"a": " ".join(f"w{i}" for i in likely)}, "song": {"b": words(50, 2, of=4), "c": words(40, 3, of=9)}}
    monkeypatch.setattr(frontier, "texts", lambda half: given)
    monkeypatch.setattr(frontier, "PASSAGES", (8, 15))
    monkeypatch.setattr(frontier, "COUNTED_FROM", 10)
    monkeypatch.setattr(frontier, "CAPPED_AT", 1.5)
    read = frontier.Texts(tiny(spread=0.15), reads, "choose", 45)
    options = {"strength": 0.1, "min_match": 2}
    penalty, none = penalties.lz("x", options), {"strength": 0.0}
    harm = {}
    for kind, of in given.items():
        lost = []
        for text in of.values():
            ids = reads(text).input_ids[:45]
            pairs = zip(under(ids, options)[0], under(ids, none)[0], strict=True)
            lost += [min(1.5, after - before) for after, before in [*pairs][9:]]
        harm[kind] = sum(lost) / len(lost)
    nothing = penalties.named("none")
    free, found = read.harm([nothing, penalty])
    assert found == pytest.approx(harm, abs=1e-5) and not any(free.values())
    whole, kept = read.kept([nothing, penalty])
    assert whole["prose"] == {"8": [1, 1], "15": [1, 1]}
    assert set(kept) == {"prose", "code"} and set(kept["prose"]) == {"8", "15"} and not kept["code"]
    for length in (8, 15):
        ids = tokenizer()(given["prose"]["a"]).input_ids[:length] * 3
        ids = [1] * begins + ids
        (_, best), (_, known) = under(ids, options), under(ids, none)
        for copy in (1, 2):  # a token's index in these lists is one less than in the text
            places = [i + begins for i in range(length * copy - 1, length * (copy + 1) - 1) if known[i + begins]]
            wanted = sum(best[i] for i in places) / len(places) if places else math.nan
            assert kept["prose"][str(length)][copy - 1] == pytest.approx(wanted, nan_ok=True)


def test_rows_that_are_there_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.RESULTS", tmp_path)
    monkeypatch.setattr(frontier, "RESULTS", tmp_path)
    one, other = penalties.named("paper"), penalties.lz("own", {"gate": (2, 3), "min_match": 2})
    settings = {"model": "m", "limit": 5}
    results, at_once = (frontier.Results(settings, again=False) for _ in range(2))
    results.add("choose", one, {"loops": 1})
    at_once.add("report", other, {"loops": 2})
    there = json.loads((tmp_path / "frontier.json").read_text())
    assert there["choose"] == {"paper": {"options": [{}], "loops": 1}}
    assert there["report"] == {"own": {"options": [{"gate": [2, 3], "min_match": 2}], "loops": 2}}
    assert there["machine"]["versions"] and there["model"] == "m"
    results = frontier.Results(settings, again=False)
    assert results.left("choose", [one, other]) == [other] and results.left("report", [one, other]) == [one]
    changed = penalties.lz("own", {"gate": (2, 4), "min_match": 2})
    assert results.left("report", [changed]) == [changed]
    assert frontier.Results(settings, again=True).left("report", [other]) == [other]
    with pytest.raises(SystemExit, match="other settings"):
        frontier.Results(settings | {"limit": 6}, again=False)


def test_another_model_has_results_of_its_own():
    assert with_model("frontier", None) == ("frontier", "SmolLM2-135M-Instruct")
    assert with_model("frontier", "some/Gemma-q4.gguf") == ("frontier-gemma-q4", "Gemma-q4")
    assert with_model("thinking", "google/gemma-3-270m") == ("thinking-gemma-3-270m", "gemma-3-270m")


def test_the_rows_are_what_their_names_say():
    names = [penalty.name for penalty in frontier.candidates()]
    assert len(set(names)) == len(frontier.CANDIDATES)
    gentle = PRESETS["gentle"]
    assert any(len(row.options) == 1 and row.options[0] == gentle for row in frontier.candidates())


def test_sections_and_alarms():
    close = [7, 8, 9]
    circling = [*range(20, 30)] * 6
    found = thinking.section([1, 2, *circling, *close, 3], close, 24, str)
    assert (found["tokens"], found["closed"]) == (62, 64)
    assert found["alarm"] == 2 + 20 + 24 - 1  # the 24th token that stands a third time
    assert found["circles"] and not thinking.section([1, *close], close, 24, str)["circles"]
    assert thinking.section([*range(10, 40)], close, 24, str)["closed"] is None
    assert thinking.section([*close, *circling], close, 24, str)["alarm"] is None  # what follows the section doesn't count
    assert thinking.find([7, 8, 7, 8, 9], close) == 2 and thinking.find([7, 8], close) is None


def test_what_stands_behind_a_section_is_the_answer():
    close, loop = [7, 8, 9], [*range(20, 50)] * 4
    found = thinking.section([1, 2, *close, *loop], close, 24, str)
    assert found["behind"] == 120 and found["loop_behind"] and found["ended"] and thinking.came(found)
    assert not thinking.came(thinking.section([1, 2, *close], close, 24, str))  # nothing
    assert not thinking.came(thinking.section([1] * 600, close, 24, str))  # cut
    assert thinking.came(thinking.section([1, 2, 3], close, 24, str))  # it has ended without a tag


def test_what_a_section_was_chosen_among():
    marks = {"open": [1], "release": [2]}
    rows = thinking.candidates(marks)
    assert len({row.name for row in rows}) == len(thinking.CANDIDATES)
    assert [LZOptions(**PRESETS["reasoning"].keywords() | marks)] in [[*row.options] for row in rows]


def test_the_course_of_a_section():
    options = LZOptions(section_gate=(12, 20), release_after=16, release=[9])
    found = thinking.course([*range(20, 30)] * 6, 50, options)
    assert found["evidence"][:26] == [*[0] * 25, 6] and found["alarm"] == 35 and len(found["gate"]) == 51
    assert found["release"][34:38] == [0, 2, 4, 6] and found["gate"][31:41:4] == [0, 0.5, 1.0]


def test_who_is_closed_in_time():
    rows = [(None, 10), (None, None), (100, 110), (100, 164), (100, 165), (100, None), (590, None)]
    ours = [{"alarm": alarm, "closed": closed} for alarm, closed in rows]
    gentle = [{"closed": None}, *[{"closed": 5}] * 6]
    assert thinking.judge(ours, gentle, 600) == {
        "alarms": 5,
        "counted": 4,
        "in_time": 2,
        "median_wait": 64.0,
        "longest_wait": 65,
        "quiet": 2,
        "closed_without_reason": 1,
    }
