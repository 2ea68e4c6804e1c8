#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests.
# Usage: tools/test.sh [ctest arguments]     for example: tools/test.sh -L fast -R cli
# Of ctest's arguments: -L -LE -R -E -I -j --repeat --timeout with a value, -N -V -VV -Q --rerun-failed
# --stop-on-failure without.
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
refuse() { echo "test: $1 (see --help)" >&2; exit 2; }
rest=("$@")   # ctest itself would pass over what it does not know
while [ ${#rest[@]} -gt 0 ]; do
  case "${rest[0]}" in
    -h|--help) usage; exit 0 ;;
    -L|-LE|-R|-E|-I|-j|--repeat|--timeout)
      [ ${#rest[@]} -ge 2 ] || refuse "${rest[0]} needs a value"
      rest=("${rest[@]:2}") ;;
    -N|-V|-VV|-Q|--rerun-failed|--stop-on-failure|-j[0-9]*) rest=("${rest[@]:1}") ;;
    *) refuse "unknown argument ${rest[0]}" ;;
  esac
done
cd "$(dirname "$0")/.."

tools/install_packages.sh
# With what tools/install_python_env.sh put there, the Python package, too.
python=()
if [ -x build/tools/python/bin/python ]; then
  python=(-DSAGEGEN_PYTHON=ON -DPython_EXECUTABLE="$PWD/build/tools/python/bin/python")
fi
cmake --preset release "${python[@]}" >/dev/null
cmake --build build
ctest --test-dir build --output-on-failure --no-tests=error -j "$(nproc)" "$@"
