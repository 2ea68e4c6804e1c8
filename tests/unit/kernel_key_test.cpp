// Keys and targets as text: the documented ones, and what is said of others.
#include <catch2/catch.hpp>

#include <algorithm>

#include "generator/vocabulary/suggestion.h"
#include "sagegen/error.h"
#include "templates/attention/spec.h"
#include "templates/decode/spec.h"
#include "templates/kv_append/spec.h"
#include "templates/kv_gather/spec.h"
#include "templates/kv_statistics/spec.h"
#include "templates/merge_partials/spec.h"
#include "templates/quantize_rows/spec.h"
#include "templates/quantize_values/spec.h"

using namespace sagegen;
using Catch::Matchers::Contains;

namespace {

std::string parse_error(const std::string& text) {
  try {
    parse_key(text);
  } catch (const SpecError& error) {
    return error.what();
  }
  return "accepted";
}

const std::string kGood =
    "sage_fwd_d128_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2_causal__q128k64w4s2__sm89";

// kGood with the first `from` replaced by `to`.
std::string with(const std::string& from, const std::string& to) {
  std::string text = kGood;
  text.replace(text.find(from), from.size(), to);
  return text;
}

}  // namespace

TEST_CASE("the keys of default kernels are the documented ones") {
  const Target sm89{89};
  const Kernel attention(attention::family(), {.causal = true}, sm89);
  CHECK(attention.key() == kGood);
  CHECK(attention.what() == kGood.substr(0, kGood.find("__")));
  CHECK(attention.how() == "q128k64w4s2");
  CHECK(Kernel(attention::family(), {}, {}, sm89).key() ==
        "sage_fwd_d128_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89");
  const Kernel statistics(kv_statistics::family(), {.k_sum = true, .v_amax = true}, sm89);
  CHECK(statistics.key() == "sage_kvstats_d128_f16_ksum_vmax__sm89");
  CHECK(statistics.what() == "sage_kvstats_d128_f16_ksum_vmax");
  CHECK(statistics.how().empty());
  CHECK(Kernel(quantize_rows::family(), {.scales = 4, .group = 64, .smooth = true}, sm89).key() ==
        "sage_quantrows_d128_f16_s8_r4_g64_smooth__sm89");
  CHECK(Kernel(quantize_rows::family(), {.fold = true}, sm89).key() ==
        "sage_quantrows_d128_f16_s8_r8_g32_fold__sm89");
  CHECK(Kernel(quantize_values::family(), {}, sm89).key() == "sage_quantv_d128_f16_e4m3__sm89");
  CHECK(Kernel(merge_partials::family(), {}, sm89).key() == "sage_merge_f16__sm89");
  CHECK(Kernel(merge_partials::family(), {.io = DType::bf16, .out = merge_partials::Stored::f32},
               sm89)
            .key() == "sage_merge_bf16_out_f32__sm89");
  CHECK(Kernel(kv_gather::family(), {}, sm89).key() == "sage_kvgather_d128_f16_k8v8__sm89");
  CHECK(Kernel(kv_append::family(), {}, sm89).key() == "sage_kvappend_d128_f16_k8v8__sm89");
  CHECK(Kernel(kv_append::family(),
               {.k_bits = 4,
                .v_bits = 2,
                .rope = kv_append::Rope::neox,
                .smooth_k = true,
                .rotation = Rotation::hadamard,
                .addressing = kv_append::Addressing::pages},
               sm89)
            .key() == "sage_kvappend_d128_f16_k4v2_rope_neox_smk_hadamard_pages__sm89");
  CHECK(Kernel(decode::family(), {.k_bits = 4, .v_bits = 2, .causal = true}, {}, sm89).key() ==
        "sage_decode_d128_f16_k4v2_r8_causal__t32s3w4l1__sm89");
  CHECK(Kernel(decode::family(), {.rotation = Rotation::hadamard}, {}, sm89).key() ==
        "sage_decode_d128_f16_k8v8_r8_hadamard__t32s3w4l1__sm89");
  CHECK(Kernel(decode::family(), {.v_bits = 4, .k_codes = KvCoding::e4m3, .causal = true}, {}, sm89)
            .key() == "sage_decode_d128_f16_k8v4_r8_ke4m3_causal__t32s3w4l1__sm89");
  CHECK(Kernel(kv_append::family(), {.v_bits = 4, .v_codes = KvCoding::symmetric}, sm89).key() ==
        "sage_kvappend_d128_f16_k8v4_vsym__sm89");
  CHECK_THROWS_WITH(
      Kernel(kv_append::family(), {.k_bits = 4, .k_codes = KvCoding::e4m3}, sm89).validate(),
      Contains("k_codes e4m3 with k_bits 4 is refused") && Contains("use k_bits 8"));
  CHECK_THROWS_WITH(
      Kernel(decode::family(), {.k_bits = 4, .k_codes = KvCoding::e4m3}, {}, sm89).validate(),
      Contains("k_codes e4m3 with k_bits 4 is refused") && Contains("use k_bits 8"));
  CHECK_THROWS_WITH(
      Kernel(decode::family(), {.v_bits = 16, .v_codes = KvCoding::symmetric}, {}, sm89).validate(),
      Contains("v_codes symmetric with v_bits 16 is refused") && Contains("v_bits 2, 4 or 8"));
  // By channel: pages that are read back, and neither written nor attended to.
  CHECK(Kernel(kv_gather::family(), {.k_bits = 4, .v_bits = 4, .k_codes = KvCoding::channel}, sm89)
            .key() == "sage_kvgather_d128_f16_k4v4_kchan__sm89");
  CHECK_THROWS_WITH(Kernel(kv_gather::family(), {.k_codes = KvCoding::channel}, sm89).validate(),
                    Contains("k_codes channel with k_bits 8 is refused"));
  CHECK_THROWS_WITH(
      Kernel(kv_append::family(), {.k_bits = 4, .k_codes = KvCoding::channel}, sm89).validate(),
      Contains("k_codes channel is refused: it must be asymmetric, symmetric or e4m3"));
  CHECK_THROWS_WITH(
      Kernel(decode::family(), {.k_bits = 4, .k_codes = KvCoding::channel}, {}, sm89).validate(),
      Contains("k_codes channel is refused: it must be asymmetric, symmetric or e4m3"));
  CHECK(Kernel(kv_statistics::family(), {.k_sum = true, .v_range = true}, sm89).key() ==
        "sage_kvstats_d128_f16_ksum_vrange__sm89");
  CHECK(Kernel(quantize_values::family(), {.octaves = 7, .smooth = true}, sm89).key() ==
        "sage_quantv_d128_f16_e4m3_o7_smooth__sm89");
  CHECK(Kernel(attention::family(), {.v_smoothing = ValueSmoothing::mean, .causal = true}, sm89)
            .key() == with("f32x2_", "f32x2_smv_"));
  CHECK(Kernel(attention::family(), {.rotation = Rotation::hadamard, .causal = true}, sm89).key() ==
        with("f32x2_", "f32x2_hadamard_"));
  CHECK(Kernel(quantize_rows::family(), {.fold = true, .rotate = true}, sm89).key() ==
        "sage_quantrows_d128_f16_s8_r8_g32_fold_rotate__sm89");
  CHECK(
      Kernel(attention::family(), {.q_group = 16, .pack_gqa = true, .causal = true}, sm89).key() ==
      "sage_fwd_d128_f16_qk_s8t_g16x64_smk_pv_e4m3_f32x2_packgqa_causal__q32k64w2s2__sm89");
  CHECK(Kernel(attention::family(), {.inputs = attention::InputSource::given, .causal = true}, sm89)
            .key() == with("f32x2_", "f32x2_given_"));
  CHECK(attention.on(Target{120}).key() == kGood.substr(0, kGood.size() - 2) + "120");
}

