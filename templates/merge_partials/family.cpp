#include <fmt/format.h>

#include "templates/merge_partials/params.h"
#include "templates/merge_partials/spec.h"
#include "templates/shared/quantization.h"

namespace sagegen::merge_partials {
namespace {

Values stored() { return words<Stored>({{Stored::io, "io"}, {Stored::f32, "f32"}}); }

std::vector<Section> describe(const View& v) {
  return {{"what it computes",
           {fmt::format("O = sum of exp(LSE of the part - LSE) O of the part, LSE = log of the sum "
                        "of exp(LSE of the part)"),
            fmt::format("of attention in {}: parts in {}, O in {}, everything else in f32",
                        to_string(v.spec.io), to_string(stored_type(v.spec, v.spec.parts)),
                        to_string(stored_type(v.spec, v.spec.out))),
            "parts in their order, behind what O and the LSE hold where a call goes on from there",
            "a part whose LSE is -infinity is not read; without any other O = 0, LSE = -infinity",
            "grid (rows / (128 / (channels / 8)), heads, batch)"}}};
}

}  // namespace

std::string_view to_string(Stored value) { return value == Stored::f32 ? "f32" : "io"; }

const FamilyOf<Spec>& family() {
  static const FamilyOf<Spec> family(FamilyDef<Spec>{
      .word = "merge",
      .title = "merge_partials",
      .room = "templates/merge_partials",
      .what = {field<&Spec::io>("io", "", io_types(), io_advice),
               later(field<&Spec::parts>("parts", "parts_", stored())),
               later(field<&Spec::out>("out", "out_", stored()))},
      .resources = [](const View&) { return Resources{.threads = kThreads}; },
      .params = [](const View&) { return ParamLayout().add<Params>(); },
      .describe = describe,
  });
  return family;
}

const Family& any_family() { return family(); }

}  // namespace sagegen::merge_partials
