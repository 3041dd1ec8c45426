#!/bin/sh
# Everything that needs a real GPU, into one report: what there is, the tests, the benchmarks. `make gpu-report` runs it.
#
#     benchmarks/gpu_report.sh PYTHON [FILE]
set -u
python=$1
report=${2:-build/gpu-report.txt}
mkdir -p "$(dirname "$report")"
export LZPENALTY_TEST_GPU=1 PYTHONUNBUFFERED=1

section() {
    printf '\n==== %s\n' "$*"
    "$@" 2>&1
    printf -- '---- exit status %s\n' $?
}

{
    date -u
    git log -1 --format='%H %s' 2>/dev/null
    section nvidia-smi
    section "$python" -m lzpenalty.commands.cli doctor
    section "$python" csrc/cuda/generate.py --check
    section "$python" -m pytest -q tests/cuda/test_gpu.py tests/cuda/test_cuda_agrees.py tests/cuda/test_cuda_calls.py tests/lz/test_formula.py \
        tests/lz/test_edge_cases.py tests/lz/test_dry.py tests/lz/test_period.py tests/lz/test_half.py
    # Races and accesses out of bounds, on the real thing; slow, so on the tests of values alone. The plain looks before
    # atomic operations, in history.cuh, are meant: racecheck may list them.
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck synccheck; do
            section compute-sanitizer --tool $tool --error-exitcode 1 \
                "$python" -m pytest -q tests/cuda/test_gpu.py -k "values or scores"
        done
    fi
    section "$python" benchmarks/gpu.py
} | tee "$report"
