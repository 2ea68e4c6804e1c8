#!/usr/bin/env bash
# Installs a browser without a screen, for the tests that lay out pages, on Debian 12 or a relative. Does nothing where there
# is one.
# Usage: tools/install_browser.sh
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
for argument in "$@"; do
  case "$argument" in
    -h|--help) usage; exit 0 ;;
    *) echo "install_browser: unknown argument $argument (see --help)" >&2; exit 2 ;;
  esac
done
if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then exit 0; fi
command -v apt-get >/dev/null || { echo "install_browser: there is no apt-get here; install chromium by other means" >&2; exit 1; }
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install_browser: only root can install chromium, and there is no sudo" >&2; exit 1; }
  sudo=(sudo)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for step in update "install -y --no-install-recommends chromium"; do
  # shellcheck disable=SC2086
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get $step >>"$log" 2>&1 || { cat "$log" >&2; exit 1; }
done
