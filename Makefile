# Everything a newcomer needs, from a machine with Python 3.10 or newer and a C++ compiler.
#
#   make install    the virtual environment .venv with the library (editable) and its tools
#   make demo       install, then the main job on real text
#   make test       install, then the ordinary tests; make test-all also runs the long matrices
#   make test-emulated    install, then the AVX-512, AVX512-BF16 and AMX kernels on emulated instructions, where there is AVX2
#   make cuda       install, then the extension with CUDA kernels for every generation of GPUs from the A100 on, GPU or not;
#                   needs nvcc of CUDA 12.8 or newer. (Where there are nvcc and a GPU, make install builds for that GPU.)
#   make bench      install, then the benchmarks of this machine's CPU and their report in benchmarks/results; about ten
#                   minutes on two cores, BENCH_FLAGS=--full adds the rows that take longer
#   make kernels-report    install, then the Triton kernels compiled for every target: registers, spills, shared memory
#   make sanitize   install, then the compiled kernels' tests on a build that stops at wrong memory and undefined
#                   behaviour; needs g++, takes some minutes
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
INSTALL_SOURCES := setup.py csrc/cuda/cuda_build.py pyproject.toml constraints/dev.txt $(CPP_SOURCES)

.PHONY: install demo test test-all test-emulated cuda bench kernels-report sanitize lint format clean

install: $(STAMP)

$(STAMP): $(INSTALL_SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "fastbert needs Python 3.10 or newer, and '$(PYTHON)' is not: set PYTHON, as in make install PYTHON=python3.12" >&2; exit 1; }
	@# --no-compile: Python compiles a module when it is first imported; doing all of them ahead doubled the time.
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --no-compile --index-url $(TORCH_INDEX) -c constraints/dev.txt torch)
	$(BIN)/python -m pip install --no-compile $(PIP_FLAGS) -c constraints/dev.txt -e '.[train,dev,bench,triton]'
	@touch $@

demo: install
	$(BIN)/fastbert demo

test: install
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-all: install
	$(BIN)/python -m pytest -m "" $(PYTEST_FLAGS)

test-emulated: install
	FASTBERT_EMULATE_ISA=1 $(BIN)/python setup.py -q build --build-lib build/emulated --build-temp build/emulated-temp
	FASTBERT_EMULATED=build/emulated $(BIN)/python -m pytest -m "" tests/test_emulated_intrinsics.py $(PYTEST_FLAGS)

# In place of what the editable installation has built; its objects are used again.
cuda: install
	FASTBERT_CUDA=1 $(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/python -c 'from fastbert import _C; assert _C.cuda_kernels(), _C; print(_C.build_info()["cuda"])'

bench: install
	@rm -f runs/benchmarks.json
	$(BIN)/python -m pytest benchmarks --benchmark-json=runs/benchmarks.json $(BENCH_FLAGS)
	$(BIN)/python benchmarks/report.py runs/benchmarks.json

kernels-report: install
	@$(BIN)/python tests/kernels/report.py

# A package of its own, beside the installed one. -O1 keeps the code that runs near the code that was written; -g and the
# frame pointer make reports name its lines; without recovery undefined behaviour ends a test as wrong memory does.
SANITIZED := build/sanitize
SANITIZE_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZE_BUILD := CXX=g++ CXXFLAGS="-O1 -g -fno-omit-frame-pointer $(SANITIZE_FLAGS)" LDFLAGS="$(SANITIZE_FLAGS)"
# Python was built without sanitizers, so their runtimes must be there before anything allocates. libstdc++ comes along:
# the runtime looks for the function that throws exceptions once, at the start, and ends the program at the first
# exception if it was not there. Leaks are not reported, for Python leaves much to the end of the process by design. Freed
# memory is kept from use for 256 MB only, or torch's tensors would fill the machine. abort_on_error makes pytest say
# which test it was, and print_stacktrace makes undefined behaviour say where.
SANITIZE_RUN = LD_PRELOAD="$(foreach library,asan ubsan stdc++,$(shell g++ -print-file-name=lib$(library).so))" \
	ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=256:abort_on_error=1 \
	UBSAN_OPTIONS=print_stacktrace=1:abort_on_error=1 PYTHONPATH=$(SANITIZED)
# The program pytest and not python -m pytest, which would find the package of the current folder first. --capture=sys
# lets reports through, which go to the process's own error output. Chosen is what runs compiled code in this process, or
# in a child of it; the sanitizers' own memory would spoil the test of memory kept.
SANITIZE_TESTS := tests/test_extension.py tests/ops --capture=sys -p no:cacheprovider \
	-k "(contract and cpu-cpu) or (random_problems and cpu) or test_cpu_bindings or test_cpu_masks or test_cpu_threads \
	or test_nothing_beyond or test_extension or philox or test_layer_norm or test_bias_gelu or test_cross_entropy \
	or test_elementwise"

sanitize: install
	$(SANITIZE_BUILD) $(BIN)/python setup.py -q build --build-lib $(SANITIZED) --build-temp $(SANITIZED)-temp
	cd $(SANITIZED) && $(SANITIZE_RUN) $(abspath $(BIN))/python -c \
		'from fastbert import _C; assert "-fsanitize" in _C.build_info()["flags"], _C'
	$(SANITIZE_RUN) $(BIN)/pytest $(SANITIZE_TESTS) $(PYTEST_FLAGS)
	$(SANITIZE_RUN) FASTBERT_CPU_ISA=generic $(BIN)/pytest $(SANITIZE_TESTS) $(PYTEST_FLAGS)

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
