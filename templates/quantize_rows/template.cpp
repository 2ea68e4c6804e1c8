// Rows to integer codes: the mean over all rows is subtracted per channel (smooth, for K), or the softmax
// scale and log2(e) go into the scale of the codes (fold, for Q), so that attention works in base 2 with one
// factor. Where the LSE is wanted, the term that smoothing K removes from it is computed with the queries,
// while they are at hand in full precision. After that their own mean is subtracted, too (smooth_block), and rows may be
// rotated.
#include <cmath>
#include <functional>
#include <optional>

#include "templates/quantize_rows/params.h"
#include "templates/quantize_rows/spec.h"
#include "templates/shared/packed_rows.h"
#include "templates/shared/rows.h"
#include "templates/shared/sequence.h"

namespace sagegen::quantize_rows {

using namespace dsl;

namespace {

class QuantizeRows {
 public:
  QuantizeRows(KernelBuilder& k, const Spec& spec);
  void build();

 private:
  void build_block();
  std::optional<Sequence> sequence() const;
  I64 first_padded_row() const;
  I32 len() const;
  I32 blocks_of_head() const;
  I64 index_of_group(int group) const;
  I64 index_of_block() const;
  RowPart mean_of_rows();
  void load_rows();
  void write_lse_correction();
  F32 subtract_block_mean();
  RowPart rotated(const RowPart& part) const {
    return threads_.hadamard(part, rotation_block(spec_.head_dim));
  }
  void write_group(int group, F32 least_amax);
  void write_codes(int pass, const CodeScale& code);
  void write_scale(I64 index, F32 scale);
  void write_amax(F32 least_amax);
  F32 amax_of_head();
  F32 amax_of_scale(int group, F32 amax);
  GlobalPtr maxima_of_head();

  int passes() const { return spec_.group / kRowsPerPass; }  // of a group

  int warp_maxima_bytes() const { return 4 * threads_.threads() / 32; }
  void of_own_channel(const std::function<void()>& body) const {
    sagegen::of_own_channel(k_, threads_.threads(), spec_.head_dim, body);
  }
  // Does it with the rows of a pass, or of a group, that the workspace has: blocks of packed rows may reach behind, but
  // sequences have room for whole ones.
  void of_padded_rows(int pass, const std::function<void()>& body) const {
    if (!spec_.pack_gqa || !spec_.smooth_block || spec_.varlen) return body();
    k_.if_(first_row_ + pass * kRowsPerPass < p_(&Params::len_padded), body);
  }
  // Row of the block that this thread has a part of in a pass.
  I32 row(int pass) const { return threads_.row() + pass * kRowsPerPass; }

