#!/usr/bin/env bash
# tools/gpu_check.sh without a GPU: the dry run passes, continues where it stopped, and notices failures.
# Usage: gpu_check_test.sh SOURCE_DIR SAGEGEN SAGEGEN_HARDWARE SAGEGEN_MICRO [LIBSAGEGEN]
set -uo pipefail
source=$(cd "$1" && pwd)
script="$source/tools/gpu_check.sh"
export SAGEGEN=$2 SAGEGEN_HARDWARE=$3 SAGEGEN_MICRO=$4
library=${5:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() { echo "FAILED: $1"; [ -f log ] && tail -n 30 log; exit 1; }
check() {   # WANTED-EXIT ARGUMENTS...
  local wanted=$1; shift
  "$script" "$@" >log 2>&1
  local got=$?
  [ $got -eq "$wanted" ] || fail "gpu_check $* exited with $got instead of $wanted"
}
expect() { grep -q -- "$1" "${2:-log}" || fail "no '$1' in ${2:-the output}"; }

for arguments in --help probes; do
  "$SAGEGEN_HARDWARE" $arguments >/dev/full 2>log && fail "sagegen-hardware $arguments does not notice a full disk"
done
check 2 --nonsense
expect 'unknown argument --nonsense'
check 2 --part sing
expect 'no part is named sing'
check 2 --out
check 2 --budget soon
expect 'no whole number of seconds'
check 0 --help
expect '--dry'
check 3 --device emulator:sm_75
expect 'no device emulator:sm_75'
expect 'the emulator has the profiles emulator:sm_80 '

check 0 --dry sm_86 --quick --out out
expect ' 0 failed'
expect 'sm_80-d64-f16-causal' out/summary.txt
expect 'close  0, largest 0' out/summary.txt
expect '0 differ from the emulator' out/summary.txt
[ -s out/recorded/emulated_sm_86/shfl_bfly.rec ] || fail 'no recording was made'
steps=$(sed -n 's/^\([0-9]*\) steps passed.*/\1/p' out/summary.txt)
[ "$steps" -ge 14 ] || fail "only $steps steps"

grep -q '"dry": true' out/micro.json || fail 'no report of the micro-benchmarks, or it does not say that it is dry'

# A second run repeats nothing; one step taken away is made again.
check 0 --dry sm_86 --quick --out out
expect "$steps steps passed ($steps of them earlier)" out/summary.txt
rm out/steps/compare-sm_80-d64-f16-causal.status
check 0 --dry sm_86 --quick --out out
expect "$steps steps passed ($((steps - 1)) of them earlier)" out/summary.txt

# The sweep: a budget that is over at once leaves it to the next call, which repeats nothing.
check 4 --dry sm_86 --quick --out tune --part tune --budget 0
check 0 --dry sm_86 --quick --out tune --part tune
expect 'chosen' tune/summary.txt
[ -s tune/tune-eager.html ] || fail 'no page of the sweep'
ls tune/tuned/tuning/* >/dev/null 2>&1 || fail 'the sweep kept nothing'
check 0 --dry sm_86 --quick --out tune --part tune
expect '3 steps passed (3 of them earlier)' tune/summary.txt

# KV caches of few bits: judged, and whole calls of decode counted.
check 0 --dry sm_86 --quick --out kv --part kv
grep -q '"passed": true' kv/steps/kv-check.out || fail 'no verdict on KV caches'
grep -q '"unit": "instructions"' kv/steps/kv-bench-1-2048.out || fail 'the emulator gives no counts, or calls them times'

# The benchmark of attention, continued by a second run; one archive carries all results.
if [ -n "$library" ]; then
  peers=(--sagegen "$library" --contestants "$source/tests/bench/contestants" --only sagegen)
  check 0 --dry sm_86 --out out --part bench --pack all.tar.gz -- "${peers[@]}" --only 'fake fast'
  expect 'DRY RUN' out/bench.log
  expect 'DRY RUN' out/report/report.md
  cut=$(tar tzf all.tar.gz | grep -cE '^out/(attention.json|micro.json|summary.txt|recorded/.*shfl_idx.rec)$')
  [ "$cut" -eq 4 ] || fail "the archive has $cut of 4 files"
  check 1 --dry sm_86 --out out --part bench -- "${peers[@]}" --only 'fake that breaks'
  expect 'FAILED bench'
fi

# When the budget has ended no step starts, and the run says so.
check 4 --dry sm_86 --quick --out late --budget 0
expect 'run the same command again'
check 0 --dry sm_86 --quick --out late --part run
expect ' 0 failed'

# From a checkout, whose tools/ has a folder named sagegen: nothing has to be named.
mkdir -p checkout/tools/sagegen checkout/build/bin && cp "$script" checkout/tools/
ln -s "$SAGEGEN" "$SAGEGEN_HARDWARE" "$SAGEGEN_MICRO" checkout/build/bin/
(unset SAGEGEN SAGEGEN_HARDWARE SAGEGEN_MICRO
 checkout/tools/gpu_check.sh --dry sm_86 --quick --out found --part run >log 2>&1) || fail 'binaries are not found'

# A run that is ended by a signal, in the middle of a step, leaves its archive.
cat >slow <<'SLOW'
#!/usr/bin/env bash
case $1 in run) sleep 100 ;; *) exec "$REAL" "$@" ;; esac
SLOW
chmod +x slow
REAL=$SAGEGEN SAGEGEN=$work/slow "$script" --dry sm_86 --quick --out cut --part micro --part run --pack cut.tar.gz \
  >log 2>&1 &
for _ in $(seq 300); do [ -f cut/steps/run-sm_80-d64-f16-ragged.command ] && break; sleep 0.1; done
rm -f cut.tar.gz
kill $!
wait $!
[ $? -eq 143 ] || fail 'a signal does not end the run'
# Not into grep -q, which ends at the first hit: tar may then die of its pipe.
tar tzf cut.tar.gz >held
expect '^cut/micro.json$' held

# A recording that differs is found, and one that is damaged is made again.
head -c -1 out/recorded/emulated_sm_86/shfl_idx.rec >shorter &&
  mv shorter out/recorded/emulated_sm_86/shfl_idx.rec
rm out/steps/record.status out/steps/replay.status
check 0 --dry sm_86 --quick --out out --part record
expect 'are cut off' out/steps/record.err
expect '1 recorded' out/steps/record.out

# Another device's tensor-core arithmetic under this device's name does not pass.
"$SAGEGEN_HARDWARE" record --device emulator:sm_120 --probe mma_m16n8k16_f16_f16_f32 --out other \
  >/dev/null 2>&1 || fail 'cannot record'
sed -i '1s/"compute_capability":120/"compute_capability":86/' other/mma_m16n8k16_f16_f16_f32.rec
"$SAGEGEN_HARDWARE" replay other >log 2>&1 && fail 'a wrong recording agrees'
expect 'DIFFERS *mma_m16n8k16_f16_f16_f32'
# Nor does one that no longer belongs to its probe.
sed -i '1s/"generator":/"generator":1/' other/mma_m16n8k16_f16_f16_f32.rec
"$SAGEGEN_HARDWARE" replay other >log 2>&1 && fail 'stale recordings look like success'
expect 'STALE *mma_m16n8k16_f16_f16_f32'

# A device that computes something else fails the comparison, and so the whole.
cat >wrong <<'WRONG'
#!/usr/bin/env bash
# On the "device", attention of another seed.
arguments=("$@")
case " $* " in
  *' --device emulator:sm_86 --target '*) arguments=("${@/#7/8}") ;;
esac
exec "$REAL" "${arguments[@]}"
WRONG
chmod +x wrong
export REAL=$SAGEGEN SAGEGEN=$work/wrong
check 1 --dry sm_86 --quick --out wrong_out --part run
expect 'FAILED compare-sm_80-d64-f16-ragged'
expect 'APART o' wrong_out/steps/compare-sm_80-d64-f16-ragged.out
echo 'gpu_check: all checks passed'
