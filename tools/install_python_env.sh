#!/usr/bin/env bash
# Makes the Python environment that the tests of the Python package run in, build/tools/python: NumPy, nanobind, pytest, mypy,
# PyTorch, from the index that pip is set up for. tools/test.sh builds and tests the package where it is there.
# Does nothing where it is there already.
# Usage: tools/install_python_env.sh                  make it if there is none
#        tools/install_python_env.sh --without-torch  without PyTorch, by far the largest part; its tests are skipped then
#        tools/install_python_env.sh --into FOLDER    into another folder
#        tools/install_python_env.sh --force          anew
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
refuse() { echo "install_python_env: $1" >&2; exit "${2:-1}"; }
folder='' force=0 torch=1
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) usage; exit 0 ;;
    --force) force=1 ;;
    --without-torch) torch=0 ;;
    --into)
      [ $# -ge 2 ] && [ -n "$2" ] || refuse "--into needs a folder (see --help)" 2
      folder=$2; shift ;;
    *) refuse "unknown argument $1 (see --help)" 2 ;;
  esac
  shift
done
[ -n "$folder" ] || folder="$(cd "$(dirname "$0")/.." && pwd)/build/tools/python"

packages=(numpy ml_dtypes nanobind scikit-build-core pytest mypy)
if [ $torch -eq 1 ]; then packages+=(torch); fi

if [ $force -eq 0 ] && [ -x "$folder/bin/python" ]; then exit 0; fi
command -v python3 >/dev/null || refuse "needs python3 with venv and pip"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# An environment knows its place, so that it is made there; one that is not whole is taken away again.
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
if ! { python3 -m venv "$folder" &&
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"; } >"$work/log" 2>&1; then
  cat "$work/log" >&2
  rm -rf "$folder"
  refuse "pip could not install ${packages[*]} (its log is above)"
fi
"$folder/bin/python" -c 'import numpy, nanobind, pytest' 2>/dev/null || {
  rm -rf "$folder"
  refuse "what pip installed does not run on this machine"
}
echo "a Python environment is in $folder" >&2