  KernelBuilder& k_;
  const Spec& spec_;
  const ParamReader<Params> p_;
  const RowThreads threads_;
  const I32 block_, head_, batch_, head_index_, first_row_;
  const std::optional<Sequence> sequence_;  // varlen
  const I64 first_padded_row_;
  std::vector<RowPart> rows_;  // by pass
  SharedPtr warp_maxima_;      // [group, warp]: a scratch of max_of_block() each
};

QuantizeRows::QuantizeRows(KernelBuilder& k, const Spec& spec)
    : k_(k),
      spec_(spec),
      p_(k.params<Params>()),
      threads_(k, spec.head_dim, code_channels(spec.codes, spec.head_dim)),
      block_(k.block_idx(0)),
      head_(k.block_idx(1)),
      batch_(k.block_idx(2)),
      head_index_(batch_ * k.grid_dim(1) + head_),
      first_row_(block_ * block_rows(spec)),
      sequence_(sequence()),
      first_padded_row_(first_padded_row()) {}

std::optional<Sequence> QuantizeRows::sequence() const {
  if (!spec_.varlen) return {};
  return sequence_of<SequencesOf::rows>(k_, batch_,
                                        spec_.pack_gqa ? PackedRows(k_).heads() : I32{});
}

I32 QuantizeRows::len() const {
  if (!sequence_) return p_(&Params::len);
  return spec_.pack_gqa ? sequence_->len * PackedRows(k_).heads() : sequence_->len;
}

I64 QuantizeRows::first_padded_row() const {
  const auto of_head = [&] {
    return sequence_ ? first_workspace_row<SequencesOf::rows>(k_, *sequence_, batch_, head_)
                     : k_.to_i64(head_index_) * k_.to_i64(p_(&Params::len_padded));
  };
  return of_head() + k_.to_i64(first_row_);
}

I32 QuantizeRows::blocks_of_head() const {
  return sequence_ ? sequence_->padded / block_rows(spec_) : k_.grid_dim(0);
}

void QuantizeRows::build() {
  if (!sequence_) return build_block();
  k_.if_(first_row_ < sequence_->padded, [&] { build_block(); });
}

void QuantizeRows::build_block() {
  load_rows();
  if (spec_.fold && !spec_.amax) write_lse_correction();
  F32 least_amax = k_.f32(0.0f);
  if (spec_.smooth_block) least_amax = subtract_block_mean();
  if (spec_.rotate) {
    for (RowPart& part : rows_) part = rotated(part);
  }
  const int groups = block_rows(spec_) / spec_.group;
  if (const int scales = scales_of_warps(spec_); scales > 0)
    warp_maxima_ = k_.shared(scales * warp_maxima_bytes(), 16);
  if (spec_.amax) return write_amax(least_amax);
  if (spec_.scales == 0) {
    const CodeScale code = code_scale(k_, amax_of_head(), largest_code(spec_.codes));
    for (int pass = 0; pass < groups * passes(); ++pass) write_codes(pass, code);
    k_.if_(block_ == 0 && k_.thread_idx() == 0,
           [&] { write_scale(k_.to_i64(head_index_), code.scale); });
    return;
  }
  for (int group = 0; group < groups; ++group) write_group(group, least_amax);
}

// Counted over all heads.
I64 QuantizeRows::index_of_group(int group) const {
  if (sequence_) return first_padded_row_ / spec_.group + k_.i64(group);
  const I32 groups_of_head = spec_.pack_gqa ? p_(&Params::len_padded) / spec_.group
                                            : k_.grid_dim(0) * (block_rows(spec_) / spec_.group);
  return k_.to_i64(head_index_ * groups_of_head) +
         k_.to_i64(block_ * (block_rows(spec_) / spec_.group) + group);
}

void QuantizeRows::write_group(int group, F32 least_amax) {
  const int first = group * passes();
  const auto scale_of = [&](int first_pass, int count) {
    F32 amax = least_amax;
    for (int pass = first_pass; pass < first_pass + count; ++pass)
      amax = max_abs(k_, rows_[static_cast<std::size_t>(pass)], amax);
    return code_scale(k_, amax_of_scale(group, amax), largest_code(spec_.codes));
  };
  const I64 group_index = index_of_group(group);
  const I64 first_scale = group_index * std::int64_t{spec_.scales};
  const bool of_rows = spec_.scales == spec_.group;
  CodeScale code;
  for (int pass = 0; pass < passes(); ++pass) {
    if (pass == 0 || of_rows) {
      code = scale_of(first + pass, of_rows ? 1 : passes());
      const int rows_per_scale = of_rows ? 1 : kRowsPerPass / spec_.scales;
      const Pred writes = threads_.channel() == 0 && threads_.row() % rows_per_scale == 0;
      const I32 index = threads_.row() / rows_per_scale + (of_rows ? pass * kRowsPerPass : 0);
      of_padded_rows(first + pass, [&] {
        k_.if_(writes, [&] { write_scale(first_scale + k_.to_i64(index), code.scale); });
      });
    }
    write_codes(first + pass, code);
  }
}

void QuantizeRows::write_codes(int pass, const CodeScale& code) {
  const int row_bytes = code_row_bytes(spec_.codes, spec_.head_dim);
  const I32 channel_bytes = threads_.channel() * bits(spec_.codes) / 8;
  const GlobalPtr codes = p_(&Params::codes) + first_padded_row_ * std::int64_t{row_bytes};
  of_padded_rows(pass, [&] {
    threads_.of_channels(code_channels(spec_.codes, spec_.head_dim), [&] {
      store_codes(k_, spec_.codes, rows_[static_cast<std::size_t>(pass)], code.inverse,
                  codes + (row(pass) * row_bytes + channel_bytes));
    });
  });
}

void QuantizeRows::write_scale(I64 index, F32 scale) {
  if (spec_.rotate)  // rows are less by as much
    scale = scale * std::sqrt(static_cast<float>(rotation_block(spec_.head_dim)));
  if (spec_.fold) scale = scale * (k_.params<FoldParams>()(&FoldParams::softmax_scale) * kLog2E);
  k_.store(p_(&Params::scale) + index * std::int64_t{4}, scale);
}

GlobalPtr QuantizeRows::maxima_of_head() {
  return k_.params<MaximaParams>()(&MaximaParams::maxima) +
         k_.to_i64(head_index_) * k_.to_i64(k_.grid_dim(0)) * std::int64_t{4};
}

void QuantizeRows::write_amax(F32 least_amax) {
  F32 amax = least_amax;
  for (const RowPart& part : rows_) amax = max_abs(k_, part, amax);
  const F32 of_block = amax_of_scale(0, amax);
  k_.if_(k_.thread_idx() == 0, [&] { k_.store(maxima_of_head() + block_ * 4, of_block); });
}

F32 QuantizeRows::amax_of_head() {
  const GlobalPtr maxima = maxima_of_head();
  const Var<F32> amax = k_.var(k_.f32(0.0f));
  k_.for_range(k_.thread_idx(), blocks_of_head(), threads_.threads(),
               [&](I32 block) { amax = k_.max(amax.get(), k_.load<F32>(maxima + block * 4)); });
  return amax_of_scale(0, amax);
}

// The block's part of the mean of all rows, from the sums of chunks; block 0 writes it, too.
RowPart QuantizeRows::mean_of_rows() {
  const auto p = k_.params<SmoothParams>();
  const std::int64_t row_bytes = 4 * spec_.head_dim;
  const SharedPtr means = k_.shared(4 * threads_.threads(), 16);
  const I32 channel_bytes = k_.thread_idx() * 4;
  const I64 first = k_.to_i64(head_index_) * k_.to_i64(p(&SmoothParams::chunks)) * row_bytes;
  const GlobalPtr sums = p(&SmoothParams::sum_partial) + first + channel_bytes;
  const Var<F32> sum = k_.var(k_.f32(0.0f));
  const I32 chunks = sequence_ ? chunks_of(k_, *sequence_).count : p(&SmoothParams::chunks);
  of_own_channel([&] {
    k_.for_range(k_.i32(0), chunks, 1, [&](I32 chunk) {
      sum = sum.get() + k_.load<F32>(sums + k_.to_i64(chunk) * row_bytes);
    });
  });
  const F32 rows = sequence_ ? rows_to_divide_by(k_, *sequence_) : k_.to_f32(p_(&Params::len));
  const F32 mean = sum.get() / rows;
  k_.store(means + channel_bytes, mean);
  k_.if_(k_.block_idx(0) == 0, [&] {
    of_own_channel([&] {
      k_.store(p(&SmoothParams::mean) + k_.to_i64(head_index_) * row_bytes + channel_bytes, mean);
    });
  });
  k_.barrier();
  return load_f32x8(k_, means + threads_.channel() * 4);
}

void QuantizeRows::load_rows() {
  RowPart mean;
  if (spec_.smooth) mean = mean_of_rows();
  const I64 row_bytes = p_(&Params::rows, &TensorParam::stride_token) * kElementBytes;
  const I32 head = spec_.pack_gqa ? head_ * PackedRows(k_).heads() : head_;
  GlobalPtr rows = head_of(k_, p_, &Params::rows, batch_, head);
  if (sequence_) rows = rows + k_.to_i64(sequence_->first) * row_bytes;
  for (int pass = 0; pass < block_rows(spec_) / kRowsPerPass; ++pass) {
    const I32 index = first_row_ + row(pass);
    const Pred is_there = index < len();
    const auto offset = [&] {
      return spec_.pack_gqa ? PackedRows(k_).offset(p_, &Params::rows, index)
                            : k_.to_i64(index) * row_bytes;
    };
    RowPart part = threads_.load(spec_.io, rows + offset(), is_there);
    for (std::size_t i = 0; spec_.smooth && i < part.size(); ++i) {
      part[i] = k_.select(is_there, part[i] - mean[i], k_.f32(0.0f));
    }
    rows_.push_back(part);
  }
}

// Counted over all heads.
I64 QuantizeRows::index_of_block() const {
  if (sequence_) return first_padded_row_ / block_rows(spec_);
  return k_.to_i64(head_index_) * k_.to_i64(k_.grid_dim(0)) + k_.to_i64(block_);
}

// Rows behind the last one stay 0. Returns the least amax of a scale.
F32 QuantizeRows::subtract_block_mean() {
  constexpr float kPart = 1.0f / kMeanRows;  // a sum of bf16 numbers might leave f32
  RowPart sums;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    sums[i] = rows_[0][i] * kPart;
    for (std::size_t pass = 1; pass < rows_.size(); ++pass)
      sums[i] = k_.fma(rows_[pass][i], k_.f32(kPart), sums[i]);
  }
  const SharedPtr table = k_.shared(column_table_bytes(threads_.held_channels()), 16);
  store_columns(k_, threads_, sums, table);
  k_.barrier();
  const I32 left = len() - first_row_;
  const F32 total = combined_column(k_, threads_, table, add);
  I32 rows = k_.min(left, k_.i32(kMeanRows));
  if (spec_.varlen) rows = k_.max(rows, k_.i32(1));  // of an empty sequence
  const F32 mean = total / (k_.to_f32(rows) * kPart);
  const I32 channel_bytes = k_.thread_idx() * 4;
  k_.store(table + channel_bytes, mean);  // where this thread alone has read
  const I64 index = index_of_block();
  of_own_channel([&] {
    k_.store(k_.params<BlockMeanParams>()(&BlockMeanParams::mean) +
                 index * std::int64_t{4 * spec_.head_dim} + channel_bytes,
             mean);
  });
  k_.barrier();
  const RowPart means = load_f32x8(k_, table + threads_.channel() * 4);
  F32 size = k_.f32(0.0f);
  const float least = least_amax_of_mean(spec_.codes, spec_.head_dim);
  for (const F32 one : spec_.rotate ? rotated(means) : means)
    size = k_.fma(k_.abs(one), k_.f32(least), size);
  for (std::size_t pass = 0; pass < rows_.size(); ++pass) {
    const Pred is_there = row(static_cast<int>(pass)) < left;
    for (std::size_t i = 0; i < means.size(); ++i)
      rows_[pass][i] = k_.select(is_there, rows_[pass][i] - means[i], k_.f32(0.0f));
  }
  return threads_.sum_of_row(size);
}

// Largest value of the rows that share a scale with this thread's. A thread has one row of every eight.
F32 QuantizeRows::amax_of_scale(int group, F32 amax) {
  if (spec_.scales > 4) return threads_.max_of_row(amax);
  const bool of_warps = scales_of_warps(spec_) > 0;
  const SharedPtr scratch =
      of_warps ? warp_maxima_ + std::int64_t{group * warp_maxima_bytes()} : SharedPtr{};
  return spec_.scales == 4 ? threads_.max_of_row_pair(amax, scratch)
                           : threads_.max_of_block(amax, scratch);
}

void QuantizeRows::write_lse_correction() {
  const auto p = k_.params<FoldParams>();
  const GlobalPtr lse_correction = p(&FoldParams::lse_correction);
  k_.if_(!k_.is_null(lse_correction), [&] {
    const I32 kv_index = head_index_ / p(&FoldParams::heads_per_kv_head);
    const GlobalPtr mean =
        p(&FoldParams::k_mean) +
        (k_.to_i64(kv_index) * std::int64_t{spec_.head_dim} + k_.to_i64(threads_.channel())) *
            std::int64_t{4};
    const RowPart k_mean = threads_.load_f32(mean);
    for (std::size_t pass = 0; pass < rows_.size(); ++pass) {
      const F32 correction = threads_.dot(rows_[pass], k_mean) * p(&FoldParams::softmax_scale);
      const GlobalPtr to =
          lse_correction +
          (first_padded_row_ + k_.to_i64(row(static_cast<int>(pass)))) * std::int64_t{4};
      of_padded_rows(static_cast<int>(pass),
                     [&] { k_.if_(threads_.channel() == 0, [&] { k_.store(to, correction); }); });
    }
  });
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  QuantizeRows(k, kernel.view(family()).spec).build();
}

}  // namespace sagegen::quantize_rows
