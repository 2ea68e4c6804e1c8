// The rules of attention and of the kernels that prepare its inputs, and what they hold on to.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <functional>

#include "sagegen/error.h"
#include "sagegen/set.h"
#include "templates/attention/spec.h"
#include "templates/kv_statistics/spec.h"
#include "templates/mean_scores/spec.h"
#include "templates/quantize_rows/spec.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/params.h"
#include "tests/families/random_kernels.h"

using namespace sagegen;
using attention::Schedule;
using attention::Spec;
using Catch::Matchers::Contains;

namespace {

struct Parts {
  Spec spec = {};
  Schedule schedule = {};
  Target target = {};
  Kernel kernel() const { return {attention::family(), spec, schedule, target}; }
};

struct Case {
  std::string what;
  std::function<void(Parts&)> breaks;  // starts from the defaults, which are valid
  std::vector<std::string> parts;      // of the one sentence that must come
};

void check(const Kernel& kernel, const std::vector<std::string>& parts) {
  const Sentences sentences = kernel.violations();
  INFO(kernel.key());
  for (const std::string& sentence : sentences) UNSCOPED_INFO(sentence);
  REQUIRE(sentences.size() == 1);
  for (const std::string& part : parts) CHECK_THAT(sentences[0], Contains(part));
}

void check(const std::vector<Case>& cases) {
  REQUIRE(Parts().kernel().violations().empty());
  for (const Case& c : cases) {
    Parts parts;
    c.breaks(parts);
    INFO(c.what);
    check(parts.kernel(), c.parts);
  }
}

std::vector<std::string> words_of_inputs(const Kernel& kernel) {
  std::vector<std::string> words;
  for (const Kernel& input : kernel.inputs()) words.emplace_back(input.family().word);
  return words;
}

const attention::Mode& mode_of(std::string_view name) {
  const auto modes = attention::modes();
  const auto found = std::find_if(modes.begin(), modes.end(),
                                  [&](const attention::Mode& mode) { return mode.name == name; });
  REQUIRE(found != modes.end());
  return *found;
}

}  // namespace

TEST_CASE("each rule on problem and quantization fires alone, with its numbers and the way out") {
  check({
      {"target",
       [](Parts& s) { s.target = {.sm = 90, .suffix = 'a'}; },
       {"target sm_90a is not supported", "sm_80, sm_86, sm_89, sm_120"}},
      {"head_dim 0",
       [](Parts& s) { s.spec.head_dim = 0; },
       {"head_dim 0", "32, 64, 72, 80, 96, 128, 160, 192 and 256"}},
      {"head_dim 112", [](Parts& s) { s.spec.head_dim = 112; }, {"head_dim 112", "pad", "to 128"}},
      {"head_dim < 0", [](Parts& s) { s.spec.head_dim = -64; }, {"head_dim -64"}},
      {"value_dim 100",
       [](Parts& s) { s.spec.value_dim = 100; },
       {"value_dim 100", "(0), or one of 32, 64", "zeros up to 128"}},
      {"codes of O without FP8",
       [](Parts& s) {
         s.spec = attention::with_pv(s.spec, DType::f16);
         s.spec.out = attention::OutputFormat::e4m3;
         s.target = {.sm = 86};
       },
       {"out e4m3 is refused on sm_86", "use out s8"}},
      {"value_dim 320", [](Parts& s) { s.spec.value_dim = 320; }, {"value_dim 320"}},
      {"value_dim < 0", [](Parts& s) { s.spec.value_dim = -64; }, {"value_dim -64"}},
      {"value_dim that is head_dim",
       [](Parts& s) { s.spec.value_dim = s.spec.head_dim; },
       {"value_dim 128 with head_dim 128 is refused", "use value_dim 0"}},
      {"io", [](Parts& s) { s.spec.io = DType::f32; }, {"io f32", "f16 or bf16"}},
      {"s4",
       [](Parts& s) {
         s.spec.qk = DType::s4;
         s.target = {.sm = 120};
       },
       {"qk s4 is refused on sm_120", "no INT4", "190 instructions", "use qk s8"}},
      {"qk",
       [](Parts& s) { s.spec.qk = DType::e4m3; },
       {"qk e4m3", "s8 or s4", "as they are, f16 or bf16"}},
      {"q_group 48",
       [](Parts& s) { s.spec.q_group = 48; },
       {"q_group 48", "power of two", "16 to 128"}},
      {"q_group 256, which spills",
       [](Parts& s) { s.spec.q_group = 256; },
       {"q_group 256", "16 to 128", "register"}},
      {"k_group 256", [](Parts& s) { s.spec.k_group = 256; }, {"k_group 256", "16 to 128"}},
      {"k_group 0", [](Parts& s) { s.spec.k_group = 0; }, {"k_group 0"}},
      {"pv", [](Parts& s) { s.spec.pv = DType::s8; }, {"pv s8", "e4m3, f16 or bf16"}},
      {"V of bf16 beside codes",
       [](Parts& s) {
         s.spec.io = DType::bf16;
         s.spec.pv = DType::bf16;
       },
       {"pv bf16 with qk s8", "use pv f16"}},
      {"pv e4m3 without FP8",
       [](Parts& s) { s.target = {.sm = 86}; },
       {"pv e4m3", "sm_86", "use pv f16"}},
      {"a range of codes where f32 sums have room for all",
       [](Parts& s) { s.spec.code_range = CodeRange::fine_v; },
       {"code_range fine_v with accumulation two_level_f32 and pv e4m3", "use code_range usual",
        "accumulation f32_f16"}},
      {"a range of codes of FP16",
       [](Parts& s) {
         s.spec.accumulation = Accumulation::f32_f16;
         s.spec.code_range = CodeRange::fine_v;
         s.spec.pv = DType::f16;
       },
       {"code_range fine_v with accumulation f32_f16 and pv f16", "pv e4m3"}},
      {"code_range",
       [](Parts& s) { s.spec.code_range = static_cast<CodeRange>(7); },
       {"code_range 7", "usual or fine_v"}},
  });
}

