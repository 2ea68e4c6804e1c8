// The emulator's own acceptance test: the emitted attention and quantization kernels, each broken in one
// way that people break such kernels in, run through the whole plan. Every mutation must be caught: by a
// check, whose name the table states, or, where the broken kernel is a legal program that computes
// something else, by the result.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "runtime/emulator/numerics/numerics.h"
#include "sagegen/abi.h"
#include "sagegen/emit.h"
#include "sagegen/runtime/attention.h"
#include "sagegen/runtime/emulator.h"
#include "tests/driver/buffers.h"
#include "tests/emulator/ptx_edit.h"
#include "tools/reference/reference.h"

namespace sagegen::runtime {
namespace {

using emulator::test::PtxEdit;
using Edit = std::function<void(PtxEdit&)>;

constexpr int kFirst = PtxEdit::kFirst;
constexpr int kLast = PtxEdit::kLast;
constexpr int kAll = PtxEdit::kAll;

// ---- one attention --------------------------------------------------------------------------------

// Ragged lengths with two query tiles and three key tiles, causal, two query heads on one KV head.
constexpr reference::Shape kShape{
    .batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 150, .kv_len = 150, .head_dim = 64};

struct Case {
  EmulatorProfile profile = EmulatorProfile::sm_89;  // e4m3 PV; on sm_80 f16 PV
  KernelKind kind = KernelKind::attention;           // the kernel that is broken
};

struct Outcome {
  std::vector<double> values;  // O and LSE; empty if a launch failed
  std::vector<Finding> findings;
};

std::vector<std::uint16_t> to_f16(const reference::Tensor& tensor) {
  std::vector<std::uint16_t> bits;
  for (const float value : tensor.data) bits.push_back(emulator::f32_to_f16(value));
  return bits;
}

const std::string& emitted(const KernelSpec& spec) {
  static std::map<std::string, std::string> texts;  // emission takes longer than a run
  std::string& text = texts[key(spec)];
  if (text.empty()) text = emit(spec).ptx;
  return text;
}

// Runs the plan with one kernel edited. Fresh memory each time: what no kernel wrote is undefined.
Outcome run(const Case& c, const Edit& edit, const EmulatorOptions& options) {
  const auto driver = make_emulator(options);
  const Device device(driver, static_cast<int>(c.profile));
  const Target target = best_target(device.compute_capability());
  const AttentionProblem problem{
      .head_dim = kShape.head_dim, .io = DType::f16, .mask = Mask::causal};
  const QuantSpec quant = default_quant(target);
  Outcome outcome;
  const Attention attention(device, problem, quant, default_schedule(problem, quant, target),
                            target, [&](const KernelSpec& spec) {
                              if (spec.kind != c.kind || !edit) return emitted(spec);
                              PtxEdit text(emitted(spec));
                              edit(text);
                              return text.text();
                            });
  static const reference::Inputs inputs =
      reference::generate("normal", kShape, 7, reference::IoType::f16);
  const int d = kShape.head_dim;
  const Buffer q = upload(device, to_f16(inputs.q));
  const Buffer k = upload(device, to_f16(inputs.k));
  const Buffer v = upload(device, to_f16(inputs.v));
  const Buffer o(device, q.bytes());
  const Buffer lse(device, static_cast<std::size_t>(kShape.q_heads * kShape.q_len) * 4);
  const AttentionShape shape{.batch = kShape.batch,
                             .q_heads = kShape.q_heads,
                             .kv_heads = kShape.kv_heads,
                             .q_len = kShape.q_len,
                             .kv_len = kShape.kv_len};
  const std::size_t bytes = attention.workspace_bytes(shape);
  const Buffer workspace(device, bytes);
  AttentionArguments arguments;
  arguments.q = hnd(q.data(), kShape.q_heads, kShape.q_len, d);
  arguments.k = hnd(k.data(), kShape.kv_heads, kShape.kv_len, d);
  arguments.v = hnd(v.data(), kShape.kv_heads, kShape.kv_len, d);
  arguments.o = hnd(o.data(), kShape.q_heads, kShape.q_len, d);
  arguments.lse = lse.data();
  try {
    attention.run(shape, arguments, workspace.data(), bytes, nullptr);
    for (const std::uint16_t bits : download<std::uint16_t>(o)) {
      outcome.values.push_back(static_cast<double>(emulator::f16_to_f32(bits)));
    }
    for (const float value : download<float>(lse)) outcome.values.push_back(value);
  } catch (const DriverError&) {
    outcome.values.clear();
  }
  outcome.findings = driver->findings();
  return outcome;
}

// ---- the table ------------------------------------------------------------------------------------

const char* const kNumerics = "numerics";

struct Mutation {
  const char* name;
  Case where;
  std::set<std::string> caught_by;  // any of these checks, or kNumerics
  Edit edit;
  AsyncPolicy async = AsyncPolicy::late;
};

constexpr Case kAttention89{EmulatorProfile::sm_89, KernelKind::attention};
constexpr Case kAttention80{EmulatorProfile::sm_80, KernelKind::attention};
constexpr Case kQuantizeK{EmulatorProfile::sm_89, KernelKind::quantize_k};
constexpr Case kQuantizeQ{EmulatorProfile::sm_89, KernelKind::quantize_q};
constexpr Case kQuantizeV{EmulatorProfile::sm_89, KernelKind::quantize_v};
constexpr Case kStatistics{EmulatorProfile::sm_89, KernelKind::kv_statistics};

const char* const kCopy = R"(^\s*cp\.async\.cg)";
const char* const kWait = R"(cp\.async\.wait_group)";
const char* const kCommit = R"(cp\.async\.commit_group)";
const char* const kBarrier = R"(^\s*bar\.sync)";
const char* const kLdmatrix = R"(^\s*ldmatrix)";
const char* const kRowShuffle = R"(shfl\.sync\.bfly\.b32\s+(%r\d+), (%r\d+), 1, 31, -1;)";

const std::vector<Mutation>& mutations() {
  using abi::AttentionParams;
  using abi::QuantizeKParams;
  using abi::QuantizeQParams;
  using abi::QuantizeVParams;
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
      {"first commit dropped",
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
       {kNumerics, "uninitialized", "race", "copy-in-flight"},
       [](PtxEdit& t) { t.replace(R"(xor\.b32(\s+%r\d+, %r\d+, %r\d+;))", "or.b32$1"); }},
      {"swizzle with the wrong constant",
       kAttention89,
       {kNumerics, "uninitialized", "race"},
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
       {kNumerics},
       [](PtxEdit& t) {
         t.replace(R"((ldmatrix.*\{)(%r\d+), (%r\d+), (%r\d+), (%r\d+)\})", "$1$2, $4, $3, $5}",
                   kLast);
       }},
      {"ldmatrix without .trans",
       kAttention80,
       {kNumerics},
       [](PtxEdit& t) { t.replace(R"((ldmatrix.*)\.trans)", "$1", kAll); }},
      {"mma with the halves of its B fragment swapped",
       kAttention89,
       {kNumerics},
       [](PtxEdit& t) { t.replace(R"(^\s*\{(%r\d+), (%r\d+)\},$)", "{$2, $1},", kFirst); }},
      {"conversion packs the pair in the wrong order",
       kAttention89,
       {kNumerics},
       [](PtxEdit& t) {
         t.replace(R"((cvt\.rn\.satfinite\.e4m3x2\.f32\s+%rs\d+), (%r\d+), (%r\d+);)",
                   "$1, $3, $2;", kAll);
       }},
      {"shuffle with the wrong lane",
       kAttention89,
       {kNumerics},
       [](PtxEdit& t) { t.replace(kRowShuffle, "shfl.sync.bfly.b32 $1, $2, 4, 31, -1;", kAll); }},
      {"shuffle whose mask leaves lanes out",
       kAttention89,
       {"divergent-collective"},
       [](PtxEdit& t) { t.replace(kRowShuffle, "shfl.sync.bfly.b32 $1, $2, 1, 31, 0x0000ffff;"); }},

      {"a step of the row reduction is left out",
       kAttention89,
       {kNumerics},
       [](PtxEdit& t) { t.replace(kRowShuffle, "mov.b32 $1, $2;", kAll); }},
      {"exponentials without the row maximum",
       kAttention89,
       {kNumerics},
       [](PtxEdit& t) {
         t.replace(R"(neg\.f32(\s+%r\d+), %r\d+;)", "mov.b32$1, 0f00000000;", kAll);
       }},

      // ---- bounds, masks and indices ----
      {"a condition is inverted",
       kAttention89,
       {kNumerics, "uninitialized", "out-of-bounds", "race"},
       [](PtxEdit& t) { t.replace(R"(@(%p\d+) bra)", "@!$1 bra", kLast); }},
      {"causal mask one key too far",
       kAttention89,
       {kNumerics},
       [](PtxEdit& t) { t.shift_parameter(offsetof(AttentionParams, causal_offset), 1); }},
      {"causal mask dropped",
       kAttention89,
       {kNumerics},
       [](PtxEdit& t) { t.shift_parameter(offsetof(AttentionParams, causal_offset), 100000); }},
      {"query bound one row too far",
       kAttention89,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(AttentionParams, q_len), 1); }},
      {"K scale of the next group",
       kAttention89,
       {kNumerics, "uninitialized"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(AttentionParams, k_scale), 16); }},
      {"Q scale of the next group",
       kAttention89,
       {kNumerics, "out-of-bounds"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(AttentionParams, q_scale), 32); }},
      {"V scale of the next channel",
       kAttention89,
       {kNumerics, "out-of-bounds"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(AttentionParams, v_scale), 4); }},
      {"K codes one row off",
       kAttention89,
       {kNumerics, "uninitialized"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(AttentionParams, k_codes), kShape.head_dim); }},
      {"misaligned codes",
       kAttention89,
       {"misaligned"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(AttentionParams, k_codes), 4); }},

      // ---- quantization kernels ----
      {"K bound one row too far",
       kQuantizeK,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(QuantizeKParams, kv_len), 1); }},
      {"Q bound one row too far",
       kQuantizeQ,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(QuantizeQParams, q_len), 1); }},
      {"V bound one row too far",
       kQuantizeV,
       {"out-of-bounds"},
       [](PtxEdit& t) { t.shift_parameter(offsetof(QuantizeVParams, kv_len), 1); }},
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
       [](PtxEdit& t) { t.shift_parameter(offsetof(QuantizeKParams, k_scale), 16); }},
      {"every block writes the rows of the first",
       kQuantizeQ,
       {"race", "uninitialized"},
       [](PtxEdit& t) { t.replace(R"(mov\.u32(\s+%r\d+), %ctaid\.x;)", "mov.u32$1, 0;", kAll); }},
      {"K mean added instead of subtracted",
       kQuantizeK,
       {kNumerics},
       [](PtxEdit& t) { t.replace(R"(sub\.rn\.f32)", "add.rn.f32", kAll); }},
      {"one chunk of the K mean is left out",
       kQuantizeK,
       {kNumerics},
       [](PtxEdit& t) { t.shift_parameter(offsetof(QuantizeKParams, chunks), -1); }},
      {"amax without the absolute value",
       kQuantizeQ,
       {kNumerics},
       [](PtxEdit& t) { t.replace(R"(abs\.f32)", "mov.b32", kAll); }},
  };
  return table;
}

