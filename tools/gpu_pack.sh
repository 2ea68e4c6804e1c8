#!/usr/bin/env bash
# Packs what tools/gpu_check.sh needs on a machine with a GPU and no LLVM: static binaries, scripts, and the
# micro-benchmarks' kernels assembled here if ptxas is installed (they show what this assembler makes of
# them, beside what the driver's own makes).
#   tools/gpu_pack.sh [--dry] [FILE] [WHEEL]...      default gpu_pack.tar.gz; wheels: Python packages of peers that the
# other machine lacks (nvidia-cudnn-frontend for its Python), which are installed beside the results. There:
#   tar xf gpu_pack.tar.gz && gpu_pack/tools/gpu_check.sh --out results
# --dry builds and packs nothing: it configures the static build and says what would be packed.
set -euo pipefail
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; }

dry=""
while [[ ${1:-} == -* ]]; do
  case $1 in
    --help|-h) usage; exit 0 ;;
    --dry) dry=yes; shift ;;
    *) echo "gpu_pack: unknown argument $1; there are --dry and --help" >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."
file=${1:-gpu_pack.tar.gz}
wheels=("${@:2}")
for wheel in "${wheels[@]}"; do
  [ -f "$wheel" ] || { echo "gpu_pack: there is no file $wheel" >&2; exit 2; }
done

if [ -n "$dry" ]; then
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  cmake --preset static-llvm -B "$build" >"$build.log" 2>&1 || { cat "$build.log" >&2; rm -f "$build.log"; exit 1; }
  rm -f "$build.log"
  echo "the static build is configured; $file would hold, in gpu_pack/tools:"
  printf '  %s\n' sagegen sagegen-hardware sagegen-micro gpu_check.sh bench/libsagegen.so \
    bench/attention_bench.py bench/attention "${wheels[@]/#/wheels: }"
  if ptxas=$(command -v ptxas || ls /usr/local/cuda/bin/ptxas 2>/dev/null); then
    echo "  cubin: kernels of the micro-benchmarks, assembled by $ptxas"
  else
    echo "  no cubin: ptxas is not installed"
  fi
  exit 0
fi

cmake --preset static-llvm >/dev/null
cmake --build build/static-llvm --target sagegen sagegen-hardware sagegen-micro sagegen_shared
bin=build/static-llvm/bin

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
to="$work/gpu_pack"
mkdir -p "$to/tools/bench"
strip -o "$to/tools/sagegen" "$bin/sagegen"
strip -o "$to/tools/sagegen-hardware" "$bin/sagegen-hardware"
strip -o "$to/tools/sagegen-micro" "$bin/sagegen-micro"
cp tools/gpu_check.sh "$to/tools/"
cp -r tools/bench/attention_bench.py tools/bench/attention "$to/tools/bench/"
cp -L build/static-llvm/runtime/libsagegen.so "$to/tools/bench/"
find "$to" -name __pycache__ -prune -exec rm -rf {} +

if [ ${#wheels[@]} -gt 0 ]; then
  mkdir "$to/tools/wheels"
  cp "${wheels[@]}" "$to/tools/wheels/"
fi

ptxas=$(command -v ptxas || ls /usr/local/cuda/bin/ptxas 2>/dev/null || true)
if [ -n "$ptxas" ]; then
  "$bin/sagegen-micro" ptx --out "$work/ptx"
  mkdir "$to/tools/cubin"
  for ptx in "$work"/ptx/*.ptx; do
    "$ptxas" -arch=sm_90a "$ptx" -o "$to/tools/cubin/$(basename "$ptx" .ptx).cubin"
  done
fi

tar -C "$work" -czf "$file.part" gpu_pack
mv "$file.part" "$file"
glibc=$(readelf -W --dyn-syms "$to"/tools/sagegen* "$to"/tools/bench/libsagegen.so |
  sed -n 's/.*@GLIBC_\([0-9.]*\).*/\1/p' | sort -uV | tail -n 1)
echo "$file: $(stat -c %s "$file") bytes; runs where glibc is $glibc or newer"
