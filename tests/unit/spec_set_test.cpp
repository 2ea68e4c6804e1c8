#include <catch2/catch.hpp>

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "sagegen/spec.h"

using namespace sagegen;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

std::vector<std::string> keys(const std::vector<KernelSpec>& specs) {
  std::vector<std::string> result;
  for (const KernelSpec& spec : specs) result.push_back(key(spec));
  return result;
}

std::vector<KernelKind> kinds(const std::vector<KernelSpec>& specs) {
  std::vector<KernelKind> result;
  for (const KernelSpec& spec : specs) result.push_back(spec.kind);
  return result;
}

std::string toml_error(const std::string& text) {
  try {
    read_spec_set(text, "set.toml");
  } catch (const SpecError& error) {
    return error.what();
  }
  return "accepted";
}

constexpr Target kSm80{.sm = 80}, kSm86{.sm = 86}, kSm89{.sm = 89}, kSm120{.sm = 120};

}  // namespace

TEST_CASE("resources of the default attention kernels, by hand") {
  // Q 128 x 128, two stages of K 64 x 128 and V 64 x 128 (one byte) or twice that (f16).
  KernelSpec spec;
  CHECK(resources(spec).threads == 128);
  CHECK(resources(spec).dynamic_smem == 16384 + 2 * (8192 + 8192));
  spec.quant.pv = DType::f16;
  CHECK(resources(spec).dynamic_smem == 16384 + 2 * (8192 + 16384));
  spec.problem.head_dim = 64;
  spec.schedule = {.cta_q = 64, .cta_k = 32, .warps = 2, .stages = 3};
  CHECK(resources(spec).threads == 64);
  CHECK(resources(spec).dynamic_smem == 4096 + 3 * (2048 + 4096));
}

TEST_CASE("limits of the targets") {
  // CUDA C++ Programming Guide, technical specifications per compute capability.
  CHECK(target_info(kSm80).smem_per_block == 166912);
  CHECK(target_info(kSm86).smem_per_block == 101376);
  CHECK(target_info(kSm89).smem_per_block == 101376);
  CHECK(target_info(kSm120).smem_per_block == 101376);
  for (const TargetInfo& info : supported_targets()) {
    CHECK(info.smem_per_sm == info.smem_per_block + 1024);
    CHECK(info.has_fp8_mma == (info.target.sm >= 89));
    CHECK(info.has_s4_mma == (info.target.sm < 90));
  }
}

TEST_CASE("defaults are valid on every target, and eight warps share an SM") {
  for (const TargetInfo& info : supported_targets()) {
    for (Granularity granularity : {Granularity::per_thread, Granularity::per_block}) {
      const QuantSpec quant = default_quant(info.target, granularity);
      CHECK(quant.granularity == granularity);
      CHECK(quant.q_group == (granularity == Granularity::per_thread ? 32 : 128));
      CHECK((quant.pv == DType::e4m3) == info.has_fp8_mma);
      CHECK((quant.accumulation == Accumulation::two_level_f32) == info.has_fp8_mma);
      for (int head_dim : {64, 128}) {
        const AttentionProblem problem{.head_dim = head_dim};
        const TileSchedule schedule = default_schedule(problem, quant, info.target);
        const AttentionKernels kernels = kernels_for(problem, quant, schedule, info.target);
        for (const KernelSpec& spec : kernels.in_order()) CHECK(violations(spec).empty());
        const KernelResources needs = resources(kernels.attention);
        CHECK(needs.threads / 32 * (info.smem_per_sm / (needs.dynamic_smem + 1024)) >= 8);
      }
    }
  }
  CHECK_THROWS_AS(default_quant({.sm = 75}), SpecError);
}

TEST_CASE("which kernels make one attention") {
  using K = KernelKind;
  const TileSchedule schedule;
  QuantSpec quant;
  AttentionProblem problem;
  CHECK(kinds(kernels_for(problem, quant, schedule, kSm89).in_order()) ==
        std::vector{K::kv_statistics, K::quantize_k, K::quantize_v, K::quantize_q, K::attention});

  quant.smoothing = Smoothing::none;  // V still needs its maxima
  CHECK(kinds(kernels_for(problem, quant, schedule, kSm89).in_order()) ==
        std::vector{K::kv_statistics, K::quantize_k, K::quantize_v, K::quantize_q, K::attention});

  quant.pv = DType::f16;  // V is read as it is: nobody needs statistics
  CHECK(kinds(kernels_for(problem, quant, schedule, kSm80).in_order()) ==
        std::vector{K::quantize_k, K::quantize_q, K::attention});

  quant.smoothing = Smoothing::k;
  CHECK(kinds(kernels_for(problem, quant, schedule, kSm80).in_order()) ==
        std::vector{K::kv_statistics, K::quantize_k, K::quantize_q, K::attention});

  problem.io = DType::bf16;  // V must become f16
  CHECK(kinds(kernels_for(problem, quant, schedule, kSm80).in_order()) ==
        std::vector{K::kv_statistics, K::quantize_k, K::quantize_v, K::quantize_q, K::attention});
}

