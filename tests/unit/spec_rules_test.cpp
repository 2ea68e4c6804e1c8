#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>

#include "sagegen/error.h"
#include "sagegen/spec.h"
#include "tests/unit/spec_test_support.h"

using namespace sagegen;
using Catch::Matchers::Contains;

namespace {

struct Case {
  std::string what;
  std::function<void(KernelSpec&)> breaks;  // starts from the default spec, which is valid
  std::vector<std::string> parts;           // of the one sentence that must come
};

void check(const std::vector<Case>& cases) {
  REQUIRE(violations(KernelSpec{}).empty());
  for (const Case& c : cases) {
    KernelSpec spec;
    c.breaks(spec);
    const std::vector<std::string> sentences = violations(spec);
    INFO(c.what);
    for (const std::string& sentence : sentences) UNSCOPED_INFO(sentence);
    REQUIRE(sentences.size() == 1);
    for (const std::string& part : c.parts) CHECK_THAT(sentences[0], Contains(part));
  }
}

}  // namespace

TEST_CASE("each rule on problem and quantization fires alone, with its numbers and the way out") {
  check({
      {"target",
       [](KernelSpec& s) { s.target = {.sm = 90, .suffix = 'a'}; },
       {"target sm_90a is not supported", "sm_80, sm_86, sm_89, sm_120"}},
      {"head_dim 0", [](KernelSpec& s) { s.problem.head_dim = 0; }, {"head_dim 0", "64 and 128"}},
      {"head_dim 96", [](KernelSpec& s) { s.problem.head_dim = 96; }, {"head_dim 96", "pad"}},
      {"head_dim < 0", [](KernelSpec& s) { s.problem.head_dim = -64; }, {"head_dim -64"}},
      {"io", [](KernelSpec& s) { s.problem.io = DType::f32; }, {"io f32", "f16 or bf16"}},
      {"s4",
       [](KernelSpec& s) { s.quant.qk = DType::s4; },
       {"INT4 is not generated yet", "use s8"}},
      {"qk", [](KernelSpec& s) { s.quant.qk = DType::e4m3; }, {"qk e4m3", "use s8"}},
      {"q_group 48",
       [](KernelSpec& s) { s.quant.q_group = 48; },
       {"q_group 48", "power of two", "16 to 128"}},
      {"q_group 256, which spills",
       [](KernelSpec& s) { s.quant.q_group = 256; },
       {"q_group 256", "16 to 128", "register"}},
      {"k_group 256", [](KernelSpec& s) { s.quant.k_group = 256; }, {"k_group 256", "16 to 128"}},
      {"k_group 0", [](KernelSpec& s) { s.quant.k_group = 0; }, {"k_group 0"}},
      {"pv", [](KernelSpec& s) { s.quant.pv = DType::s8; }, {"pv s8", "f16 or e4m3"}},
      {"pv e4m3 without FP8",
       [](KernelSpec& s) { s.target = {.sm = 86}; },
       {"pv e4m3", "sm_86", "use pv f16"}},
      {"quantize_v of f16 for f16",
       [](KernelSpec& s) {
         s.kind = KernelKind::quantize_v;
         s.quant.pv = DType::f16;
       },
       {"quantize_v with io f16 and pv f16", "reads such a V as it is"}},
      {"statistics of nothing",
       [](KernelSpec& s) {
         s.kind = KernelKind::kv_statistics;
         s.quant.pv = DType::f16;
         s.quant.smoothing = Smoothing::none;
       },
       {"kv_statistics", "compute nothing"}},
  });
}

