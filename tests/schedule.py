"""When a text is compressed, and how much is held, had it come one token at a time: a list that is shortened."""


def token_by_token(generated, interval, recent, kept):
    """Compressions by then, and tokens since the last one. After `times` of them `kept(times)` tokens stay before the
    recent ones."""
    held = times = since = 0
    for _ in range(generated):
        held, since = held + 1, since + 1
        if held - recent == kept(times) + interval:
            times, since = times + 1, 0
            held = kept(times) + recent
    return times, since
