#include <fmt/format.h>

#include "templates/mean_scores/params.h"
#include "templates/mean_scores/spec.h"
#include "templates/shared/params.h"

namespace sagegen::mean_scores {
namespace {

std::vector<Section> describe(const View& v) {
  Sentences lines{
      fmt::format("head_dim {}, K in {}", v.spec.head_dim, to_string(v.spec.io)),
      fmt::format("the scores of the mean of each {} queries with all keys less their mean, "
                  "in base 2",
                  kMeanRows),
      fmt::format("means of Q, and K less its mean, are split into two {} numbers each; sums "
                  "are f32",
                  to_string(v.spec.io)),
      "f32 [batch, heads, rows / 128, keys], every 16 keys in the order 0 1 8 9 2 3 10 11 4 "
      "5 12 13 6 7 14 15",
      fmt::format("grid (padded kv_len / {}, heads, batch), for a part of the heads and "
                  "queries at a time",
                  kKeys)};
  if (v.spec.varlen) lines.push_back(kPackedSequences);
  if (v.spec.pack_gqa)
    lines.push_back("queries are rows of all heads that share a KV head; heads are those of K");
  return {{"what it computes", lines}};
}

}  // namespace

const FamilyOf<Spec>& family() {
  static const FamilyOf<Spec> family(FamilyDef<Spec>{
      .word = "meanscores",
      .title = "mean_scores",
      .room = "templates/mean_scores",
      .what = {field<&Spec::head_dim>("head_dim", "d", head_dims(), head_dim_advice),
               field<&Spec::io>("io", "", io_types(), io_advice),
               later(flag<&Spec::varlen>("varlen", "varlen")),
               later(flag<&Spec::pack_gqa>("pack_gqa", "packgqa"))},
      .rules = {{{[](const View& v) { return v.spec.pack_gqa && !v.spec.varlen; },
                  [](const View&) {
                    return std::string(
                        "pack_gqa without varlen is refused: blocks of rows lie one after the "
                        "other whatever they are of, and a kernel has one key; leave pack_gqa out");
                  }}}},
      .resources =
          [](const View& v) {
            constexpr int kParts = 2, kPartBytes = 2;
            return Resources{.threads = threads(v.spec),
                             .dynamic_smem = kParts * kPartBytes * kKeys * channels(v.spec)};
          },
      .params =
          [](const View& v) {
            ParamLayout layout;
            layout.add<Params>();
            if (v.spec.varlen) layout.add<QuerySequences>().add<KeySequences>();
            if (v.spec.pack_gqa) layout.add<PackParams>();
            return layout;
          },
      .describe = describe,
  });
  return family;
}

const Family& any_family() { return family(); }

}  // namespace sagegen::mean_scores
