#!/usr/bin/env bash
# Everything that a machine with a GPU can tell about sagegen: the default kernels through the real driver
# against fp64 and against the emulator's profile of that GPU, the CUDA toolkit's memory, race and
# synchronisation checkers where they are installed, recordings of single instructions for
# tests/hardware/recorded/, micro-benchmarks (compute capability 9.0), and attention beside its peers where
# PyTorch is installed. Needs an NVIDIA driver and what tools/gpu_pack.sh packs; no LLVM and no compiler.
#
#   tools/gpu_check.sh [--device cuda:0] [--out DIR] [--pack FILE.tar.gz] [--quick] [--budget SECONDS]
#                      [--part run|sanitize|record|micro|tune|kv|bench]... [-- BENCH-ARGUMENTS]
#   tools/gpu_check.sh --dry [PROFILE]      the same steps on an emulated device (default sm_89), for CI
#
# Without --part: all but tune, kv and bench. Two runs that make the best of ten minutes each:
#   gpu_check.sh --out DIR --pack FILE --part micro --part record --part bench
#   gpu_check.sh --out DIR --pack FILE --part bench --part run --part sanitize
# and one of tune alone, which goes on where it was:
#   gpu_check.sh --out DIR --pack FILE --part tune
# and a minute for decode on KV caches of few bits, checked and timed: --part kv
# No step starts after --budget seconds (default 500), none takes longer than four minutes or than what is
# left of the budget and 70 seconds; a hung kernel ends with its process. --pack writes all results as one
# archive after each part; unpacked on another machine, a run goes on from it. What follows `--` goes to
# tools/bench/attention_bench.py run. Binaries are looked for beside this script, then in build/bin and
# build/static-llvm/bin; SAGEGEN, SAGEGEN_HARDWARE and SAGEGEN_MICRO name others.
#
# A run that was cut off continues: steps that passed are not repeated unless the binaries have changed.
# Exit code: 0 everything passed, 1 something did not (see DIR/summary.txt), 2 usage, 3 no device, 4 the
# budget ended first: run the same command again.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
device=cuda:0
out=gpu_check
parts=()
quick=0
dry=""
pack=""
budget=500
bench_arguments=()

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --device|--out|--part|--pack|--budget)
      if [ $# -lt 2 ]; then echo "gpu_check: $1 needs a value" >&2; exit 2; fi
      case "$1" in
        --device) device=$2 ;;
        --out) out=$2 ;;
        --part) parts+=("$2") ;;
        --pack) pack=$2 ;;
        --budget) budget=$2 ;;
      esac
      shift 2 ;;
    --quick) quick=1; shift ;;
    --dry)
      dry=sm_89; shift
      if [ $# -gt 0 ] && [[ $1 == sm_* ]]; then dry=$1; shift; fi
      device="emulator:$dry" ;;
    --) shift; bench_arguments=("$@"); break ;;
    -h|--help) usage; exit 0 ;;
    *) echo "gpu_check: unknown argument $1 (see --help)" >&2; exit 2 ;;
  esac
done
if ! [[ $budget =~ ^[0-9]+$ ]]; then echo "gpu_check: --budget $budget is no whole number of seconds" >&2; exit 2; fi
if [ ${#parts[@]} -eq 0 ]; then parts=(micro record run sanitize); fi
for part in "${parts[@]}"; do
  case "$part" in
    run|sanitize|record|micro|tune|kv|bench) ;;
    *) echo "gpu_check: no part is named $part; there are run, sanitize, record, micro, tune, kv, bench" >&2; exit 2 ;;
  esac
done

find_binary() {   # NAME: its path
  local candidate
  for candidate in "$here/$1" "$here/../build/bin/$1" "$here/../build/static-llvm/bin/$1"; do
    if [ -f "$candidate" ] && [ -x "$candidate" ]; then echo "$candidate"; return; fi
  done
  command -v "$1" || { echo "gpu_check: $1 is not beside this script nor in build/bin" >&2; exit 2; }
}
sagegen=${SAGEGEN:-$(find_binary sagegen)} || exit 2
hardware=${SAGEGEN_HARDWARE:-$(find_binary sagegen-hardware)} || exit 2
micro=${SAGEGEN_MICRO:-$(find_binary sagegen-micro)} || exit 2

