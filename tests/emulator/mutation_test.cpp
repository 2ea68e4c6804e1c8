// The emulator's own acceptance test: the emitted attention and quantization kernels, each broken in one
// way that people break such kernels in, run through the whole plan. Every mutation must be caught: by a
// check, whose name the table states, or, where the broken kernel is a legal program that computes
// something else, by the bound of accuracy that users are promised, against fp64 and the model of the
// quantization. What the unbroken kernel computes is not asked.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sagegen/emit.h"
#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"
#include "templates/attention/params.h"
#include "templates/quantize_rows/params.h"
#include "templates/quantize_rows/spec.h"
#include "templates/quantize_values/params.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/params.h"
#include "tests/emulator/ptx_edit.h"
#include "tools/reference/reference.h"
#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/run_device.h"

namespace sagegen::runtime {
namespace {

using emulator::test::PtxEdit;
using Edit = std::function<void(PtxEdit&)>;

constexpr int kFirst = PtxEdit::kFirst;
constexpr int kLast = PtxEdit::kLast;
constexpr int kAll = PtxEdit::kAll;

// ---- one attention --------------------------------------------------------------------------------

// Ragged lengths with two query tiles and three key tiles, two query heads on one KV head.
constexpr reference::Shape kShape{
    .batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 150, .kv_len = 150, .head_dim = 64};

struct Case {
  EmulatorProfile profile = EmulatorProfile::sm_89;  // e4m3 PV; on sm_80 f16 PV
  std::string_view broken = "sage_fwd_";             // begins the key of the kernel that is
  bool causal = true;
  int head_dim = kShape.head_dim;
  std::string_view mode = {};  // empty: what is usual on the target
  bool pack_gqa = false;
  int value_dim = 0;
  attention::OutputFormat out = attention::OutputFormat::io;

