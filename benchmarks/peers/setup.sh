#!/usr/bin/env bash
# Makes one environment per peer: bash benchmarks/peers/setup.sh [FOLDER] [NAME...]
# PYTHON names the interpreter (3.11). Every version is pinned in <name>.txt beside this file; the
# lists are whole, so pip is told not to look for anything else. A list differs from what the
# package itself asks for only where that cannot be had together: WSInfer 0.6.1 works with neither
# zarr 3 nor numcodecs 0.16, and TIAToolbox 2.1.3 asks for an older torch.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-/tmp/peers}
shift || true
names=("${@:-}")
[ -n "${names[0]}" ] || names=(wsinfer tiatoolbox lazyslide)
for name in "${names[@]}"; do
  echo "== $name"
  [ -x "$folder/$name/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$folder/$name"
  "$folder/$name/bin/python" -m pip install --quiet --no-deps --requirement "$here/$name.txt"
done
