#!/usr/bin/env bash
# Builds for this machine's GPU, runs the GPU tests and times the kernels beside their peers, in under eight
# minutes. Needs a GPU, nvcc, and a Python with torch, triton, what the build takes (pybind11, ninja) and pytest; nothing
# is downloaded. Whatever fails is reported and the rest runs; the exit status is the number of steps that failed.
#
#   bash benchmarks/gpu.sh                  results in $OUT, else benchmarks/results/<card>.json
#
# Variables: PYTHON (default python3), OUT (a folder), SECONDS_FOR_TESTS (default 120), SECONDS_FOR_BENCHMARKS
# (default 180; rows that no longer fit are listed as not measured).
set -u -o pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results}
LOGS=$(mktemp -d)
FAILED=()
export PYTHONUNBUFFERED=1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# step NAME COMMAND...: runs it, shows the end of what it printed, and remembers whether it failed.
step() {
  local name=$1 start=$SECONDS status
  shift
  "$@" >"$LOGS/$name" 2>&1
  status=$?
  echo "== $name: $([ $status -eq 0 ] && echo ok || echo "FAILED with status $status") in $((SECONDS - start)) s"
  tail -n "${LINES_SHOWN:-15}" "$LOGS/$name"
  [ $status -eq 0 ] || FAILED+=("$name")
}

machine() {
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
  nvcc --version | tail -2
  "$PYTHON" -c 'import platform, torch, triton
print("Python", platform.python_version(), "torch", torch.__version__, "triton", triton.__version__)'
}

# Only the GPU that is here: setup.py asks for its architecture. --no-deps: what is not installed stays so.
build() {
  FASTBERT_CUDA=1 FASTBERT_CUDA_ARCHS=${FASTBERT_CUDA_ARCHS:-$(architecture)} \
    "$PYTHON" -m pip install -v --no-deps --no-build-isolation --no-index -e . &&
    "$PYTHON" -m fastbert.cli doctor
}

architecture() {
  nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .
}

# Of the contract what runs on the CUDA kernels; Triton, which compiles each case for seconds, has its own file.
tests() {
  timeout "${SECONDS_FOR_TESTS:-120}" "$PYTHON" -m pytest -q --maxfail=20 -p no:cacheprovider \
    --continue-on-collection-errors -k "gpu or cuda-cuda" tests/ops/test_cuda_gpu.py \
    tests/ops/test_attention_contract.py tests/kernels/test_attention_on_gpu.py \
    tests/kernels/test_row_operators_on_gpu.py
}

benchmarks() {
  "$PYTHON" benchmarks/gpu.py --output "$OUT" --seconds "${SECONDS_FOR_BENCHMARKS:-180}"
}

operators() {
  "$PYTHON" benchmarks/gpu_operators.py --output "$OUT"
}

mkdir -p "$OUT"
step machine machine
step build build
step tests tests
LINES_SHOWN=70 step benchmarks benchmarks
step operators operators
[ ${#FAILED[@]} -eq 0 ] || echo "failed: ${FAILED[*]}; their whole output is in $LOGS"
exit ${#FAILED[@]}
