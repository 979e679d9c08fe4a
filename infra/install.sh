#!/usr/bin/env bash
# Makes .venv with the tested versions, unless it is there and up to date. Called by the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3.11}
TORCH_CPU_INDEX=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
want=$(cat pyproject.toml constraints.txt infra/install.sh | sha256sum | cut -c1-16)
stamp=.venv/.installed
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi

started=$(date +%s)
say() { printf '[install +%ss] %s\n' "$(( $(date +%s) - started ))" "$*"; }

if ! command -v "$PYTHON" >/dev/null || ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  echo "Perennial needs Python 3.11, but '$PYTHON' is not it. Install it, or name it: make PYTHON=/path/to/python3.11" >&2
  exit 1
fi
say "making .venv with $($PYTHON --version) (about 3 minutes and 3.5 GB of disk the first time)"
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

torch=$(sed -n 's/^torch==//p' constraints.txt)
if .venv/bin/python -c 'import torch' 2>/dev/null; then
  say "torch is there: $(.venv/bin/python -c 'import torch; print(torch.__version__)')"
elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  say "NVIDIA GPU found: installing torch $torch with CUDA (several GB)"
  pip install -q "torch==$torch"
elif pip install -q "torch==$torch+cpu" 2>/dev/null; then
  say "installed torch $torch (CPU) from the package indexes in use"
elif pip install -q --index-url "$TORCH_CPU_INDEX" "torch==$torch+cpu" 2>/dev/null; then
  say "installed torch $torch (CPU) from $TORCH_CPU_INDEX"
else
  say "no CPU build of torch $torch found: installing the plain package, which brings several GB of CUDA"
  pip install -q "torch==$torch"
fi
say "installing everything else at the versions of constraints.txt"
pip install -q -c constraints.txt -e '.[dev]'
echo "$want" > "$stamp"
say "done"
