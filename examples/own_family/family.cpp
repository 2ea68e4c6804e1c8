// The tables: keys, option texts, sets, JSON and the enumeration of schedules read them.
#include <sagegen/family.h>

#include "hadamard.h"

namespace acme::hadamard {
namespace {

std::vector<Section> describe(const View& v) {
  const std::string type(to_string(v.spec.codes));
  return {{"what it computes",
           {"rotates rows of " + std::to_string(v.spec.columns) + " channels in " +
                std::string(to_string(v.spec.io)) + " by a Hadamard matrix",
            (v.spec.measure ? "gives the largest result of each block of rows, for codes of "
                            : "quantizes them with one scale for all rows, to ") +
                type}},
          {"tiling", {std::to_string(v.schedule.warps) + " rows per block, a warp for each"}}};
}

}  // namespace

const FamilyOf<Spec, Schedule>& family() {
  static const FamilyOf<Spec, Schedule> family(FamilyDef<Spec, Schedule>{
      .owner = "acme",
      .word = "hadamard",
      .title = "hadamard",
      .room = "examples/own_family",
      .what = {field<&Spec::columns>("columns", "c", numbers({128, 256, 512})),
               field<&Spec::io>("io", "",
                                words<DType>({{DType::f16, "f16"}, {DType::bf16, "bf16"}})),
               field<&Spec::codes>("codes", "",
                                   words<DType>({{DType::s8, "s8"}, {DType::e4m3, "e4m3"}})),
               flag<&Spec::measure>("measure", "measure")},
      .how = {field<&Schedule::warps>("warps", "w", numbers({1, 2, 4, 8}))},
      .rules = {{{[](const View& v) {
                    return v.spec.codes == DType::e4m3 && !v.target.has(Feature::fp8_mma);
                  },
                  [](const View& v) {
                    return "codes e4m3 is refused on " + v.target.name +
                           ": it has no FP8; use codes s8";
                  }}}},
      .resources =
          [](const View& v) {
            // A maximum per warp, where there are several.
            const bool reduces = v.spec.measure && v.schedule.warps > 1;
            return Resources{.threads = 32 * v.schedule.warps,
                             .dynamic_smem = reduces ? 4 * v.schedule.warps : 0};
          },
      .params =
          [](const View& v) {
            ParamLayout layout;
            layout.add<Params>();
            return v.spec.measure ? layout.add<MeasureParams>() : layout.add<QuantizeParams>();
          },
      .complete =
          [](Spec& spec, const Given& given, const TargetInfo& target) {
            if (!is_given(given, "codes"))
              spec.codes = target.has(Feature::fp8_mma) ? DType::e4m3 : DType::s8;
          },
      .inputs =
          [](const View& v) {
            std::vector<Kernel> kernels;
            Spec spec = v.spec;
            spec.measure = true;
            if (!v.spec.measure)
              kernels.push_back({hadamard::family(), spec, v.schedule, v.target.target});
            return kernels;
          },
      .describe = describe,
  });
  return family;
}

}  // namespace acme::hadamard
