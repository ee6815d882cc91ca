# Everything a newcomer needs, from a machine with Python 3.10 or newer and a C++ compiler.
#
#   make install    the virtual environment .venv with the library (editable) and its tools
#   make demo       install, then the main job on real text
#   make test       install, then the ordinary tests; make test-all also runs the long matrices
#   make bench      install, then the benchmarks of this machine's CPU and their report in benchmarks/results; about ten
#                   minutes on two cores, BENCH_FLAGS=--full adds the rows that take longer
#   make lint       what must be clean before a commit; make format repairs what can be repaired
#   make clean      removes what make has built, .venv included; runs/ stays
#
# Variables: PYTHON (the interpreter to start from), VENV (where the environment goes), PIP_FLAGS (handed to pip install),
# TORCH_INDEX (a package index to take torch from, for instance one with builds for CPU only), PYTEST_FLAGS, BENCH_FLAGS.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
TORCH_INDEX ?=
PYTEST_FLAGS ?=
BENCH_FLAGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CPP_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
# What the installed package depends on; Python sources are not among it, the installation being editable.
INSTALL_SOURCES := setup.py pyproject.toml constraints/dev.txt $(CPP_SOURCES)

.PHONY: install demo test test-all bench lint format clean

install: $(STAMP)

$(STAMP): $(INSTALL_SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "fastbert needs Python 3.10 or newer, and '$(PYTHON)' is not: set PYTHON, as in make install PYTHON=python3.12" >&2; exit 1; }
	@# --no-compile: Python compiles a module when it is first imported; doing all of them ahead doubled the time.
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --no-compile --index-url $(TORCH_INDEX) -c constraints/dev.txt torch)
	$(BIN)/python -m pip install --no-compile $(PIP_FLAGS) -c constraints/dev.txt -e '.[train,dev,bench]'
	@touch $@

demo: install
	$(BIN)/fastbert demo

test: install
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-all: install
	$(BIN)/python -m pytest -m "" $(PYTEST_FLAGS)

bench: install
	@rm -f runs/benchmarks.json
	$(BIN)/python -m pytest benchmarks --benchmark-json=runs/benchmarks.json $(BENCH_FLAGS)
	$(BIN)/python benchmarks/report.py runs/benchmarks.json

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES)

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP_SOURCES)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f fastbert/_C.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
