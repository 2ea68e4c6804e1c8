#!/usr/bin/env bash
# Installs what sagegen builds and tests with, on Debian 12 or a relative. Does nothing, and asks for no
# rights, when everything is there.
# Usage: tools/install_packages.sh               install
#        tools/install_packages.sh --missing     only print the names of what it would install
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
only_print=0
for argument in "$@"; do
  case "$argument" in
    -h|--help) usage; exit 0 ;;
    --missing) only_print=1 ;;
    *) echo "install_packages: unknown argument $argument (see --help)" >&2; exit 2 ;;
  esac
done

packages=(
  g++ cmake ninja-build git zlib1g-dev            # build; zlib packs hardware recordings
  llvm-22-dev                                     # generator: the NVPTX back end
  libzstd-dev                                     # packs kernels; LLVM's static libraries ask for it, too
  libfmt-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libyaml-cpp-dev catch2
  ccache                                          # tests build the sources again elsewhere
  python3                                         # layer check and command-line tests
  pkgconf                                         # test of the installed sagegen.pc
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ $only_print -eq 1 ]; then
  echo "${missing[*]}"
  exit 0
fi
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

refuse() {
  printf 'install_packages: %s\n' "$@" >&2
  exit 1
}

command -v apt-get >/dev/null || refuse "needs: ${missing[*]}" "there is no apt-get here; install them by other means"
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || refuse "needs: ${missing[*]}" \
    "only root can install them, and there is no sudo; as root: apt-get install ${missing[*]}"
  sudo=(sudo)
fi

echo "installing: ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt_get() {
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" >>"$log" 2>&1 && return
  cat "$log" >&2
  refuse "apt-get could not install: ${missing[*]} (its log is above)"
}
has_candidate() { LC_ALL=C apt-cache policy "$1" | grep 'Candidate: [^(]' >/dev/null; }

apt_get update
absent=()
for package in "${missing[@]}"; do
  has_candidate "$package" || absent+=("$package")
done
if [ ${#absent[@]} -gt 0 ]; then
  why=("the repositories of this machine do not have: ${absent[*]}")
  if [[ " ${absent[*]} " == *" llvm-22-dev "* ]]; then
    release=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}") || release=
    why+=("LLVM 22 comes with the security updates of Debian 12 (bookworm-security, main)"
      "and from apt.llvm.org (llvm-toolchain-${release:-CODENAME}-22); add one to apt's sources and try again"
      "without LLVM the runtime alone can be built: cmake --preset runtime-only")
  fi
  refuse "${why[@]}"
fi
apt_get install -y --no-install-recommends "${missing[@]}"
