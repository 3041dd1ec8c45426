"""Long documents with something to find, in the manner of RULER (arXiv 2404.06654): its tasks by their published
definitions, in words and texts of our own, asked as a user asks in a chat.

single      one number, by its key
keys        the same among three others with keys of their own
values      four numbers of one key
variables   who holds a number, after three copies from variable to variable
frequent    the three most frequent of eight made-up words, of which a text is made; their counts fall as 1 / rank^2

Of RULER's thirteen, the others are these with other sorts of needles and text, common words (as frequent) and two sets of
questions about Wikipedia, which would have to be fetched. A document is the user's message without its end: what is asked
comes later. An answer counts if the reply holds it.

`chat` is no task of RULER's: the six facts of recall.py, asked for in a chat."""

import random
import string

from facts import KINDS, fact

TASKS = ("single", "keys", "values", "variables", "frequent", "chat")
LIMITS = {"single": 16, "keys": 16, "values": 40, "variables": 40, "frequent": 32, "chat": 24}  # tokens of a reply


def chat(tokenizer) -> tuple[str, str]:
    """What stands before the user's words, and between them and the reply."""
    turns = [{"role": "user", "content": "\0"}]
    before, _, behind = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False).partition("\0")
    return before, behind


def _number(rng: random.Random) -> str:
    return str(rng.randrange(1_000_000, 10_000_000))


def _word(rng: random.Random, letters: int) -> str:
    """Made up: nothing can be guessed of it."""
    pairs = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(letters // 2)]
    return "".join(pairs)


class Task:
    """What one document states, in this order and at places of chance: `stated`. Or all of it: `whole` texts, one after the
    other. `asked` are pairs of a question with the beginning of its reply, and what the reply should hold."""

    def __init__(self, task: str, half: str, rng: random.Random):
        self.stated, self.whole, self.asked = [], [], []
        getattr(self, f"_{task}")(rng, half)

    def _needle(self, key: str, number: str) -> str:
        return f" The locker number of the {key} is {number}."

    def _of(self, key: str) -> tuple[str, str]:
        return f"Which locker number does the {key} have, by the text?", f"The locker number of the {key} is"

    def _single(self, rng, half):
        key, number = f"{_word(rng, 6)} team", _number(rng)
        self.stated = [self._needle(key, number)]
        self.asked = [(*self._of(key), [number])]

    def _keys(self, rng, half):
        held = {f"{_word(rng, 6)} team": _number(rng) for _ in range(4)}
        key = rng.choice([*held])
        self.stated = [self._needle(*each) for each in held.items()]
        self.asked = [(*self._of(key), [held[key]])]

    def _values(self, rng, half):
        key, numbers = f"{_word(rng, 6)} team", [_number(rng) for _ in range(4)]
        self.stated = [self._needle(key, number) for number in numbers]
        question = f"Which four locker numbers does the {key} have, by the text?"
        self.asked = [(question, f"The four locker numbers of the {key} are", numbers)]

    def _variables(self, rng, half):
        number = str(rng.randrange(10_000, 100_000))
        names = ["".join(rng.sample(string.ascii_uppercase, 4)) for _ in range(4)]
        values = [number, *(f"VAR {name}" for name in names)]
        self.stated = [f"\n\nVAR {name} = {value}\n\n" for name, value in zip(names, values[:-1], strict=True)]
        question = f"Which variables hold the number {number}, by themselves or copied from another?"
        self.asked = [(question, f"The variables that hold {number} are VAR", names)]

    def _frequent(self, rng, half):
        words = list(dict.fromkeys(_word(rng, 6) for _ in range(30)))[:8]
        # In stretches of 55 words, of each as many as its rank says, so that the order is the same wherever the text ends.
        stretch = [word for rank, word in enumerate(words, 1) for _ in range(round(36 / rank**2))]
        self.whole = [f" {word}" for _ in range(150) for word in rng.sample(stretch, len(stretch))]
        self.asked = [("Which three words come most often in the text?", "The three most frequent words are", words[:3])]

    def _chat(self, rng, half):
        for one in (fact(half, kind, rng) for kind in rng.sample(KINDS, len(KINDS))):
            self.stated.append(one.stated)
            self.asked.append((one.asked, "", [one.answer.strip(" =")]))