TEST_CASE("a bad key is refused with the token, its position and what belongs there") {
  struct Case {
    std::string text;
    std::vector<std::string> parts;
  };
  const Case cases[] = {
      {"", {"it ends where the word sage belongs"}},
      {"huge_fwd_d128", {"\"huge\" at position 1 is not the word sage"}},
      {"sage",
       {"it ends where a family of kernels: fwd, decode, kvappend, kvgather, kvstats, meanscores, "
        "merge, quantrows, quantv belongs"}},
      {"sage_", {"it ends where a family of kernels: fwd"}},
      {with("fwd", "bwd"), {"\"bwd\" at position 6 is not", "fwd, decode, kvappend"}},
      {"sage_fwd", {"it ends where d<head_dim>"}},
      {"sage_fwd__sm89", {"\"sm89\" at position 11 is not d<head_dim>"}},
      {with("d128", "128"), {"\"128\" at position 10 is not d<head_dim>, for example d128"}},
      {with("d128", "d0128"), {"\"d0128\" at position 10"}},
      {with("d128", "d-128"), {"\"d-128\""}},
      {with("d128", "d1000000"), {"\"d1000000\""}},
      {with("d128", "d128x"), {"\"d128x\""}},
      {with("_f16", "_half"), {"\"half\" at position 15 is not f16 or bf16 (io)"}},
      {with("qk_", "kq_"),
       {"\"kq_s8t\" at position 19 is not qk_s8, qk_s4, qk_f16 or qk_bf16 (qk)"}},
      {with("s8t", "s8"), {"in \"s8\" at position 22, t, b, r or a (granularity) belongs at 24"}},
      {with("s8t", "s8bt"), {"\"s8bt\""}},
      {with("g32x64", "g32y64"),
       {"in \"g32y64\" at position 26, x<k_group>, for example x64 belongs at 29"}},
      {with("g32x64", "g32x64x1"), {"\"g32x64x1\" at position 26"}},
      {with("smk", "smv"), {"\"smv\" at position 33 is not sm0, smk or smqk (smoothing)"}},
      {with("pv_", "vp_"), {"\"vp_e4m3\" at position 37 is not pv_f16, pv_bf16 or pv_e4m3 (pv)"}},
      {with("e4m3", "e5m2"), {"\"pv_e5m2\" at position 37"}},
      {with("f32x2", "f32x3"),
       {"\"f32x3\" at position 45 is not f32, f32x2 or f32f16 (accumulation)"}},
      {with("causal", "diagonal"),
       {"\"diagonal\" at position 51 is not \"__\", usual or finev (code_range), smv0 or smv "
        "(v_smoothing), rot0 or hadamard (rotation), own or given (inputs), out_io, out_e4m3 or "
        "out_s8 (out), packgqa (pack_gqa), varlen (varlen), causal (causal)"}},
      {with("__q", "_q"), {"\"q128k64w4s2\" at position 58 is not \"__\""}},
      {with("q128k64w4s2", "q128k64w4"),
       {"in \"q128k64w4\" at position 59, s<stages>, for example s2 belongs at 68"}},
      {with("q128k64w4s2", "q128k64w4s2s2"), {"\"q128k64w4s2s2\""}},
      {with("q128k64w4s2__", ""), {"\"sm89\" at position 59 is not q<cta_q>"}},
      {with("sm89", "sm77"),
       {"\"sm77\" at position 72 is not a target at the end: sm80, sm86, sm89, sm120"}},
      {with("sm89", "sm_89"), {"\"sm\" at position 72 is not a target"}},
      {with("__sm89", ""), {"it ends where a target at the end: sm80"}},
      {with("__sm89", "__"), {"it ends where a target at the end: sm80"}},
      {kGood + "_x", {"\"_x\" at position 76 follows the target"}},
      {kGood + "__sm89", {"\"__sm89\" at position 76 follows the target"}},
      {"sage_kvstats_d128_bf16_vmax_ksum__sm89", {"\"ksum\" at position 29", "vrange (v_range)"}},
      {"sage_kvstats_d128_f16_nothing__sm89",
       {"\"nothing\" at position 23 is not \"__\", ksum (k_sum), vmax (v_amax), vrange "
        "(v_range)"}},
      {"sage_quantrows_d128_f16_s8_r8_g64_rough__sm89", {"\"rough\"", "smooth (smooth), fold"}},
      {"sage_quantrows_d128_f16_s8_r8_64__sm89", {"\"64\"", "g<group>"}},
  };
  for (const Case& c : cases) {
    const std::string message = parse_error(c.text);
    INFO(c.text);
    CHECK_THAT(message, Contains("bad kernel key"));
    for (const std::string& part : c.parts) CHECK_THAT(message, Contains(part));
  }
}