TEST_CASE("each rule on the schedule fires alone, with its numbers and the way out") {
  check({
      {"no warps", [](KernelSpec& s) { s.schedule.warps = 0; }, {"warps 0", "1 to 8"}},
      {"many warps", [](KernelSpec& s) { s.schedule.warps = 16; }, {"warps 16", "1 to 8"}},
      {"no stages", [](KernelSpec& s) { s.schedule.stages = 0; }, {"stages 0", "1 to 4"}},
      {"many stages", [](KernelSpec& s) { s.schedule.stages = 5; }, {"stages 5"}},
      {"cta_q 0", [](KernelSpec& s) { s.schedule.cta_q = 0; }, {"cta_q 0", "power of two"}},
      {"cta_q 96", [](KernelSpec& s) { s.schedule.cta_q = 96; }, {"cta_q 96", "16 to 256"}},
      {"cta_q 512", [](KernelSpec& s) { s.schedule.cta_q = 512; }, {"cta_q 512"}},
      {"rows per warp",
       [](KernelSpec& s) { s.schedule.warps = 2; },
       {"cta_q 128 with 2 warps", "16 or 32 rows", "use 4 warps"}},
      {"rows per warp, warps no power of two",
       [](KernelSpec& s) { s.schedule.warps = 3; },
       {"cta_q 128 with 3 warps"}},
      {"cta_k 48",
       [](KernelSpec& s) { s.schedule.cta_k = 48; },
       {"cta_k 48", "from 64 to 128", "e4m3"}},
      {"cta_k 256", [](KernelSpec& s) { s.schedule.cta_k = 256; }, {"cta_k 256", "to 128"}},
      {"cta_k 16 with e4m3",
       [](KernelSpec& s) { s.schedule.cta_k = 32; },
       {"cta_k 32", "from 64", "e4m3"}},
      {"cta_k 8 with f16",
       [](KernelSpec& s) {
         s.quant.pv = DType::f16;
         s.schedule.cta_k = 8;
       },
       {"cta_k 8", "from 16", "f16"}},
      {"a warp across groups",
       [](KernelSpec& s) { s.quant.q_group = 16; },
       {"q_group 16 with 32 rows of Q per warp", "use q_group 32 or more warps"}},
      {"a key tile across groups",
       [](KernelSpec& s) {
         s.schedule.warps = 8;
         s.schedule.cta_k = 128;
       },
       {"k_group 64 with cta_k 128", "use k_group 128 or cta_k 64"}},
      {"a tile that the threads cannot share",
       [](KernelSpec& s) {
         s.problem.head_dim = 64;
         s.quant.pv = DType::f16;
         s.schedule.cta_k = 16;
       },
       {"warps 4 with a tile of K of 16 rows of 64 bytes", "128 threads", "fewer warps"}},
      {"padding of keys",
       [](KernelSpec& s) {
         s.quant.pv = DType::f16;
         s.quant.k_group = 32;
         s.schedule.cta_k = 32;
       },
       {"k_group 32 with cta_k 32", "blocks of 64", "use k_group 64"}},
      {"shared memory",
       [](KernelSpec& s) {
         s.quant.k_group = 128;
         s.schedule = {.cta_q = 128, .cta_k = 128, .warps = 8, .stages = 3};
       },
       {"114688 bytes", "sm_89 may have 101376", "fewer stages"}},
      {"registers",
       [](KernelSpec& s) {
         s.quant.k_group = 128;
         s.schedule.cta_k = 128;
       },
       {"cta_k 128 with 32 rows of Q per warp", "256 registers", "has 255", "use cta_k 64"}},
  });
}

TEST_CASE("a preprocessing kernel is not refused for what it does not depend on") {
  KernelSpec spec{.target = {.sm = 80}};
  spec.schedule = {.cta_q = 1, .cta_k = 1, .warps = 0, .stages = 0};
  for (KernelKind kind :
       {KernelKind::kv_statistics, KernelKind::quantize_q, KernelKind::quantize_k}) {
    spec.kind = kind;
    CHECK(violations(spec).empty());
  }
}

TEST_CASE("several mistakes are reported together, and validate() shows them all") {
  KernelSpec spec;
  spec.problem.head_dim = 96;
  spec.schedule.stages = 9;
  spec.quant.qk = DType::s4;
  CHECK(violations(spec).size() == 3);
  CHECK_THROWS_AS(validate(spec), SpecError);
  CHECK_THROWS_WITH(validate(spec), Contains(key(spec)) && Contains("head_dim 96") &&
                                        Contains("stages 9") && Contains("INT4"));
  CHECK_NOTHROW(validate(KernelSpec{}));
}

TEST_CASE("absurd numbers are refused without overflow") {
  KernelSpec spec;
  constexpr int kHuge = 2147483647;
  spec.problem.head_dim = kHuge;
  spec.schedule = {.cta_q = kHuge, .cta_k = kHuge, .warps = kHuge, .stages = kHuge};
  spec.quant.q_group = spec.quant.k_group = kHuge;
  CHECK(violations(spec).size() >= 6);
  spec.schedule = {.cta_q = -kHuge, .cta_k = -kHuge, .warps = -kHuge, .stages = -kHuge};
  CHECK(violations(spec).size() >= 6);
}

