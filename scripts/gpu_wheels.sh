#!/usr/bin/env bash
# Download what a machine with PyTorch, transformers and accelerate lacks for scripts/gpu_bench.sh.
#
#   scripts/gpu_wheels.sh [--python 3.12] [--folder .wheels] [--check]
#
# The wheels are for Linux on x86-64 and that Python, under 40 MiB in all; the folder is ignored by
# git. --check makes an environment of just those three packages with a Python of that version
# (PYTHON names it), adds the wheels without an index, and runs every row there with --tiny.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version=3.12 folder=$root/.wheels check=""
while (($#)); do
    case $1 in
        --python) version=${2:?--python needs a version such as 3.12}; shift 2 ;;
        --folder) folder=${2:?--folder needs a folder}; shift 2 ;;
        --check) check=yes; shift ;;
        *) echo "gpu_wheels: unknown option $1; valid: --python, --folder, --check" >&2; exit 2 ;;
    esac
done
python=${PYTHON:-python3}
limit=$((40 << 20))

mkdir -p "$folder"
rm -f "$folder"/*.whl
platforms=()
for glibc in 2_28 2_27 2_24 2_17 2_12 2_5; do
    platforms+=(--platform "manylinux_${glibc}_x86_64")
done
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version "$version" --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 \
    -c "$root/constraints.txt" -r "$root/scripts/gpu_bench/wheels.txt" -d "$folder"
size=$(du -cb "$folder"/*.whl | tail -n 1 | cut -f 1)
echo "$(ls "$folder"/*.whl | wc -l) wheels for Python $version in $folder: $((size >> 20)) MiB"
if ((size > limit)); then
    echo "gpu_wheels: $size bytes are more than $limit" >&2
    exit 1
fi
[[ -n $check ]] || exit 0

own=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [[ $own != "$version" ]]; then
    echo "gpu_wheels: --check needs Python $version; $python is $own (PYTHON=... names another)" >&2
    exit 2
fi
bare=$(mktemp -d)
trap 'rm -rf "$bare"' EXIT
"$python" -m venv "$bare/env"
"$bare/env/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$root/constraints.txt" torch transformers accelerate
PIP_NO_INDEX=1 DRIFT_WHEELS=$folder PYTHON=$bare/env/bin/python \
    "$root/scripts/gpu_bench.sh" --tiny --out "$bare/gpu_bench.json"
