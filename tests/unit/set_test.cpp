// Sets of kernels: products in code, and as TOML.
#include "sagegen/set.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "templates/attention/spec.h"

using namespace sagegen;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

std::vector<std::string> keys(const std::vector<Kernel>& kernels) {
  std::vector<std::string> result;
  for (const Kernel& kernel : kernels) result.push_back(kernel.key());
  return result;
}

std::string toml_error(const std::string& text) {
  try {
    read_set(text, "set.toml");
  } catch (const SpecError& error) {
    return error.what();
  }
  return "accepted";
}

std::ptrdiff_t count(const std::vector<Kernel>& kernels, std::string_view title) {
  return std::ranges::count(kernels, title, [](const Kernel& k) { return k.family().title; });
}

constexpr Target kSm80{.sm = 80}, kSm89{.sm = 89};
const std::string kHead = "[[attention]]\ntargets = [\"sm_89\"]\n";

}  // namespace

TEST_CASE("enumeration: stable order, each kernel once, valid, with all it needs") {
  KernelProduct product;
  product.targets = {kSm89, kSm80};
  product.fields = {{"head_dim", {"64", "128"}},
                    {"io", {"f16", "bf16"}},
                    {"causal", {"false", "true"}},
                    {"granularity", {"per_thread", "per_block"}},
                    {"smoothing", {"k", "none"}}};
  const std::vector<Kernel> kernels = enumerate(product);
  CHECK(keys(kernels) == keys(enumerate(product)));
  const std::vector<std::string> all = keys(kernels);
  const std::set<std::string> unique(all.begin(), all.end());
  CHECK(unique.size() == all.size());
  CHECK(count(kernels, "attention") == 2 * 2 * 2 * 2 * 2 * 2);
  CHECK(all.front() == "sage_kvstats_d64_f16_ksum_vmax__sm89");
  CHECK(kernels.back().target() == kSm80);
  std::set<std::string> seen;
  std::vector<std::string> attention;
  for (const Kernel& kernel : kernels) {
    INFO(kernel.key());
    CHECK(kernel.violations().empty());
    for (const Kernel& input : kernel.inputs()) CHECK(seen.count(input.key()) == 1);
    seen.insert(kernel.key());
    if (&kernel.family() == &attention::family()) attention.push_back(kernel.what());
  }
  // Fields as they are given, the last one innermost.
  CHECK(attention[0] == "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2");
  CHECK(attention[1] == "sage_fwd_d64_f16_qk_s8t_g32x64_sm0_pv_e4m3_f32x2");
  CHECK(attention[2] == "sage_fwd_d64_f16_qk_s8b_g128x64_smk_pv_e4m3_f32x2");
  CHECK(attention[4] == "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2_causal");
  CHECK(attention[31] == "sage_fwd_d128_bf16_qk_s8b_g128x64_sm0_pv_e4m3_f32x2_causal");
  CHECK(attention[32] == "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_f16_f32");  // sm_80
}

TEST_CASE("enumeration leaves impossible combinations out, and says which and why") {
  KernelProduct product;
  product.targets = {kSm80, kSm89};
  product.fields = {{"pv", {"e4m3"}}};
  std::vector<std::string> left_out;
  const auto remember = [&](const Kernel& kernel, const Sentences& sentences) {
    REQUIRE(sentences.size() == 1);
    left_out.push_back(kernel.key() + ": " + sentences[0]);
  };
  const std::vector<Kernel> kernels = enumerate(product, builtin_families(), remember);
  CHECK_FALSE(kernels.empty());
  for (const Kernel& kernel : kernels) CHECK(kernel.target() == kSm89);
  REQUIRE(left_out.size() == 1);
  CHECK_THAT(left_out[0], Contains("__sm80: pv e4m3 is refused on sm_80"));
  product.targets = {kSm80};
  CHECK(enumerate(product).empty());
  product.schedules = {"q64k64w2s3", "q64k64w8s3"};  // 8 rows per warp
  product.targets = {kSm89};
  CHECK(count(enumerate(product), "attention") == 1);
}

TEST_CASE("enumeration refuses names and words that do not exist") {
  const auto error = [](KernelProduct product) {
    product.targets = {kSm89};
    try {
      enumerate(product);
    } catch (const SpecError& refused) {
      return std::string(refused.what());
    }
    return std::string("accepted");
  };
  CHECK_THAT(error({.family = "attentoin"}), Contains("unknown family \"attentoin\""));
  CHECK_THAT(error({.fields = {{"headdim", {"64"}}}}), Contains("unknown option \"headdim\""));
  CHECK_THAT(error({.fields = {{"io", {"half"}}}}), Contains("it must be f16 or bf16"));
  CHECK_THAT(error({.schedules = {"fast"}}), Contains("schedule \"fast\" is refused"));
  CHECK_THROWS_WITH(enumerate({.targets = {Target{75}}}), Contains("sm_75 is not supported"));
}

