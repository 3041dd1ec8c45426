"""SmolLM2 in llama-cpp-python, for tests that only `make test-llama-cpp` runs."""

import os

import llama_cpp
import pytest


def load(kind, **options):
    """A `Llama`, or a subclass. Without llama.cpp's AMX kernels, which crash on virtual machines that say that they have
    them."""
    defaults = llama_cpp.llama_model_default_params

    def without_extra_buffers():
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    options = {"n_threads": len(os.sched_getaffinity(0)), "verbose": False, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp.llama_cpp, "llama_model_default_params", without_extra_buffers)
        return kind(os.environ["LZPENALTY_GGUF"], **options)
