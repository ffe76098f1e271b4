#!/usr/bin/env bash
# Measure speed, memory and parity on a CUDA GPU: what takes minutes, most valuable first.
#
#   scripts/gpu_bench.sh [--minutes 9] [--smoke | --tiny] [--rows 2,sd3-fast] [--out FILE]
#
# Needs the checkout and a Python with PyTorch and transformers. What else is missing comes from the
# wheels of scripts/gpu_wheels.sh, in .wheels or where DRIFT_WHEELS says; no network is used.
# PYTHON names another interpreter than python3.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
site=$("$python" -m scripts.gpu_bench.provide "${DRIFT_WHEELS:-$root/.wheels}")
export PYTHONPATH="$site:$PYTHONPATH"
exec "$python" -m scripts.gpu_bench "$@"
