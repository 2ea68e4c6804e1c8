#include "runtime/emulator/exec/checker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace sagegen::emulator {
namespace {

const char* past_tense(AccessKind kind) {
  switch (kind) {
    case AccessKind::read:
      return "read";
    case AccessKind::write:
    case AccessKind::same_write:
      return "wrote";
    case AccessKind::strong_read:
      return "read (volatile)";
    case AccessKind::strong_write:
      break;
  }
  return "updated atomically";
}

bool all_equal(const std::uint8_t* bytes, std::uint32_t count, std::uint8_t value) {
  if (count == 4) {
    std::uint32_t word;
    std::memcpy(&word, bytes, 4);
    return word == value * 0x01010101u;
  }
  if (count == 16) {
    std::uint64_t words[2], expected = value * 0x0101010101010101u;
    std::memcpy(words, bytes, 16);
    return ((words[0] ^ expected) | (words[1] ^ expected)) == 0;
  }
  std::uint8_t difference = 0;
  for (std::uint32_t i = 0; i < count; ++i) difference |= bytes[i] ^ value;
  return difference == 0;
}

std::string name_address(const Target& target) {
  return target.space == Space::shared ? fmt::format("shared address {:#x}", target.address)
                                       : fmt::format("address {:#x}", target.address);
}

}  // namespace

Checker::Checker(const Cta& cta, GlobalRaces* global, CtaRaces* ordered)
    : cta_(cta),
      global_(global),
      ordered_(ordered),
      races_(static_cast<int>(cta.warps.size()), cta.shared_end),
      known_(ordered != nullptr ? cta.warps.size() : 0),
      shared_state_(cta.shared_end + 4, 0),
      copy_op_(cta.shared_end / 4 + 1, 0) {}

std::uint32_t Checker::undefined_bytes(const Target& target, std::uint32_t bytes) const {
  const std::uint8_t* state =
      target.space == Space::shared ? shared_state_.data() + target.address : target.written;
  if (state == nullptr) return 0;
  static_assert(kDefined == 1);
  std::uint32_t undefined = 0;
  for (std::uint32_t i = 0; i < bytes; ++i) undefined |= (~std::uint32_t{state[i]} & 1) << i;
  return undefined;
}

bool Checker::read(const Warp& w, const Op& op, int lane, const Target& target, std::uint32_t bytes,
                   AccessKind kind) {
  switch (target.space) {
    case Space::shared: {
      const std::uint8_t* state = shared_state_.data() + target.address;
      bool defined = all_equal(state, bytes, kDefined) ||
                     !require_landed(w, op, lane, target.address, bytes, "reads");
      race_check(w, op, lane, target, bytes, kind);
      return defined;
    }
    case Space::param:
    case Space::nowhere:
      return true;
    case Space::local:
      return all_equal(target.written, bytes, 1);
    default:
      race_check(w, op, lane, target, bytes, kind);
      return all_equal(target.written, bytes, 1);
  }
}

bool Checker::shared_defined(std::uint32_t offset, std::uint32_t bytes) const {
  return all_equal(shared_state_.data() + offset, bytes, kDefined);
}

void Checker::write(const Warp& w, const Op& op, int lane, const Target& target,
                    std::uint32_t bytes, const void* value, bool defined, AccessKind kind) {
  switch (target.space) {
    case Space::shared:
      require_landed(w, op, lane, target.address, bytes, "writes");
      if (kind == AccessKind::write && defined &&
          shared_defined(static_cast<std::uint32_t>(target.address), bytes) &&
          std::memcmp(target.data, value, bytes) == 0) {
        kind = AccessKind::same_write;
      }
      race_check(w, op, lane, target, bytes, kind);
      std::memset(shared_state_.data() + target.address, defined ? kDefined : 0, bytes);
      return;
    case Space::local:
      std::memset(target.written, defined ? 1 : 0, bytes);
      return;
    case Space::nowhere:
      return;
    default:
      if (!defined) {
        report(w, op, lane, "uninitialized", [&] {
          return fmt::format(
              "stores {} bytes to global {} that were computed from uninitialized data", bytes,
              name_address(target));
        });
      }
      if (races_.writes_again(target.address, bytes, value) && kind == AccessKind::write) {
        kind = AccessKind::same_write;
      }
      race_check(w, op, lane, target, bytes, kind, value);
      std::memset(target.written, 1, bytes);
  }
}

