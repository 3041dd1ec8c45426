"""Fixtures of the tests with the real vLLM."""

import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(tiny random model, its folder)"""
    from engines.vllm_server import tiny_model  # sets what vllm reads when it is imported

    folder = str(tmp_path_factory.mktemp("model"))
    return tiny_model(folder), folder