TEST_CASE(
    "each rule on codes that the caller gives fires alone, with its numbers and the way out") {
  const auto given = [](Parts& s) { s.spec.inputs = attention::InputSource::given; };
  check({
      {"nothing to give",
       [=](Parts& s) {
         given(s);
         s.spec.qk = s.spec.pv = DType::f16;
         s.spec.smoothing = Smoothing::none;
         s.spec.accumulation = Accumulation::f32;
       },
       {"inputs given with qk f16 and pv f16", "no codes to give", "use inputs own"}},
      {"scores of mean queries",
       [=](Parts& s) {
         given(s);
         s.spec.smoothing = Smoothing::qk;
       },
       {"inputs given with smoothing qk", "use smoothing none or k"}},
      {"scales of rows that are not there",
       [=](Parts& s) {
         given(s);
         s.spec.granularity = Granularity::per_token;
       },
       {"inputs given with granularity per_token", "use granularity per_thread"}},
      {"rows of no whole chunks",
       [=](Parts& s) {
         given(s);
         s.spec.head_dim = 72;
       },
       {"inputs given with qk s8 at head_dim 72", "72 bytes", "to 80"}},
      {"rows of INT4",
       [=](Parts& s) {
         given(s);
         s.spec.qk = DType::s4;
         s.spec.head_dim = 72;
       },
       {"inputs given with qk s4 at head_dim 72", "36 bytes", "to 96"}},
      {"packed sequences of codes",
       [=](Parts& s) {
         given(s);
         s.spec.smoothing = Smoothing::none;
         s.spec.varlen = true;
       },
       {"varlen with inputs given", "one call for each sequence"}},
      {"packed rows of codes",
       [=](Parts& s) {
         given(s);
         s.spec.smoothing = Smoothing::none;
         s.spec.pack_gqa = true;
       },
       {"pack_gqa with inputs given", "the order of packed rows"}},
      {"codes that were rotated elsewhere",
       [=](Parts& s) {
         given(s);
         s.spec.smoothing = Smoothing::none;
         s.spec.rotation = Rotation::hadamard;
       },
       {"rotation hadamard with inputs given", "use rotation none"}},
      {"tiles of more keys than blocks of V",
       [=](Parts& s) {
         given(s);
         s.spec.k_group = s.schedule.cta_k = 128;
       },
       {"cta_k 128 with inputs given and pv e4m3", "blocks of 64 keys", "use cta_k 64"}},
  });
  // V of 16-bit Q and K may be given, at any head_dim; nothing prepares it.
  Parts values;
  given(values);
  values.spec.head_dim = 72;
  values.spec.qk = DType::f16;
  values.spec.smoothing = Smoothing::none;
  values.schedule = {.cta_q = 64, .cta_k = 64, .warps = 4, .stages = 1};
  CHECK(values.kernel().violations().empty());
  CHECK(values.kernel().inputs().empty());
  // What is usual: a K that was smoothed elsewhere leaves its LSE to be corrected there.
  const Kernel usual = kernel_of_options(attention::family(), "inputs=given", {.sm = 89});
  CHECK(usual.view(attention::family()).spec.smoothing == Smoothing::none);
  CHECK(usual.key() ==
        "sage_fwd_d128_f16_qk_s8t_g32x64_sm0_pv_e4m3_f32x2_given__q128k64w4s2__sm89");
}

