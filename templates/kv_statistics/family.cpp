#include <fmt/format.h>

#include "templates/kv_statistics/params.h"
#include "templates/kv_statistics/spec.h"
#include "templates/shared/params.h"

namespace sagegen::kv_statistics {
namespace {

int reductions(const Spec& spec) {
  return int{spec.k_sum} + int{spec.v_amax} + 3 * int{spec.v_range};
}

std::vector<Section> describe(const View& v) {
  Sentences lines{fmt::format("head_dim {}, input {}", v.spec.head_dim, to_string(v.spec.io))};
  if (v.spec.k_sum)
    lines.push_back("sums K over chunks of keys, per channel: the mean that smoothing subtracts");
  if (v.spec.v_amax) lines.push_back("finds the largest |V| over chunks of keys, per channel");
  if (v.spec.v_range)
    lines.push_back(
        "sums V, and finds its least and its largest, over chunks of keys, per channel");
  if (v.spec.varlen) lines.push_back(kPackedSequences);
  lines.push_back("grid (chunks, kv_heads, batch)");
  return {{"what it computes", lines}};
}

}  // namespace

const FamilyOf<Spec>& family() {
  static const FamilyOf<Spec> family(FamilyDef<Spec>{
      .word = "kvstats",
      .title = "kv_statistics",
      .room = "templates/kv_statistics",
      .what = {field<&Spec::head_dim>("head_dim", "d", head_dims(), head_dim_advice),
               field<&Spec::io>("io", "", io_types(), io_advice),
               flag<&Spec::k_sum>("k_sum", "ksum"), flag<&Spec::v_amax>("v_amax", "vmax"),
               flag<&Spec::v_range>("v_range", "vrange"),
               later(flag<&Spec::varlen>("varlen", "varlen"))},
      .rules = {{{[](const View& v) { return reductions(v.spec) == 0; },
                  [](const View&) {
                    return std::string(
                        "kv_statistics without k_sum, v_amax and v_range is refused: it would "
                        "compute nothing; set one of them, or leave this kernel out");
                  }},
                 {[](const View& v) { return v.spec.v_amax && v.spec.v_range; },
                  [](const View&) {
                    return std::string(
                        "kv_statistics with v_amax and v_range is refused: the largest |V| is the "
                        "least or the largest V; leave one of the two out");
                  }}}},
      .resources =
          [](const View& v) {
            return Resources{
                .threads = lane_channels(v.spec.head_dim),
                .dynamic_smem = reductions(v.spec) * column_table_bytes(v.spec.head_dim)};
          },
      .params =
          [](const View& v) {
            ParamLayout layout;
            if (v.spec.k_sum) layout.add<KSumParams>();
            if (v.spec.v_amax) layout.add<VAmaxParams>();
            if (v.spec.v_range) layout.add<VRangeParams>();
            layout.add<Params>();
            if (v.spec.varlen) layout.add<KeySequences>();
            return layout;
          },
      .describe = describe,
  });
  return family;
}

const Family& any_family() { return family(); }

}  // namespace sagegen::kv_statistics