TEST_CASE("an error message shows hostile text short and printable") {
  for (const std::string& text :
       {std::string(5000, '\x01'), kGood.substr(0, 10) + std::string(5000, '\x01'),
        "sage_fwd_d128_f16_qk_s8" + std::string(5000, '\x01'), kGood + std::string(5000, '\x01'),
        kGood + "_" + std::string(5000, '\x01')}) {
    const std::string message = parse_error(text);
    CHECK(message.size() < 500);
    CHECK(std::ranges::all_of(message, [](char c) { return c >= ' ' && c <= '~'; }));
  }
}

TEST_CASE("a key names the family's numbers too where rules refuse them") {
  const Kernel kernel = parse_key(with("d128", "d112"));
  CHECK(kernel.view(attention::family()).spec.head_dim == 112);
  CHECK_FALSE(kernel.violations().empty());
}

TEST_CASE("targets read back, and an unknown one lists what exists") {
  for (const TargetInfo& info : supported_targets()) {
    CHECK(to_string(info.target) == info.name);
    CHECK(parse_target(info.name) == info.target);
    CHECK(target_info(info.target).name == info.name);
    CHECK(find_target(info.target) == &target_info(info.target));
  }
  CHECK(to_string(Target{.sm = 90, .suffix = 'a'}) == "sm_90a");
  CHECK(find_target({.sm = 90, .suffix = 'a'}) == nullptr);
  CHECK_THROWS_WITH(parse_target("sm_77"),
                    "unknown target \"sm_77\"; compute capability 7.7 is too old: kernels need 8.0 "
                    "or later; use one of sm_80, sm_86, sm_89, sm_120");
  for (const char* word : {"sm89", "SM_89", "sm-89", "89", "8.9", "compute_89", "sm_89a"}) {
    CHECK_THROWS_WITH(parse_target(word), Contains("write sm_89 (targets: sm_80,"));
  }
  CHECK_THROWS_WITH(parse_target("sm_90"),
                    Contains("compute capability 9.0") && Contains("loads there; use sm_89"));
  CHECK_THROWS_WITH(parse_target("sm_90a"), Contains("use sm_89"));
  CHECK_THROWS_WITH(parse_target("sm_90a"),
                    Contains("the suffix a asks for what one architecture"));
  CHECK_THROWS_WITH(parse_target("sm_120f"), Contains("one family") && Contains("write sm_120"));
  CHECK_THROWS_WITH(parse_target("sm_75"), Contains("7.5 is too old") && Contains("8.0 or later"));
  CHECK_THROWS_WITH(parse_target("sm_87"), Contains("use sm_86"));
  CHECK_THROWS_WITH(parse_target("sm_121"), Contains("12.1") && Contains("use sm_120"));
  for (const char* word : {"", "amper", "sm_", "sm_99999999999", "sm_89x"}) {
    CHECK_THROWS_WITH(parse_target(word), Contains("; use one of sm_80"));
  }
  CHECK_THROWS_WITH(target_info({.sm = 90, .suffix = 'a'}), Contains("sm_90a is not supported"));
}