TEST_CASE("the default set serves every target, dtype, head dim and mask") {
  const std::vector<Kernel> set =
      read_set_file(std::string(SAGEGEN_SOURCE_DIR) + "/templates/attention/set.toml");
  const std::vector<std::string> names = keys(set);
  const std::set<std::string> have(names.begin(), names.end());
  CHECK(have.size() == set.size());
  for (const TargetInfo& info : supported_targets()) {
    attention::Spec spec = attention::usual_spec(info.target);
    for (const int head_dim : {64, 128}) {
      for (const DType io : {DType::f16, DType::bf16}) {
        for (const bool causal : {false, true}) {
          spec.head_dim = head_dim;
          spec.io = io;
          spec.causal = causal;
          const Kernel kernel(attention::family(), spec, info.target);
          INFO(kernel.key());
          CHECK(have.count(kernel.key()) == 1);
          for (const Kernel& input : kernel.inputs()) CHECK(have.count(input.key()) == 1);
        }
      }
    }
  }
}

TEST_CASE("a set description can name every choice") {
  const std::vector<Kernel> kernels = read_set(R"(
[[attention]]
targets = ["sm_120"]
head_dim = [64]
io = ["bf16"]
qk = "s8"
granularity = "per_block"
q_group = 64
k_group = [128]
smoothing = ["none"]
pv = ["f16"]
accumulation = "two_level_f32"
causal = true
schedules = ["q128k64w8s3"]
)",
                                               "set.toml");
  CHECK(keys(kernels) ==
        std::vector<std::string>{
            "sage_kvstats_d64_bf16_vmax__sm120", "sage_quantrows_d64_bf16_s8_r1_g128__sm120",
            "sage_quantv_d64_bf16_f16__sm120", "sage_quantrows_d64_bf16_s8_r1_g64_fold__sm120",
            "sage_fwd_d64_bf16_qk_s8b_g64x128_sm0_pv_f16_f32x2_causal__q128k64w8s3__sm120"});
}

TEST_CASE("a set description can name kernels of any family, in the order of the file") {
  const std::vector<Kernel> kernels = read_set(R"(
[[quantize_values]]
targets = ["sm_89"]
io = ["bf16", "f16"]
[[attention]]
targets = "sm_80"
smoothing = "none"
[[kv_statistics]]
targets = ["sm_89"]
k_sum = true
[[quantize_values]]
targets = ["sm_89"]
)",
                                               "set.toml");
  CHECK(keys(kernels) == std::vector<std::string>{
                             "sage_quantv_d128_bf16_e4m3__sm89", "sage_quantv_d128_f16_e4m3__sm89",
                             "sage_quantrows_d128_f16_s8_r4_g64__sm80",
                             "sage_quantrows_d128_f16_s8_r8_g32_fold__sm80",
                             "sage_fwd_d128_f16_qk_s8t_g32x64_sm0_pv_f16_f32__q128k64w4s2__sm80",
                             "sage_kvstats_d128_f16_ksum__sm89"});
}

