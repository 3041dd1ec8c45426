"""stub until the helper's lands"""

import sys


def cache_prompt_length(cache):
    f = sys._getframe(1)
    while f is not None:
        if (
            f.f_code.co_name == "generate"
            and "generation/utils" in f.f_code.co_filename
            and "input_ids_length" in f.f_locals
        ):
            kw = f.f_locals["model_kwargs"]
            if kw.get("past_key_values", kw.get("cache")) is cache:
                return f.f_locals["input_ids_length"]
        f = f.f_back
    return None


def unfinished_rows(cache):
    f = sys._getframe(1)
    while f is not None:
        if f.f_code.co_name == "_sample" and "unfinished_sequences" in f.f_locals:
            kw = f.f_locals["model_kwargs"]
            if kw.get("past_key_values", kw.get("cache")) is cache:
                return f.f_locals["unfinished_sequences"]
        f = f.f_back
    return None
