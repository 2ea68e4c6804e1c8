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
  std::array<std::int64_t, kMostTensors> slot_offset;
  Placed placed;
  placed.bytes = 0;
  for (std::size_t slot = 0; slot < slots_; ++slot) {
    slot_offset[slot] = placed.bytes;
    std::int64_t end = 0;
    if (__builtin_add_overflow(placed.bytes, slot_bytes[slot], &end) ||
        end > std::numeric_limits<std::int64_t>::max() - kWorkspaceAlignment) {
      throw_too_large(plan);
    }
    placed.bytes = (end + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
  }
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
