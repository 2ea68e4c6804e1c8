// Launch parameters of merge_partials. grid (ceil(Lq / rows of a block), Hq, B), kThreads threads.
#pragma once

#include "sagegen/params.h"

namespace sagegen::merge_partials {

struct Params {
  TensorParam parts;             // of part 0: [B, Hq, Lq, D]
  std::int64_t part_stride;      // elements from a part to the next
  Address part_lse;              // f32 [B, Hq, Lq] of part 0, natural logarithm
  std::int64_t part_lse_stride;  // elements from a part to the next
  TensorParam o;                 // out, with `go_on` in, too
  Address lse;                   // out f32 [B, Hq, Lq], with `go_on` in, too; 0 for none
  std::int32_t part_count;
  std::int32_t q_len;
  std::int32_t lanes;  // of a row: D / kLaneChannels
  std::int32_t rows;   // of a block: kThreads / lanes
  std::int32_t go_on;  // not 0: o and lse hold a result that is merged, too, before the parts

  static constexpr std::string_view kName = "merge_partials";
  static std::vector<ParamField> fields() {
    using P = Params;
    return {param_field("parts", &P::parts),
            param_field("part_stride", &P::part_stride),
            param_field("part_lse", &P::part_lse),
            param_field("part_lse_stride", &P::part_lse_stride),
            param_field("o", &P::o),
            param_field("lse", &P::lse),
            param_field("part_count", &P::part_count),
            param_field("q_len", &P::q_len),
            param_field("lanes", &P::lanes),
            param_field("rows", &P::rows),
            param_field("go_on", &P::go_on)};
  }
};

}  // namespace sagegen::merge_partials