  reference::Inputs inputs() const {  // biased K: without the mean of K, its codes are coarse
    static std::map<std::pair<int, int>, reference::Inputs> made;
    reference::Inputs& inputs = made[{head_dim, value_dim}];
    reference::Shape shape = kShape;
    shape.head_dim = head_dim;
    shape.value_dim = value_dim;
    if (inputs.q.data.empty())
      inputs = reference::generate("k_bias", shape, 7, reference::IoType::f16);
    return inputs;
  }
};

const Artifact& emitted(const sagegen::Kernel& kernel) {
  static std::map<std::string, Artifact> made;  // emission takes longer than a run
  Artifact& artifact = made[kernel.key()];
  if (artifact.code.empty()) artifact = emit(kernel);
  return artifact;
}

// What the kernels that quantize Q and K have in common but for their key.
constexpr std::string_view kQuantizeQKey = "sage_quantrows_d64_f16_s8_r8_";
constexpr std::string_view kQuantizeKKey = "sage_quantrows_d64_f16_s8_r4_";
constexpr int kPadded = 72;  // codes of Q and K end with padding, and so does a slice of P V
constexpr std::string_view kQuantizePaddedKKey = "sage_quantrows_d72_f16_s8_r4_";

// The plan with one kernel edited.
cli::AttentionJob make_job(const Case& c, const Edit& edit, Target target) {
  cli::AttentionJob job;
  job.inputs = c.inputs();
  job.inputs.causal = c.causal;
  job.spec = attention::usual_spec(target);
  for (const attention::Mode& mode : attention::modes())
    if (mode.name == c.mode) job.spec = attention::with_mode(job.spec, mode);
  job.spec.head_dim = c.head_dim;
  job.spec.value_dim = c.value_dim;
  job.spec.out = c.out;
  job.spec.causal = c.causal;
  if (c.pack_gqa) {
    job.spec.pack_gqa = true;
    if (attention::qk_is_quantized(job.spec)) job.spec.q_group = 16;
  }
  const sagegen::Kernel asked(attention::family(), job.spec, target);
  job.schedule = asked.view(attention::family()).schedule;
  job.source = [c, edit](const sagegen::Kernel& kernel) {
    Artifact artifact = emitted(kernel);
    if (!kernel.key().starts_with(c.broken) || !edit) return artifact;
    PtxEdit text(artifact.code);
    edit(text);
    artifact.code = text.text();
    return artifact;
  };
  return job;
}

cli::AttentionResult run(const Case& c, const Edit& edit, const EmulatorOptions& options) {
  const cli::RunDevice on = cli::open_run_device("emulator:" + to_string(c.profile), "", options);
  return cli::run_attention(make_job(c, edit, on.target), on);
}

// ---- the bound ------------------------------------------------------------------------------------

double mean_error(const std::vector<double>& exact, const std::vector<double>& got) {
  double sum = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) sum += std::fabs(exact[i] - got[i]);
  return sum / static_cast<double>(exact.size());
}

struct Judgement {
  double o = 0, o_limit = 0;      // relative L1
  double lse = 0, lse_limit = 0;  // mean error; see tests/numerics/accuracy_test.cpp
  bool within() const { return o <= o_limit && lse <= lse_limit; }  // NaN is not
  std::string text() const {
    return fmt::format("O {:.4f} of at most {:.4f}, LSE {:.4f} of at most {:.4f}", o, o_limit, lse,
                       lse_limit);
  }
};

Judgement judge(const Case& c, const cli::AttentionResult& result) {
  struct Expected {
    reference::Output exact, model;
    cli::AccuracyBound o_bound;
  };
  using Which =
      std::tuple<EmulatorProfile, bool, int, std::string_view, bool, int, attention::OutputFormat>;
  static std::map<Which, Expected> all;
  const auto [place, made] =
      all.try_emplace({c.profile, c.causal, c.head_dim, c.mode, c.pack_gqa, c.value_dim, c.out});
  Expected& expected = place->second;
  if (made) {
    const cli::RunDevice on = cli::open_run_device("emulator:" + to_string(c.profile), "", {});
    const cli::AttentionJob job = make_job(c, nullptr, on.target);
    expected = {.exact = reference::attention(job.inputs),
                .model = reference::model(job.inputs, cli::quant_model(job)),
                .o_bound = cli::accuracy_bound(job.spec, on.device.compute_capability())};
  }
  const auto& [exact, model, o_bound] = expected;
  const cli::AccuracyBound lse_bound{.factor = 1.02, .offset = 2e-4, .arithmetic = {}};
  return {.o = reference::compare(exact.o, result.o).relative_l1,
          .o_limit = o_bound.limit(reference::compare(exact.o, model.o).relative_l1),
          .lse = mean_error(exact.lse, result.lse),
          .lse_limit = lse_bound.limit(mean_error(exact.lse, model.lse))};
}

// ---- the table ------------------------------------------------------------------------------------

const char* const kBound = "accuracy bound";

struct Mutation {
  const char* name;
  Case where;
  std::set<std::string> caught_by;  // any of these checks, or kBound
  Edit edit;
};

constexpr Case kAttention89{EmulatorProfile::sm_89, "sage_fwd_"};
constexpr Case kAttention80{EmulatorProfile::sm_80, "sage_fwd_"};
constexpr Case kFullAttention89{EmulatorProfile::sm_89, "sage_fwd_", false};
constexpr Case kUnquantized80{.profile = EmulatorProfile::sm_80, .mode = "16bit"};
constexpr Case kUnquantized89{.profile = EmulatorProfile::sm_89, .mode = "bf16-fp8"};
constexpr Case kQuantizeK{EmulatorProfile::sm_89, kQuantizeKKey};
constexpr Case kQuantizeQ{EmulatorProfile::sm_89, kQuantizeQKey};
constexpr Case kQuantizeV{EmulatorProfile::sm_89, "sage_quantv_"};
constexpr Case kPaddedAttention89{EmulatorProfile::sm_89, "sage_fwd_", true, kPadded};
constexpr Case kPaddedAttention80{EmulatorProfile::sm_80, "sage_fwd_", true, kPadded};
constexpr Case kQuantizePaddedK{EmulatorProfile::sm_89, kQuantizePaddedKKey, true, kPadded};
constexpr Case kStatistics{EmulatorProfile::sm_89, "sage_kvstats_"};
constexpr Case kPackedAttention{.profile = EmulatorProfile::sm_89, .pack_gqa = true};
constexpr Case kPackedUnquantized{
    .profile = EmulatorProfile::sm_80, .mode = "16bit", .pack_gqa = true};
constexpr Case kPackedQueries{
    .profile = EmulatorProfile::sm_89, .broken = "sage_quantrows_d64_f16_s8_r8_", .pack_gqa = true};

constexpr Case kWiderValues{.profile = EmulatorProfile::sm_89, .value_dim = 96};
constexpr Case kNarrowValues{.profile = EmulatorProfile::sm_80, .value_dim = 32};
constexpr Case kQuantizeWiderV{
    .profile = EmulatorProfile::sm_89, .broken = "sage_quantv_", .value_dim = 96};
constexpr Case kOutS8{.profile = EmulatorProfile::sm_89, .out = attention::OutputFormat::s8};
constexpr Case kOutE4m3{.profile = EmulatorProfile::sm_89, .out = attention::OutputFormat::e4m3};
constexpr Case kPackedOut{
    .profile = EmulatorProfile::sm_89, .pack_gqa = true, .out = attention::OutputFormat::s8};

const char* const kCopy = R"(^\s*cp\.async\.cg)";
const char* const kWait = R"(cp\.async\.wait_group)";
const char* const kCommit = R"(cp\.async\.commit_group)";
const char* const kBarrier = R"(^\s*bar\.sync)";
const char* const kLdmatrix = R"(^\s*ldmatrix)";
const char* const kRowShuffle = R"(shfl\.sync\.bfly\.b32\s+(%r\d+), (%r\d+), 1, 31, -1;)";

// Byte of a member of a block.
template <typename Block, typename T>
std::size_t place(const ParamLayout& layout, T Block::*member) {
  return layout.offset<Block>() + member_offset(member);
}

// Heads for tokens, in the tensor at this place of the parameters.
void swap_strides(PtxEdit& t, std::size_t tensor) {
  const auto load = [](const std::string& at) {
    return fmt::format(R"((ld\.param\.b64\s+%rd\d+, \[[^\]]*\+){}\];)", at);
  };
  const std::string head = std::to_string(tensor + offsetof(TensorParam, stride_head)),
                    token = std::to_string(tensor + offsetof(TensorParam, stride_token));
  t.replace(load(head), "$01other];", kAll);
  t.replace(load(token), fmt::format("$01{}];", head), kAll);
  t.replace(load("other"), fmt::format("$01{}];", token), kAll);
}

const std::vector<Mutation>& mutations() {
  // Bytes of members in the parameters of the attention, and of the kernels that prepare its inputs.
  const ParamLayout attend =
      sagegen::Kernel(attention::family(), {.head_dim = 64, .causal = true}, Target{.sm = 89})
          .params();
  const ParamLayout quantize_k =
      sagegen::Kernel(quantize_rows::family(), {.smooth = true}, Target{.sm = 89}).params();
  const auto in_attention = [&](auto member) { return place(attend, member); };
  const auto in_quantize_k = [&](auto member) { return place(quantize_k, member); };
  const ParamLayout unquantized =
      sagegen::Kernel(attention::family(), attention::with_mode({}, attention::modes().back()),
                      Target{.sm = 80})
          .params();
  const std::string unit = fmt::format(R"(ld\.param\.b32(\s+%r\d+), \[.*\+{}\];)",
                                       place(unquantized, &attention::UnquantizedParams::unit));
  using Attend = attention::Params;
  using Rows = quantize_rows::Params;
  const auto packed_params = [](attention::Spec spec, int sm) {
    spec.pack_gqa = true;
    return sagegen::Kernel(attention::family(), spec, Target{.sm = sm}).params();
  };
  const ParamLayout packed = packed_params({.causal = true}, 89);
  attention::Spec causal = attention::with_mode({}, attention::modes().back());
  causal.causal = true;
  const ParamLayout packed_unquantized = packed_params(causal, 80);
  const ParamLayout packed_queries =
      sagegen::Kernel(quantize_rows::family(), {.fold = true, .pack_gqa = true}, Target{.sm = 89})
          .params();
  const ParamLayout quantize_v =
      sagegen::Kernel(quantize_values::family(), {}, Target{.sm = 89}).params();
  attention::Spec with_codes{.out = attention::OutputFormat::s8};
  with_codes.causal = true;
  const ParamLayout codes_of_o =
      sagegen::Kernel(attention::family(), with_codes, Target{.sm = 89}).params();
  const ParamLayout packed_codes_of_o = packed_params(with_codes, 89);
  const auto in_packed = [&](auto member) { return place(packed, member); };
  const auto in_packed_queries = [&](auto member) { return place(packed_queries, member); };
  static const std::vector<Mutation> table = {
      // ---- asynchronous copies ----
      {"all cp.async waits dropped",
       kAttention89,
       {"copy-in-flight"},
       [](PtxEdit& t) { t.drop(kWait, kAll); }},
      {"one cp.async wait dropped",
       kAttention89,
       {"copy-in-flight"},
       [](PtxEdit& t) { t.drop(kWait, kFirst); }},
      {"a wait leaves one group too many",
       kAttention89,
       {"copy-in-flight"},
       [](PtxEdit& t) { t.replace(R"(wait_group\s+0;)", "wait_group 1;", kFirst); }},
      {"all commits dropped",
       kAttention80,
       {"copy-in-flight"},
       [](PtxEdit& t) { t.drop(kCommit, kAll); }},
      {"a tile is not loaded",
       kAttention89,
       {"uninitialized"},
       [](PtxEdit& t) { t.drop(kCopy, kFirst); }},
      {"copies of 8 bytes instead of 16",
       kAttention89,
       {"uninitialized"},
       [](PtxEdit& t) { t.replace(R"(cp\.async\.cg(.*), 16;)", "cp.async.ca$1, 8;", kAll); }},
      {"copied to a misaligned address",
       kAttention89,
       {"misaligned"},
       [](PtxEdit& t) { t.replace(R"((cp\.async.*\[%r\d+)\])", "$1+4]", kFirst); }},

      // ---- barriers ----
      {"all barriers dropped",
       kAttention89,
       {"race", "copy-in-flight"},
       [](PtxEdit& t) { t.drop(kBarrier, kAll); }},
      {"all barriers dropped", kQuantizeK, {"race"}, [](PtxEdit& t) { t.drop(kBarrier, kAll); }},
      {"barrier in divergent code",
       kAttention89,
       {"divergent-collective"},
       [](PtxEdit& t) {
         t.declare_scratch();
         t.insert_before(kBarrier, "mov.u32 %mut_r0, %laneid;\nsetp.lt.u32 %mut_p0, %mut_r0, 7;");
         t.replace(kBarrier, "@%mut_p0 bar.sync");
       }},
      {"a warp misses a barrier",
       kAttention89,
       {"deadlock", "divergent-collective"},
       [](PtxEdit& t) {
         t.declare_scratch();
         t.insert_after(kBarrier,
                        "mov.u32 %mut_r0, %tid.x;\nsetp.lt.u32 %mut_p0, %mut_r0, 32;\n"
                        "@%mut_p0 bar.sync 1, 128;");
       }},
      {"waits for something that never comes",
       kStatistics,
       {"instruction-limit"},
       [](PtxEdit& t) {
         t.declare_scratch();
         t.insert_before(R"(^\s*ret;)",
                         "$MUT_SPIN:\nmov.u32 %mut_r0, %ntid.x;\n"
                         "setp.ne.u32 %mut_p0, %mut_r0, 0;\n@%mut_p0 bra $MUT_SPIN;");
       }},
      {"loop without an end",
       kQuantizeK,
       {"out-of-bounds", "instruction-limit"},
       [](PtxEdit& t) { t.never_leave_first_loop(); }},

      // ---- shared memory ----
      {"swizzle with or instead of xor",
       kAttention89,
       {kBound, "uninitialized", "race", "copy-in-flight"},
       [](PtxEdit& t) { t.replace(R"(xor\.b32(\s+%r\d+, %r\d+, %r\d+;))", "or.b32$1"); }},
      {"swizzle with the wrong constant",
       kAttention89,
       {kBound, "uninitialized", "race"},
       [](PtxEdit& t) { t.replace(R"(xor\.b32(\s+%r\d+, %r\d+), 1;)", "xor.b32$1, 2;"); }},
      {"the next tile is loaded over the current one",
       kAttention89,
       {"race", "copy-in-flight"},
       [](PtxEdit& t) { t.replace(R"(xor\.b32(\s+%r\d+, %r\d+), \d{4,};)", "or.b32$1, 0;"); }},
      {"every warp writes the same word",
       kAttention89,
       {"race"},
       [](PtxEdit& t) {
         t.declare_scratch();
         t.insert_before(R"(^\s*ret;)",
                         "mov.u32 %mut_r0, %tid.x;\nmov.b32 %mut_r1, shared_memory;\n"
                         "st.shared.b32 [%mut_r1], %mut_r0;");
       }},
      {"shared address past the end",
       kAttention89,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.replace(R"((ldmatrix.*\[%r\d+)(\+\d+)?\])", "$1+131072]", kLast); }},
      {"ldmatrix on a misaligned row",
       kAttention89,
       {"misaligned"},
       [](PtxEdit& t) { t.replace(R"((ldmatrix.*\[%r\d+)(\+\d+)?\])", "$1+8]", kFirst); }},

      // ---- registers and fragments ----
      {"accumulators are not set to zero",
       kAttention89,
       {"uninitialized"},
       [](PtxEdit& t) { t.drop(R"(mov\.b32\s+%r\d+, 0f00000000;)", kAll); }},
      {"ldmatrix registers in the wrong order",
       kAttention89,
       {kBound},
       [](PtxEdit& t) {
         t.replace(R"((ldmatrix.*\{)(%r\d+), (%r\d+), (%r\d+), (%r\d+)\})", "$1$2, $4, $3, $5}",
                   kLast);
       }},
      {"ldmatrix without .trans",
       kAttention80,
       {kBound},
       [](PtxEdit& t) { t.replace(R"((ldmatrix.*)\.trans)", "$1", kAll); }},
      {"mma with the halves of its B fragment swapped",
       kAttention89,
       {kBound},
       [](PtxEdit& t) { t.replace(R"(^\s*\{(%r\d+), (%r\d+)\},$)", "{$2, $1},", kFirst); }},
      {"conversion packs the pair in the wrong order",
       kAttention89,
       {kBound},
       [](PtxEdit& t) {
         t.replace(R"((cvt\.rn\.satfinite\.e4m3x2\.f32\s+%rs\d+), (%r\d+), (%r\d+);)",
                   "$1, $3, $2;", kAll);
       }},
      {"shuffle with the wrong lane",
       kAttention89,
       {kBound},
       [](PtxEdit& t) { t.replace(kRowShuffle, "shfl.sync.bfly.b32 $1, $2, 4, 31, -1;", kAll); }},
      {"shuffle whose mask leaves lanes out",
       kAttention89,
       {"divergent-collective"},
       [](PtxEdit& t) { t.replace(kRowShuffle, "shfl.sync.bfly.b32 $1, $2, 1, 31, 0x0000ffff;"); }},

      {"a step of the row reduction is left out",
       kAttention89,
       {kBound},
       [](PtxEdit& t) { t.replace(kRowShuffle, "mov.b32 $1, $2;", kAll); }},
      {"exponentials without the row maximum",
       kAttention89,
       {kBound},
       [](PtxEdit& t) {
         t.replace(R"(neg\.f32(\s+%r\d+), %r\d+;)", "mov.b32$1, 0f00000000;", kAll);
       }},

      {"maxima stay, however far scores are above them",
       kAttention80,
       {kBound},
       [](PtxEdit& t) {
         t.replace(R"(vote\.sync\.any\.pred\s+(%p\d+), (%p\d+), -1;)", "xor.pred $1, $2, $2;",
                   kAll);
       }},

      // ---- bounds, masks and indices ----
      {"a condition is inverted",
       kAttention89,
       {kBound, "uninitialized", "out-of-bounds", "race"},
       [](PtxEdit& t) { t.replace(R"(@(%p\d+) bra)", "@!$1 bra", kLast); }},
      {"causal mask one key too far",
       kAttention89,
       {kBound},
       [at = in_attention(&attention::causal::Params::offset)](PtxEdit& t) {
         t.shift_parameter(at, 1);
       }},
      {"causal mask dropped",
       kAttention89,
       {kBound},
       [at = in_attention(&attention::causal::Params::offset)](PtxEdit& t) {
         t.shift_parameter(at, 100000);
       }},
      {"key bound one key too far",
       kFullAttention89,
       {kBound},
       [at = in_attention(&Attend::kv_len)](PtxEdit& t) { t.shift_parameter(at, 1); }},
      {"query bound one row too far",
       kAttention89,
       {"out-of-bounds"},
       [at = in_attention(&Attend::q_len)](PtxEdit& t) { t.shift_parameter(at, 1); }},
      {"K scale of the next group",
       kAttention89,
       {kBound, "uninitialized"},
       [at = in_attention(&Attend::k_scale)](PtxEdit& t) { t.shift_parameter(at, 16); }},
      {"Q scale of the next group",
       kAttention89,
       {kBound, "out-of-bounds"},
       [at = in_attention(&Attend::q_scale)](PtxEdit& t) { t.shift_parameter(at, 32); }},
      {"V scale of the next channel",
       kAttention89,
       {kBound, "out-of-bounds"},
       [at = in_attention(&Attend::v_scale)](PtxEdit& t) { t.shift_parameter(at, 4); }},
      {"K codes one row off",
       kAttention89,
       {kBound, "uninitialized"},
       [at = in_attention(&Attend::k_codes)](PtxEdit& t) {
         t.shift_parameter(at, kShape.head_dim);
       }},
      {"LSE without the sum of the row",
       kAttention89,
       {kBound},
       [](PtxEdit& t) { t.replace(R"(lg2\.approx\S*(\s+%r\d+), %r\d+;)", "mov.b32$1, 0;", kAll); }},
      {"LSE with the K mean's part of the next row",
       kAttention89,
       {kBound},
       [at = in_attention(&attention::SmoothingParams::lse_correction)](PtxEdit& t) {
         t.shift_parameter(at, 4);
       }},
      {"clamp of a chunk to the last key dropped",
       kStatistics,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.replace(R"(min\.s32(\s+%r\d+, %r\d+), %r\d+;)", "mov.b32$1;", kAll); }},
      {"clamps of tiles to the last key dropped",
       kAttention89,
       {kBound, "out-of-bounds", "uninitialized"},
       [](PtxEdit& t) { t.replace(R"(min\.s32(\s+%r\d+, %r\d+), %r\d+;)", "mov.b32$1;", kAll); }},
      {"misaligned codes",
       kAttention89,
       {"misaligned"},
       [at = in_attention(&Attend::k_codes)](PtxEdit& t) { t.shift_parameter(at, 4); }},

