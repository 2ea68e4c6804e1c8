#include "templates/shared/rows.h"

namespace sagegen {

using namespace dsl;

namespace {

// amax below this counts as 0: its inverse times 127 would overflow, and nothing is lost.
constexpr float kSmallestAmax = 0x1p-100f;

}  // namespace

template <Space S>
RowPart load_f32x8(KernelBuilder& k, Ptr<S> from) {
  RowPart part;
  for (std::size_t half = 0; half < 2; ++half) {
    const auto words = k.load_v4(from + static_cast<std::int64_t>(16 * half));
    for (std::size_t i = 0; i < 4; ++i) part[4 * half + i] = k.as_f32(words[i]);
  }
  return part;
}
template RowPart load_f32x8(KernelBuilder&, GlobalPtr);
template RowPart load_f32x8(KernelBuilder&, SharedPtr);

RowThreads::RowThreads(KernelBuilder& k, int head_dim, int channels)
    : k_(k),
      head_dim_(head_dim),
      lanes_(lane_channels(channels) / 8),
      row_(k.thread_idx() / lanes_),
      channel_(k.thread_idx() % lanes_ * 8) {}

RowPart RowThreads::load(DType io, GlobalPtr row_start, Pred is_there) const {
  std::array<Var<I32>, 4> bits;
  for (Var<I32>& word : bits) word = k_.var(k_.i32(0));
  if (head_dim_ < held_channels()) is_there = is_there && channel_ < head_dim_;
  k_.if_(is_there, [&] {
    const auto words = k_.load_v4(row_start + channel_ * static_cast<std::int32_t>(kElementBytes));
    for (std::size_t i = 0; i < 4; ++i) bits[i].set(words[i]);
  });
  RowPart part;
  for (std::size_t i = 0; i < 4; ++i) {
    const auto pair = k_.unpack2(io, bits[i].get());
    part[2 * i] = pair[0];
    part[2 * i + 1] = pair[1];
  }
  return part;
}

RowPart RowThreads::load_f32(GlobalPtr own_channels) const {
  if (head_dim_ == held_channels()) return load_f32x8(k_, own_channels);
  std::array<Var<F32>, 8> channels;
  for (Var<F32>& channel : channels) channel = k_.var(k_.f32(0.0f));
  of_channels(head_dim_, [&] {
    const RowPart there = load_f32x8(k_, own_channels);
    for (std::size_t i = 0; i < channels.size(); ++i) channels[i].set(there[i]);
  });
  RowPart part;
  for (std::size_t i = 0; i < part.size(); ++i) part[i] = channels[i].get();
  return part;
}

F32 RowThreads::dot(const RowPart& part, const RowPart& other) const {
  F32 sum = part[0] * other[0];
  for (std::size_t i = 1; i < part.size(); ++i) sum = k_.fma(part[i], other[i], sum);
  return sum_of_row(sum);
}

// Channels c and c ^ 1, c ^ 2, c ^ 4 are in the same lane, others in lanes whose numbers differ in one bit.
RowPart RowThreads::hadamard(RowPart part, int block) const {
  for (F32& x : part) x = x * (1.0f / static_cast<float>(block));
  for (std::size_t step = 1; step < part.size(); step *= 2) {
    for (std::size_t i = 0; i < part.size(); ++i) {
      if ((i & step) != 0) continue;
      const F32 a = part[i], b = part[i + step];
      part[i] = a + b;
      part[i + step] = a - b;
    }
  }
  for (int channels = 8; channels < block; channels *= 2) {
    const F32 sign = k_.select((channel_ & channels) == 0, k_.f32(1.0f), k_.f32(-1.0f));
    for (F32& x : part) x = k_.fma(x, sign, k_.shuffle_xor(x, channels / 8));
  }
  return part;
}

F32 RowThreads::sum_of_row(F32 value) const {
  for (int mask = 1; mask < lanes_; mask *= 2) value = value + k_.shuffle_xor(value, mask);
  return value;
}

F32 RowThreads::max_of_lanes(F32 value, int count) const {
  for (int mask = 1; mask < count; mask *= 2) value = k_.max(value, k_.shuffle_xor(value, mask));
  return value;
}

F32 RowThreads::max_of_row(F32 value) const { return max_of_lanes(value, lanes_); }

F32 RowThreads::max_of_row_pair(F32 value, SharedPtr scratch) const {
  if (2 * lanes_ <= 32) return max_of_lanes(value, 2 * lanes_);
  value = max_of_row(value);  // of the warp
  k_.if_(k_.lane_idx() == 0, [&] { k_.store(scratch + k_.warp_idx() * 4, value); });
  k_.barrier();
  return k_.max(value, k_.load<F32>(scratch + (k_.warp_idx() ^ 1) * 4));
}

F32 RowThreads::max_of_block(F32 value, SharedPtr scratch) const {
  value = max_of_lanes(value, 32);
  k_.if_(k_.lane_idx() == 0, [&] { k_.store(scratch + k_.warp_idx() * 4, value); });
  k_.barrier();
  for (int warp = 0; warp < threads() / 32; ++warp) {
    value = k_.max(value, k_.load<F32>(scratch + std::int64_t{4 * warp}));
  }
  return value;
}

void store_columns(KernelBuilder& k, const RowThreads& threads, const RowPart& part,
                   SharedPtr table) {
  const SharedPtr to = table + (threads.row() * threads.held_channels() + threads.channel()) * 4;
  for (std::size_t half = 0; half < 2; ++half) {
    std::array<I32, 4> words;
    for (std::size_t i = 0; i < 4; ++i) words[i] = k.as_bits(part[4 * half + i]);
    k.store_v4(to + static_cast<std::int64_t>(16 * half), words);
  }
}

F32 combined_column(KernelBuilder& k, const RowThreads& threads, SharedPtr table, Combine combine) {
  const SharedPtr column = table + k.thread_idx() * 4;
  F32 total = k.load<F32>(column);
  for (int row = 1; row < kRowsPerPass; ++row) {
    total =
        combine(k, total, k.load<F32>(column + std::int64_t{4 * row * threads.held_channels()}));
  }
  return total;
}

F32 add(KernelBuilder&, F32 so_far, F32 value) { return so_far + value; }
F32 least(KernelBuilder& k, F32 so_far, F32 value) { return k.min(so_far, value); }
F32 largest(KernelBuilder& k, F32 so_far, F32 value) { return k.max(so_far, value); }

F32 max_abs(KernelBuilder& k, const RowPart& part, F32 at_least) {
  F32 largest = at_least;
  for (const F32 value : part) largest = k.max(largest, k.abs(value));
  return largest;
}

CodeScale code_scale(KernelBuilder& k, F32 amax, float largest_code) {
  const F32 largest = k.f32(largest_code);
  return {.inverse = k.select(amax > kSmallestAmax, largest / amax, k.f32(0.0f)),
          .scale = amax / largest};
}

void store_codes(KernelBuilder& k, DType codes, const RowPart& part, F32 inverse, GlobalPtr to) {
  RowPart scaled;
  for (std::size_t i = 0; i < part.size(); ++i) scaled[i] = part[i] * inverse;
  if (codes == DType::s4) {  // bytes of even and of odd codes, whose low halves are the codes
    constexpr std::int32_t kLowHalves = 0x0F0F0F0F;
    const I32 even = k.pack4(DType::s8, scaled[0], scaled[2], scaled[4], scaled[6]);
    const I32 odd = k.pack4(DType::s8, scaled[1], scaled[3], scaled[5], scaled[7]);
    k.store(to, (even & kLowHalves) | (odd & kLowHalves) << 4);
    return;
  }
  const I32 low = k.pack4(DType::s8, scaled[0], scaled[1], scaled[2], scaled[3]);
  const I32 high = k.pack4(DType::s8, scaled[4], scaled[5], scaled[6], scaled[7]);
  k.store_v2(to, {low, high});
}

}  // namespace sagegen