TEST_CASE("a field outside its enumeration is refused by name, whatever the kind") {
  const auto refuses = [](KernelSpec spec, const std::string& words) {
    for (const auto word : sagegen::words<KernelKind>()) {
      if (spec.kind == KernelKind{} || is_enumerator(spec.kind))
        spec.kind = *from_string<KernelKind>(word);
      const std::vector<std::string> sentences = violations(spec);
      INFO(key(spec));
      REQUIRE(sentences.size() == 1);
      CHECK_THAT(sentences[0], Contains(words));
      CHECK_THROWS_AS(validate(spec), SpecError);
      CHECK_NOTHROW(resources(canonical(spec)));
    }
  };
  for (const int value : {-2147483647 - 1, -1, 7, 8, 32, 64, 255, 2147483647}) {
    const std::string number = std::to_string(value);
    KernelSpec spec;
    spec.kind = static_cast<KernelKind>(value);
    refuses(spec, "kind " + number + " is refused");
    refuses({.problem = {.io = static_cast<DType>(value)}}, "io " + number);
    refuses({.problem = {.mask = static_cast<Mask>(value)}}, "mask " + number);
    refuses({.quant = {.qk = static_cast<DType>(value)}}, "qk " + number);
    refuses({.quant = {.granularity = static_cast<Granularity>(value)}},
            "granularity " + number +
                " is refused: it is no value of its enumeration; use "
                "per_thread, per_block");
    refuses({.quant = {.smoothing = static_cast<Smoothing>(value)}}, "smoothing " + number);
    refuses({.quant = {.pv = static_cast<DType>(value)}}, "pv " + number);
    refuses({.quant = {.accumulation = static_cast<Accumulation>(value)}},
            "accumulation " + number);
  }
}

TEST_CASE("the advice on a head_dim fits it") {
  const auto sentence = [](int head_dim) {
    KernelSpec spec;
    spec.problem.head_dim = head_dim;
    return violations(spec).at(0);
  };
  CHECK_THAT(sentence(48), Contains("up to 64 and"));
  CHECK_THAT(sentence(96), Contains("up to 128 and"));
  for (const int head_dim : {160, 256}) {
    CHECK_THAT(sentence(head_dim), Contains("larger heads are not generated yet"));
    CHECK_THAT(sentence(head_dim), !Contains("pad"));
  }
  for (const int head_dim : {0, -64}) CHECK_THAT(sentence(head_dim), !Contains("pad"));
}

TEST_CASE("no spec at all is more than an exception") {
  test::RandomSpecs random(7);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const KernelSpec s = random.garbage();
    refused += violations(s).empty() ? 0 : 1;
    const std::string text = key(s);
    CHECK_FALSE(text.empty());
    resources(s);
    try {
      resources(canonical(s));
      default_schedule(s.problem, s.quant, s.target);
      kernels_for(s.problem, with_pv(s.quant, s.quant.pv), s.schedule, s.target).in_order();
      enumerate({.targets = {s.target},
                 .head_dims = {s.problem.head_dim},
                 .io = {s.problem.io},
                 .masks = {s.problem.mask},
                 .granularities = {s.quant.granularity},
                 .smoothings = {s.quant.smoothing},
                 .pv = {s.quant.pv},
                 .schedules = {s.schedule}});
    } catch (const SpecError&) {
    }
  }
  CHECK(refused > 15000);
}

TEST_CASE("what the rules let through has the properties that templates rely on") {
  test::RandomSpecs random(3);
  for (int i = 0; i < 5000; ++i) {
    const KernelSpec s = random.valid();
    INFO(key(s));
    const KernelResources need = resources(s);
    REQUIRE(need.threads % 32 == 0);
    REQUIRE(need.threads >= 32);
    REQUIRE(need.threads <= 1024);
    REQUIRE(need.dynamic_smem <= target_info(s.target).smem_per_block);
    if (s.kind != KernelKind::attention) continue;
    const int rows = s.schedule.cta_q / s.schedule.warps;
    REQUIRE((rows == 16 || rows == 32));
    // First and last row of every warp, first and last key of every tile, share a group.
    REQUIRE(s.quant.q_group % rows == 0);
    REQUIRE(s.quant.k_group % s.schedule.cta_k == 0);
    REQUIRE(std::max(s.quant.k_group, s.schedule.cta_k) % 64 == 0);
  }
}