      // ---- quantization kernels ----
      {"K bound one row too far",
       kQuantizeK,
       {"out-of-bounds"},
       [at = in_quantize_k(&Rows::len)](PtxEdit& t) { t.shift_parameter(at, 1); }},
      {"Q bound one row too far",
       kQuantizeQ,
       {"out-of-bounds"},
       [at = in_quantize_k(&Rows::len)](PtxEdit& t) { t.shift_parameter(at, 1); }},
      {"V bound one row too far",
       kQuantizeV,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(quantize_values::Params, kv_len), 1); }},

      // ---- Q and K that are not quantized ----
      {"rows behind the end are copied instead of filled with zero",
       kUnquantized80,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.replace(R"((cp\.async.*), 16, %r\d+;)", "$1, 16;", kAll); }},
      {"rows behind the end are copied instead of filled with zero",
       kUnquantized89,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.replace(R"((cp\.async.*), 16, %r\d+;)", "$1, 16;", kAll); }},
      {"scores are not scaled",
       kUnquantized80,
       {kBound},
       [unit](PtxEdit& t) { t.replace(unit, "mov.b32$1, 0f3F800000;"); }},
      {"scores are not scaled",
       kUnquantized89,
       {kBound},
       [unit](PtxEdit& t) { t.replace(unit, "mov.b32$1, 0f3F800000;"); }},
      {"rows of K lie one element too far apart",
       kUnquantized80,
       {"misaligned"},
       [at = place(unquantized, &attention::UnquantizedParams::k) +
             offsetof(TensorParam, stride_token)](PtxEdit& t) { t.shift_parameter(at, 1); }},
      {"Q K^T with the halves of a B fragment swapped",
       kUnquantized80,
       {kBound},
       [](PtxEdit& t) { t.replace(R"(^\s*\{(%r\d+), (%r\d+)\},$)", "{$2, $1},", kFirst); }},

      {"codes are not stored",
       kQuantizeK,
       {"uninitialized"},
       [](PtxEdit& t) { t.drop(R"(^\s*st\.global)", kLast); }},
      {"scales are not stored",
       kQuantizeQ,
       {"uninitialized"},
       [](PtxEdit& t) { t.drop(R"(^\s*st\.global\.b32)", kAll); }},
      {"codes are not stored",
       kQuantizeV,
       {"uninitialized"},
       [](PtxEdit& t) { t.drop(R"(^\s*st\.global)", kAll); }},
      {"rows behind the end are copied instead of filled with zero",
       kQuantizeV,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.replace(R"((cp\.async.*), 16, %r\d+;)", "$1, 16;", kAll); }},
      {"scales are stored in the next slot",
       kQuantizeK,
       {"uninitialized"},
       [at = in_quantize_k(&Rows::scale)](PtxEdit& t) { t.shift_parameter(at, 16); }},
      {"every block writes the rows of the first",
       kQuantizeQ,
       {"race", "uninitialized"},
       [](PtxEdit& t) { t.replace(R"(mov\.u32(\s+%r\d+), %ctaid\.x;)", "mov.u32$1, 0;", kAll); }},
      {"K mean added instead of subtracted",
       kQuantizeK,
       {kBound},
       [](PtxEdit& t) { t.replace(R"(sub\.rn\.f32)", "add.rn.f32", kAll); }},
      {"one chunk of the K mean is left out",
       kQuantizeK,
       {kBound},
       [at = in_quantize_k(&quantize_rows::SmoothParams::chunks)](PtxEdit& t) {
         t.shift_parameter(at, -1);
       }},
      // ---- padding of channels: 72 to 96 in Q and K, to 80 in V ----
      {"the padding of codes is not stored",
       kQuantizePaddedK,
       {"uninitialized"},
       [](PtxEdit& t) {
         t.replace(R"(setp\.gt(\.s32\s+%p\d+, %r\d+), 95;)", "setp.gt$1, 71;", kAll);
       }},
      {"lanes of the padding load what lies behind a row",
       kQuantizePaddedK,
       {"out-of-bounds", "uninitialized"},
       [](PtxEdit& t) {
         t.replace(R"(setp\.gt(\.s32\s+%p\d+, %r\d+), 71;)", "setp.gt$1, 95;", kAll);
       }},
      {"chunks that a row of V lacks are copied instead of filled with zero",
       kPaddedAttention80,
       {"out-of-bounds"},
       [](PtxEdit& t) {
         t.replace(R"(selp\.b32(\s+%r\d+), 16, 0, %p\d+;)", "mov.b32$1, 16;", kAll);
       }},
      {"the last pass of a copy goes past the tile",
       kPaddedAttention89,
       {"out-of-bounds", "race", "uninitialized", "copy-in-flight"},
       [](PtxEdit& t) {
         t.replace(R"(setp\.gt(\.\w32\s+%p\d+, %r\d+), 63;)", "setp.gt$1, 255;", kAll);
       }},
      // ---- rows of several heads ----
      {"query and head of a row of O are swapped",
       kPackedAttention,
       {kBound, "out-of-bounds"},
       [at = in_packed(&Attend::o)](PtxEdit& t) { swap_strides(t, at); }},
      {"query and head of a row of Q are swapped",
       kPackedQueries,
       {kBound, "out-of-bounds"},
       [at = in_packed_queries(&Rows::rows)](PtxEdit& t) { swap_strides(t, at); }},
      {"query and head of a row of Q are swapped",
       kPackedUnquantized,
       {kBound, "out-of-bounds"},
       [at = place(packed_unquantized, &attention::UnquantizedParams::q)](PtxEdit& t) {
         swap_strides(t, at);
       }},
      {"one head more than there are",
       kPackedAttention,
       {kBound, "out-of-bounds"},
       [at = in_packed(&PackParams::heads)](PtxEdit& t) { t.shift_parameter(at, 1); }},
      {"one head less than there are",
       kPackedQueries,
       {kBound, "out-of-bounds"},
       [at = in_packed_queries(&PackParams::heads)](PtxEdit& t) { t.shift_parameter(at, -1); }},
      {"one head more than there are",
       kPackedUnquantized,
       {kBound, "out-of-bounds"},
       [at = place(packed_unquantized, &PackParams::heads)](PtxEdit& t) {
         t.shift_parameter(at, 1);
       }},
      {"queries have twice as many heads",
       kPackedAttention,
       {kBound, "out-of-bounds"},
       [at = in_packed(&PackParams::shift)](PtxEdit& t) { t.shift_parameter(at, 1); }},
      {"queries have half as many heads",
       kPackedAttention,
       {kBound, "out-of-bounds"},
       [at = in_packed(&PackParams::shift)](PtxEdit& t) { t.shift_parameter(at, -1); }},
      {"amax without the absolute value",
       kQuantizeQ,
       {kBound},
       [](PtxEdit& t) { t.replace(R"(abs\.f32)", "mov.b32", kAll); }},
      // ---- V and O of channels of their own number ----
      {"rows of O as long as those of K",
       kWiderValues,
       {kBound, "out-of-bounds", "race"},
       [at = in_attention(&Attend::o) + offsetof(TensorParam, stride_token)](PtxEdit& t) {
         t.shift_parameter(at, 64 - 96);
       }},
      {"rows of V as long as those of K",
       kQuantizeWiderV,
       {kBound},
       [at = place(quantize_v, &quantize_values::Params::v) +
             offsetof(TensorParam, stride_token)](PtxEdit& t) { t.shift_parameter(at, 64 - 96); }},
      {"scales of V of the channel before",
       kWiderValues,
       {kBound, "out-of-bounds", "uninitialized"},
       [at = in_attention(&Attend::v_scale)](PtxEdit& t) { t.shift_parameter(at, -4); }},
      {"rows of O as long as those of K",
       kNarrowValues,
       {kBound, "out-of-bounds"},
       [at = in_attention(&Attend::o) + offsetof(TensorParam, stride_token)](PtxEdit& t) {
         t.shift_parameter(at, 64 - 32);
       }},
      // ---- codes of O ----
      {"strides of O count elements of two bytes",
       kOutS8,
       {kBound, "out-of-bounds", "race"},
       [at = in_attention(&Attend::o) + offsetof(TensorParam, stride_token)](PtxEdit& t) {
         t.shift_parameter(at, kShape.head_dim);
       }},
      {"the scale of the row behind",
       kOutS8,
       {kBound, "out-of-bounds"},
       [at = place(codes_of_o, &attention::OutputCodeParams::scale)](PtxEdit& t) {
         t.shift_parameter(at, 4);
       }},
      {"the largest of a lane's channels, not of the row's",
       kOutS8,
       {kBound},
       [](PtxEdit& t) { t.replace(kRowShuffle, "mov.b32 $1, $2;", kLast); }},
      {"a factor of O from the word behind",
       kOutE4m3,
       {kBound, "out-of-bounds"},
       [at = place(codes_of_o, &attention::OutputCodeParams::scale)](PtxEdit& t) {
         t.shift_parameter(at, 4);
       }},
      {"query and head of a row of codes are swapped",
       kPackedOut,
       {kBound, "out-of-bounds"},
       [at = in_packed(&Attend::o)](PtxEdit& t) { swap_strides(t, at); }},
      {"scales of rows of one head more than there are",
       kPackedOut,
       {kBound, "out-of-bounds"},
       [at = place(packed_codes_of_o, &PackParams::heads)](PtxEdit& t) {
         t.shift_parameter(at, 1);
       }},
  };
  return table;
}

