// Rows of Q or K to integer codes with scales per group of rows (SageAttention2 sections 3.1 and 3.2).
//
// In a group of rows, row r uses scale (r mod 8) / (8 / scales): with 8 scales row r mod 8, with 4 scales
// (r mod 8) / 2, with 1 the one there is. Queries have 8 or 1, keys 4 or 1: then all scores that a thread of
// the attention kernel holds share one of each. With as many scales as rows each row has its own; with 0
// all rows of a head share one, for which a kernel with `amax` looks first.
#pragma once

#include "sagegen/kernel.h"
#include "templates/shared/quantization.h"

namespace sagegen::quantize_rows {

struct Spec {
  int head_dim = 128;
  DType io = DType::f16;
  DType codes = DType::s8;
  int scales = 8;       // per group of rows: 8, 4, 1, one for each, or 0: per head
  int group = 32;       // rows
  bool smooth = false;  // subtract the mean of all rows, per channel, first
  // Rows are queries: fold the softmax scale and log2(e) into the scales, so that code * code * q_scale *
  // k_scale is a score in base 2, and on request compute q . mean(K), what smoothing takes from the scores.
  bool fold = false;
  // Subtract from each row the mean of its block of kMeanRows rows, per channel; of queries. No scale is so
  // small that the mean's scores would not fit into integer sums (least_amax_of_mean()).
  bool smooth_block = false;
  // Rotate rows after all that is subtracted (Rotation::hadamard).
  bool rotate = false;
  bool amax =
      false;  // with 0 scales: no codes, but the largest |x| of the rows that a thread block has
  // Rows are those of all query heads that share a KV head, query by query (shared/params.h). They are padded to whole
  // groups, even where blocks of kMeanRows have a mean.
  bool pack_gqa = false;
  bool varlen = false;  // batches of packed sequences (shared/params.h)
};

// Rows of one thread block.
constexpr int block_rows(const Spec& spec) { return spec.smooth_block ? kMeanRows : spec.group; }

// Of one thread block: lanes for the padding of codes, too.
constexpr int threads(const Spec& spec) {
  return lane_channels(code_channels(spec.codes, spec.head_dim));
}
// Scales whose rows lie in several warps, each of which has a maximum in shared memory for each of them.
constexpr int scales_of_warps(const Spec& spec) {
  constexpr int kWarp = 32;
  const int groups = block_rows(spec) / spec.group;
  if (spec.scales == 0) return 1;
  const bool of_pairs = spec.scales == 4 && 2 * threads(spec) / kRowsPerPass > kWarp;
  return spec.scales == 1 || of_pairs ? groups : 0;
}

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::quantize_rows