TEST_CASE("each rule on the schedule fires alone, with its numbers and the way out") {
  check({
      {"no warps", [](Parts& s) { s.schedule.warps = 0; }, {"warps 0", "1 to 8"}},
      {"many warps", [](Parts& s) { s.schedule.warps = 16; }, {"warps 16", "1 to 8"}},
      {"no stages", [](Parts& s) { s.schedule.stages = 0; }, {"stages 0", "1 to 4"}},
      {"many stages", [](Parts& s) { s.schedule.stages = 5; }, {"stages 5"}},
      {"cta_q 0", [](Parts& s) { s.schedule.cta_q = 0; }, {"cta_q 0", "power of two"}},
      {"cta_q 96", [](Parts& s) { s.schedule.cta_q = 96; }, {"cta_q 96", "16 to 256"}},
      {"cta_q 512", [](Parts& s) { s.schedule.cta_q = 512; }, {"cta_q 512"}},
      {"rows per warp",
       [](Parts& s) { s.schedule.warps = 2; },
       {"cta_q 128 with 2 warps", "16 or 32 rows", "use 4 warps"}},
      {"rows per warp, warps no power of two",
       [](Parts& s) { s.schedule.warps = 3; },
       {"warps 3", "power of two of warps"}},
      {"a thread block across means",
       [](Parts& s) {
         s.spec.smoothing = Smoothing::qk;
         s.schedule.cta_q = 256;
         s.schedule.warps = 8;
       },
       {"cta_q 256 with smoothing qk", "128 queries have one", "use cta_q 128"}},
      {"mean scores beside INT8 sums of 256 channels",
       [](Parts& s) {
         s.spec.head_dim = 256;
         s.spec.smoothing = Smoothing::qk;
         s.schedule = {.cta_q = 64, .cta_k = 64, .warps = 4, .stages = 1};
       },
       {"smoothing qk with qk s8 at head_dim 256", "256 products of codes up to 127", "2^22",
        "use smoothing k, or qk s4"}},
      {"cta_k 48",
       [](Parts& s) { s.schedule.cta_k = 48; },
       {"cta_k 48", "power of two", "from 16 to 128"}},
      {"cta_k 256", [](Parts& s) { s.schedule.cta_k = 256; }, {"cta_k 256", "to 128"}},
      {"cta_k 16 with e4m3",
       [](Parts& s) { s.schedule.cta_k = 32; },
       {"cta_k 32", "from 64 to 128", "e4m3"}},
      {"cta_k 8 with f16",
       [](Parts& s) {
         s.spec.pv = DType::f16;
         s.schedule.cta_k = 8;
       },
       {"cta_k 8", "from 16"}},
      {"a warp across groups",
       [](Parts& s) { s.spec.q_group = 16; },
       {"q_group 16 with 32 rows of Q per warp", "use q_group 32 or more warps"}},
      {"a key tile across groups",
       [](Parts& s) {
         s.schedule.warps = 8;
         s.schedule.cta_k = 128;
       },
       {"k_group 64 with cta_k 128", "use k_group 128 or cta_k 64"}},
      {"more keys than sums of f16 have room for",
       [](Parts& s) {
         s.spec.accumulation = Accumulation::f32_f16;
         s.spec.k_group = 128;
         s.schedule.cta_k = 128;
       },
       {"cta_k 128 with accumulation f32_f16", "products of 64 keys", "use cta_k 64"}},
      {"a tile that the threads cannot share",
       [](Parts& s) {
         s.spec.head_dim = 64;
         s.spec.pv = DType::f16;
         s.schedule.cta_k = 16;
       },
       {"warps 4 with a tile of K of 16 rows of 64 bytes", "128 threads", "fewer warps"}},
      {"a tile of which the threads' first pass has too little",
       [](Parts& s) {
         s.spec.head_dim = 32;
         s.schedule = {.cta_q = 128, .cta_k = 64, .warps = 8, .stages = 2};
       },
       {"warps 8 with a tile of K of 64 rows of 32 bytes", "256 threads", "less than one"}},
      {"registers of a wide head",
       [](Parts& s) {
         s.spec.head_dim = 256;
         s.schedule.stages = 1;
       },
       {"cta_k 64 with 32 rows of Q per warp", "head_dim 256", "320 registers",
        "warps with 16 rows"}},
      {"padding of keys",
       [](Parts& s) {
         s.spec.pv = DType::f16;
         s.spec.k_group = 32;
         s.schedule.cta_k = 32;
       },
       {"k_group 32 with cta_k 32", "blocks of 64", "use k_group 64"}},
      {"shared memory",
       [](Parts& s) {
         s.spec.k_group = 128;
         s.schedule = {.cta_q = 128, .cta_k = 128, .warps = 8, .stages = 3};
       },
       {"114688 bytes", "sm_89 may have 101376", "fewer stages"}},
      {"registers",
       [](Parts& s) {
         s.spec.k_group = 128;
         s.schedule.cta_k = 128;
       },
       {"cta_k 128 with 32 rows of Q per warp", "256 registers", "has 255", "use cta_k 64"}},
  });
}