std::string kind_of(const Case& c) {
  return std::string(c.broken) + std::string(c.mode) + (c.pack_gqa ? "packed" : "") +
         (c.value_dim != 0 ? " value_dim" : "") +
         (c.out != attention::OutputFormat::io ? " codes" : "") + " on " + to_string(c.profile);
}

// ---- the tests ------------------------------------------------------------------------------------

TEST_CASE("the unmutated kernels are clean, within the bound and the same under every policy") {
  for (const Case& c :
       {kAttention80, kAttention89, kFullAttention89, kPaddedAttention80, kPaddedAttention89,
        kUnquantized80, kUnquantized89, kPackedAttention, kPackedUnquantized, kWiderValues,
        kNarrowValues, kOutS8, kOutE4m3, kPackedOut}) {
    const cli::AttentionResult expected = run(c, nullptr, {});
    CHECK(expected.findings.empty());
    REQUIRE_FALSE(expected.o.empty());
    const Judgement judgement = judge(c, expected);
    INFO(judgement.text());
    CHECK(judgement.within());
    for (const SchedulePolicy schedule :
         {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
      for (const AsyncPolicy async : {AsyncPolicy::late, AsyncPolicy::eager, AsyncPolicy::random}) {
        const cli::AttentionResult got =
            run(c, nullptr, {.schedule = schedule, .async = async, .seed = 11});
        CHECK(got.findings.empty());
        CHECK(got.o == expected.o);
        CHECK(got.lse == expected.lse);
      }
    }
  }
}

TEST_CASE("every mutation is caught") {
  std::set<std::string> kinds;
  for (const Mutation& mutation : mutations()) {
    INFO(mutation.name << ", " << kind_of(mutation.where));
    const cli::AttentionResult result = run(mutation.where, mutation.edit, {});
    std::string caught = "nothing";
    std::string detail;
    if (!result.findings.empty()) {
      caught = result.findings[0].check;
      detail = result.findings[0].message;
    } else {
      const Judgement judgement = judge(mutation.where, result);
      detail = judgement.text();
      if (!judgement.within()) caught = kBound;
    }
    std::printf("%-48s %-24s %-22s %.110s\n", mutation.name, kind_of(mutation.where).c_str(),
                caught.c_str(), detail.c_str());
    INFO("caught by " << caught << ": " << detail);
    CHECK(mutation.caught_by.contains(caught));
    kinds.insert(mutation.name);
  }
  CHECK(kinds.size() >= 15);
}

// No kernel of ours exchanges data between the lanes of a warp through memory without a barrier of the block.
// This one does: an inclusive scan of 32 words.
constexpr const char* kScan = R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry scan(.param .align 8 .b8 words[8])
{
  .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<3>;
  .shared .align 4 .b8 s[128];
  ld.param.u64 %rd1, [words]; mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;
  ld.global.u32 %r2, [%rd1];
  mov.u32 %r3, s; shl.b32 %r4, %r1, 2; add.s32 %r4, %r3, %r4;
  mov.u32 %r5, 1;
$step:
  st.shared.u32 [%r4], %r2;
  bar.warp.sync 0xffffffff;
  sub.s32 %r6, %r1, %r5;
  max.s32 %r7, %r6, 0;
  shl.b32 %r7, %r7, 2; add.s32 %r7, %r3, %r7;
  ld.shared.u32 %r8, [%r7];
  setp.ge.s32 %p1, %r6, 0;
  @%p1 add.u32 %r2, %r2, %r8;
  bar.warp.sync 0xffffffff;
  shl.b32 %r5, %r5, 1;
  setp.lt.u32 %p2, %r5, 32;
  @%p2 bra $step;
  st.global.u32 [%rd1], %r2;
  ret;
}
)";

