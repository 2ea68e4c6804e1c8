#include <catch2/catch.hpp>

#include <algorithm>
#include <set>

#include "sagegen/error.h"
#include "sagegen/spec.h"
#include "tests/unit/spec_test_support.h"

using namespace sagegen;
using Catch::Matchers::Contains;

namespace {

SpecSpace everything() {
  SpecSpace space;
  for (const TargetInfo& info : supported_targets()) space.targets.push_back(info.target);
  space.granularities = {Granularity::per_thread, Granularity::per_block};
  space.smoothings = {Smoothing::k, Smoothing::none};
  space.pv = {DType::e4m3, DType::f16};
  space.schedules = {
      {128, 64, 4, 2}, {128, 32, 4, 2}, {64, 64, 4, 3}, {128, 64, 8, 1}, {256, 64, 8, 1}};
  return space;
}

std::string parse_error(const std::string& text) {
  try {
    parse_key(text);
  } catch (const SpecError& error) {
    return error.what();
  }
  return "accepted";
}

const std::string kGood = "sage_fwd_d128_f16_causal_qk_s8t_g32x64_pv_e4m3_f32x2_q128k64w4s2_sm89";

// kGood with the first `from` replaced by `to`.
std::string with(const std::string& from, const std::string& to) {
  std::string text = kGood;
  text.replace(text.find(from), from.size(), to);
  return text;
}

}  // namespace

TEST_CASE("the key of the default spec is the documented one") {
  KernelSpec spec;
  spec.problem.mask = Mask::causal;
  CHECK(key(spec) == kGood);
  CHECK(key({.kind = KernelKind::kv_statistics}) == "sage_kvstats_d128_f16_ksumvmax_sm89");
  CHECK(key({.kind = KernelKind::quantize_k}) == "sage_quantk_d128_f16_s8t_g64_smooth_sm89");
  CHECK(key({.kind = KernelKind::quantize_v}) == "sage_quantv_d128_f16_e4m3_sm89");
  CHECK(key({.kind = KernelKind::quantize_q}) == "sage_quantq_d128_f16_s8t_g32_sm89");
}

TEST_CASE("a key reads back as the canonical spec: whole enumeration") {
  const std::vector<KernelSpec> specs = enumerate(everything());
  REQUIRE(specs.size() > 500);
  std::set<std::string> keys;
  for (const KernelSpec& spec : specs) {
    INFO(key(spec));
    CHECK(parse_key(key(spec)) == spec);
    CHECK(keys.insert(key(spec)).second);
  }
}

TEST_CASE("a key reads back as the canonical spec: random valid specs") {
  test::RandomSpecs random(1);
  std::set<std::string> keys;
  for (int i = 0; i < 20000; ++i) {
    const KernelSpec spec = random.valid();
    INFO(key(spec));
    REQUIRE(parse_key(key(spec)) == canonical(spec));
    REQUIRE(key(canonical(spec)) == key(spec));
    REQUIRE(canonical(canonical(spec)) == canonical(spec));
    REQUIRE(violations(canonical(spec)).empty());
    keys.insert(key(spec));
  }
  CHECK(keys.size() > 1000);
}

TEST_CASE("two specs share a key only if their kernels are the same") {
  test::RandomSpecs random(2);
  for (int i = 0; i < 20000; ++i) {
    const KernelSpec a = random.valid();
    const KernelSpec b = random.valid();
    REQUIRE((key(a) == key(b)) == (canonical(a) == canonical(b)));
  }
}

TEST_CASE("a key is a PTX identifier") {
  for (const KernelSpec& spec : enumerate(everything())) {
    const std::string text = key(spec);
    CHECK(std::all_of(text.begin(), text.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    }));
  }
}