TEST_CASE("limits of the targets") {
  // CUDA C++ Programming Guide, technical specifications per compute capability.
  CHECK(target_info({.sm = 80}).smem_per_block == 166912);
  CHECK(target_info({.sm = 86}).smem_per_block == 101376);
  CHECK(target_info({.sm = 89}).smem_per_block == 101376);
  CHECK(target_info({.sm = 120}).smem_per_block == 101376);
  for (const TargetInfo& info : supported_targets()) {
    CHECK(info.smem_per_sm == info.smem_per_block + 1024);
    CHECK(info.has(Feature::fp8_mma) == (info.target.sm >= 89));
    CHECK(info.has(Feature::s4_mma) == (info.target.sm < 90));
  }
}

TEST_CASE("a schedule is chosen by its part of the key") {
  const Kernel kernel = parse_key(kGood);
  CHECK(kernel.with_schedule("q64k64w2s3").key() == with("q128k64w4s2", "q64k64w2s3"));
  CHECK(kernel.with_schedule("q64k64w2s3").with_usual_schedule() == kernel);
  for (const char* bad :
       {"", "q64", "q64k64w2s3x", "q64k64w2s3_", "q64_k64w2s3", "s2", "q-1k64w2s3"}) {
    INFO(bad);
    CHECK_THROWS_WITH(
        kernel.with_schedule(bad),
        Contains("is refused") && Contains("the usual schedule of this kernel is q128k64w4s2"));
  }
  CHECK_THROWS_WITH(kernel.with_schedule("q64k64w2"),
                    Contains("s<stages>, for example s2 belongs at position 9"));
  const Kernel values(quantize_values::family(), {}, Target{89});
  CHECK(values.with_schedule("") == values);
  CHECK_THROWS_WITH(values.with_schedule("q64"),
                    Contains("kernels of quantize_values have one schedule"));
}

