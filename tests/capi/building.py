"""How the tests build the library and programs that use it."""

import fcntl
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
CC = os.environ.get("CC", "cc")


def run(*command, **options):
    """What a program prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def make(*targets):
    """Without optimisation beyond the first level, which compiles in a third of the time."""
    flags = [f"CC={CC}", "LIB_CFLAGS=-O1 -Wall -Wextra -Werror"]
    folder = Path("build/capi", Path(CC).name)
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    with (ROOT / folder / "lock").open("w") as lock:  # several processes test at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        return run("make", "--no-print-directory", "-f", "lib.mk", f"LIB={folder}", *flags, *targets, cwd=ROOT)
