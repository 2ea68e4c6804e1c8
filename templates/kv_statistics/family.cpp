#include <fmt/format.h>

#include "templates/kv_statistics/params.h"
#include "templates/kv_statistics/spec.h"

namespace sagegen::kv_statistics {
namespace {

std::vector<Section> describe(const View& v) {
  Sentences lines{fmt::format("head_dim {}, input {}", v.spec.head_dim, to_string(v.spec.io))};
  if (v.spec.k_sum)
    lines.push_back("sums K over chunks of keys, per channel: the mean that smoothing subtracts");
  if (v.spec.v_amax) lines.push_back("finds the largest |V| over chunks of keys, per channel");
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
               flag<&Spec::k_sum>("k_sum", "ksum"), flag<&Spec::v_amax>("v_amax", "vmax")},
      .rules = {{{[](const View& v) { return !v.spec.k_sum && !v.spec.v_amax; },
                  [](const View&) {
                    return std::string(
                        "kv_statistics without k_sum and v_amax is refused: it would compute "
                        "nothing; set one of them, or leave this kernel out");
                  }}}},
      .resources =
          [](const View& v) {
            const int tables = int{v.spec.k_sum} + int{v.spec.v_amax};
            return Resources{.threads = v.spec.head_dim,
                             .dynamic_smem = tables * column_table_bytes(v.spec.head_dim)};
          },
      .params =
          [](const View& v) {
            ParamLayout layout;
            if (v.spec.k_sum) layout.add<KSumParams>();
            if (v.spec.v_amax) layout.add<VAmaxParams>();
            return layout.add<Params>();
          },
      .describe = describe,
  });
  return family;
}

const Family& any_family() { return family(); }

}  // namespace sagegen::kv_statistics