TEST_CASE("a kernel from a text of options") {
  const auto key = [](const char* options, Target target = {89}) {
    return kernel_of_options(attention::family(), options, target).key();
  };
  CHECK(key("causal") == kGood);
  CHECK(key(" causal=true\t\n") == kGood);
  CHECK(key("causal=false head_dim=64 io=bf16") ==
        "sage_fwd_d64_bf16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89");
  CHECK(key("", {80}) == "sage_fwd_d128_f16_qk_s8t_g32x64_smk_pv_f16_f32__q128k64w4s2__sm80");
  // What is not named goes with what is: one scale per 128 rows, sums that FP16 P V needs.
  CHECK(key("granularity=per_block") ==
        "sage_fwd_d128_f16_qk_s8b_g128x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89");
  CHECK(key("pv=f16") == "sage_fwd_d128_f16_qk_s8t_g32x64_smk_pv_f16_f32__q128k64w4s1__sm89");
  CHECK(key("schedule=q64k64w2s3") ==
        "sage_fwd_d128_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q64k64w2s3__sm89");
  struct Case {
    const char *options, *part;
  };
  const Case cases[] = {
      {"headdim=64", "unknown option \"headdim\"; valid are head_dim, value_dim, io, qk,"},
      {"io", "option \"io\" is refused: write name=value, f16 or bf16"},
      {"half", "option \"half\" is refused: write name=value"},
      {"io=half", "io = \"half\" is refused: it must be f16 or bf16"},
      {"io=", "io = \"\" is refused"},
      {"head_dim=+64", "head_dim = \"+64\" is refused: it must be 32, 64, 72,"},
      {"head_dim=64.0", "head_dim = \"64.0\" is refused"},
      {"causal=1", "causal = \"1\" is refused: it must be false or true"},
      {"io=f16 io=f16", "option io stands twice in \"io=f16 io=f16\""},
      {"causal causal", "option causal stands twice"},
      {"schedule=q64k64w2s3 schedule=q64k64w2s3", "option schedule stands twice"},
      {"schedule=fast", "schedule \"fast\" is refused: q<cta_q>, for example q128 belongs at"},
      {"schedule=", "schedule \"\" is refused"},
  };
  for (const Case& c : cases) {
    INFO(c.options);
    CHECK_THROWS_AS(key(c.options), SpecError);
    CHECK_THROWS_WITH(key(c.options), Contains(c.part));
  }
  CHECK_THROWS_WITH(key("", {75}), Contains("sm_75 is not supported"));
  // The form only, as with keys.
  CHECK_FALSE(kernel_of_options(attention::family(), "head_dim=112", {89}).violations().empty());
}

