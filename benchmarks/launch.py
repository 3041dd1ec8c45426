"""What a call on CUDA tensors takes before the driver launches: our share, measured without a GPU.

    python benchmarks/launch.py [--quick]

The driver is the emulator's, told to do nothing when asked to launch; the tensors are the emulator's, which hand themselves
out in C like torch's (exchange API, a requires_grad to be asked for). Everything else is what runs with a GPU: arguments,
borrowing, checks, stream, context, parameters. A real cuLaunchKernel adds about two microseconds. Writes
results/launch.json."""

import argparse
import sys
from pathlib import Path

import numpy as np

from harness import side_by_side, write

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import emulator  # noqa: E402  the emulator is part of the tests
from lzpenalty import append_, dry_penalize_, lz_penalize_, warmup  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing written")
    quick = parser.parse_args().quick
    machine = emulator.Emulator()
    tensor = machine.module.Tensor

    def put(array):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        code = {"f": 2, "i": 0}[array.dtype.kind]
        return tensor(array.tobytes(), array.shape, strides, 0, code, array.itemsize * 8, 0)

    warmup()
    machine.driver.emulator_idle(1)
    logits, tokens, starts = (
        put(np.zeros((8, 1000), np.float32)),
        put(np.zeros((8, 600), np.int64)),
        put(np.zeros(8, np.int64)),
    )
    keys, values = (put(np.zeros((1, 2, 64, 128), np.float16)) for _ in range(2))
    new = put(np.zeros((1, 2, 1, 128), np.float16))
    calls = {
        "nothing": lambda: None,
        "lz_penalize_, logits and tokens": lambda: lz_penalize_(logits, tokens),
        "lz_penalize_, with starts, an int": lambda: lz_penalize_(logits, tokens, starts=100),
        "lz_penalize_, with starts, a tensor": lambda: lz_penalize_(logits, tokens, starts=starts),
        "lz_penalize_, with starts and 4 released ids": lambda: lz_penalize_(
            logits, tokens, starts=starts, release=(1, 2, 3, 4)
        ),
        "dry_penalize_, logits and tokens": lambda: dry_penalize_(logits, tokens),
        "append_, four tensors": lambda: append_(keys, values, new, new, position=3),
    }
    times = side_by_side(calls, 15 if quick else 90)
    best = {name: min(values) * 1e6 for name, values in times.items()}
    nothing = best.pop("nothing")
    result = {name: round(value - nothing, 2) for name, value in best.items()}
    for name, us in result.items():
        print(f"{us:6.2f} us  {name}")
    if not quick:
        write("launch", {"us": result})


if __name__ == "__main__":
    main()