mkdir -p "$out/steps" "$out/outputs" || exit 2
# Results of other binaries or of another device do not count.
identity="$device $(cat "$sagegen" "$hardware" "$micro" | cksum)"
if [ "$(cat "$out/identity.txt" 2>/dev/null)" != "$identity" ]; then
  rm -f "$out"/steps/*.status
  echo "$identity" >"$out/identity.txt"
fi

# A string or number field of the one JSON object of a file; fields of nested objects are not looked at
# unless their names are unique.
field() { sed -n "s/^ *\"$2\": *\"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$1" | head -1; }

passed=0 failed=0 kept=0 unfinished=0
longest=240   # seconds of one step
step() {   # NAME COMMAND...: standard output to steps/NAME.out, errors to steps/NAME.err
  local name=$1; shift
  local base="$out/steps/$name"
  if [ "$(cat "$base.status" 2>/dev/null)" = 0 ]; then
    kept=$((kept + 1)); passed=$((passed + 1)); return 0
  fi
  if [ $SECONDS -ge "$budget" ]; then
    unfinished=$((unfinished + 1)); return 1
  fi
  printf '%s\n' "$*" >"$base.command"
  local limit=$((budget + 70 - SECONDS))
  if [ $limit -gt $longest ]; then limit=$longest; fi
  timeout -k 10 $limit "$@" >"$base.out" 2>"$base.err" &   # in the background: a signal need not wait for it
  wait $!
  local status=$?
  echo $status >"$base.status"
  if [ $status -eq 0 ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    if [ $status -eq 124 ]; then echo "ended after $limit s" >>"$base.err"; fi
    echo "FAILED $name (exit $status): $(tail -n 1 "$base.err")" >&2
  fi
  return $status
}

# ---- which device ------------------------------------------------------------------------------------

timeout 60 "$sagegen" devices --json >"$out/devices.json" 2>"$out/devices.err"
timeout 60 "$sagegen" env >"$out/env.txt" 2>&1
if command -v nvidia-smi >/dev/null; then timeout 60 nvidia-smi -q >"$out/nvidia-smi.txt" 2>&1; fi
capability=$(awk -v want="\"$device\"" '
  index($0, "\"device\":") { here = index($0, want) }
  here && /"compute_capability"/ { gsub(/[^0-9.]/, ""); print; exit }' "$out/devices.json")
if [ -z "$capability" ]; then
  case $device in
    emulator:*) why="the emulator has the profiles $(grep -o '"emulator:[^"]*"' "$out/devices.json" | tr -d '"' | tr '\n' ' ')" ;;
    *) why="$(field "$out/devices.json" why_no_cuda)$(tail -n 1 "$out/devices.err")" ;;
  esac
  echo "gpu_check: no device $device here: $why" >&2
  exit 3
fi
number=${capability/./}
case "$number" in
  80|86|89|90|120) profile=sm_$number ;;
  87) profile=sm_86 ;;                # no arithmetic of its own in the emulator
  121) profile=sm_120 ;;
  *) profile="" ;;
esac
echo "device $device, compute capability $capability, emulator profile ${profile:-none}" | tee "$out/device.txt"

# ---- default kernels -----------------------------------------------------------------------------------

# Targets whose PTX this device can load: those of lower or equal number.
targets=()
for target in sm_80 sm_86 sm_89 sm_120; do
  if [ "${target#sm_}" -le "$number" ]; then targets+=("$target"); fi
done

# name and arguments: ragged lengths, GQA, both masks, both layouts, both scales, one long case.
cases=(
  "ragged|--dist outlier --heads 2 --q-len 129 --kv-len 193"
  "causal|--dist outlier --heads 2 --q-len 200 --causal top-left"
  "gqa|--dist outlier --batch 2 --heads 4 --kv-heads 2 --q-len 65 --kv-len 300 --causal bottom-right"
  "nhd|--dist outlier --heads 3 --q-len 150 --layout nhd"
  "block|--dist outlier --heads 2 --q-len 256 --granularity per_block"
  "one|--dist normal --heads 1 --q-len 1 --kv-len 1"
  "kbias|--dist k_bias --heads 2 --q-len 257"
  "zero|--dist zero_parts --heads 2 --q-len 140"
  "plain|--dist outlier --heads 2 --q-len 150 --smoothing none"
)
if [ $quick -eq 1 ]; then cases=("${cases[@]:0:2}"); else cases+=("long|--dist outlier --heads 2 --q-len 1500"); fi
dims=(64 128) dtypes=(f16 bf16)
if [ $quick -eq 1 ]; then dims=(64); dtypes=(f16); fi

run_case() {   # TARGET DIM DTYPE NAME ARGUMENTS
  local name="$1-d$2-$3-$4"
  local arguments=(--target "$1" --head-dim "$2" --dtype "$3" --seed 7 --lse)
  local extra; read -ra extra <<<"$5"
  local gpu="$out/outputs/$name.device.safetensors" emulated="$out/outputs/$name.emulator.safetensors"
  # Outputs do not travel with the results: what is still to be compared is made again.
  if [ "$(cat "$out/steps/compare-$name.status" 2>/dev/null)" != 0 ]; then
    [ -f "$gpu" ] || rm -f "$out/steps/run-$name.status"
    [ -f "$emulated" ] || rm -f "$out/steps/emulate-$name.status"
  fi
  step "run-$name" "$sagegen" run --device "$device" "${arguments[@]}" "${extra[@]}" --json --out "$gpu" ||
    return
  if [ -n "$profile" ]; then
    step "emulate-$name" "$sagegen" run --device "emulator:$profile" --checks off "${arguments[@]}" \
      "${extra[@]}" --json --out "$emulated" &&
      step "compare-$name" "$hardware" compare "$gpu" "$emulated"
  fi
}

part_run() {
  local longest=40 target dim dtype one
  for target in "${targets[@]}"; do
    for dim in "${dims[@]}"; do
      for dtype in "${dtypes[@]}"; do
        for one in "${cases[@]}"; do
          run_case "$target" "$dim" "$dtype" "${one%%|*}" "${one#*|}"
        done
      done
    done
  done
}

# ---- the toolkit's checkers ------------------------------------------------------------------------------

part_sanitize() {
  local sanitizer tool target
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  if [ -n "$dry" ]; then
    echo "no compute-sanitizer run: this is a dry run" | tee "$out/sanitizer.txt"
    return
  fi
  if [ -z "$sanitizer" ]; then
    echo "no compute-sanitizer run: it is not installed" | tee "$out/sanitizer.txt"
    return
  fi
  rm -f "$out/sanitizer.txt"
  local longest=90
  if ! step sanitizer "$sanitizer" --tool memcheck --error-exitcode 77 "$sagegen" run --device "$device" \
      --heads 1 --q-len 16 --head-dim 64; then
    echo "compute-sanitizer does not work here, or finds an error at once: see steps/sanitizer.err" |
      tee "$out/sanitizer.txt"
    return
  fi
  for target in "${targets[@]}"; do
    for tool in memcheck racecheck synccheck initcheck; do
      step "$tool-$target" "$sanitizer" --tool "$tool" --error-exitcode 77 "$sagegen" run --device "$device" \
        --target "$target" --dist outlier --heads 2 --q-len 129 --kv-len 193 --head-dim 64
      step "$tool-$target-d128" "$sanitizer" --tool "$tool" --error-exitcode 77 "$sagegen" run --device "$device" \
        --target "$target" --dist outlier --heads 2 --q-len 150 --head-dim 128 --dtype bf16 --causal top-left
    done
  done
}

# ---- single instructions -----------------------------------------------------------------------------------

part_record() {
  local slug
  slug=$(awk -v want="\"$device\"" 'index($0, "\"device\":") { here = index($0, want) }
    here && /"name"/ { sub(/.*"name": *"/, ""); sub(/".*/, ""); print; exit }' "$out/devices.json" |
    tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9\n' '_')
  # Recordings carry their own checks: `record` keeps those that are up to date.
  step record "$hardware" record --device "$device" --out "$out/recorded/$slug"
  step replay "$hardware" replay "$out/recorded/$slug"
  echo "recordings of this device: copy $out/recorded/$slug to tests/hardware/recorded/"
}