TEST_CASE("each rule of the kernels that prepare inputs fires alone") {
  const Target sm80{80}, sm89{89};
  check(Kernel(quantize_values::family(), {.codes = DType::f16}, sm89),
        {"quantize_values with io f16 and codes f16", "reads such a V as it is", "octaves 10"});
  check(Kernel(quantize_values::family(), {.octaves = 11}, sm89), {"octaves 11", "0 to 10"});
  check(Kernel(quantize_values::family(), {}, sm80),
        {"codes e4m3 is refused on sm_80", "no FP8", "use codes f16"});
  check(Kernel(kv_statistics::family(), {}, sm89),
        {"kv_statistics without k_sum, v_amax and v_range", "compute nothing"});
  check(Kernel(kv_statistics::family(), {.v_amax = true, .v_range = true}, sm89),
        {"kv_statistics with v_amax and v_range", "leave one of the two out"});
  CHECK(Kernel(quantize_values::family(), {.codes = DType::f16, .smooth = true}, sm80)
            .violations()
            .empty());
  check(Kernel(quantize_rows::family(), {.smooth = true, .fold = true}, sm89),
        {"smooth with fold is refused", "choose one"});
  check(Kernel(quantize_rows::family(), {.smooth_block = true}, sm89),
        {"smooth_block without fold is refused", "set fold, or take smooth"});
  check(
      Kernel(quantize_rows::family(), {.head_dim = 256, .fold = true, .smooth_block = true}, sm89),
      {"smooth_block with codes s8 at head_dim 256", "2^22", "use codes s4"});
  check(Kernel(quantize_rows::family(), {.scales = 2}, sm89), {"scales 2 is refused: it must be"});
  check(Kernel(quantize_rows::family(), {.scales = 64}, sm89),
        {"scales 64 with group 32 is refused", "use scales 32"});
  check(Kernel(quantize_rows::family(), {.amax = true}, sm89),
        {"amax with scales 8 is refused", "use scales 0"});
  check(Kernel(quantize_rows::family(), {.group = 256}, sm89), {"group 256", "register"});
  check(Kernel(quantize_rows::family(), {.codes = DType::f16}, sm89),
        {"codes f16", "use s8 or s4"});
  for (const Target target : {sm80, sm89}) {
    CHECK(Kernel(kv_statistics::family(), {.k_sum = true}, target).violations().empty());
    CHECK(Kernel(quantize_rows::family(), {}, target).violations().empty());
    CHECK(Kernel(quantize_values::family(), {.io = DType::bf16, .codes = DType::f16}, target)
              .violations()
              .empty());
    CHECK(Kernel(quantize_values::family(), {.codes = DType::f16, .octaves = 10}, target)
              .violations()
              .empty());
  }
}

TEST_CASE("Q and K of 16 bits: each rule fires alone, with the way out") {
  const auto changed = [](const char* mode, const std::function<void(Parts&)>& change) {
    Parts parts;
    parts.spec.io = DType::bf16;
    parts.spec = attention::with_mode(parts.spec, mode_of(mode));
    CHECK(parts.kernel().violations().empty());
    change(parts);
    return parts.kernel();
  };
  check(changed("bf16-fp8", [](Parts& s) { s.spec.io = DType::f16; }),
        {"qk bf16 with io f16", "use qk f16, or io bf16"});
  check(changed("bf16-fp8", [](Parts& s) { s.spec.granularity = Granularity::per_block; }),
        {"granularity per_block, q_group 32 and k_group 64 with qk bf16", "have no scales",
         "per_thread, 32 and 64"});
  check(changed("16bit", [](Parts& s) { s.spec.q_group = 128; }), {"q_group 128", "no scales"});
  check(changed("16bit", [](Parts& s) { s.spec.v_smoothing = ValueSmoothing::mean; }),
        {"v_smoothing mean with pv bf16", "use v_smoothing none, or pv e4m3"});
  check(changed("16bit", [](Parts& s) { s.spec.k_group = 128; }), {"k_group 128", "no scales"});
  check(changed("bf16-fp8", [](Parts& s) { s.spec.rotation = Rotation::hadamard; }),
        {"rotation hadamard with qk bf16", "use rotation none"});
  check(changed("16bit", [](Parts& s) { s.spec.smoothing = Smoothing::k; }),
        {"smoothing k with qk bf16", "use smoothing none"});
  check(changed("bf16-fp8", [](Parts& s) { s.spec.smoothing = Smoothing::qk; }),
        {"smoothing qk with qk bf16", "use smoothing none"});
  check(changed("16bit", [](Parts& s) { s.spec.pv = DType::f16; }),
        {"pv f16 with qk bf16", "use pv bf16 or e4m3"});
  check(changed("16bit", [](Parts& s) { s.spec.accumulation = Accumulation::f32_f16; }),
        {"accumulation f32_f16 with pv bf16", "use accumulation f32"});
  check(changed("bf16-fp8", [](Parts& s) { s.target = {.sm = 86}; }),
        {"pv e4m3 is refused on sm_86", "use pv bf16"});
  check(changed("16bit",
                [](Parts& s) {
                  s.schedule = {.cta_q = 128, .cta_k = 128, .warps = 8, .stages = 2};
                  s.target = {.sm = 86};
                }),
        {"cta_q 128, cta_k 128, 2 stages at head_dim 128 and pv bf16", "163840 bytes"});
  // Keys of a tile share no scale.
  CHECK(changed("16bit",
                [](Parts& s) {
                  s.spec.head_dim = 64;
                  s.schedule = {.cta_q = 64, .cta_k = 128, .warps = 4, .stages = 1};
                })
            .violations()
            .empty());
}

