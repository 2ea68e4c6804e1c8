// Branches, barriers, exits, and instructions that change no value.

#include <fmt/format.h>

#include <cstring>

#include "runtime/emulator/exec/checker.h"
#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/warp.h"
#include "runtime/emulator/ptx/calls.h"

namespace sagegen::emulator {
namespace {

void branch(Warp& w, const Op& op, std::uint32_t mask) {
  const Op* target = w.ops + op.imm;
  if (mask == w.active) {
    w.pc = target;
    return;
  }
  diverge(w, target, mask, op_info(w, op).rejoin);
}

void branch_uniform(Warp& w, const Op& op, std::uint32_t mask) {
  if (mask != w.active) {
    fail(w, op, first_lane(w.active & ~mask), "divergent-collective",
         fmt::format("{} is taken by lanes {} of the running lanes {}",
                     w.program->text[op_index(w, op)], hex_mask(mask), hex_mask(w.active)));
  }
  w.pc = w.ops + op.imm;
}

void leave(Warp& w, const Op&, std::uint32_t mask) { exit_lanes(w, mask); }

// A call that is not taken.
void skip_call(Warp& w, const Op& op, std::uint32_t mask) {
  if (mask != w.active) {
    fail(w, op, first_lane(mask), "divergent-collective",
         fmt::format("call.uni is executed by lanes {} of the running lanes {}",
                     hex_mask(w.active & ~mask), hex_mask(w.active)));
  }
  w.pc = w.ops + op.imm;
}

// Operands: start and size of a frame, then destination, source and size of copies, all constants. What the
// callee's registers held after an earlier call is undefined too: they are the op's destinations.
template <bool kChecked>
void enter_frame(Warp& w, const Op& op, std::uint32_t mask) {
  const std::uint32_t copies = op.imm;
  const std::uint32_t operands = 2 + 3 * copies;
  const std::uint16_t* r = operands <= kInlineOperands ? op.r.data() : pooled(w, op);
  const auto constant = [&](std::uint32_t i) { return row32(w, r[i])[0]; };
  const std::size_t size = w.program->info.local_bytes;
  if constexpr (kChecked) {
    const OpInfo& info = op_info(w, op);
    for (std::uint32_t i = 0; i < info.destinations; ++i) {
      const std::uint16_t cell = w.program->taint_pool[info.cells + i];
      if (cell < w.program->rows) {
        set_defined_row(w, cell, 0, mask);
      } else {
        w.defined[cell] &= ~mask;
      }
    }
  }
  for_lanes(mask, [&](int lane) {
    const std::size_t first = static_cast<std::size_t>(lane) * size;
    if (kChecked && constant(1) != 0) {
      std::memset(w.local_written.data() + first + constant(0), 0, constant(1));
    }
    for (std::uint32_t i = 2; i < operands; i += 3) {
      const std::size_t to = first + constant(i), from = first + constant(i + 1);
      std::memcpy(w.local.data() + to, w.local.data() + from, constant(i + 2));
      if constexpr (kChecked) {
        std::memcpy(w.local_written.data() + to, w.local_written.data() + from, constant(i + 2));
      }
    }
  });
}

void trap(Warp& w, const Op& op, std::uint32_t mask) {
  fail(w, op, first_lane(mask), "trap", fmt::format("lanes {} executed trap", hex_mask(mask)));
}

void nothing(Warp&, const Op&, std::uint32_t) {}

template <Scope kScope>
void fence(Warp& w, const Op&, std::uint32_t) {
  w.cta->checker->fence(w.index, kScope);
}

void sleep(Warp& w, const Op&, std::uint32_t) { yield(w); }

// ---- barriers ----------------------------------------------------------------------------------

std::uint32_t uniform_operand(const Warp& w, const Op& op, std::uint16_t row, std::uint32_t mask,
                              const char* what) {
  const std::uint32_t* values = row32(w, row);
  std::uint32_t value = values[first_lane(mask)];
  for_lanes(mask, [&](int lane) {
    if (values[lane] != value) {
      fail(w, op, lane, "barrier",
           fmt::format("the lanes of a warp give different {}s: {} and {}", what, value,
                       values[lane]));
    }
  });
  if (w.cta->checker != nullptr) require_defined(w, op, row, mask, what);
  return value;
}

bool complete(const Cta& cta, const Barrier& barrier) {
  if (barrier.arrived == 0) return false;
  if (barrier.expected != 0) return barrier.arrived == barrier.expected;
  for (const Warp& w : cta.warps) {
    if (w.state != WarpState::exited && (barrier.came >> w.index & 1) == 0) return false;
  }
  return true;
}

// d = the number of predicates that hold, or whether all or any do. One vote can decide the latter,
// whatever undefined ones are.
void finish_reduction(Warp& w, const Barrier& barrier) {
  const Op& op = *w.reduction;
  w.reduction = nullptr;
  std::uint32_t lanes = w.live;
  if (w.cta->checker != nullptr) {
    const std::uint32_t known = barrier.voters - barrier.undefined_voters;
    const std::uint32_t known_to_hold = barrier.votes - barrier.undefined_votes;
    const auto defined = [&](bool decided) {
      return decided || barrier.undefined_voters == 0 ? kFullMask : 0;
    };
    switch (op.imm & 0xff) {
      case 'c':
        set_defined_row(w, op.r[0], defined(false), lanes);
        break;
      case 'a':
        set_defined_predicate(w, op.r[0], defined(known_to_hold < known), lanes);
        break;
      default:
        set_defined_predicate(w, op.r[0], defined(known_to_hold != 0), lanes);
    }
  }
  switch (op.imm & 0xff) {
    case 'c':
      for_lanes(lanes, [&](int lane) { row32(w, op.r[0])[lane] = barrier.votes; });
      return;
    case 'a':
      set_predicate(w, op.r[0], barrier.votes == barrier.voters ? kFullMask : 0, lanes);
      return;
    default:
      set_predicate(w, op.r[0], barrier.votes != 0 ? kFullMask : 0, lanes);
  }
}

void release(Cta& cta, int id) {
  Barrier& barrier = cta.barriers[id];
  if (cta.checker != nullptr) cta.checker->barrier_release(id, barrier.waiting);
  cta.passed_over &= ~barrier.waiting;
  for_lanes(barrier.waiting, [&](int index) {
    Warp& w = cta.warps[index];
    w.state = WarpState::ready;
    w.barrier = -1;
    w.turns = 0;
    if (w.reduction != nullptr) finish_reduction(w, barrier);
  });
  barrier = {};
}

enum class Arrival { wait, go_on };

void arrive(Warp& w, const Op& op, std::uint32_t mask, std::uint32_t id, std::uint32_t count,
            Arrival arrival) {
  Cta& cta = *w.cta;
  int lane = first_lane(mask);
  if (id >= cta.barriers.size()) {
    fail(w, op, lane, "barrier", fmt::format("barrier {} does not exist; there are 16", id));
  }
  if (count % kLanes != 0) {
    fail(w, op, lane, "barrier", fmt::format("a count of {} threads is no multiple of 32", count));
  }
  Barrier& barrier = cta.barriers[id];
  if (barrier.arrived != 0 && barrier.expected != count) {
    auto text = [](std::uint32_t n) { return n == 0 ? std::string("all") : std::to_string(n); };
    fail(w, op, lane, "barrier",
         fmt::format("barrier {} is used with {} threads while others use it with {}", id,
                     text(count), text(barrier.expected)));
  }
  if ((barrier.came >> w.index & 1) != 0) {
    fail(w, op, lane, "barrier",
         fmt::format("warp {} reaches barrier {} a second time before it completed", w.index, id));
  }
  barrier.expected = count;
  barrier.arrived += kLanes;
  barrier.came |= 1u << w.index;
  if (count != 0 && barrier.arrived > count) {
    fail(w, op, lane, "barrier",
         fmt::format("{} threads arrive at barrier {}, which expects {}", barrier.arrived, id,
                     count));
  }
  if (cta.checker != nullptr) cta.checker->barrier_arrive(w.index, static_cast<int>(id));
  if (arrival == Arrival::wait) {
    barrier.waiting |= 1u << w.index;
    w.state = WarpState::at_barrier;
    w.barrier = static_cast<int>(id);
    yield(w);
  }
  if (complete(cta, barrier)) release(cta, static_cast<int>(id));
}

void barrier_all(Warp& w, const Op& op, std::uint32_t mask) {
  if (!gather(w, op, mask, w.live)) return;
  arrive(w, op, mask, uniform_operand(w, op, op.r[0], mask, "barrier number"), 0, Arrival::wait);
}

std::uint32_t count_operand(const Warp& w, const Op& op, std::uint16_t row, std::uint32_t mask) {
  std::uint32_t count = uniform_operand(w, op, row, mask, "thread count");
  if (count == 0) fail(w, op, first_lane(mask), "barrier", "a thread count of 0");
  return count;
}

void barrier_counted(Warp& w, const Op& op, std::uint32_t mask) {
  if (!gather(w, op, mask, w.live)) return;
  std::uint32_t id = uniform_operand(w, op, op.r[0], mask, "barrier number");
  arrive(w, op, mask, id, count_operand(w, op, op.r[1], mask), Arrival::wait);
}

void barrier_arrive(Warp& w, const Op& op, std::uint32_t mask) {
  if (!gather(w, op, mask, w.live)) return;
  std::uint32_t id = uniform_operand(w, op, op.r[0], mask, "barrier number");
  arrive(w, op, mask, id, count_operand(w, op, op.r[1], mask), Arrival::go_on);
}

// bar.red d, id{, count}, p: operands d, id, p or d, id, count, p. The vote counts before the warp
// arrives, since its arrival may complete the barrier.
template <bool kCounted>
void barrier_reduce(Warp& w, const Op& op, std::uint32_t mask) {
  if (!gather(w, op, mask, w.live)) return;
  std::uint32_t id = uniform_operand(w, op, op.r[1], mask, "barrier number");
  std::uint32_t count = kCounted ? count_operand(w, op, op.r[2], mask) : 0;
  constexpr int kPredicate = kCounted ? 3 : 2;
  const std::uint32_t votes = predicate_operand(w, op, kPredicate) & mask;
  if (id < w.cta->barriers.size()) {
    Barrier& barrier = w.cta->barriers[id];
    const auto count_of = [](std::uint32_t lanes) {
      return static_cast<std::uint32_t>(std::popcount(lanes));
    };
    barrier.voters += count_of(mask);
    barrier.votes += count_of(votes);
    if (w.cta->checker != nullptr) {
      const std::uint32_t undefined = mask & ~defined_predicate(w, op.r[kPredicate]);
      barrier.undefined_voters += count_of(undefined);
      barrier.undefined_votes += count_of(votes & undefined);
    }
  }
  w.reduction = &op;
  arrive(w, op, mask, id, count, Arrival::wait);
}

template <bool kChecked>
void warp_barrier(Warp& w, const Op& op, std::uint32_t mask) {
  if constexpr (kChecked) require_defined(w, op, op.r[0], mask, "member mask");
  meet_members(w, op, op.r[0], mask);
}

}  // namespace

void settle_barriers(Cta& cta) {
  for (std::size_t id = 0; id < cta.barriers.size(); ++id) {
    if (complete(cta, cta.barriers[id])) release(cta, static_cast<int>(id));
  }
}

// What an expanded call leaves (ptx/calls.h).
std::vector<Form> call_forms(const ptx::Instruction& instruction) {
  if (instruction.opcode != "call") return {};
  ModifierReader m(instruction);
  const bool uniform = m.take("uni");
  m.finish();
  Form form;
  form.taint = Taint::none;
  if (ptx::is_jump(instruction)) {
    form.format = "L";
    form.plain = uniform ? skip_call : branch;
    return {form};
  }
  form.format = std::string(instruction.operands.size(), 'W');
  form.plain = enter_frame<false>;
  form.checked = enter_frame<true>;
  form.number = static_cast<std::uint32_t>((instruction.operands.size() - 2) / 3);
  return {form};
}

void register_control(FormTable& t) {
  t.add_checked("bra", "L", branch, nullptr, Taint::none);
  t.add_checked("bra.uni", "L", branch_uniform, nullptr, Taint::none);
  t.add_checked("{ret|exit}{|.uni}", "", leave, nullptr, Taint::none);
  t.add_checked("ret", "L", branch, nullptr, Taint::none);  // of a function
  t.add_checked("ret.uni", "L", branch_uniform, nullptr, Taint::none);
  t.add_checked("trap", "", trap, nullptr, Taint::none);

  for (const char* name : {"bar{|.cta}.sync", "barrier{|.cta}.sync{|.aligned}"}) {
    t.add_checked(name, "W", barrier_all, nullptr, Taint::none);
    t.add_checked(name, "WW", barrier_counted, nullptr, Taint::none);
  }
  for (const char* name : {"bar{|.cta}.arrive", "barrier{|.cta}.arrive{|.aligned}"}) {
    t.add_checked(name, "WW", barrier_arrive, nullptr, Taint::none);
  }
  auto add_reduction = [&](const char* name, const std::string& destination, char which) {
    std::uint32_t number = static_cast<std::uint32_t>(which);
    t.add_checked(name, (destination + "WP").c_str(), barrier_reduce<false>, nullptr, Taint::custom,
                  number);
    t.add_checked(name, (destination + "WWP").c_str(), barrier_reduce<true>, nullptr, Taint::custom,
                  number);
  };
  add_reduction("{bar|barrier}{|.cta}.red{|.aligned}.popc.u32", "w", 'c');
  add_reduction("{bar|barrier}{|.cta}.red{|.aligned}.and.pred", "p", 'a');
  add_reduction("{bar|barrier}{|.cta}.red{|.aligned}.or.pred", "p", 'o');
  t.add_checked("bar.warp.sync", "W", warp_barrier<false>, warp_barrier<true>, Taint::none);

  // One warp runs at a time and memory has no caches: only checks see what fences order, and between
  // CTAs only those of a wide scope order anything.
  t.add_checked("membar.cta", "", nothing, fence<Scope::cta>, Taint::none);
  t.add_checked("membar{.gl|.sys}", "", nothing, fence<Scope::wider>, Taint::none);
  t.add_checked("fence{|.sc|.acq_rel|.acquire|.release}{.cta|.cluster}", "", nothing,
                fence<Scope::cta>, Taint::none);
  t.add_checked("fence{|.sc|.acq_rel|.acquire|.release}{.gpu|.sys}", "", nothing,
                fence<Scope::wider>, Taint::none);
  t.add_checked("griddepcontrol{.wait|.launch_dependents}", "", nothing, nullptr, Taint::none);
  t.add_checked("nanosleep.u32", "W", sleep, nullptr, Taint::none);
}

}  // namespace sagegen::emulator
