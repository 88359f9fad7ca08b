#!/usr/bin/env bash
# Makes the virtual environment: scripts/setup.sh VENV EXTRAS, for instance .venv libero,dev
# Run again, it only adds what is missing. Called by `make`.
set -euo pipefail

venv=$1
extras=$2
torch_index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}

fail() {
  echo "error: $*" >&2
  exit 2
}

find_python() {
  for python in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
    then
      echo "$python"
      return
    fi
  done
  fail "no Python 3.11, 3.12 or 3.13 was found: install one (python.org, or: uv python install" \
    "3.12), or name it: make PYTHON=/path/to/python"
}

# On Linux, PyPI's torch brings gigabytes of CUDA. Without an NVIDIA driver they are of no use, so
# torch, and nothing else, is taken from the CPU index, where that can be reached.
install_torch() {
  local source=()
  if [[ -n $torch_index && $(uname -s) == Linux ]] && ! command -v nvidia-smi >/dev/null &&
    "$venv/bin/python" - "$torch_index/torch/" 2>/dev/null <<'PYTHON'
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=5)
PYTHON
  then
    source=(--extra-index-url "$torch_index")
  fi
  "$venv/bin/python" -m pip install -qq -c constraints.txt ${source[@]+"${source[@]}"} torch
}

# LIBERO is rendered without a display, which on Linux needs a system library.
install_rendering() {
  remedy() {
    "$venv/bin/python" -c \
      'from libra_vla.simulation.rendering import probe; print(probe()["remedy"] or "")'
  }
  [[ -n $(remedy) ]] || return 0
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "installing a library for headless rendering (apt-get)"
    apt-get update -qq || true # a stale list may still do
    # Mesa no longer brings OSMesa from 25.1 on; EGL is the other way.
    apt-get install -y -qq libosmesa6 >/dev/null 2>&1 ||
      apt-get install -y -qq libegl1 libgl1-mesa-dri >/dev/null ||
      fail "apt-get could not install libosmesa6: install it, then run make again"
  fi
  [[ -z $(remedy) ]] || fail "no library for headless rendering: $(remedy)"
}

if [[ ! -x $venv/bin/python ]]; then
  python=$(find_python)
  echo "creating $venv with $("$python" --version)"
  "$python" -c 'import ensurepip' 2>/dev/null ||
    fail "$python has no venv module: sudo apt-get install python3-venv"
  "$python" -m venv "$venv"
fi
echo "installing libra-vla[$extras] into $venv (the first time takes a few minutes)"
install_torch
"$venv/bin/python" -m pip install -qq -c constraints.txt -e ".[$extras]"
if [[ ,$extras, == *,dev,* ]]; then
  # Only tests use it. It asks for an old NumPy, which it does not need.
  "$venv/bin/python" -m pip install -qq --no-deps openpi-client==0.1.2
fi
install_rendering
