"""What the sessions of noxfile.py do more of than `make test`: they set LZPENALTY_THOROUGH."""

import os

import pytest
from hypothesis import settings

THOROUGH = bool(os.environ.get("LZPENALTY_THOROUGH"))

# A test that takes long, and whose promise a shorter one keeps in part.
thorough = pytest.mark.elsewhere(not THOROUGH, "take long: make test-thorough")


def examples(most, **more):
    """How many examples Hypothesis makes up: so many, or in `make test` a fifth of them, but 20 at least."""
    return settings(max_examples=most if THOROUGH else min(most, max(20, most // 5)), deadline=None, **more)