TEST_CASE("kernels that differ only in what they ignore are one kernel") {
  AttentionProblem causal{.mask = Mask::causal};
  QuantSpec plain;
  plain.smoothing = Smoothing::none;
  const AttentionKernels a = kernels_for({}, {}, {}, kSm89);
  const AttentionKernels b = kernels_for(causal, plain, {.stages = 3}, kSm89);
  CHECK(a.quantize_q == b.quantize_q);
  CHECK(a.quantize_v == b.quantize_v);
  CHECK_FALSE(a.quantize_k == b.quantize_k);
  CHECK_FALSE(a.kv_statistics == b.kv_statistics);
  CHECK_FALSE(a.attention == b.attention);
  CHECK(a.attention == kernels_for({}, plain, {}, kSm89).attention);
}

TEST_CASE("enumeration: stable order, each kernel once, valid, with all it needs") {
  SpecSpace space;
  space.targets = {kSm89, kSm80};
  space.granularities = {Granularity::per_thread, Granularity::per_block};
  space.smoothings = {Smoothing::k, Smoothing::none};
  const std::vector<KernelSpec> specs = enumerate(space);
  CHECK(keys(specs) == keys(enumerate(space)));
  const std::vector<std::string> all = keys(specs);
  CHECK(std::set<std::string>(all.begin(), all.end()).size() == all.size());
  // 2 targets x 2 head dims x 2 io x 2 masks x 2 granularities; smoothing is not attention's affair.
  CHECK(std::count_if(specs.begin(), specs.end(),
                      [](const KernelSpec& s) { return s.kind == KernelKind::attention; }) == 32);
  CHECK(all.front() == "sage_kvstats_d64_f16_ksumvmax_sm89");
  CHECK(specs.back().target == kSm80);
  for (const KernelSpec& spec : specs) {
    CHECK(violations(spec).empty());
    CHECK(canonical(spec) == spec);
  }
}

TEST_CASE("enumeration leaves impossible combinations out") {
  SpecSpace space;
  space.targets = {kSm80, kSm89};
  space.pv = {DType::e4m3};
  for (const KernelSpec& spec : enumerate(space)) CHECK(spec.target == kSm89);
  space.targets = {kSm80};
  CHECK(enumerate(space).empty());
}

TEST_CASE("the default set serves every target, dtype, head dim and mask") {
  const std::vector<KernelSpec> set =
      read_spec_set_file(std::string(SAGEGEN_SOURCE_DIR) + "/templates/specs/default.toml");
  const std::vector<std::string> names = keys(set);
  const std::set<std::string> have(names.begin(), names.end());
  CHECK(have.size() == set.size());
  for (const TargetInfo& info : supported_targets()) {
    const QuantSpec quant = default_quant(info.target);
    for (int head_dim : {64, 128}) {
      for (DType io : {DType::f16, DType::bf16}) {
        for (Mask mask : {Mask::none, Mask::causal}) {
          const AttentionProblem problem{.head_dim = head_dim, .io = io, .mask = mask};
          const TileSchedule schedule = default_schedule(problem, quant, info.target);
          for (const KernelSpec& spec :
               kernels_for(problem, quant, schedule, info.target).in_order()) {
            INFO(key(spec));
            CHECK(have.count(key(spec)) == 1);
          }
        }
      }
    }
  }
}

TEST_CASE("a set description can name every choice") {
  const std::vector<KernelSpec> specs = read_spec_set(R"(
[[attention]]
targets = ["sm_120"]
head_dims = [64]
io = ["bf16"]
masks = ["causal"]
granularities = ["per_block"]
smoothings = ["none"]
pv = ["f16"]
schedules = [{ cta_q = 128, cta_k = 64, warps = 8, stages = 3 }]
)",
                                                      "set.toml");
  CHECK(keys(specs) == std::vector<std::string>{
                           "sage_kvstats_d64_bf16_vmax_sm120",
                           "sage_quantk_d64_bf16_s8b_g64_plain_sm120",
                           "sage_quantv_d64_bf16_f16_sm120", "sage_quantq_d64_bf16_s8b_g128_sm120",
                           "sage_fwd_d64_bf16_causal_qk_s8b_g128x64_pv_f16_f32_q128k64w8s3_sm120"});
}