TEST_CASE("a mistake in a set description is refused at its line and column") {
  struct Case {
    std::string text, message;
  };
  const std::string& head = kHead;
  const Case cases[] = {
      {"", "set.toml:1:1: no table of kernels; write [[attention]]"},
      {"x = 1\n", "set.toml:1:1: unknown key \"x\"; valid are attention, decode, kv_append,"},
      {"attention = 3\n", "set.toml:1:13: attention must be written as [[attention]] tables"},
      {"[[attention]]\n", "set.toml:1:1: targets is missing"},
      {"\n[[attention]\n", "set.toml:2:13: "},
      {head + "headdim = [64]\n",
       "set.toml:3:1: unknown key \"headdim\"; valid are targets, head_dim, value_dim, io,"},
      {head + "io = []\n", "set.toml:3:6: io must be a value or a list with at least one"},
      {head + "io = [\"f16\",\n  \"half\"]\n",
       "set.toml:4:3: io = \"half\" is refused: it must be f16 or bf16"},
      {head + "io = \"half\"\n", "set.toml:3:6: io = \"half\" is refused"},
      {head + "io = [16]\n", "set.toml:3:7: io = \"16\" is refused: it must be f16 or bf16"},
      {head + "io = [[\"f16\"]]\n", "set.toml:3:7: io must be strings, whole numbers or true"},
      {head + "io = [\"f16\", \"f16\"]\n", "set.toml:3:14: io lists the same value twice"},
      {head + "causal = [\"yes\"]\n",
       "set.toml:3:11: causal = \"yes\" is refused: it must be false or true"},
      {head + "head_dim = [64.0]\n", "set.toml:3:13: head_dim must be strings, whole numbers"},
      {head + "head_dim = [99999999999]\n",
       "set.toml:3:13: head_dim = \"99999999999\" is refused: it must be 32, 64, 72,"},
      {head + "head_dim = [-1]\n", "set.toml:3:13: head_dim = \"-1\" is refused"},
      {"[[attention]]\ntargets = [\"sm_80\",\n\"sm_77\"]\n",
       "set.toml:3:1: unknown target \"sm_77\"; compute capability 7.7 is too old"},
      {"[[attention]]\ntargets = [89]\n", "set.toml:2:12: unknown target \"89\"; write sm_89"},
      {head + "schedules = [{ cta_q = 128 }]\n", "set.toml:3:14: schedules must be strings"},
      {head + "schedules = [\"q128k64w4s2\", \"q128k64w4\"]\n",
       "set.toml:3:29: schedule \"q128k64w4\" is refused: s<stages>, for example s2 belongs"},
      {head + "schedules = [\"q128k64w4s9\"]\n", "set.toml:1:1: "},
      {head + "\n" + "[[attention]]\ntargets = [\"sm_80\"]\npv = [\"e4m3\"]\n", "set.toml:4:1: "},
      {head + "head_dim = [112]\n", "set.toml:1:1: "},
      {"[[quantize_values]]\ntargets = [\"sm_89\"]\nschedules = [\"q64\"]\n",
       "set.toml:3:1: unknown key \"schedules\"; valid are targets, head_dim, io, codes"},
  };
  for (const Case& c : cases) {
    INFO(c.text);
    CHECK_THAT(toml_error(c.text), StartsWith(c.message));
  }
  CHECK_THAT(toml_error(head + "head_dim = [112]\n"),
             Contains("d112") && Contains("head_dim 112 is refused"));
  CHECK_THROWS_WITH(read_set_file("/nonexistent/x.toml"),
                    "cannot read the set description /nonexistent/x.toml: "
                    "No such file or directory");
  CHECK_THROWS_WITH(read_set_file("/"), "cannot read the set description /: Is a directory");
  // It opens, and every read of it fails: a set that cannot be read is no empty set.
  CHECK_THROWS_WITH(read_set_file("/proc/self/mem"),
                    "cannot read the set description /proc/self/mem: Input/output error");
}

TEST_CASE("a set description beyond a limit is refused before it is parsed, at its place") {
  const std::string& head = kHead;
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
  CHECK_THAT(toml_error(head + "head_dim = [" + many(20, "1.5, ") + "]"),
             Contains("head_dim must be strings, whole numbers"));
}

TEST_CASE("long lists in a set description are refused, not compared for minutes") {
  std::string numbers = kHead + "head_dim = [";
  std::string schedules = kHead + "schedules = [";
  for (int i = 0; i < 1001; ++i) {
    numbers += fmt::format("\n{},", i);
    schedules += fmt::format("\n'q{}k64w4s2',", i);
  }
  CHECK_THAT(toml_error(numbers + "]\n"),
             StartsWith("set.toml:1004:1: head_dim has 1001 elements, at most 1000 are read"));
  CHECK_THAT(toml_error(schedules + "]\n"),
             StartsWith("set.toml:1004:1: schedules has 1001 elements, at most 1000 are read"));
  std::string tables;
  for (int i = 0; i < 1001; ++i) tables += kHead;
  CHECK_THAT(toml_error(tables),
             StartsWith("set.toml:2001:1: the set has 1001 [[attention]] tables, at most 1000"));
  tables.erase(tables.rfind("[[attention]]"));
  CHECK(toml_error(tables) == "accepted");
}

TEST_CASE("what a message shows of a set description is short and printable") {
  const std::string& head = kHead;
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

TEST_CASE("a set of too many combinations is refused before they are made") {
  std::string schedules;
  for (int i = 0; i < 1000; ++i) schedules += fmt::format("'q{}k64w4s2',", i);
  const std::string table = kHead + "schedules = [" + schedules + "]\ncausal = [true, false]\n";
  // No such schedule exists: making the first combination would be refused otherwise.
  CHECK_THAT(toml_error(table), Contains("cannot be generated"));
  const std::string wide = table +
                           "head_dim = [64, 128]\nio = ['f16', 'bf16']\nq_group = [16, 32]\n" +
                           "k_group = [64, 128]\nsmoothing = ['k', 'none']\npv = ['f16', 'e4m3']\n";
  CHECK_THAT(toml_error(kHead + wide),
             StartsWith("set.toml:3:1: with this table the set has more than 100000 combinations"));
}