TEST_CASE("modes by name, and the name of every mode") {
  std::vector<std::string> names;
  for (const attention::Mode& mode : attention::modes()) {
    names.emplace_back(mode.name);
    for (const DType io : {DType::f16, DType::bf16}) {
      for (const TargetInfo& info : supported_targets()) {
        const Spec spec = attention::with_mode({.io = io}, mode);
        const Kernel kernel(attention::family(), spec, info.target);
        INFO(kernel.key());
        CHECK(attention::mode_name(spec) == mode.name);
        const bool runs = (spec.pv != DType::e4m3 || info.has(Feature::fp8_mma)) &&
                          (spec.qk != DType::s4 || info.has(Feature::s4_mma));
        CHECK(kernel.violations().empty() == runs);
        CHECK(parse_key(kernel.key()) == kernel);
        if (attention::qk_is_quantized(spec)) continue;
        CHECK(spec.qk == io);
        CHECK(spec.smoothing == Smoothing::none);
        CHECK(attention::v_is_quantized(spec) == (spec.pv == DType::e4m3));
        // What is not given becomes the same.
        Spec completed{.io = io, .qk = io};
        attention::family().complete(&completed, {"qk"}, info);
        CHECK(completed.smoothing == Smoothing::none);
        CHECK(completed.pv == (info.has(Feature::fp8_mma) ? DType::e4m3 : io));
      }
    }
  }
  CHECK(names == std::vector<std::string>{"int8-fp8", "int8-fp16", "int4-fp8", "int4-fp16",
                                          "bf16-fp8", "16bit"});
  const Spec half = attention::with_mode({}, mode_of("16bit"));
  CHECK((half.qk == DType::f16 && half.pv == DType::f16));
  CHECK(half.accumulation == Accumulation::f32);
}

TEST_CASE("kernels of unquantized Q and K have inputs for V at most, and a block of their own") {
  const auto words = [](const char* mode) {
    return words_of_inputs(
        Kernel(attention::family(), attention::with_mode({}, mode_of(mode)), Target{89}));
  };
  CHECK(words("16bit").empty());
  CHECK(words("bf16-fp8") == std::vector<std::string>{"kvstats", "quantv"});
  const Kernel codes(attention::family(), {}, Target{89});
  const Kernel none(attention::family(), attention::with_mode({}, mode_of("16bit")), Target{89});
  CHECK_FALSE(codes.params().has("unquantized"));
  CHECK(none.params().has("unquantized"));
  CHECK_FALSE(none.params().has("smoothing"));
}

TEST_CASE("several mistakes are reported together, and validate() shows them all") {
  Parts parts;
  parts.spec.head_dim = 112;
  parts.schedule.stages = 9;
  parts.spec.qk = DType::e4m3;
  const Kernel kernel = parts.kernel();
  CHECK(kernel.violations().size() == 3);
  CHECK_THROWS_AS(kernel.validate(), SpecError);
  CHECK_THROWS_WITH(kernel.validate(), Contains(kernel.key()) && Contains("head_dim 112") &&
                                           Contains("stages 9") && Contains("qk e4m3"));
  CHECK_NOTHROW(Parts().kernel().validate());

  // The same of rules: two of one layer.
  Parts rules;
  rules.target = {.sm = 80};
  rules.schedule.warps = 2;
  CHECK(rules.kernel().violations().size() == 2);
}

TEST_CASE("absurd numbers are refused without overflow") {
  constexpr int kHuge = 2147483647;
  for (const int n : {kHuge, -kHuge, -kHuge - 1}) {
    Parts parts;
    parts.spec.head_dim = parts.spec.q_group = parts.spec.k_group = n;
    parts.schedule = {.cta_q = n, .cta_k = n, .warps = n, .stages = n};
    CHECK(parts.kernel().violations().size() == 7);
  }
}

TEST_CASE("the advice on a head_dim fits it, in every family") {
  const auto sentence = [](int head_dim) {
    const std::string of_attention =
        Kernel(attention::family(), {.head_dim = head_dim}, Target{89}).violations().at(0);
    const std::string of_rows =
        Kernel(quantize_rows::family(), {.head_dim = head_dim}, Target{89}).violations().at(0);
    CHECK(of_attention == of_rows);
    return of_attention;
  };
  CHECK_THAT(sentence(16), Contains("up to 32 and"));
  CHECK_THAT(sentence(48), Contains("up to 64 and"));
  CHECK_THAT(sentence(88), Contains("up to 96 and"));
  CHECK_THAT(sentence(200), Contains("up to 256 and"));
  for (const int head_dim : {257, 512}) {
    CHECK_THAT(sentence(head_dim), Contains("larger heads are not generated yet"));
    CHECK_THAT(sentence(head_dim), !Contains("pad"));
  }
  for (const int head_dim : {0, -64}) CHECK_THAT(sentence(head_dim), !Contains("pad"));
}

TEST_CASE("what the rules let through has the properties that the template relies on") {
  test::RandomKernels random(attention::family(), 3);
  for (int i = 0; i < 3000; ++i) {
    const Kernel kernel = random.valid();
    INFO(kernel.key());
    const auto [spec, schedule, target] = kernel.view(attention::family());
    const int rows = schedule.cta_q / schedule.warps;
    REQUIRE((rows == 16 || rows == 32));
    // First and last row of every warp, first and last key of every tile, share a group.
    REQUIRE(spec.q_group % rows == 0);
    REQUIRE((spec.k_group % schedule.cta_k == 0 || !attention::qk_is_quantized(spec)));
    REQUIRE(std::max(spec.k_group, schedule.cta_k) % 64 == 0);
    REQUIRE((spec.pv != DType::e4m3 || target.has(Feature::fp8_mma)));
    REQUIRE((attention::qk_is_quantized(spec) || spec.qk == spec.io));
    REQUIRE((spec.pv != DType::bf16 || spec.qk == DType::bf16));
    REQUIRE((spec.accumulation != Accumulation::f32_f16 || schedule.cta_k <= kKeysOfHalfSums));
  }
}

// ---- defaults and inputs ------------------------------------------------------------------------

