#include <fmt/format.h>

#include "templates/quantize_values/params.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/params.h"

namespace sagegen::quantize_values {
namespace {

std::vector<Section> describe(const View& v) {
  Sentences lines{
      fmt::format("head_dim {}, input {}", v.spec.head_dim, to_string(v.spec.io)),
      fmt::format("V{}: {} codes, one f32 scale per channel = amax / {}; {}",
                  v.spec.smooth ? " less its mean over the keys" : "", to_string(v.spec.codes),
                  largest_v_code(v.spec.codes, v.spec.octaves),
                  v.spec.codes == DType::e4m3
                      ? "stored channel-major [batch, kv_heads, channels, keys], every 16 "
                        "keys in the order 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15"
                      : "keys in order"),
      fmt::format("grid (padded kv_len / {}, kv_heads, batch)", kKeys)};
  if (v.spec.varlen) lines.push_back(kPackedSequences);
  return {{"what it computes", lines}};
}

std::string octaves_advice(int) {
  return fmt::format("codes end 0 to {} octaves below 448 (e4m3) or 1024 (f16)", kMaxOctaves);
}

}  // namespace

const FamilyOf<Spec>& family() {
  static const FamilyOf<Spec> family(FamilyDef<Spec>{
      .word = "quantv",
      .title = "quantize_values",
      .room = "templates/quantize_values",
      .what = {field<&Spec::head_dim>("head_dim", "d", head_dims(), head_dim_advice),
               field<&Spec::io>("io", "", io_types(), io_advice),
               field<&Spec::codes>("codes", "", value_code_types(), value_codes_advice),
               later(field<&Spec::octaves>("octaves", "o", range(0, kMaxOctaves), octaves_advice)),
               flag<&Spec::smooth>("smooth", "smooth"),
               later(flag<&Spec::varlen>("varlen", "varlen"))},
      .rules = {{{[](const View& v) {
                    return v.spec.codes == DType::e4m3 && !v.target.has(Feature::fp8_mma);
                  },
                  [](const View& v) {
                    return fmt::format(
                        "codes e4m3 is refused on {}: its tensor cores have no FP8; use codes f16",
                        v.target.name);
                  }},
                 {[](const View& v) {
                    return v.spec.codes == DType::f16 && v.spec.io == DType::f16 &&
                           v.spec.octaves == 0 && !v.spec.smooth;
                  },
                  [](const View&) {
                    return std::string(
                        "quantize_values with io f16 and codes f16 is refused: attention that "
                        "sums in f32 reads such a V as it is; leave this kernel out, or use "
                        "octaves 10, which sums in f16 take, or smooth");
                  }}}},
      .resources =
          [](const View& v) {
            // The tile as it comes and as it leaves; codes of f16 keep their place.
            const int channels = threads(v.spec);  // one for each
            const int tiles = kKeys * channels * (bits(v.spec.io) + bits(v.spec.codes)) / 8;
            const int of_channel = v.spec.smooth ? 8 : 4;
            return Resources{
                .threads = channels,
                .dynamic_smem = of_channel * channels + (v.spec.codes == DType::e4m3 ? tiles : 0)};
          },
      .params =
          [](const View& v) {
            ParamLayout layout;
            layout.add<Params>();
            if (v.spec.smooth) layout.add<SmoothParams>();
            if (v.spec.varlen) layout.add<KeySequences>();
            return layout;
          },
      .describe = describe,
  });
  return family;
}

const Family& any_family() { return family(); }

}  // namespace sagegen::quantize_values