EmulatorOptions options_for(const Mutation& mutation) {
  EmulatorOptions options;
  options.async = mutation.async;
  options.instruction_limit = 3'000'000;
  return options;
}

std::string kind_of(const Case& c) {
  return std::string(to_string(c.kind)) + " on " + to_string(c.profile);
}

// ---- the tests ------------------------------------------------------------------------------------

TEST_CASE("the unmutated kernels are clean under every policy, with the same result") {
  for (const EmulatorProfile profile : {EmulatorProfile::sm_80, EmulatorProfile::sm_89}) {
    const Case c{profile, KernelKind::attention};
    const Outcome expected = run(c, nullptr, {});
    CHECK(expected.findings.empty());
    REQUIRE_FALSE(expected.values.empty());
    for (const SchedulePolicy schedule :
         {SchedulePolicy::round_robin, SchedulePolicy::random, SchedulePolicy::reverse}) {
      for (const AsyncPolicy async : {AsyncPolicy::late, AsyncPolicy::eager, AsyncPolicy::random}) {
        EmulatorOptions options;
        options.schedule = schedule;
        options.async = async;
        options.seed = 11;
        const Outcome got = run(c, nullptr, options);
        CHECK(got.findings.empty());
        CHECK(got.values == expected.values);
      }
    }
  }
}

