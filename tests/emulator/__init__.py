"""CUDA without a GPU: builds the emulated driver and its tensors, and loads them."""

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FLAGS = ["-O1", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
DRIVER = ["-std=c++17", "-Wno-missing-field-initializers", "-include", HERE / "emulator.h", f"-I{ROOT / 'csrc/cuda'}"]
DRIVER += [f"-I{HERE}", HERE / "driver.cpp", HERE / "emulator.cpp"]
TENSOR = ["-std=gnu11", "-Wno-missing-field-initializers", f"-I{sysconfig.get_paths()['include']}", HERE / "tensor.c"]


class Unavailable(Exception):
    """Why there is no emulator here."""


def compile_once(command: list, name: str) -> Path:
    """Builds into build/, under a name that changes with everything that the result depends on."""
    sources = {*HERE.glob("*.[chi]*"), *(ROOT / "csrc").glob("*/*.h"), *(ROOT / "csrc/cuda").glob("*.cu*")}
    digest = hashlib.sha256(repr(command).encode())
    for source in sorted(sources.union(part for part in command if isinstance(part, Path))):
        digest.update(source.read_bytes())
    path = ROOT / "build/emulator" / digest.hexdigest()[:16] / name
    if not path.exists():
        if not shutil.which(command[0]):
            raise Unavailable(f"no {command[0]} to compile the emulator with")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:  # several processes test at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                part = path.with_suffix(".part")
                subprocess.run([*command, "-o", part], check=True)
                part.replace(path)
    return path


def build() -> tuple[Path, Path]:
    """The emulated libcuda.so.1, and the extension module `emulated`."""
    sanitizers = os.environ.get("LZPENALTY_SANITIZE")
    flags = [*FLAGS, f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"] if sanitizers else FLAGS
    driver = compile_once(["g++", *flags, *DRIVER], "libcuda.so.1")
    return driver, compile_once(["gcc", *FLAGS, *TENSOR], f"emulated{sysconfig.get_config_var('EXT_SUFFIX')}")


class Emulator:
    """The emulated driver of this process, as lzpenalty sees it, and the module `emulated`."""

    def __init__(self):
        driver, extension = build()
        os.environ["LZPENALTY_LIBCUDA"] = str(driver)
        self.path, self.driver = driver, ctypes.CDLL(str(driver))
        spec = importlib.util.spec_from_file_location("emulated", extension)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        for name in ("emulator_last_error", "emulator_last_launch"):
            getattr(self.driver, name).restype = ctypes.c_char_p
        for name in ("emulator_calls", "emulator_pending", "emulator_allocations"):
            getattr(self.driver, name).restype = ctypes.c_long

    def calls(self, name: str) -> int:
        return self.driver.emulator_calls(name.encode())

    def fail(self, name: str, code: int, n: int = 1) -> None:
        self.driver.emulator_fail(name.encode(), code, n)

    def seed(self, value: int) -> None:
        self.driver.emulator_seed(ctypes.c_uint64(value))

    def last_launch(self) -> dict:
        numbers, stream = (ctypes.c_uint * 5)(), ctypes.c_void_p()
        name = self.driver.emulator_last_launch(numbers, ctypes.byref(stream))
        return {"kernel": name.decode(), "grid": tuple(numbers[:3]), "threads": numbers[3], "shared": numbers[4],
                "stream": stream.value or 0}  # fmt: skip

    def load(self) -> None:
        """Makes device 0 ready. Raises if a kernel's PTX takes other parameters than its source."""
        from lzpenalty import warmup

        warmup(0)