TEST_CASE("a bad key is refused with the token, its position and what belongs there") {
  struct Case {
    std::string text;
    std::vector<std::string> parts;
  };
  const Case cases[] = {
      {"", {"token 1 \"\" at position 1 is not the word sage"}},
      {"sage", {"ends where a kind of kernel: fwd, kvstats, quantk, quantv or quantq belongs"}},
      {with("fwd", "bwd"), {"token 2 \"bwd\" at position 6", "fwd, kvstats"}},
      {with("d128", "128"), {"token 3 \"128\" at position 10", "d<head_dim>"}},
      {with("d128", "d0128"), {"token 3 \"d0128\""}},
      {with("d128", "d-128"), {"token 3 \"d-128\""}},
      {with("d128", "d1000000"), {"token 3 \"d1000000\""}},
      {with("d128", "d128x"), {"token 3 \"d128x\""}},
      {with("f16", "half"), {"token 4 \"half\" at position 15", "f16 or bf16"}},
      {with("causal", "diagonal"), {"token 5 \"diagonal\"", "none or causal"}},
      {with("qk", "kq"), {"token 6 \"kq\"", "the word qk"}},
      {with("s8t", "s8"), {"token 7 \"s8\"", "s8t, s8b"}},
      {with("g32x64", "g32y64"), {"token 8 \"g32y64\" at position 33", "g<q_group>x<k_group>"}},
      {with("g32x64", "g32x64x1"), {"token 8 \"g32x64x1\""}},
      {with("pv", "vp"), {"token 9 \"vp\"", "the word pv"}},
      {with("e4m3", "e5m2"), {"token 10 \"e5m2\"", "e4m3 or f16"}},
      {with("f32x2", "f32x3"), {"token 11 \"f32x3\"", "f32 or f32x2"}},
      {with("q128k64w4s2", "q128k64w4"), {"token 12 \"q128k64w4\"", "s<stages>"}},
      {with("sm89", "sm77"), {"token 13 \"sm77\"", "sm80, sm86, sm89, sm120"}},
      {with("sm89", "sm_89"), {"token 13 \"sm\""}},
      {with("_sm89", ""), {"it ends where a target, for example sm89 belongs"}},
      {kGood + "_x", {"\"_x\" at position 70 follows the target"}},
      {"sage_kvstats_d128_bf16_ksum_sm89", {"token 5 \"ksum\"", "always quantized"}},
      {"sage_kvstats_d128_f16_nothing_sm89", {"token 5 \"nothing\"", "ksum, vmax or ksumvmax"}},
      {"sage_quantk_d128_f16_s8t_g64_rough_sm89", {"token 7 \"rough\"", "smooth or plain"}},
      {"sage_quantq_d128_f16_s8t_64_sm89", {"token 6 \"64\"", "g<q_group>"}},
  };
  for (const Case& c : cases) {
    const std::string message = parse_error(c.text);
    INFO(c.text);
    for (const std::string& part : c.parts) CHECK_THAT(message, Contains(part));
  }
}

TEST_CASE("an error message shows hostile text short and printable") {
  const std::string message = parse_error(std::string(5000, '\x01'));
  CHECK(message.size() < 500);
  CHECK(std::all_of(message.begin(), message.end(), [](char c) { return c >= ' ' && c <= '~'; }));
}

TEST_CASE("targets read back, and an unknown one lists what exists") {
  for (const TargetInfo& info : supported_targets()) {
    CHECK(to_string(info.target) == info.name);
    CHECK(parse_target(info.name) == info.target);
    CHECK(target_info(info.target).name == info.name);
  }
  CHECK(to_string(Target{.sm = 90, .suffix = 'a'}) == "sm_90a");
  CHECK_THROWS_WITH(parse_target("sm_77"),
                    "unknown target \"sm_77\"; use one of sm_80, sm_86, sm_89, sm_120");
  for (const char* word : {"sm89", "SM_89", "sm-89", "89", "8.9", "compute_89", "sm_89a"}) {
    CHECK_THROWS_WITH(parse_target(word), Contains("write sm_89 (targets: sm_80,"));
  }
  CHECK_THROWS_WITH(parse_target("sm_90"),
                    Contains("compute capability 9.0") && Contains("loads there; use sm_89"));
  CHECK_THROWS_WITH(parse_target("sm_90a"), Contains("use sm_89"));
  CHECK_THROWS_WITH(parse_target("sm_87"), Contains("use sm_86"));
  CHECK_THROWS_WITH(parse_target("sm_121"), Contains("12.1") && Contains("use sm_120"));
  for (const char* word : {"", "ampere", "sm_", "hopper90", "sm_99999999999", "sm_89x"}) {
    CHECK_THROWS_WITH(parse_target(word), Contains("; use one of sm_80"));
  }
  CHECK_THROWS_WITH(target_info({.sm = 90, .suffix = 'a'}), Contains("sm_90a is not supported"));
}

TEST_CASE("words of the enumerations read back") {
  const auto check = [](auto example) {
    using Enum = decltype(example);
    CHECK(words<Enum>().size() >= 2);
    for (std::string_view word : words<Enum>()) {
      const auto value = from_string<Enum>(word);
      REQUIRE(value.has_value());
      CHECK(to_string(*value) == word);
    }
    CHECK_FALSE(from_string<Enum>("").has_value());
    CHECK_FALSE(from_string<Enum>("F16").has_value());
  };
  check(DType{});
  check(Mask{});
  check(Granularity{});
  check(Smoothing{});
  check(Accumulation{});
  check(KernelKind{});
}