TEST_CASE("every mutation is caught") {
  std::map<EmulatorProfile, std::vector<double>> expected;
  for (const EmulatorProfile profile : {EmulatorProfile::sm_80, EmulatorProfile::sm_89}) {
    expected[profile] = run({profile, KernelKind::attention}, nullptr, {}).values;
  }
  std::set<std::string> kinds;
  for (const Mutation& mutation : mutations()) {
    INFO(mutation.name << ", " << kind_of(mutation.where));
    const Outcome outcome = run(mutation.where, mutation.edit, options_for(mutation));
    std::string caught = "nothing";
    std::string detail;
    if (!outcome.findings.empty()) {
      caught = outcome.findings[0].check;
      detail = outcome.findings[0].message;
    } else if (!outcome.values.empty()) {
      const reference::Metrics metrics =
          reference::compare(expected[mutation.where.profile], outcome.values);
      detail = "relative L1 " + std::to_string(metrics.relative_l1);
      // A NaN in the result makes every comparison false.
      if (!(metrics.relative_l1 < 1e-3)) caught = kNumerics;
    }
    std::printf("%-48s %-24s %-22s %.110s\n", mutation.name, kind_of(mutation.where).c_str(),
                caught.c_str(), detail.c_str());
    INFO("caught by " << caught << ": " << detail);
    CHECK(mutation.caught_by.contains(caught));
    kinds.insert(mutation.name);
  }
  CHECK(kinds.size() >= 15);
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
