"""The published formulas in plain Python, as slow and as obvious as possible: what the C routines are compared with."""

from math import exp, inf, isnan, log, log2, sqrt, tanh
from operator import mul


def common_suffix(a, b, most):
    """Length, at most `most`, of the longest common suffix of two lists."""
    length = 0
    while length < min(len(a), len(b), most) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length


def window_matches(history, window, buffer):
    """{j: u[j]} for each position j of the window."""
    m = len(history)
    return {j: common_suffix(history[:j], history, buffer) for j in range(max(0, m - window), m)}


def open_match(history, window, buffer):
    """(l, dl) of the open match."""
    u = window_matches(history, window, buffer)
    longest = max(u.values(), default=0)
    return longest, len(history) - max((j for j in u if u[j] == longest), default=0)


def deltas(history, vocab, window, buffer, cost="lzss", min_match=1):
    """{token: D} in bits for the tokens of [0, vocab) that the window holds; every other costs log2(vocab)."""
    m, u = len(history), window_matches(history, window, buffer)
    longest, nearest = open_match(history, window, buffer)
    result = {}
    for token in set(history[max(0, m - window) :] if window else []):
        where = [j for j in u if history[j] == token and u[j] + 1 >= min_match]
        if not where or not 0 <= token < vocab:
            continue
        if cost == "lzss":
            bits = min(log2(m - j) for j in where)
            for j in where:
                if u[j] == longest >= 1:
                    bits = min(bits, max(0.0, log2((m - j) / nearest) + log2((longest + 1) / longest)))
        elif cost == "pair":
            bits = min((log2(m - j) + log2(u[j] + 1)) / (u[j] + 1) for j in where)
        else:
            best = max(u[j] for j in where)
            bits = log2(min(m - j for j in where if u[j] == best))
        result[token] = min(bits, log2(vocab))
    return result


def evidence_after(text, gram):
    """For each token of a text, the length of the string of third-time grams that it ends; 0 if it ends none."""
    grams = [tuple(text[max(0, i - gram + 1) : i + 1]) for i in range(len(text))]
    result = []
    for i, last in enumerate(grams):
        third = len(last) == gram and grams[:i].count(last) >= 2
        before = result[-1] if result else 0
        result.append((before + 1 if before else gram) if third else 0)
    return result


def loop_evidence(history, gram=6, window=512):
    """Tokens of the longest string of the window that stands there for the third time, gram by gram."""
    return max(evidence_after(history[-window:] if window else [], gram), default=0)


def sequences(marks):
    """Ids, or sequences of them, as lists of ids."""
    marks = [marks] if isinstance(marks, int) else marks or []
    return [[mark] if isinstance(mark, int) else [*mark] for mark in marks]


def ends_of(marks, history):
    """The positions at which one of the sequences of ids ends."""
    places = [(i, ids) for i in range(len(history)) for ids in sequences(marks)]
    return {i for i, ids in places if len(ids) <= i + 1 and history[i - len(ids) + 1 : i + 1] == ids}


def last_section(text, start, open, close):
    """Where the last section of a text begins, and whether it is one of thinking. Marks that open what is open, or close
    what is closed, are text; without any that open, thinking begins with the answer."""
    if not sequences(close):
        return start, False
    inside, begin, first = not sequences(open), start, 0 if sequences(open) else start
    opening, closing = ends_of(open, text), {first + i for i in ends_of(close, text[first:])} - ends_of(open, text)
    for i in range(first, len(text)):
        if i in (closing if inside else opening):
            inside, begin = not inside, i + 1
    return max(begin, start), inside


def is_skipped(text, skip, resume):
    """Whether the last of these marks is one after which nothing is changed."""
    return max(ends_of(skip, text), default=-1) > max(ends_of(resume, text) - ends_of(skip, text), default=-1)


def released(history, vocab, window, release, rate, after):
    """{token: the nats it gains} in an open section that says this."""
    text = history[-window:] if window else []
    alarm = next((i for i, evidence in enumerate(evidence_after(text, 6)) if evidence >= after), None)
    if alarm is None:
        return {}
    gains = {}
    for ids in sequences(release):
        begun = max(k for k in range(len(ids)) if k <= len(history) and history[len(history) - k :] == ids[:k])
        if max(ids) < vocab:
            gains[ids[begun]] = min(20.0, rate * (len(text) - alarm))
    return gains


def penalties(text, vocab, *, start=0, strength=0.15, window=512, buffer=32, cost="lzss", min_match=1, gate=None,
              release_rate=2.0, release_after=24, release=None, open=None, section_gate=None, skip=None,
              resume=None):  # fmt: skip
    """{token: what is subtracted from its logit} in nats, after a text of which only what stands from `start` on counts."""
    text = list(text)
    if not strength or not window or is_skipped(text, skip, resume):
        return {}
    begin, is_thinking = last_section(text, start, open, release)
    history = text[begin:]
    gains = released(history, vocab, window, release, release_rate, release_after) if is_thinking else {}
    if gate := section_gate if is_thinking and section_gate else gate:
        strength *= min(1.0, max(0.0, (loop_evidence(history, 6, window) - gate[0]) / (gate[1] - gate[0])))
    bits = penalty_bits(history, vocab, window, buffer, cost, min_match)
    return {a: strength * bits.get(a, 0.0) - gains.get(a, 0.0) for a in {*bits, *gains}}


def penalty_bits(history, vocab, window, buffer, cost, min_match):
    """{token: penalty} in bits."""
    return {a: log2(vocab) - d for a, d in deltas(history, vocab, window, buffer, cost, min_match).items()}