// The check that catches the edited scan; empty if its sums are right.
std::string run_scan(const Edit& edit) {
  PtxEdit text(kScan);
  if (edit) edit(text);
  const auto driver = make_emulator();
  check(*driver, driver->init(), "cuInit");
  const Device device(driver, static_cast<int>(EmulatorProfile::sm_80));
  const runtime::Kernel kernel(device, text.text(), "scan", 32, 0, sizeof(DevicePtr));
  Buffer words(device, 32 * sizeof(std::uint32_t));
  std::vector<std::uint32_t> sums(32, 3);
  words.upload(std::as_bytes(std::span(sums)));
  try {
    kernel.launch({}, words.data(), nullptr);
  } catch (const DriverError&) {
    const std::vector<Finding> findings = driver->findings();
    REQUIRE_FALSE(findings.empty());
    UNSCOPED_INFO(findings[0].message);
    return findings[0].check;
  }
  words.download(std::as_writable_bytes(std::span(sums)));
  for (std::uint32_t i = 0; i < 32; ++i) CHECK(sums[i] == 3 * (i + 1));
  return "";
}

TEST_CASE("a guest kernel that lacks a warp barrier or its clamp is caught") {
  const char* const barrier = R"(^\s*bar\.warp\.sync.*)";
  CHECK(run_scan(nullptr) == "");
  CHECK(run_scan([&](PtxEdit& t) { t.drop(barrier, kFirst); }) == "race");
  CHECK(run_scan([&](PtxEdit& t) { t.drop(barrier, kLast); }) == "race");
  CHECK(run_scan([&](PtxEdit& t) { t.drop(barrier, kAll); }) == "race");
  CHECK(run_scan([&](PtxEdit& t) { t.replace(barrier, "bar.warp.sync 0x0000ffff;", kFirst); }) ==
        "divergent-collective");  // the upper lanes are no members
  CHECK(run_scan([](PtxEdit& t) { t.replace(R"(max\.s32(.*), 0;)", "mov.b32$1;"); }) ==
        "out-of-bounds");
}

TEST_CASE("a mutation that finds no place is an error, not a pass") {
  PtxEdit edit("mov.b32 %r1, 0;\n");
  CHECK_THROWS(edit.drop("bar.sync"));
  CHECK_THROWS(edit.drop("mov", 1));
  CHECK_THROWS(edit.replace("mov", "mov"));
  CHECK_THROWS(edit.shift_parameter(8, 1));
  CHECK_NOTHROW(edit.drop("mov", kLast));
  CHECK(edit.text() == "// dropped: mov.b32 %r1, 0;\n");
}

}  // namespace
}  // namespace sagegen::runtime
