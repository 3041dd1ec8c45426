"""Options of the penalty with sections in SmolLM2's ids, for the tests with real engines: each depends on what the prompt,
which ends with the turn of the assistant and a line's end, has left open."""

_TURN, _LINE, _STOP, _COMMA = 1, 198, 30, 28

# Thinking goes on from the turn's beginning to the first full stop, which is likelier in a loop of a token.
THINKING = {"strength": 0.4, "open": [_TURN], "release": [_STOP], "release_after": 6}
# Nothing is penalised between the end of a line and a comma, to begin with that of the prompt.
SKIPPED = {"strength": 0.4, "skip": [_LINE], "resume": [_COMMA]}