// What host and kernels pad, by hand.
TEST_CASE("channels are padded to whole steps of Q K and whole slices of P V") {
  struct Padded {
    int head_dim, s8, s4, value;  // channels
  };
  for (const Padded& p :
       {Padded{32, 32, 64, 32}, Padded{64, 64, 64, 64}, Padded{72, 96, 128, 80},
        Padded{80, 96, 128, 80}, Padded{96, 96, 128, 96}, Padded{128, 128, 128, 128},
        Padded{160, 160, 192, 160}, Padded{192, 192, 192, 192}, Padded{256, 256, 256, 256}}) {
    INFO("head_dim " << p.head_dim);
    CHECK(head_dims().has(p.head_dim));
    CHECK(code_channels(DType::s8, p.head_dim) == p.s8);
    CHECK(code_channels(DType::s4, p.head_dim) == p.s4);
    CHECK(code_row_bytes(DType::s8, p.head_dim) == p.s8);
    CHECK(code_row_bytes(DType::s4, p.head_dim) == p.s4 / 2);
    CHECK(value_channels(p.head_dim) == p.value);
    CHECK(output_row_bytes(p.head_dim) % 128 == 0);
    CHECK(output_row_bytes(p.head_dim) >= 2 * p.head_dim);
    // Lanes that hold a row are a power of two, at most a warp.
    CHECK(lane_channels(p.head_dim) >= p.head_dim);
    CHECK(32 * 8 % lane_channels(p.head_dim) == 0);
    // Sums of the largest codes are exact, and all of INT4 have room for the mean's.
    CHECK(127.0 * 127.0 * p.head_dim < kExactScores);
    CHECK(room_for_mean(DType::s4, p.head_dim) > kExactScores / 2);
    CHECK((room_for_mean(DType::s8, p.head_dim) > 0) == (p.head_dim < 256));
  }
  CHECK(head_dims().allowed.size() == 9);
  for (const auto& [channels, head_dim] :
       {std::pair{1, 32}, std::pair{65, 72}, std::pair{96, 96}, std::pair{97, 128},
        std::pair{256, 256}, std::pair{257, 257}})
    CHECK(head_dim_for(channels) == head_dim);
}

TEST_CASE("resources of the default attention kernels, by hand") {
  // Q 128 x 128, two stages of K 64 x 128 and V 64 x 128 (one byte) or twice that (f16).
  Parts parts;
  CHECK(parts.kernel().resources().threads == 128);
  CHECK(parts.kernel().resources().dynamic_smem == 16384 + 2 * (8192 + 8192));
  parts.spec.pv = DType::f16;
  CHECK(parts.kernel().resources().dynamic_smem == 16384 + 2 * (8192 + 16384));
  parts.spec.head_dim = 64;
  parts.schedule = {.cta_q = 64, .cta_k = 32, .warps = 2, .stages = 3};
  CHECK(parts.kernel().resources().threads == 64);
  CHECK(parts.kernel().resources().dynamic_smem == 4096 + 3 * (2048 + 4096));

  // Codes of 72 channels are padded to 96 and V to 80; O is 128 rows of 256 bytes.
  Parts padded{.spec = {.head_dim = 72}};
  CHECK(padded.kernel().resources().dynamic_smem == 12288 + 2 * (6144 + 5120));
  padded.spec.qk = DType::s4;
  padded.schedule.stages = 1;
  CHECK(padded.kernel().resources().dynamic_smem == 32768);
  const Kernel rows(quantize_rows::family(), {.head_dim = 72, .fold = true}, Target{89});
  CHECK(rows.resources().threads == 128);

  // The mma of e4m3 with f16 accumulators is of PTX 8.7.
  Parts half_sums;
  CHECK(half_sums.kernel().ptx_version() == 84);
  half_sums.spec.accumulation = Accumulation::f32_f16;
  CHECK(half_sums.kernel().ptx_version() == 87);
  half_sums.spec.pv = DType::f16;
  CHECK(half_sums.kernel().ptx_version() == 84);
}

TEST_CASE("defaults are valid on every target, and eight warps share an SM") {
  for (const TargetInfo& info : supported_targets()) {
    for (const Granularity granularity : {Granularity::per_thread, Granularity::per_block}) {
      const Spec usual = attention::usual_spec(info.target, granularity);
      CHECK(usual.granularity == granularity);
      CHECK(usual.q_group == (granularity == Granularity::per_thread ? 32 : 128));
      CHECK((usual.pv == DType::e4m3) == info.has(Feature::fp8_mma));
      CHECK((usual.accumulation == Accumulation::two_level_f32) == info.has(Feature::fp8_mma));
      for (const int head_dim : head_dims().allowed) {
        Spec spec = usual;
        spec.head_dim = head_dim;
        const Kernel kernel(attention::family(), spec, info.target);
        INFO(kernel.key());
        CHECK(kernel.violations().empty());
        for (const Kernel& input : kernel.inputs()) CHECK(input.violations().empty());
        const Resources needs = kernel.resources();
        CHECK(needs.threads / 32 * (info.smem_per_sm / (needs.dynamic_smem + 1024)) >= 8);
      }
    }
  }
  CHECK_THROWS_AS(attention::usual_spec({.sm = 75}), SpecError);
  CHECK_THROWS_AS(Kernel(attention::family(), {}, Target{75}), SpecError);
}