void Checker::write_partly(const Warp& w, const Op& op, int lane, const Target& target,
                           std::uint32_t bytes, const void* value, std::uint32_t undefined,
                           AccessKind kind) {
  const bool keeps_bytes_apart = target.space == Space::shared || target.space == Space::local;
  const bool all = undefined == (1u << bytes) - 1;
  write(w, op, lane, target, bytes, value, undefined == 0 || (keeps_bytes_apart && !all), kind);
  if (undefined == 0 || all || !keeps_bytes_apart) return;
  std::uint8_t* state =
      target.space == Space::shared ? shared_state_.data() + target.address : target.written;
  for (std::uint32_t i = 0; i < bytes; ++i) {
    if ((undefined >> i & 1) != 0) state[i] = 0;
  }
}

void Checker::race_check(const Warp& w, const Op& op, int lane, const Target& target,
                         std::uint32_t bytes, AccessKind kind, const void* value) {
  std::uint32_t index = op_index(w, op);
  bool shared = target.space == Space::shared;
  const Actor who{.warp = w.index, .lane = lane, .op = index, .now = time_of(w)};
  auto conflict = shared ? races_.access_shared(target.address, bytes, who, kind)
                         : races_.access_global(target.address, bytes, who, kind);
  if (conflict) {
    Target at = target;
    at.address = conflict->address;
    const bool lanes = conflict->warp == w.index;
    report(w, op, lane, "race", [&] {
      return fmt::format(
          "{} {} {} {} that {} {} {} at line {} ({}), with {} between them",
          lanes ? "lane" : "warp", lanes ? lane : w.index, is_write(kind) ? "writes" : "reads",
          name_address(at), lanes ? "lane" : "warp", lanes ? conflict->lane : conflict->warp,
          past_tense(conflict->kind), w.program->ops[conflict->op].line,
          w.program->text[conflict->op],
          lanes
              ? "nothing that makes the lanes wait for each other, such as bar.warp.sync,"
              : "no barrier (nor an atomic with a fence before it in the one and behind it in the "
                "other)");
    });
  }
  if (shared) return;
  if (ordered_ == nullptr) {
    global_->access(target.address, bytes, cta_.linear, index, kind, value);
    return;
  }
  // These CTAs run one after the other, so what is there does not depend on their speed.
  if (kind == AccessKind::write && all_equal(target.written, bytes, 1) &&
      std::memcmp(target.data, value, bytes) == 0) {
    kind = AccessKind::same_write;
  }
  const CtaRaces::Access access{.cta = cta_.linear,
                                .clock = races_.clocks(w.index)[w.index],
                                .op = index,
                                .warp = static_cast<std::uint32_t>(w.index)};
  ordered_->access(target.address, bytes, access, kind, known_[w.index]);
}

void Checker::barrier_arrive(int warp, int barrier) {
  races_.barrier_arrive(warp, barrier);
  if (ordered_ != nullptr) handed_on_[barrier].join(known_[warp]);
}

void Checker::barrier_release(int barrier, std::uint32_t warps) {
  races_.barrier_release(barrier, warps);
  if (ordered_ == nullptr) return;
  for_lanes(warps, [&](int warp) { known_[warp].join(handed_on_[barrier]); });
  handed_on_[barrier] = {};
}

void Checker::fence(int warp, Scope scope) {
  const WarpClocks now = races_.fence(warp);
  if (ordered_ != nullptr && scope == Scope::wider) known_[warp].fence(now);
}

