// The loop that runs a warp.

#include "runtime/emulator/exec/definedness.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {
namespace {

// Definedness of an instruction's operands, before it runs: the guard is used here, the rest is passed
// on to the destinations.
void pass_on_taint(Warp& w, const Op& op, std::uint32_t mask) {
  const OpInfo& info = op_info(w, op);
  if (op.guard != kAlways) {
    std::uint32_t undefined = w.active & ~defined_predicate(w, op.guard);
    if (undefined != 0) {
      report(w, op, first_lane(undefined), "uninitialized", [] {
        return "the guard predicate was never written, or was computed from uninitialized data";
      });
      set_defined_predicate(w, op.guard, kFullMask, undefined);
    }
  }
  if (info.taint != Taint::propagate || mask == 0) return;
  const std::uint16_t* cell = w.program->taint_pool.data() + info.cells;
  const std::uint16_t* sources = cell + info.destinations;
  std::uint32_t lanes = kFullMask;
  for (int i = 0; i < info.sources; ++i) lanes &= w.defined[sources[i]];
  if ((mask & ~lanes) != 0) return spread_undefined(w, op, mask, lanes);
  for (int i = 0; i < info.destinations; ++i) w.defined[cell[i]] |= mask;
}

template <bool kChecked, bool kCounted>
void loop(Warp& w) {
  while (w.budget > 0) {
    --w.budget;
    const Op& op = *w.pc;
    w.pc = &op + 1;
    std::uint32_t mask = w.active & (w.predicates[op.guard] ^ (0u - op.guard_negated));
    if constexpr (kChecked) pass_on_taint(w, op, mask);
    if constexpr (kCounted) ++w.cta->counts->executed[op_index(w, op)];
    if (mask != 0) op.run(w, op, mask);
    if (w.pc->joins != 0 && !w.splits.empty()) rejoin(w);
  }
}

}  // namespace

void run_warp(Warp& w, std::int32_t quantum) {
  w.budget = quantum;
  w.executed += static_cast<std::uint64_t>(quantum);
  bool counted = w.cta->counts != nullptr;
  if (w.cta->checker != nullptr) {
    counted ? loop<true, true>(w) : loop<true, false>(w);
  } else {
    counted ? loop<false, true>(w) : loop<false, false>(w);
  }
}

void yield(Warp& w) {
  w.executed -= static_cast<std::uint64_t>(w.budget);
  w.budget = 0;
}

}  // namespace sagegen::emulator