def dry(history, vocab, *, multiplier=0.8, base=1.75, allowed_length=2, window=1024, sequence_breakers=()):
    """{token: what is subtracted from its logit} in nats."""
    history = list(history)[-window:] if window else []
    since_breaker = 0
    while since_breaker < len(history) and history[-1 - since_breaker] not in sequence_breakers:
        since_breaker += 1
    result = {}
    for j in range(len(history)):
        token, n = history[j], common_suffix(history[:j], history, since_breaker)
        if n >= allowed_length and token not in sequence_breakers and 0 <= token < vocab:
            result[token] = max(result.get(token, 0.0), multiplier * base ** (n - allowed_length))
    return result


def period(history, ngram, count, max_period):
    """The smallest period of the last ngram + (count - 1) * period tokens, or 0."""
    for p in range(1, max_period + 1):
        size = ngram + (count - 1) * p
        if size <= len(history) and all(history[-i] == history[-i - p] for i in range(1, size - p + 1)):
            return p
    return 0


def lz77(text, window):
    """[(distance, length)] of the greedy phrases, each from its nearest place; (0, 1) for a token that the window lacks."""
    phrases, i = [], 0
    while i < len(text):
        found = []
        for d in range(1, min(i, window) + 1):
            length = 0
            while i + length < len(text) and text[i + length - d] == text[i + length]:
                length += 1
            found.append((length, -d))
        length, d = max(found, default=(0, 0))
        phrases.append((-d, length) if length else (0, 1))
        i += phrases[-1][1]
    return phrases


def lz78(text):
    """[(parent, length)] of the phrases; parents are counted from 1."""
    words, phrases, word = [()], [], ()
    for token in text:
        word += (token,)
        if word not in words:
            phrases.append((words.index(word[:-1]), len(word)))
            words.append(word)
            word = ()
    return phrases + [(words.index(word), len(word))] * bool(word)


def runs(text):
    """{(period, start, length)} of all maximal repetitions."""
    found = {}
    for p in range(1, len(text) // 2 + 1):
        for start in range(len(text) - p):
            end = start + p
            while end < len(text) and text[end] == text[end - p]:
                end += 1
            if end - start >= 2 * p and (start == 0 or text[start - 1] != text[start - 1 + p]):
                found.setdefault((start, end), p)
    return {(p, start, end - start) for (start, end), p in found.items()}


def near_loops(text, min_repeats, tolerance, max_period):
    """{(period, start, length)} of stretches all of whose beginnings and ends have a share of mismatches below tolerance."""
    kept = []
    for p in range(1, min(max_period, len(text)) + 1):
        scores = [tolerance - (a != b) for a, b in zip(text, text[p:], strict=False)]
        stretches, furthest = [], 0
        for start in range(len(scores)):
            total = most = end = 0
            for k in range(start, len(scores)):
                total += scores[k]
                if total <= 0:
                    break
                if total > most:
                    most, end = total, k + 1
            if end > furthest:
                stretches.append((start, end))
                furthest = end
        loops = [(p, start, end - start + p) for start, end in stretches if end - start + p >= min_repeats * p]
        kept += [loop for loop in loops if not any(is_widely_covered(loop, other) for other in kept)]
    return set(kept)


def is_widely_covered(loop, other):
    (_, start, length), (period, other_start, other_length) = loop, other
    return other_start - period <= start and start + length <= other_start + other_length + period


def softmax(products):
    most = max(products)
    weights = [exp(x - most) for x in products]
    return [weight / sum(weights) for weight in weights]


def attention_scores(queries, keys, start, stop, *, scale=None, kernel=7, aggregation="layer"):
    """scores[row][t] for one sequence: queries[head][r] and keys[head][t] are lists of numbers."""
    n, reach, group = stop - start, kernel // 2, len(queries) // len(keys)
    scale = 1 / sqrt(len(keys[0][0])) if scale is None else scale
    weights = [
        [softmax([scale * sum(map(mul, query, key)) for key in keys[head // group][start:stop]]) for query in rows]
        for head, rows in enumerate(queries)
    ]
    if aggregation == "layer":
        group = len(queries)
    result = []
    for first in range(0, len(queries), group):
        rows = [row for head in weights[first : first + group] for row in head]
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        result.append([sum(mean[max(0, t - reach) : t + reach + 1]) / kernel for t in range(n)])
    return result


def attend(queries, keys, values, first, *, scale=None, softcap=0.0):
    """The outputs [q][Dv] of the queries of one head, the newest tokens, from its keys and values [length][D], and the
    log-sum-exp [q] of each: a query sees the entries from `first` up to its own token."""
    outputs, sums = [], []
    for i, query in enumerate(queries):
        seen = range(first, max(first, len(keys) - len(queries) + 1 + i))
        products = [sum(map(mul, query, keys[t])) for t in seen]
        products = [x * (1 / sqrt(len(query)) if scale is None else scale) for x in products]
        if softcap:
            products = [softcap * tanh(x / softcap) for x in products]
        weights, largest = softmax(products) if products else [], max(products, default=-inf)
        outputs.append([sum(w * values[t][d] for w, t in zip(weights, seen, strict=True)) for d in range(len(values[0]))])
        sums.append(largest + log(sum(exp(x - largest) for x in products)) if products else -inf)
    return outputs, sums


def select_top(scores, k):
    """The positions of the k highest, ascending; of equal ones the first."""
    order = sorted(range(len(scores)), key=lambda t: (isnan(scores[t]), 0 if isnan(scores[t]) else -scores[t]))
    return sorted(order[:k])
