#!/usr/bin/env bash
# From a fresh Debian 12 machine to checked attention: installs what is missing, builds the command-line
# tool, emits the default kernels for every target and runs attention on recorded activations of a real
# transformer, on a GPU if there is one, else in the emulator. Says first which packages it will install.
# Usage: tools/quickstart.sh [--help]
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
for argument in "$@"; do
  case "$argument" in
    -h|--help) usage; exit 0 ;;
    *) echo "quickstart: unknown argument $argument (see --help)" >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."

missing=$(tools/install_packages.sh --missing)
echo "== packages to install: ${missing:-none, everything is there}"
tools/install_packages.sh
echo "== build (the first time takes some minutes)"
cmake --preset release >/dev/null
cmake --build build --target sagegen
echo "== PTX of the default kernels, every target"
build/bin/sagegen emit --target all --out build/ptx | tail -n 1
echo "== attention on recorded activations (layer2), and on made-up inputs whose K channels have a bias (k_bias)"
tools/accuracy_table.py --sagegen build/bin/sagegen --input tests/data/minilm_qkv.safetensors \
  --prefix layer2 --dist k_bias
echo "== done: build/bin/sagegen --help"