# ---- rates, latencies, overlaps ------------------------------------------------------------------------------

# The program keeps what is measured already. Kernels assembled on another machine, if they were packed.
part_micro() {
  local on=$device cubins=()
  if [ -n "$dry" ]; then
    on=emulator:sm_90
  elif [ "$number" -ne 90 ]; then
    echo "no micro-benchmarks: they are for compute capability 9.0"
    return
  fi
  if [ -d "$here/cubin" ]; then cubins=(--cubin "$here/cubin"); fi
  step micro "$micro" run --device "$on" --out "$out/micro.json" "${cubins[@]}"
}

# ---- the fastest schedules --------------------------------------------------------------------------------------

# One sweep for launches as they are enqueued, and one of fewer kernels for graphs. Their journals are in the results: a
# sweep that its budget ended goes on when this is called again.
part_tune() {
  local longest=$budget problem=(--heads 32 --q-len 4096) few=()
  if [ -n "$dry" ]; then problem=(--heads 1 --q-len 64); fi
  local full=(--plan "head_dim=128" --plan "head_dim=128 causal=true" --plan "head_dim=64" --plan "head_dim=64 causal=true")
  if [ $quick -eq 1 ]; then full=(--plan "head_dim=64"); fi
  few=("${full[@]:0:2}")
  step doctor "$sagegen" doctor --json
  sweep eager "${problem[@]}" "${full[@]}"
  # The emulator has nothing that a graph would save.
  if [ -z "$dry" ]; then sweep graph --deployment graph "${problem[@]}" "${few[@]}"; fi
}