TEST_CASE("targets that are called by architecture or GPU") {
  const std::pair<const char*, const char*> cases[] = {
      {"ada", "write sm_89"},
      {"rtx4090", "write sm_89"},
      {"GeForce RTX 4070 Ti", "write sm_89"},
      {"4090", "write sm_89"},
      {"L40S", "write sm_89"},
      {"a100", "write sm_80"},
      {"ampere", "write sm_80"},
      {"RTX 3090", "write sm_86"},
      {"RTX A6000", "write sm_86"},
      {"RTX 6000 Ada", "write sm_89"},
      {"a10", "write sm_86"},
      {"rtx5090", "write sm_120"},
      {"blackwell", "write sm_120"},
      {"hopper", "9.0 alone"},
      {"H100", "9.0 alone"},
      {"b200", "10.0 alone"},
      {"T4", "7.5 is too old"},
      {"sn_89", "did you mean sm_89?"},
  };
  for (const auto& [word, advice] : cases) {
    INFO(word);
    CHECK_THROWS_WITH(parse_target(word), Contains(advice));
  }
  CHECK_THROWS_WITH(parse_target("teapot"),
                    !Contains("did you mean") && Contains("use one of sm_80"));
}

TEST_CASE("the nearest word") {
  const std::vector<std::string> words{"int8", "int4", "int8-fp8", "16bit"};
  CHECK(nearest_word("int8fp8", words) == "int8-fp8");
  CHECK(nearest_word("itn8", words) == "int8");  // swapped
  CHECK(nearest_word("INT4", words) == "int4");
  CHECK(nearest_word("16-bit", words) == "16bit");
  CHECK(nearest_word("", words).empty());
  CHECK(nearest_word("frobnicate", words).empty());
  CHECK(nearest_word("int8-fp16", words, 1).empty());
  CHECK(nearest_word(std::string(100000, 'i'), words).empty());
  CHECK(suggestion("int3", words) == "; did you mean int8?");
  CHECK(suggestion("frobnicate", words).empty());
}

TEST_CASE("what is near is suggested, in keys and option texts") {
  const std::pair<std::string, const char*> keys[] = {
      {with("e4m3", "e4m4"), "did you mean pv_e4m3?"},
      {with("fwd", "fdw"), "did you mean fwd?"},
      {with("sage", "sgae"), "did you mean sage?"},
      {with("__q", "_causl__q"), "did you mean causal?"},
      {with("sm89", "sm_89"), "did you mean sm89?"},
  };
  for (const auto& [text, part] : keys) {
    INFO(text);
    CHECK_THROWS_WITH(parse_key(text), Contains(part));
  }
  const std::pair<const char*, const char*> options[] = {
      {"headdim=64", "did you mean head_dim?"},
      {"pv=e4m4", "did you mean e4m3?"},
      {"causl", "did you mean causal?"},
      {"shedule=q64k64w2s3", "did you mean schedule?"},
  };
  for (const auto& [text, part] : options) {
    INFO(text);
    CHECK_THROWS_WITH(kernel_of_options(attention::family(), text, {89}), Contains(part));
  }
  CHECK_THROWS_WITH(builtin_families().of_title("atention"), Contains("did you mean attention?"));
}

TEST_CASE("families are found by title, and a kernel tells whose it is") {
  CHECK(&builtin_families().of_title("attention") == &attention::family());
  CHECK(builtin_families().find_title("fwd") == nullptr);
  CHECK(builtin_families().find_word("sage", "fwd") == &attention::family());
  CHECK(builtin_families().find_word("acme", "fwd") == nullptr);
  CHECK_THROWS_WITH(
      builtin_families().of_title("attentoin"),
      "unknown family \"attentoin\"; there are attention, decode, kv_append, kv_gather, "
      "kv_statistics, mean_scores, merge_partials, quantize_rows, quantize_values; did you mean "
      "attention?");
  const Kernel kernel = parse_key(kGood);
  CHECK(&kernel.family() == &attention::family());
  CHECK_THROWS_AS(kernel.view(quantize_rows::family()), InternalError);
}
