// The thread layout that the quantization kernels share, and what they do with rows.
//
// 8 channels (16 bytes) of a row are in each of as many neighbouring lanes as shuffles can reduce over, 4 to 32; eight
// rows make a pass, which is a block. So all rows of a thread have the same number modulo 8, which is what the
// per-thread scales of SageAttention2 are about. Lanes behind the last channel of the head hold zeros.
#pragma once

#include <array>
#include <vector>

#include "sagegen/dsl/kernel_builder.h"
#include "templates/shared/quantization.h"
#include "templates/shared/tensor.h"

namespace sagegen {

using RowPart = std::array<dsl::F32, 8>;  // the channels of a row that one thread holds

class RowThreads {
 public:
  // channels: that rows have with their padding, where the threads are to write that, too.
  RowThreads(dsl::KernelBuilder& k, int head_dim, int channels);
  RowThreads(dsl::KernelBuilder& k, int head_dim) : RowThreads(k, head_dim, head_dim) {}

  int threads() const { return kRowsPerPass * lanes_; }  // of the block
  int held_channels() const { return 8 * lanes_; }       // of a row
  dsl::I32 row() const { return row_; }                  // in the pass
  dsl::I32 channel() const { return channel_; }          // first of 8

  // 16 bytes of a row of 16-bit elements, zeros if it is not there.
  RowPart load(DType io, dsl::GlobalPtr row_start, dsl::Pred is_there) const;
  // f32 of the channels that the lane holds, from the first on; zeros behind those of the head.
  RowPart load_f32(dsl::GlobalPtr own_channels) const;
  // What the lanes do that hold one of the first `channels` channels.
  template <typename Body>
  void of_channels(int channels, const Body& body) const {
    if (channels >= held_channels()) return body();
    k_.if_(channel_ < channels, body);
  }
  // What a Hadamard matrix makes of each `block` channels of a row, divided by `block`: no number of it is larger than the
  // row's largest. block: a power of two that divides the channels of the head.
  RowPart hadamard(RowPart part, int block) const;
  // Sum of a value over the lanes of one row.
  dsl::F32 sum_of_row(dsl::F32 value) const;
  // Sum over the row of part * other.
  dsl::F32 dot(const RowPart& part, const RowPart& other) const;
  // Largest of a value over the lanes of one row; of two neighbouring rows; of all rows of a pass.
  dsl::F32 max_of_row(dsl::F32 value) const;
  // Contain a barrier: over the block, and over rows in different warps. scratch: 4 bytes per warp.
  dsl::F32 max_of_row_pair(dsl::F32 value, dsl::SharedPtr scratch) const;
  dsl::F32 max_of_block(dsl::F32 value, dsl::SharedPtr scratch) const;

 private:
  dsl::F32 max_of_lanes(dsl::F32 value, int count) const;

  dsl::KernelBuilder& k_;
  int head_dim_;
  int lanes_;  // that hold one row
  dsl::I32 row_;
  dsl::I32 channel_;
};

// One number per channel of the block from those that each thread has of its own rows: they go to a table in
// shared memory (column_table_bytes()), and behind a barrier thread i combines those of channel i, which may be padding.
void store_columns(dsl::KernelBuilder& k, const RowThreads& threads, const RowPart& part,
                   dsl::SharedPtr table);
using Combine = dsl::F32 (*)(dsl::KernelBuilder& k, dsl::F32 so_far, dsl::F32 value);
dsl::F32 combined_column(dsl::KernelBuilder& k, const RowThreads& threads, dsl::SharedPtr table,
                         Combine combine);

// What the threads do that have a channel of the head by their number.
template <typename Body>
void of_own_channel(dsl::KernelBuilder& k, int threads, int head_dim, const Body& body) {
  if (threads == head_dim) return body();
  k.if_(k.thread_idx() < head_dim, body);
}

dsl::F32 add(dsl::KernelBuilder& k, dsl::F32 so_far, dsl::F32 value);
dsl::F32 least(dsl::KernelBuilder& k, dsl::F32 so_far, dsl::F32 value);
dsl::F32 largest(dsl::KernelBuilder& k, dsl::F32 so_far, dsl::F32 value);

dsl::F32 max_abs(dsl::KernelBuilder& k, const RowPart& part, dsl::F32 at_least);

// 8 consecutive f32, 16-byte aligned.
template <dsl::Space S>
RowPart load_f32x8(dsl::KernelBuilder& k, dsl::Ptr<S> from);

// Codes are round(value * inverse), scale restores them. Values this small have codes 0.
struct CodeScale {
  dsl::F32 inverse;  // largest_code / amax, or 0
  dsl::F32 scale;    // amax / largest_code
};
CodeScale code_scale(dsl::KernelBuilder& k, dsl::F32 amax, float largest_code);

// Writes 8 codes: s8, or s4 in 4 bytes, the first in the lowest bits.
void store_codes(dsl::KernelBuilder& k, DType codes, const RowPart& part, dsl::F32 inverse,
                 dsl::GlobalPtr to);

}  // namespace sagegen