sweep() {   # NAME ARGUMENTS...
  local name=$1 left=$((budget - SECONDS)); shift
  if [ $left -lt 1 ]; then left=1; fi
  local tune=("$sagegen" tune --device "$device" --cache "$out/tuned" "$@")
  step "tune-$name" "${tune[@]}" --budget $left --html "$out/tune-$name.html" --json || return
  if grep -q '"complete": false' "$out/steps/tune-$name.out"; then
    rm -f "$out/steps/tune-$name.status"
    passed=$((passed - 1)) unfinished=$((unfinished + 1))
    return
  fi
  step "table-$name" "${tune[@]}"   # from the journal
}

# ---- KV caches of few bits ----------------------------------------------------------------------------------

# Each pair of bits judged, and then whole calls of decode timed, of few sequences and of many, beside 16 bits.
part_kv() {
  local all="0:KV16,1:KV8,2:K8V4,3:KV4,4:K4V2,5:KV2" heads=(--kv-heads 8 --q-heads 32) contexts=(2048 8192 32768) batches=(1 16)
  if [ -n "$dry" ]; then heads=(--kv-heads 1 --q-heads 4) contexts=(2048) batches=(1); fi
  if [ $quick -eq 1 ]; then all="0:KV16,1:KV4"; fi
  step kv-check "$sagegen" kv check "$all" --kv-heads 1 --q-heads 8 --device "$device" --json
  local tokens batch
  for batch in "${batches[@]}"; do
    for tokens in "${contexts[@]}"; do
      step "kv-bench-$batch-$tokens" "$sagegen" kv bench "$all" "${heads[@]}" --batch "$batch" --context "$tokens" --device "$device" --json
    done
  done
}

# ---- attention beside its peers ------------------------------------------------------------------------------

