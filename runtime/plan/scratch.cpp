#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "sagegen/error.h"
#include "sagegen/runtime/plan.h"

namespace sagegen::runtime {
namespace {

[[noreturn]] void throw_too_large(std::string_view plan) {
  throw ArgumentError(fmt::format(
      "{} shape: the workspace would need more than 2^63 bytes; split the batch", plan));
}

bool meet(const Scratch& a, const Scratch& b) {
  return a.first_step <= b.last_step && b.first_step <= a.last_step;
}

}  // namespace

ScratchMap::ScratchMap(std::span<const Scratch> tensors) : tensors_(tensors.size()) {
  if (tensors.size() > kMostTensors)
    throw InternalError(fmt::format("a plan of {} scratch tensors", tensors.size()));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::size_t slot = 0;
    const auto taken = [&] {
      for (std::size_t j = 0; j < i; ++j) {
        if (slot_[j] == slot && meet(tensors[i], tensors[j])) return true;
      }
      return false;
    };
    while (taken()) ++slot;
    slot_[i] = slot;
    slots_ = std::max(slots_, slot + 1);
  }
}

ScratchMap::Placed ScratchMap::place(std::span<const std::int64_t> bytes,
                                     std::string_view plan) const {
  std::array<std::int64_t, kMostTensors> slot_bytes{};
  for (std::size_t i = 0; i < tensors_; ++i)
    slot_bytes[slot_[i]] = std::max(slot_bytes[slot_[i]], bytes[i]);
  constexpr std::uint64_t kAlignment = kWorkspaceAlignment;
  constexpr std::uint64_t kMostBytes = std::numeric_limits<std::int64_t>::max() - kAlignment;
  std::array<std::int64_t, kMostTensors> slot_offset;
  std::uint64_t end = 0;
  for (std::size_t slot = 0; slot < slots_; ++slot) {
    slot_offset[slot] = static_cast<std::int64_t>(end);
    end += static_cast<std::uint64_t>(slot_bytes[slot]);  // both below 2^63
    if (end > kMostBytes) throw_too_large(plan);
    end = (end + kAlignment - 1) / kAlignment * kAlignment;
  }
  Placed placed;
  placed.bytes = static_cast<std::int64_t>(end);
  for (std::size_t i = 0; i < tensors_; ++i) placed.offset[i] = slot_offset[slot_[i]];
  return placed;
}

std::int64_t scratch_bytes(std::string_view plan, std::initializer_list<std::int64_t> factors) {
  std::int64_t bytes = 1;
  for (const std::int64_t factor : factors) {
    if (__builtin_mul_overflow(bytes, factor, &bytes)) throw_too_large(plan);
  }
  return bytes;
}

}  // namespace sagegen::runtime
