"""An SGLang engine in a process of its own, which ends with it: python sglang_worker.py, with JSON on standard input.

    {"engine": {options of sglang.Engine},
     "calls": {name: {"ids": [[...], ...], "asks": [...], "tokens": [...], "joining": bool}}}

`asks` are custom_params, or null for no processor. The answer's last line is {name: [[generated ids], ...]}. Requests of a
call come together, or one after the other while earlier ones are running ("joining")."""

import asyncio
import json
import sys

import sglang

from lzpenalty.sglang import LZPenaltyProcessor


def requests(call):
    for ids, ask, tokens in zip(call["ids"], call["asks"], call["tokens"], strict=True):
        params = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
        if ask is not None:
            params["custom_params"] = ask
        yield {
            "input_ids": ids,
            "sampling_params": params,
            "custom_logit_processor": None if ask is None else LZPenaltyProcessor().to_str(),
        }


def answers(engine, call):
    async def one(i, request):
        await asyncio.sleep(0.05 * i)
        return await engine.async_generate(**request)

    async def all_of_them():
        return await asyncio.gather(*(one(i, request) for i, request in enumerate(requests(call))))

    if call.get("joining"):
        found = engine.loop.run_until_complete(all_of_them())
    else:
        each = list(requests(call))
        found = engine.generate(**{name: [request[name] for request in each] for name in each[0]})
    return [answer["output_ids"] for answer in found]


if __name__ == "__main__":
    job = json.load(sys.stdin)
    engine = sglang.Engine(**job["engine"])
    result = {name: answers(engine, call) for name, call in job["calls"].items()}
    print(json.dumps(result), flush=True)
    engine.shutdown()