TEST_CASE("the largest codes of 64 keys come to a number of f16, and rounded sums to no more") {
  struct Range {
    DType pv;
    CodeRange range;
    double p, v;
  };
  for (const Range& r : {Range{DType::e4m3, CodeRange::usual, 224, 3.5},
                         Range{DType::e4m3, CodeRange::fine_v, 112, 7},
                         Range{DType::f16, CodeRange::usual, 512, 1}}) {
    for (const DType qk : {DType::s8, DType::s4}) {
      const Spec spec{
          .qk = qk, .pv = r.pv, .accumulation = Accumulation::f32_f16, .code_range = r.range};
      const double p = std::exp2(attention::p_offset(spec));
      CHECK(p == Approx(qk == DType::s4 ? std::exp2(std::floor(std::log2(r.p))) : r.p));
      CHECK(largest_v_code(spec.pv, attention::code_octaves(spec).v) == r.v);
    }
    // All that a tensor core may round on the way: after every 8 keys. A number of f16 has 11 bits.
    for (int keys = 8; keys <= 64; keys += 8) {
      const double sum = keys * r.p * r.v;
      CHECK(sum <= 65504);
      CHECK(std::fmod(sum, std::ldexp(1, std::ilogb(sum) - 10)) == 0);
    }
    // Maxima are codes: significands of e4m3 have 4 bits.
    for (const double code : {r.p, r.v})
      CHECK(std::fmod(code, std::ldexp(1, std::ilogb(code) - 3)) == 0);
  }
  for (const Accumulation sum : {Accumulation::f32, Accumulation::two_level_f32}) {
    CHECK(attention::code_octaves({.accumulation = sum}).p == 0);
    CHECK(attention::code_octaves({.accumulation = sum}).v == 0);
  }
}

TEST_CASE("which kernels make one attention") {
  using Words = std::vector<std::string>;
  Spec spec;
  const auto inputs = [&](int sm) {
    return words_of_inputs(Kernel(attention::family(), spec, {}, Target{sm}));
  };
  CHECK(inputs(89) == Words{"kvstats", "quantrows", "quantv", "quantrows"});

  spec.smoothing = Smoothing::none;  // V still needs its maxima
  CHECK(inputs(89) == Words{"kvstats", "quantrows", "quantv", "quantrows"});

  spec.pv = DType::f16;  // V is read as it is: nobody needs statistics
  CHECK(inputs(80) == Words{"quantrows", "quantrows"});

  spec.smoothing = Smoothing::k;
  CHECK(inputs(80) == Words{"kvstats", "quantrows", "quantrows"});

  spec.smoothing = Smoothing::qk;
  CHECK(inputs(80) == Words{"kvstats", "quantrows", "quantrows", "meanscores"});
  spec.smoothing = Smoothing::k;

  spec.accumulation = Accumulation::f32_f16;  // of V as it is sums might leave f16
  CHECK(inputs(80) == Words{"kvstats", "quantrows", "quantv", "quantrows"});
  spec.accumulation = Accumulation::f32;

  spec.granularity = Granularity::per_tensor;  // whose largest numbers are looked for first
  CHECK(inputs(80) == Words{"kvstats", "quantrows", "quantrows", "quantrows", "quantrows"});
  spec.granularity = Granularity::per_token;
  CHECK(inputs(80) == Words{"kvstats", "quantrows", "quantrows"});

  spec.io = DType::bf16;  // V must become f16
  CHECK(inputs(80) == Words{"kvstats", "quantrows", "quantv", "quantrows"});
}

TEST_CASE("packed rows have small tiles, and groups that go with them") {
  const auto kernel = [](const std::string& options, int sm = 89) {
    return kernel_of_options(attention::family(), options, Target{.sm = sm});
  };
  const auto group = [&](const std::string& options) {
    return kernel(options).view(attention::family()).spec.q_group;
  };
  CHECK(group("pack_gqa") == 16);
  CHECK(group("pack_gqa granularity=per_block") == 16);
  CHECK(group("pack_gqa q_group=64") == 64);
  CHECK(group("pack_gqa qk=f16") == 32);  // of none
  CHECK(group("") == 32);
  for (const int head_dim : head_dims().allowed) {
    for (const TargetInfo& info : supported_targets()) {
      for (const attention::Mode& mode : attention::modes()) {
        Spec spec = attention::with_mode({.head_dim = head_dim}, mode);
        spec.pack_gqa = true;
        Spec completed = spec;
        attention::family().complete(&completed, {"qk", "pv", "smoothing", "accumulation"}, info);
        const Kernel usual(attention::family(), completed, info.target);
        spec.pack_gqa = false;
        const bool legal = Kernel(attention::family(), spec, info.target).violations().empty();
        INFO(usual.key());
        CHECK(usual.violations().empty() == legal);
        if (!legal) continue;
        const Schedule& schedule = usual.view(attention::family()).schedule;
        CHECK((schedule.cta_q == 32 && schedule.warps == 2));
        CHECK((schedule.stages >= 2 || head_dim > 128));
      }
    }
  }
  const std::vector<Kernel> inputs = kernel("pack_gqa head_dim=64 qk=s4").inputs();
  CHECK(inputs[1].key() == "sage_quantrows_d64_f16_s4_r4_g64_smooth__sm89");
  CHECK(inputs[3].key() == "sage_quantrows_d64_f16_s4_r8_g16_fold_smoothblock_packgqa__sm89");
  CHECK(inputs[4].key() == "sage_meanscores_d64_f16__sm89");
  check(Kernel(quantize_rows::family(), {.pack_gqa = true}, Target{.sm = 89}),
        {"pack_gqa without fold", "set fold"});
  const std::vector<Kernel> of_sequences = kernel("pack_gqa varlen head_dim=64 qk=s4").inputs();
  CHECK(of_sequences[3].key() ==
        "sage_quantrows_d64_f16_s4_r8_g16_fold_smoothblock_packgqa_varlen__sm89");
  CHECK(of_sequences[4].key() == "sage_meanscores_d64_f16_varlen_packgqa__sm89");
  check(Kernel(mean_scores::family(), {.pack_gqa = true}, Target{.sm = 89}),
        {"pack_gqa without varlen", "leave pack_gqa out"});
}

