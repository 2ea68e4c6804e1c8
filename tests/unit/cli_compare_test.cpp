// What `compare` compares, and what it picks.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "sagegen/error.h"
#include "templates/attention/plan_mode_map.h"
#include "tools/sagegen/compare_candidates.h"
#include "tools/sagegen/compare_pick.h"
#include "tools/sagegen/errors.h"

using namespace sagegen;
using namespace sagegen::cli;
using Catch::Matchers::Contains;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
const attention::Spec kAsked{.head_dim = 64};

std::vector<Kernel> of(const char* target, const CandidateOptions& options = {},
                       ErrorsOf errors = ErrorsOf::formats, attention::Spec asked = kAsked) {
  return candidates(options, asked, parse_target(target), errors);
}

std::set<std::string> values_of(const std::vector<Kernel>& kernels, const std::string& field) {
  std::set<std::string> words;
  for (const Kernel& kernel : kernels) words.insert(word_of(kernel, field));
  return words;
}

// Kernels that differ, however they are called.
Compared candidate(std::size_t number, double tops, double l1, double cosine = 0.99) {
  static const std::vector<Kernel> kernels = of("sm_89");
  Compared one{.kernel = kernels.at(number), .errors = {}};
  one.errors.o.relative_l1 = l1;
  one.errors.o.cosine_similarity = cosine;
  one.tops = {tops, 1000 - tops};
  return one;
}

Bounds bounds(double l1, double cosine = 0) {
  Bounds result;
  for (const Measure& measure : measures()) {
    if (std::string(measure.option) == "--max-l1") result.push_back({&measure, l1});
    if (std::string(measure.option) == "--min-cosine") result.push_back({&measure, cosine});
  }
  return result;
}

}  // namespace

TEST_CASE("candidates are every combination that the rules let through, each once") {
  // Of qk, granularity, smoothing and pv, with its accumulations and code ranges; a model tells no sums of f32 apart.
  // Q and K of 16 bits have neither granularity nor smoothing.
  constexpr std::size_t kFp16 = 2, kFp8 = 3;
  CHECK(of("sm_80").size() == (2 * 4 * 3 + 1) * kFp16);
  CHECK(of("sm_89").size() == (2 * 4 * 3 + 1) * (kFp16 + kFp8));
  CHECK(of("sm_120").size() == (4 * 3 + 1) * (kFp16 + kFp8));
  std::size_t accumulations = 0;
  for (const Field& field : attention::family().what) {
    if (field.name == "accumulation") accumulations = field.values.all().size();
  }
  CHECK(values_of(of("sm_89", {}, ErrorsOf::kernels), "accumulation").size() == accumulations);
  for (const char* target : {"sm_80", "sm_86", "sm_89", "sm_120"}) {
    for (const ErrorsOf errors : {ErrorsOf::formats, ErrorsOf::kernels}) {
      std::set<std::string> keys;
      for (const Kernel& kernel : of(target, {}, errors)) {
        CHECK(kernel.violations().empty());
        for (const Kernel& input : kernel.inputs()) CHECK(input.violations().empty());
        CHECK(keys.insert(kernel.key()).second);
        CHECK(kernel == kernel.with_usual_schedule());
      }
    }
  }
}

TEST_CASE("candidates are for the problem of the inputs") {
  attention::Spec asked{.head_dim = 128, .io = DType::bf16, .causal = true};
  asked.window = true;
  for (const Kernel& kernel : of("sm_89", {}, ErrorsOf::formats, asked)) {
    const attention::Spec& spec = kernel.view(attention::family()).spec;
    CHECK((spec.head_dim == 128 && spec.io == DType::bf16 && spec.causal && spec.window));
    CHECK_FALSE(spec.sinks);
  }
}

TEST_CASE("texts narrow the candidates, and several of them are joined") {
  const auto only = [](std::vector<std::string> texts) {
    return of("sm_89", {.only = std::move(texts), .set_file = {}});
  };
  CHECK(values_of(only({"pv=f16"}), "pv") == std::set<std::string>{"f16"});
  CHECK(only({"pv=f16"}).size() == 50);
  CHECK(only({"pv=f16 qk=s8", "pv=f16 qk=s4"}).size() == 48);
  CHECK(only({"pv=f16", "qk=s8"}).size() == 50 + 60 - 24);
  CHECK(values_of(only({"accumulation=f32"}), "accumulation") == std::set<std::string>{"f32"});
  const std::vector<Kernel> one =
      only({"qk=s8 granularity=per_thread smoothing=k pv=e4m3 accumulation=f32 "
            "schedule=q64k64w4s3"});
  REQUIRE(one.size() == 1);
  CHECK(one[0].key() == "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32__q64k64w4s3__sm89");

  CHECK_THROWS_AS(only({"io=bf16"}), UsageError);
  CHECK_THROWS_AS(only({"causal"}), UsageError);
  CHECK_THROWS_AS(only({"qk=s5"}), SpecError);
  CHECK_THROWS_AS(only({"colour=red"}), SpecError);
  CHECK_THROWS_WITH(
      of("sm_120", {.only = {"qk=s4"}, .set_file = {}}),
      Contains("no kernel for sm_120") && Contains("qk=s4") && Contains("have no INT4"));
}

