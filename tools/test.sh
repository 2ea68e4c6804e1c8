#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests.
# Usage: tools/test.sh [ctest arguments]     for example: tools/test.sh -L fast
set -euo pipefail
cd "$(dirname "$0")/.."

tools/install_packages.sh
cmake --preset release >/dev/null
cmake --build build
ctest --test-dir build --output-on-failure --no-tests=error -j "$(nproc)" "$@"
