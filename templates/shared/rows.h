// The thread layout that the quantization kernels share, and what they do with rows.
//
// A block has head_dim threads. head_dim / 8 neighbouring lanes hold one row, 8 channels (16 bytes) each;
// eight rows make a pass. So all rows of a thread have the same number modulo 8, which is what the
// per-thread scales of SageAttention2 are about.
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
  RowThreads(dsl::KernelBuilder& k, int head_dim);

  int head_dim() const { return head_dim_; }
  int lanes() const { return lanes_; }           // that hold one row
  dsl::I32 row() const { return row_; }          // in the pass
  dsl::I32 channel() const { return channel_; }  // first of 8

  // 16 bytes of a row of 16-bit elements, zeros if it is not there.
  RowPart load(DType io, dsl::GlobalPtr row_start, dsl::Pred is_there) const;
  // Sum of a value over the lanes of one row.
  dsl::F32 sum_of_row(dsl::F32 value) const;
  // Sum over the row of part * other.
  dsl::F32 dot(const RowPart& part, const RowPart& other) const;
  // Largest of a value over the lanes of one row, or of two neighbouring rows.
  dsl::F32 max_of_row(dsl::F32 value) const;
  dsl::F32 max_of_row_pair(dsl::F32 value) const;
  // Largest over the block. scratch: 4 bytes per warp. Contains a barrier.
  dsl::F32 max_of_block(dsl::F32 value, dsl::SharedPtr scratch) const;

 private:
  dsl::F32 max_of_lanes(dsl::F32 value, int count) const;

  dsl::KernelBuilder& k_;
  int head_dim_;
  int lanes_;
  dsl::I32 row_;
  dsl::I32 channel_;
};

// One number per channel of the block from those that each thread has of its own rows: they go to a table in
// shared memory (column_table_bytes()), and behind a barrier thread i combines those of channel i.
void store_columns(dsl::KernelBuilder& k, const RowThreads& threads, const RowPart& part,
                   dsl::SharedPtr table);
using Combine = dsl::F32 (*)(dsl::KernelBuilder& k, dsl::F32 so_far, dsl::F32 value);
dsl::F32 combined_column(dsl::KernelBuilder& k, const RowThreads& threads, dsl::SharedPtr table,
                         Combine combine);

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