TEST_CASE("differences are the fields that tell kernels apart, without those that follow") {
  CHECK(differences(of("sm_80")) ==
        std::vector<std::string>{"qk", "granularity", "smoothing", "accumulation"});
  CHECK(differences(of("sm_89")) == std::vector<std::string>{"qk", "granularity", "smoothing", "pv",
                                                             "accumulation", "code_range"});
  CHECK(differences(
            of("sm_89", {.only = {"smoothing=k accumulation=two_level_f32"}, .set_file = {}})) ==
        std::vector<std::string>{"qk", "granularity", "pv"});
  const std::vector<Kernel> one{of("sm_80").front()};
  CHECK(differences(one).empty());
}

TEST_CASE("the fastest within the bounds is picked") {
  const std::vector<Compared> all{candidate(0, 400, 0.2), candidate(1, 300, 0.05),
                                  candidate(2, 200, 0.01), candidate(3, 350, 0.06, 0.9)};
  CHECK(pick(all, bounds(1), 1) == 0);
  CHECK(pick(all, bounds(0.2), 1) == 0);  // a bound that is just met
  CHECK(pick(all, bounds(0.1), 1) == 3);
  CHECK(pick(all, bounds(0.1, 0.95), 1) == 1);  // both bounds
  CHECK(pick(all, bounds(0.02), 1) == 2);
  CHECK_FALSE(pick(all, bounds(0.001), 1).has_value());
  CHECK_FALSE(pick({}, bounds(1), 1).has_value());
}

TEST_CASE("of equally fast ones the most accurate is picked") {
  const std::vector<Compared> all{candidate(0, 398, 0.03), candidate(1, 400, 0.05),
                                  candidate(2, 397, 0.02), candidate(3, 380, 0.01)};
  CHECK(pick(all, bounds(1), 0) == 1);
  CHECK(pick(all, bounds(1), 1) == 2);
  CHECK(pick(all, bounds(1), 10) == 3);
  const std::vector<Compared> same{candidate(0, 400, 0.05), candidate(1, 400, 0.05)};
  CHECK(pick(same, bounds(1), 0) == 0);  // the first of equals
}

TEST_CASE("what failed, has no speed or no number is not picked") {
  std::vector<Compared> all{candidate(0, 400, 0.01), candidate(1, kNaN, 0.01),
                            candidate(2, 350, kNaN), candidate(3, 300, 0.01)};
  all[0].sound = false;
  CHECK(pick(all, bounds(1), 1) == 3);
  all.pop_back();
  CHECK_FALSE(pick(all, bounds(1), 1).has_value());
}

TEST_CASE("the nearest is the one whose farthest bound is nearest") {
  std::vector<Compared> all{candidate(0, 400, 0.2, 0.999), candidate(1, 300, 0.03, 0.9),
                            candidate(2, 200, 0.04, 0.98)};
  CHECK(nearest(all, bounds(0.02)) == 1);
  CHECK(nearest(all, bounds(0.02, 0.99)) == 2);
  all[1].sound = false;
  CHECK(nearest(all, bounds(0.02)) == 2);
}

TEST_CASE("layers without a line get what is within the bounds on each, at its worst") {
  // 0 is fast and fails on one layer; 1 and 2 are equally fast, and 2 is better where each is worst.
  std::vector<LayerChoice> layers{
      {.layer = "a",
       .compared = {candidate(0, 400, 0.01), candidate(1, 300, 0.01), candidate(2, 300, 0.03)},
       .picked = {}},
      {.layer = "b",
       .compared = {candidate(0, 400, 0.2), candidate(1, 300, 0.05), candidate(2, 300, 0.02)},
       .picked = {}}};
  const auto others = pick_for_others(layers, bounds(0.1), 1);
  REQUIRE(others.has_value());
  CHECK(others->kernel == layers[0].compared[2].kernel);
  CHECK(others->errors.o.relative_l1 == 0.03);
  CHECK_FALSE(pick_for_others(layers, bounds(0.02), 1).has_value());
  layers[1].compared = {candidate(3, 400, 0.01)};  // other kernels, as of another head_dim
  CHECK_FALSE(pick_for_others(layers, bounds(1), 1).has_value());
}

TEST_CASE("the runtime reads the map that is written") {
  const std::vector<LayerChoice> layers{
      {.layer = "block 0.attention", .compared = {candidate(0, 400, 0.01)}, .picked = 0},
      {.layer = "b", .compared = {candidate(1, 300, 0.05), candidate(2, 200, 0.1)}, .picked = 1}};
  const std::string text = mode_map_text(layers, layers[0].compared[0], {"remark"});
  const auto map = attention::ModeMap::parse(text, "map");
  CHECK(map.layers().size() == 3);
  CHECK(map.kernel_for("block 0.attention") == layers[0].compared[0].kernel);
  CHECK(map.kernel_for("b") == layers[1].compared[1].kernel);
  CHECK(map.kernel_for("c") == layers[0].compared[0].kernel);

  const std::vector<LayerChoice> unnamed{
      {.layer = "", .compared = {candidate(0, 400, 0.01)}, .picked = 0}};
  CHECK(attention::ModeMap::parse(mode_map_text(unnamed, unnamed[0].compared[0], {}), "map")
            .layers()
            .size() == 1);
  for (const char* name : {"", "*", "#1", "a\tb", "a\nb"}) CHECK_FALSE(is_layer_name(name));
  for (const char* name : {"a", "a b", "0", "**", "a#"}) CHECK(is_layer_name(name));
}
