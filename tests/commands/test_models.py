"""Where models come from."""

import pytest

from lzpenalty.commands import models


def test_what_is_missing_is_named(tmp_path):
    nothing = tmp_path / "nothing.gguf"
    nothing.write_bytes(b"no model")
    with pytest.raises(models.ModelMissing, match="nothing.gguf can't be loaded"):
        models.load_model(str(nothing))
