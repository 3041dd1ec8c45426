"""What this installation found: processor, tensors of which libraries, GPUs. `lzpenalty doctor` prints it.

Frameworks that are not imported yet are imported here, in order to see how they hand out their tensors."""

import importlib
import os
import platform
from importlib import metadata

from lzpenalty import __version__, _core

FRAMEWORKS = ("numpy", "torch", "jax.numpy", "cupy", "tensorflow", "paddle")
LIBRARIES = ("transformers", "vllm", "sglang")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _path(array: object) -> str:
    """How the memory of such an array is borrowed."""
    if type(array).__module__ == "numpy":
        return "NumPy's C API"
    if hasattr(type(array), "__dlpack_c_exchange_api__"):
        return "DLPack exchange API (fastest)"
    return "DLPack capsules (about a microsecond a tensor)" if hasattr(array, "__dlpack__") else "none: no __dlpack__"


def frameworks() -> dict[str, str]:
    """{name and version: how its tensors are borrowed} of those that are installed."""
    found = {}
    for module in FRAMEWORKS:
        name = module.split(".")[0]
        if version := _version(name):
            try:
                package = importlib.import_module(module)
                path = _path(getattr(package, "zeros", None) and package.zeros(1))
            except Exception as error:  # a framework that is broken is one of the things to be found out
                path = f"does not work: {type(error).__name__}: {error}"
            found[f"{name} {version}"] = path
    return found


def cuda() -> list[str]:
    """The driver and the devices, or why there are none."""
    opened = os.environ.get("LZPENALTY_LIBCUDA") or "libcuda.so.1"
    try:
        (major, minor), devices = _core.cuda_devices()
    except RuntimeError as error:
        return [str(error)]
    lines = [f"driver for CUDA {major}.{minor} ({opened}), {len(devices)} device{'s' * (len(devices) != 1)}"]
    for i, (name, capability, shared_bytes, _) in enumerate(devices):
        verdict = "ready" if capability >= (7, 5) else "too old: 7.5 or more is needed"
        if capability >= (7, 5):
            try:
                _core.warmup(i)
            except RuntimeError as error:
                verdict = str(error)
        kilobytes = shared_bytes >> 10
        lines.append(
            f"cuda:{i}: {name}, compute capability {capability[0]}.{capability[1]}, {kilobytes} KB shared: {verdict}"
        )
    return lines


def findings() -> dict:
    """The whole report, for programs."""
    return {
        "lzpenalty": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _core.cpu_level(),
        "levels": list(_core.cpu_levels()),
        "threads": _core.get_num_threads(),
        "frameworks": frameworks(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
        "cuda": cuda(),
    }


def report(found: dict) -> str:
    """The findings in lines of "name: finding"."""
    lines = [
        f"lzpenalty: {found['lzpenalty']}, Python {found['python']}, {found['system']}",
        f"processor: {found['processor']} of {', '.join(found['levels'])}; {found['threads']} threads",
        *(f"{name}: {path}" for name, path in found["frameworks"].items()),
        *(f"{name} {version}" for name, version in found["libraries"].items()),
        *(f"CUDA: {line}" for line in found["cuda"]),
    ]
    return "\n".join(lines)