TEST_CASE("a mistake in a set description is refused at its line and column") {
  struct Case {
    std::string text, message;
  };
  const std::string head = "[[attention]]\ntargets = [\"sm_89\"]\n";
  const Case cases[] = {
      {"", "set.toml:1:1: no [[attention]] table"},
      {"x = 1\n", "set.toml:1:1: unknown key \"x\"; valid are attention"},
      {"attention = 3\n", "set.toml:1:13: attention must be written as [[attention]] tables"},
      {"[[attention]]\n", "set.toml:1:1: targets is missing"},
      {"\n[[attention]\n", "set.toml:2:13: "},
      {head + "headdims = [64]\n",
       "set.toml:3:1: unknown key \"headdims\"; valid are targets, head_dims,"},
      {head + "io = \"f16\"\n", "set.toml:3:6: io must be a list"},
      {head + "io = []\n", "set.toml:3:6: io must be a list with at least one"},
      {head + "io = [\"f16\",\n  \"half\"]\n",
       "set.toml:4:3: unknown word \"half\" in io; valid are f16, bf16, f32, s32, s8, s4, e4m3"},
      {head + "io = [16]\n", "set.toml:3:7: io must list strings"},
      {head + "io = [\"f16\", \"f16\"]\n", "set.toml:3:14: io lists the same value twice"},
      {head + "masks = [\"window\"]\n",
       "set.toml:3:10: unknown word \"window\" in masks; valid are none, causal"},
      {head + "head_dims = [64.0]\n", "set.toml:3:14: head_dims must be an integer"},
      {head + "head_dims = [99999999999]\n",
       "set.toml:3:14: head_dims = 99999999999 is out of range"},
      {head + "head_dims = [-1]\n", "set.toml:3:14: head_dims = -1 is out of range"},
      {"[[attention]]\ntargets = [\"sm_77\"]\n",
       "set.toml:2:12: unknown target \"sm_77\"; use one of sm_80, sm_86, sm_89, sm_120"},
      {head + "schedules = [[128, 64]]\n", "set.toml:3:14: schedules must list tables"},
      {head + "schedules = [{ cta_q = 128, cta_k = 64, warps = 4 }]\n",
       "set.toml:3:14: a schedule needs stages"},
      {head + "schedules = [{ cta_q = 128, cta_k = 64, warps = 4, stages = 2, x = 1 }]\n",
       "set.toml:3:64: unknown key \"x\"; valid are cta_q, cta_k, warps, stages"},
      {head + "schedules = [{ cta_q = 128, cta_k = 64, warps = 4, stages = 9 }]\n",
       "set.toml:1:1: "},
      {head + "\n" + "[[attention]]\ntargets = [\"sm_80\"]\npv = [\"e4m3\"]\n", "set.toml:4:1: "},
      {head + "head_dims = [96]\n", "set.toml:1:1: "},
  };
  for (const Case& c : cases) {
    INFO(c.text);
    CHECK_THAT(toml_error(c.text), StartsWith(c.message));
  }
  CHECK_THAT(toml_error(head + "head_dims = [96]\n"),
             Contains("d96") && Contains("head_dim 96 is refused"));
  CHECK_THROWS_WITH(read_spec_set_file("/nonexistent/x.toml"),
                    "cannot read the set description /nonexistent/x.toml: "
                    "No such file or directory");
  CHECK_THROWS_WITH(read_spec_set_file("/"), "cannot read the set description /: Is a directory");
  // It opens, and every read of it fails: a set that cannot be read is no empty set.
  CHECK_THROWS_WITH(read_spec_set_file("/proc/self/mem"),
                    "cannot read the set description /proc/self/mem: Input/output error");
}

