#!/usr/bin/env bash
# Installs what sagegen builds and tests with, on Debian 12 or a relative. Does nothing, and asks for no
# rights, when everything is there. Usage: tools/install_packages.sh
set -euo pipefail

packages=(
  g++ cmake ninja-build git                       # build
  llvm-22-dev                                     # generator: the NVPTX back end
  libfmt-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev catch2
  python3                                         # layer check and command-line tests
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

echo "installing: ${missing[*]}" >&2
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  sudo=(sudo)
fi
log=$(mktemp)
if ! { "${sudo[@]}" apt-get update && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "install_packages: apt-get could not install: ${missing[*]} (its log is above)" >&2
  exit 1
fi
rm -f "$log"
