#!/bin/sh
# Everything that needs a real GPU, into one report: gpu_report.py, which says more, with a Python of one's choice.
#
#     benchmarks/gpu_report.sh PYTHON OUT [PART ...]
if [ $# -lt 2 ]; then
    echo "usage: benchmarks/gpu_report.sh PYTHON OUT [PART ...]" >&2
    exit 2
fi
python=$1
shift
exec "$python" "$(dirname "$0")/gpu_report.py" "$@"