TEST_CASE("a set description beyond a limit is refused before it is parsed, at its place") {
  const std::string head = "[[attention]]\ntargets = [\"sm_89\"]\n";
  const auto many = [](int count, const std::string& text) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
  };
  const std::string size = "set.toml:1:1: the set description has more than 262144 bytes";
  const std::string parts = "a name of more than 8 parts with dots between them";
  const std::string depth = "brackets are more than 8 deep";
  const std::string letter = "a letter beyond ASCII (byte 0xC3) outside of quotes and comments";

  CHECK_THAT(toml_error(head + many(262144, "#")), StartsWith(size));
  CHECK_THAT(toml_error(many(300000, "a.") + "b = 1\n"), StartsWith(size));
  CHECK_THAT(toml_error(head + many(100000, "a.") + "b = 1\n"),
             StartsWith("set.toml:3:16: " + parts));
  CHECK_THAT(toml_error("[" + many(40000, "\"a\" . ") + "b]\n"),
             StartsWith("set.toml:1:48: " + parts));
  CHECK_THAT(toml_error(head + "x = { " + many(20, "a.") + "b = 1 }\n"), Contains(parts));
  CHECK_THAT(toml_error(head + "io = " + many(100000, "[")), StartsWith("set.toml:3:14: " + depth));
  CHECK_THAT(toml_error(head + "io = " + many(30000, "{ a = ")), Contains(depth));
  CHECK_THAT(toml_error(head + "\xc3\xa9 = 1\n"), StartsWith("set.toml:3:1: " + letter));
  CHECK_THAT(toml_error("x = '\xc3\xa9' \xc3\xa9\n"), StartsWith("set.toml:1:9: " + letter));
  CHECK_THAT(toml_error("x = 1\xc3\xa9\n"), StartsWith("set.toml:1:6: " + letter));

  // Where strings end decides what is inside one.
  const std::string tail = " \xc3\xa9 = 1\n";
  for (const char* closed :
       {R"(x = "\\")", R"(x = "\"a\"")", R"(x = '\')", "x = ''", R"(x = "")",
        "x = \"\"\"a\"\nb\\\"\"\"\"", "x = '''a'\nb'''''", "x = \"not closed\n", "# it's\n"}) {
    INFO(closed);
    CHECK_THAT(toml_error(closed + tail), Contains(letter));
  }
  for (const char* open : {R"(x = "\")", "x = '", "x = \"\"\"a\"\"\n", "x = '''a\n", "# \"\""}) {
    INFO(open);
    CHECK_THAT(toml_error(open + tail), !Contains(letter));
  }

  // What is allowed stays allowed: letters in comments, fractions, a byte order mark.
  CHECK(toml_error("\xef\xbb\xbf# caf\xc3\xa9\n" + head) == "accepted");
  CHECK_THAT(toml_error(head + "head_dims = [" + many(20, "1.5, ") + "]"),
             Contains("head_dims must be an integer"));
}

TEST_CASE("long lists in a set description are refused, not compared for minutes") {
  std::string numbers = "[[attention]]\ntargets = [\"sm_89\"]\nhead_dims = [";
  std::string schedules = "[[attention]]\ntargets = [\"sm_89\"]\nschedules = [";
  for (int i = 0; i < 1001; ++i) {
    numbers += fmt::format("\n{},", i);
    schedules += fmt::format("\n{{ cta_q = {}, cta_k = 64, warps = 4, stages = 2 }},", i);
  }
  CHECK_THAT(toml_error(numbers + "]\n"),
             StartsWith("set.toml:1004:1: head_dims has 1001 elements, at most 1000 are read"));
  CHECK_THAT(toml_error(schedules + "]\n"),
             StartsWith("set.toml:1004:1: schedules has 1001 elements, at most 1000 are read"));
  std::string tables;
  for (int i = 0; i < 1001; ++i) tables += "[[attention]]\ntargets = [\"sm_89\"]\n";
  CHECK_THAT(toml_error(tables),
             StartsWith("set.toml:2001:1: the set has 1001 [[attention]] tables, at most 1000"));
  tables.erase(tables.rfind("[[attention]]"));
  CHECK(toml_error(tables) == "accepted");
}

TEST_CASE("what a message shows of a set description is short and printable") {
  const std::string head = "[[attention]]\ntargets = [\"sm_89\"]\n";
  const std::string hostile = "\"" + std::string(50000, 'n') + "\"";
  const std::string escape = "\"\\u001b[31mred\"";
  for (const std::string& word : {hostile, escape}) {
    for (const std::string& text :
         {head + word + " = 1\n", head + "io = [" + word + "]\n", word + " = 1\n",
          "[[attention]]\ntargets = [" + word + "]\n", head + word + " = 1\n" + word + " = 1\n"}) {
      const std::string error = toml_error(text);
      CHECK_THAT(error, StartsWith("set.toml:"));
      CHECK(error.size() < 500);
      CHECK(error.find('\x1b') == std::string::npos);
    }
  }
}
