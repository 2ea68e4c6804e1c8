#!/usr/bin/env bash
# Assembles the micro-benchmarks, so that a machine with a GPU loads what ptxas made and not what its driver's
# compiler makes of the PTX: sagegen-micro run --cubin CUBIN-DIR
#   tools/bench/micro/assemble.sh SAGEGEN-MICRO CUBIN-DIR
set -euo pipefail
if [ $# -ne 2 ]; then sed -n '2,4{s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; fi
program=$1 out=$2
ptxas=$(command -v ptxas || echo /usr/local/cuda/bin/ptxas)
if [ ! -x "$ptxas" ]; then echo "assemble: there is no ptxas on PATH or in /usr/local/cuda/bin" >&2; exit 1; fi
mkdir -p "$out"
ptx=$(mktemp -d)
trap 'rm -rf "$ptx"' EXIT
"$program" ptx --out "$ptx" >/dev/null
find "$ptx" -name '*.ptx' -printf '%f\n' | sed 's/\.ptx$//' |
  xargs -P "$(nproc)" -I{} "$ptxas" -arch=sm_90a "$ptx/{}.ptx" -o "$out/{}.cubin"
"$ptxas" --version | tail -n 1 >"$out/ptxas.txt"
echo "$(find "$out" -name '*.cubin' | wc -l) cubins in $out"