part_bench() {
  if [ $SECONDS -ge "$budget" ]; then unfinished=$((unfinished + 1)); return; fi
  local bench=(python3 "$here/bench/attention_bench.py") on=(--budget $((budget - SECONDS)))
  if [ -n "$dry" ]; then
    on=(--dry "$dry")
  else
    on+=(--device "${device#cuda:}")
  fi
  if [ -d "$here/wheels" ] && [ ! -d "$out/site" ]; then
    python3 -m pip install -q --no-index --no-deps --target "$out/site" "$here"/wheels/*.whl ||
      echo "the packed wheels could not be installed; their peers will be missing"
  fi
  if [ -d "$out/site" ]; then export PYTHONPATH="$out/site${PYTHONPATH:+:$PYTHONPATH}"; fi
  echo "$(date -u +%FT%TZ) ${bench[*]} run ${on[*]} ${bench_arguments[*]}" >>"$out/bench.log"
  timeout -k 10 $((budget + 70 - SECONDS)) "${bench[@]}" run --out "$out/attention.json" "${on[@]}" \
    "${bench_arguments[@]}" >>"$out/bench.log" 2>&1 &
  wait $!
  local status=$?
  tail -n 3 "$out/bench.log"
  echo $status >"$out/steps/bench.status"
  case $status in
    0) passed=$((passed + 1)) ;;
    4|124) unfinished=$((unfinished + 1)); rm -f "$out/steps/bench.status" ;;
    *) failed=$((failed + 1)); echo "FAILED bench (exit $status), see $out/bench.log" >&2 ;;
  esac
  local allow=()
  if [ -n "$dry" ]; then allow=(--allow-dry); fi
  if [ -s "$out/attention.json" ]; then
    step bench-report "${bench[@]}" report "$out/attention.json" --out "$out/report" "${allow[@]}"
    rm -f "$out/steps/bench-report.status"   # the next run has more to report
  fi
}

# ---- summary ---------------------------------------------------------------------------------------------------

write_results() {
  {
    cat "$out/device.txt"
    [ -f "$out/sanitizer.txt" ] && cat "$out/sanitizer.txt"
    printf '%-36s %12s %12s %s\n' "case" "relative L1" "of model" "against the emulator"
    for result in "$out"/steps/run-*.out; do
      [ -s "$result" ] || continue
      name=$(basename "$result" .out); name=${name#run-}
      model=$(sed -n '/"model"/,/}/s/^ *"relative_l1": *\([^,]*\),*$/\1/p' "$result")
      compared="$out/steps/compare-$name.out"
      printf '%-36s %12.6f %12.6f %s\n' "$name" "$(field "$result" relative_l1)" "${model:-0}" \
        "$(sed -n 's/ o: relative L1/ /p' "$compared" 2>/dev/null | head -1)"
    done
    for result in "$out"/steps/table-*.out; do
      [ -s "$result" ] || continue
      echo
      cat "$result"
    done
    if [ -s "$out/steps/replay.out" ]; then
      echo
      grep -v '^agrees' "$out/steps/replay.out"
    fi
    echo
    echo "$passed steps passed ($kept of them earlier), $failed failed$(
      [ $unfinished -eq 0 ] || echo ", $unfinished not begun or not done within $budget s: run the same command again")"
    for status in "$out"/steps/*.status; do
      [ -e "$status" ] || continue
      if [ "$(cat "$status")" != 0 ]; then echo "FAILED $(basename "$status" .status)"; fi
    done
  } >"$out/summary.txt"
  if [ -n "$pack" ]; then
    tar -C "$(dirname "$out")" --exclude=outputs --exclude=site -czf "$pack.part" "$(basename "$out")" &&
      mv "$pack.part" "$pack" || { echo "gpu_check: $pack could not be written" >&2; failed=$((failed + 1)); }
  fi
}
trap write_results EXIT
trap 'kill $(jobs -p) 2>/dev/null; exit 143' TERM INT

for part in "${parts[@]}"; do
  "part_$part"
  write_results
done
tail -n 40 "$out/summary.txt"
if [ $failed -ne 0 ]; then exit 1; fi
if [ $unfinished -ne 0 ]; then exit 4; fi
exit 0