// Of all that there may be, for rows around multiples of it, near zero and near the last one.
TEST_CASE("quotients by a number of heads are exact") {
  constexpr std::uint64_t kRows = std::uint64_t{1} << 31;
  std::uint64_t wrong = 0;
  for (std::uint64_t heads = 1; heads <= 65535; ++heads) {
    const PackParams pack = PackParams::of(static_cast<std::int32_t>(heads));
    const std::uint64_t m = static_cast<std::uint32_t>(pack.reciprocal);
    const std::uint64_t last = (kRows - 1) / heads;
    for (const std::uint64_t query :
         {std::uint64_t{0}, std::uint64_t{1}, last / 3, last - 1, last}) {
      for (const std::uint64_t row : {query * heads, query * heads + heads - 1}) {
        if (row < kRows) wrong += (row * m >> pack.shift) != row / heads;
      }
    }
  }
  CHECK(wrong == 0);
  for (const std::uint64_t heads : {1, 2, 3, 7, 71}) {
    const PackParams pack = PackParams::of(static_cast<std::int32_t>(heads));
    const std::uint64_t m = static_cast<std::uint32_t>(pack.reciprocal);
    for (std::uint64_t row = 0; row < 100000; ++row)
      wrong += (row * m >> pack.shift) != row / heads;
  }
  CHECK(wrong == 0);
}

TEST_CASE("every field that inputs depend on reaches them, and no other does") {
  const Spec spec{.head_dim = 64,
                  .io = DType::bf16,
                  .granularity = Granularity::per_block,
                  .q_group = 128,
                  .k_group = 64,
                  .pv = DType::f16,
                  .accumulation = Accumulation::f32};
  const Kernel kernel(attention::family(), spec, {.stages = 3}, Target{120});
  std::vector<std::string> keys;
  for (const Kernel& input : kernel.inputs()) keys.push_back(input.key());
  CHECK(keys == std::vector<std::string>{"sage_kvstats_d64_bf16_ksum_vmax__sm120",
                                         "sage_quantrows_d64_bf16_s8_r1_g64_smooth__sm120",
                                         "sage_quantv_d64_bf16_f16__sm120",
                                         "sage_quantrows_d64_bf16_s8_r1_g128_fold__sm120"});

  const auto values_of = [](DType pv, CodeRange range) {
    Parts parts;
    parts.spec.pv = pv;
    parts.spec.accumulation = Accumulation::f32_f16;
    parts.spec.code_range = range;
    return parts.kernel().inputs().at(2).key();
  };
  CHECK(values_of(DType::e4m3, CodeRange::usual) == "sage_quantv_d128_f16_e4m3_o7__sm89");
  CHECK(values_of(DType::e4m3, CodeRange::fine_v) == "sage_quantv_d128_f16_e4m3_o6__sm89");
  CHECK(values_of(DType::f16, CodeRange::usual) == "sage_quantv_d128_f16_f16_o10__sm89");

  const std::vector<Kernel> a = Parts().kernel().inputs();
  Parts other;
  other.spec.causal = true;
  other.spec.accumulation = Accumulation::f32;
  other.schedule.stages = 3;
  CHECK(other.kernel().inputs() == a);
  other.spec.smoothing = Smoothing::none;
  const std::vector<Kernel> b = other.kernel().inputs();
  CHECK_FALSE(b[0] == a[0]);  // statistics
  CHECK_FALSE(b[1] == a[1]);  // keys
  CHECK(b[2] == a[2]);        // values
  CHECK(b[3] == a[3]);        // queries

  other.spec.smoothing = Smoothing::qk;
  other.spec.qk = DType::s4;
  other.spec.head_dim = 64;
  keys.clear();
  for (const Kernel& input : other.kernel().inputs()) keys.push_back(input.key());
  CHECK(keys == std::vector<std::string>{"sage_kvstats_d64_f16_ksum_vmax__sm89",
                                         "sage_quantrows_d64_f16_s4_r4_g64_smooth__sm89",
                                         "sage_quantv_d64_f16_e4m3__sm89",
                                         "sage_quantrows_d64_f16_s4_r8_g32_fold_smoothblock__sm89",
                                         "sage_meanscores_d64_f16__sm89"});
}