bool Checker::require_landed(const Warp& w, const Op& op, int lane, std::uint64_t offset,
                             std::uint32_t bytes, const char* doing) const {
  for (std::uint64_t at = offset; at < offset + bytes; ++at) {
    if ((shared_state_[at] & kInFlight) == 0) continue;
    std::uint32_t copy = copy_op_[at / 4];
    report(w, op, lane, "copy-in-flight", [&] {
      return fmt::format(
          "{} shared address {:#x} while the cp.async of line {} that fills it has not been "
          "waited for by the thread that issued it",
          doing, at, w.program->ops[copy].line);
    });
    return false;
  }
  return true;
}

void Checker::same_instruction(const Warp& w, const Op& op, std::uint32_t mask,
                               const Target* targets, std::uint32_t bytes,
                               const std::uint8_t* values) const {
  // Usually addresses ascend with the lanes and nothing overlaps.
  int lanes[kLanes];
  int count = 0;
  bool ascending = true;
  for_lanes(mask, [&](int lane) {
    if (count > 0) {
      const Target& before = targets[lanes[count - 1]];
      ascending &=
          before.space == targets[lane].space && before.address + bytes <= targets[lane].address;
    }
    lanes[count++] = lane;
  });
  if (ascending) return;
  std::sort(lanes, lanes + count, [&](int a, int b) {
    if (targets[a].space != targets[b].space) return targets[a].space < targets[b].space;
    return targets[a].address != targets[b].address ? targets[a].address < targets[b].address
                                                    : a < b;
  });
  for (int i = 1; i < count; ++i) {
    const Target& low = targets[lanes[i - 1]];
    const Target& high = targets[lanes[i]];
    if (low.space != high.space || low.space == Space::local || low.space == Space::nowhere) {
      continue;
    }
    if (low.address + bytes <= high.address) continue;
    std::uint64_t shift = high.address - low.address;
    const std::uint8_t* a = values + static_cast<std::size_t>(lanes[i - 1]) * bytes + shift;
    const std::uint8_t* b = values + static_cast<std::size_t>(lanes[i]) * bytes;
    if (std::memcmp(a, b, bytes - shift) == 0) continue;
    report(w, op, lanes[i], "race", [&] {
      return fmt::format("lanes {} and {} store different values to {} in one instruction",
                         lanes[i - 1], lanes[i], name_address(high));
    });
    return;
  }
}

void Checker::copy_issued(const Warp& w, const Op& op, int lane, std::uint32_t offset,
                          std::uint32_t bytes) {
  require_landed(w, op, lane, offset, bytes, "copies to");
  // The data may arrive from now on: whoever may still use the old contents races with it.
  Target target{.space = Space::shared, .address = offset};
  race_check(w, op, lane, target, bytes, AccessKind::write);
  std::memset(shared_state_.data() + offset, kInFlight, bytes);
  for (std::uint32_t at = offset; at < offset + bytes; at += 4) copy_op_[at / 4] = op_index(w, op);
}

void Checker::copy_landed(std::uint32_t offset, std::uint32_t bytes, std::uint32_t source_bytes,
                          const std::uint8_t* source_written) {
  for (std::uint32_t i = 0; i < bytes; ++i) {
    bool defined = i >= source_bytes || source_written[i] != 0;
    if (defined) shared_state_[offset + i] |= kDefined;
  }
}

void Checker::copy_waited(const Warp& w, std::uint32_t copy_op, int lane, std::uint32_t offset,
                          std::uint32_t bytes) {
  for (std::uint32_t i = 0; i < bytes; ++i) shared_state_[offset + i] &= ~kInFlight;
  // To other warps the data is a write by this one, now.
  Target target{.space = Space::shared, .address = offset};
  race_check(w, w.ops[copy_op], lane, target, bytes, AccessKind::write);
}

}  // namespace sagegen::emulator
