// Packed sequences (Arguments::cu_seqlens_q). What each gives is to be what it gives as a batch of its own, bit for
// bit, by a kernel that knows nothing of sequences; so the rest of the tests of numerics speak for packed calls, too.
// Besides each is judged as `sagegen run` judges it. Rows of the packed tensors that belong to no sequence are NaN, and
// stay what they were in O and the LSE; the workspace is either fresh, of which the emulator sees what is read before
// it is written, or full of NaN.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/runtime/argument_check.h"
#include "sagegen/runtime/error.h"
#include "templates/attention/params.h"
#include "tests/emulator/ptx_edit.h"
#include "tests/numerics/scene.h"
#include "tools/sagegen/run_judge.h"
#include "tools/sagegen/run_packed.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::CausalAlignment;
using cli::Layout;
using cli::SequenceLengths;
using test::Scene;
using test::spec_of;

namespace {

constexpr std::uint64_t kModSeed = 3;

std::int64_t sum_of(const std::vector<std::int64_t>& lengths) {
  std::int64_t sum = 0;
  for (const std::int64_t length : lengths) sum += length;
  return sum;
}

std::int64_t most_of(const std::vector<std::int64_t>& lengths) {
  return std::max<std::int64_t>(*std::max_element(lengths.begin(), lengths.end()), 1);
}

// A packed call and all that it is compared with.
struct Packed {
  Kernel kernel;  // with varlen
  SequenceLengths lengths;
  std::string distribution = "normal";
  std::uint64_t seed = 1;
  std::int64_t q_heads = 2, kv_heads = 1;
  Layout layout = Layout::nhd;
  CausalAlignment alignment = CausalAlignment::bottom_right;
  std::int64_t beyond = 0;              // by which the bounds exceed the largest lengths
  std::int64_t before = 0, behind = 0;  // rows of no sequence
  bool nan_workspace = false, judged = false;
  rt::EmulatorOptions emulator = {};

  cli::AttentionJob job() const {
    const ref::Shape shape{.batch = static_cast<std::int64_t>(lengths.queries.size()),
                           .q_heads = q_heads,
                           .kv_heads = kv_heads,
                           .q_len = most_of(lengths.queries) + beyond,
                           .kv_len = most_of(lengths.keys) + beyond};
    cli::AttentionJob job =
        test::job_of({.kernel = kernel,
                      .inputs = test::inputs_for(kernel, distribution, shape, seed),
                      .layout = layout,
                      .alignment = alignment});
    job.inputs.causal_offset = 0;  // each sequence has its own
    return job;
  }
  std::string text() const {
    return fmt::format("{}, queries {}, keys {}, bounds +{}, {} rows before, {} behind, {} {}, {}",
                       kernel.key(), fmt::join(lengths.queries, ","), fmt::join(lengths.keys, ","),
                       beyond, before, behind, distribution, seed,
                       nan_workspace ? "workspace of NaN" : "fresh workspace");
  }
};

// The same kernel, but for batches of equal lengths: it packs rows of heads if that one does.
Kernel dense(const Kernel& kernel) {
  attention::Spec spec = spec_of(kernel);
  spec.varlen = false;
  return {attention::family(), spec, test::schedule_of(kernel), kernel.target()};
}
Kernel varlen(const Kernel& kernel) {
  attention::Spec spec = spec_of(kernel);
  spec.varlen = true;
  return {attention::family(), spec, test::schedule_of(kernel), kernel.target()};
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) {
           return x == y && std::signbit(x) == std::signbit(y);
         });
}

// Empty, or what is wrong with a sequence.
std::string fault_of(const Packed& packed, const cli::AttentionJob& all, std::size_t sequence,
                     const SequenceLengths& lengths, const cli::RunDevice& on,
                     const cli::AttentionResult& got) {
  const Kernel alone = dense(packed.kernel);
  cli::AttentionJob job = cli::job_of_sequence(all, packed.kernel, lengths, sequence, {}, kModSeed);
  job.spec = spec_of(alone);
  if (lengths.queries[sequence] == 0) return got.o.empty() ? "" : "O of no queries";
  if (lengths.keys[sequence] == 0) return cli::is_of_no_keys(job, got) ? "" : "not O of no keys";
  const cli::RunDevice fresh = test::device_of({.kernel = alone, .inputs = {}});
  const cli::AttentionResult expected = cli::run_attention(job, fresh);
  if (!expected.findings.empty()) return "alone: " + test::text_of(expected.findings[0]);
  if (!same_bits(got.o, expected.o)) return "O is not that of the sequence alone";
  if (!same_bits(got.lse, expected.lse)) return "the LSE is not that of the sequence alone";
  if (!packed.judged) return "";
  const cli::JudgeOptions all_rows{.rows = 0};
  const cli::Judgement judgement = cli::judge(job, got, on, all_rows);
  return judgement.passed ? "" : cli::judgement_text(judgement, job, all_rows, true);
}

void check(const Packed& packed) {
  INFO(packed.text());
  const cli::RunDevice on =
      test::device_of({.kernel = packed.kernel, .inputs = {}, .emulator = packed.emulator});
  const cli::AttentionJob job = packed.job();
  const attention::Plan plan(on.device, packed.kernel, job.source);
  const std::int64_t beside = packed.before + packed.behind;
  cli::PackedCall call(job, on, plan,
                       std::max<std::int64_t>(sum_of(packed.lengths.queries) + beside, 1),
                       std::max<std::int64_t>(sum_of(packed.lengths.keys) + beside, 1));
  call.set(job.inputs, packed.lengths, packed.before);
  if (packed.nan_workspace) call.fill_workspace(0xFF);
  const std::vector<cli::AttentionResult> results = call.run();
  for (const rt::Finding& finding : results.front().findings) FAIL_CHECK(test::text_of(finding));
  if (!results.front().findings.empty()) return;
  CHECK(call.walls_stand());
  for (std::size_t b = 0; b < results.size(); ++b) {
    const std::string fault = fault_of(packed, job, b, packed.lengths, on, results[b]);
    if (!fault.empty()) FAIL_CHECK(fmt::format("sequence {}: {}", b, fault));
  }
}

// ---- what changes from one check to the next -------------------------------------------------------

// Lengths 0 and 1, those at the edges of tiles, several tiles, more keys than queries and the reverse.
SequenceLengths lengths_of(std::uint64_t turn) {
  static const std::vector<SequenceLengths> all{{{100, 0, 1, 130}, {37, 64, 1, 200}},
                                                {{65, 128, 3}, {65, 128, 0}},
                                                {{0, 129, 64, 17, 0}, {5, 63, 64, 150, 0}},
                                                {{1, 1, 1, 1, 200}, {130, 1, 64, 65, 200}},
                                                {{31}, {257}},
                                                {{63, 0, 0, 127}, {129, 0, 1, 128}}};
  return all[turn % all.size()];
}

Packed in_turn(const Kernel& kernel, std::uint64_t turn) {
  constexpr std::array kAsync = {rt::AsyncPolicy::late, rt::AsyncPolicy::eager,
                                 rt::AsyncPolicy::random};
  const std::array<std::string, 3> distributions{"normal", "outlier", "k_bias"};
  Packed packed{.kernel = varlen(kernel), .lengths = lengths_of(turn)};
  packed.distribution = distributions[turn / 2 % distributions.size()];
  packed.seed = turn + 1;
  packed.kv_heads = turn % 5 == 0 ? 2 : 1;
  packed.layout = turn % 3 == 0 ? Layout::hnd : Layout::nhd;
  packed.alignment = turn % 4 == 3 ? CausalAlignment::top_left : CausalAlignment::bottom_right;
  packed.beyond = turn % 7 == 0 ? 0 : static_cast<std::int64_t>(turn * 37 % 90);
  packed.before = static_cast<std::int64_t>(turn * 13 % 80);
  packed.behind = static_cast<std::int64_t>(turn * 29 % 70);
  packed.nan_workspace = turn % 2 == 0;
  packed.judged = turn % 3 == 1;
  packed.emulator = {.async = kAsync[turn % kAsync.size()], .seed = turn};
  return packed;
}

// The same with rows of all heads that share a KV head in a tile (pack_gqa): sequences of no query, of one, of the few
// that a tile has, and prompts, of groups that fill tiles of 32 rows and of such that do not.
Packed packed_in_turn(const Kernel& kernel, std::uint64_t turn) {
  static const std::vector<SequenceLengths> all{{{1, 0, 7, 1}, {200, 64, 70, 1}},
                                                {{7, 1, 0, 1}, {130, 65, 0, 0}},
                                                {{0, 33, 1, 70}, {5, 63, 129, 70}},
                                                {{1, 1, 1, 1, 5}, {130, 1, 64, 65, 3}},
                                                {{40, 3, 0, 0}, {40, 190, 0, 9}}};
  constexpr std::array<std::int64_t, 8> kGroups = {4, 3, 8, 1, 5, 2, 7, 6};
  Packed packed = in_turn(kernel, turn);
  packed.lengths = all[turn % all.size()];
  packed.kv_heads = 1 + static_cast<std::int64_t>(turn % 3 == 2);
  packed.q_heads = packed.kv_heads * kGroups[turn % kGroups.size()];
  return packed;
}

const std::vector<bool attention::Spec::*>& all_mods() {
  static const std::vector<bool attention::Spec::*> mods{
#define SAGEGEN_MOD(name) &attention::Spec::name,
#include "templates/attention/mods/mods.def"
  };
  return mods;
}

// The spec on a target that has it.
std::vector<Kernel> on_a_target(const attention::Spec& spec, std::uint64_t turn) {
  std::vector<Kernel> kernels;
  for (const TargetInfo& info : supported_targets()) {
    const Kernel kernel(attention::family(), spec, info.target);
    if (test::is_legal(kernel)) kernels.push_back(kernel);
  }
  if (kernels.empty()) return {};
  return {kernels[turn % kernels.size()]};
}

// Every mode with no mod and with each, causal or not, in turn with what is left: granularities, smoothings, rotation,
// sums, dtypes, channels of Q and K, and of V.
std::vector<Kernel> modes_and_mods(bool pack_gqa = false) {
  constexpr std::array kGranularities = {Granularity::per_thread, Granularity::per_block,
                                         Granularity::per_token, Granularity::per_tensor};
  constexpr std::array kHeads = {64, 32, 128, 72};
  std::vector<Kernel> kernels;
  std::uint64_t turn = 0;
  for (const attention::Mode& mode : attention::modes()) {
    for (std::size_t i = 0; i <= all_mods().size(); ++i, ++turn) {
      attention::Spec spec =
          attention::with_mode({.head_dim = kHeads[turn % kHeads.size()],
                                .io = turn / 2 % 2 == 0 ? DType::f16 : DType::bf16},
                               mode);
      if (i < all_mods().size()) spec.*all_mods()[i] = true;
      spec.causal |= turn % 3 == 0;
      if (attention::qk_is_quantized(spec)) {
        spec.granularity = kGranularities[turn % kGranularities.size()];
        spec.q_group = pack_gqa ? 16 << turn % 4 : turn % 2 == 0 ? 32 : 128;
        spec.smoothing = turn % 5 == 4 ? Smoothing::none : spec.smoothing;
        if (turn % 5 == 3) spec.smoothing = Smoothing::qk;
        if (turn % 4 == 2) spec.rotation = Rotation::hadamard;
      }
      if (turn % 3 == 2) spec.value_dim = kHeads[(turn + 1) % kHeads.size()];
      if (turn % 4 == 1 && spec.pv == DType::e4m3) spec.v_smoothing = ValueSmoothing::mean;
      spec.pack_gqa = pack_gqa;
      const std::vector<Kernel> on = on_a_target(spec, turn);
      kernels.insert(kernels.end(), on.begin(), on.end());
    }
  }
  return kernels;
}

Kernel kernel_of(const std::string& options, int sm = 89) {
  return kernel_of_options(attention::family(), options, Target{.sm = sm});
}

}  // namespace

TEST_CASE("a packed sequence gives the bits that it gives alone", "[fast]") {
  const std::vector<Kernel> kernels = modes_and_mods();
  for (std::size_t i = 0; i < kernels.size(); i += 5) check(in_turn(kernels[i], i));
}

TEST_CASE("each mode with each mod: a packed sequence gives the bits that it gives alone",
          "[full]") {
  const std::vector<Kernel> kernels = modes_and_mods();
  CHECK(kernels.size() == attention::modes().size() * (all_mods().size() + 1));
  std::printf("%zu kernels\n", kernels.size());
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    if (i % 5 != 0) check(in_turn(kernels[i], i));
    check(in_turn(kernels[i], 3 * i + 1));
  }
}

TEST_CASE("rows of heads that share K and V: a packed sequence gives the bits that it gives alone",
          "[fast]") {
  const std::vector<Kernel> kernels = modes_and_mods(true);
  for (std::size_t i = 1; i < kernels.size(); i += 5) check(packed_in_turn(kernels[i], i));
}

TEST_CASE("each mode with each mod, of rows of heads that share K and V, packed as alone",
          "[full]") {
  const std::vector<Kernel> kernels = modes_and_mods(true);
  CHECK(kernels.size() == attention::modes().size() * (all_mods().size() + 1));
  for (std::size_t i = 0; i < kernels.size(); ++i) check(packed_in_turn(kernels[i], i + 7));
}

// Rows of the caller's have strides in bytes, and those of s8 scales, which lie as the LSE does: of no sequence they stay
// NaN. Of 72 channels rows are no whole chunks.
TEST_CASE("codes of O: a packed sequence gives those that it gives alone", "[fast]") {
  constexpr std::array kValues = {0, 72, 32};
  std::uint64_t turn = 0;
  for (const attention::Mode& mode : attention::modes()) {
    for (const bool pack_gqa : {false, true}) {
      for (const attention::OutputFormat out :
           {attention::OutputFormat::e4m3, attention::OutputFormat::s8}) {
        attention::Spec spec = attention::with_mode({.head_dim = 64}, mode);
        spec.value_dim = kValues[++turn % kValues.size()];
        spec.pack_gqa = pack_gqa;
        spec.out = out;
        spec.causal = turn % 4 < 2;
        spec.sinks = turn % 5 == 0;
        const std::vector<Kernel> on = on_a_target(spec, turn / 2);
        REQUIRE(on.size() == 1);
        check(pack_gqa ? packed_in_turn(on[0], turn) : in_turn(on[0], turn));
      }
    }
  }
}

// Blocks of queries that have means are of 128 rows, which begin and end with the sequence.
TEST_CASE("means of packed rows are those of the sequence, part after part", "[fast]") {
  for (const std::int64_t bytes : {std::int64_t{1}, std::int64_t{2} << 30}) {
    Packed packed{.kernel = kernel_of("head_dim=64 qk=s4 pack_gqa=true varlen=true causal=true"),
                  .lengths = {{50, 0, 1, 30}, {70, 65, 90, 200}},
                  .distribution = "k_bias",
                  .q_heads = 10,
                  .kv_heads = 2};
    packed.before = 5;
    const cli::AttentionJob job = packed.job();
    const cli::RunDevice on = test::device_of({.kernel = packed.kernel, .inputs = {}});
    const attention::Plan plan(on.device, packed.kernel, job.source, {.mean_score_bytes = bytes});
    cli::PackedCall call(job, on, plan, 90, 500);
    call.set(job.inputs, packed.lengths, packed.before);
    call.fill_workspace(0xFF);
    const std::vector<cli::AttentionResult> results = call.run();
    for (const rt::Finding& finding : results.front().findings) FAIL_CHECK(test::text_of(finding));
    CHECK(call.walls_stand());
    for (std::size_t b = 0; b < results.size(); ++b)
      CHECK(fault_of(packed, job, b, packed.lengths, on, results[b]) == "");
  }
}

TEST_CASE("each granularity and smoothing, and sums in turn, packed as alone", "[full]") {
  constexpr std::array kAccumulations = {Accumulation::f32, Accumulation::two_level_f32,
                                         Accumulation::f32_f16};
  std::uint64_t turn = 0;
  std::size_t checked = 0;
  for (const Granularity granularity : {Granularity::per_thread, Granularity::per_block,
                                        Granularity::per_token, Granularity::per_tensor}) {
    for (const Smoothing smoothing : {Smoothing::none, Smoothing::k, Smoothing::qk}) {
      for (const attention::Mode& mode : attention::modes()) {
        attention::Spec spec = attention::with_mode({.head_dim = 64}, mode);
        if (!attention::qk_is_quantized(spec)) continue;
        spec.granularity = granularity;
        spec.smoothing = smoothing;
        spec.q_group = ++turn % 2 == 0 ? 32 : 64;
        spec.k_group = turn % 3 == 0 ? 128 : 64;
        if (spec.pv == DType::e4m3) spec.v_smoothing = static_cast<ValueSmoothing>(turn % 2);
        spec.accumulation = kAccumulations[turn % kAccumulations.size()];
        spec.io = turn / 2 % 2 == 0 ? DType::f16 : DType::bf16;
        spec.causal = turn % 7 < 3;
        for (const Kernel& kernel : on_a_target(spec, turn)) {
          check(in_turn(kernel, turn));
          ++checked;
        }
      }
    }
  }
  CHECK(checked >= 40);
}

// A sequence of 700 keys is reduced in two chunks, one of 1100 in three, and each as it would be alone.
TEST_CASE("statistics of a sequence are summed in its own chunks", "[fast]") {
  for (const char* options :
       {"head_dim=64 v_smoothing=mean", "head_dim=64 granularity=per_tensor"}) {
    Packed packed{.kernel = kernel_of(std::string(options) + " varlen=true"),
                  .lengths = {{3, 17, 1, 20}, {1100, 700, 63, 513}}};
    packed.distribution = "k_bias";
    packed.before = 5;
    packed.behind = 3;
    check(packed);
  }
}

TEST_CASE("sequences with schedules by chance give the bits that they give alone", "[full]") {
  constexpr int kSchedules = 5;
  std::mt19937_64 random(11 + Catch::rngSeed());
  std::uint64_t turn = 0;
  for (const attention::Mode& mode : attention::modes()) {
    const Target target{.sm = mode.pv == DType::e4m3 ? 89 : 80};
    attention::Spec spec = attention::with_mode({.head_dim = 64}, mode);
    spec.causal = ++turn % 2 == 0;
    const std::vector<Kernel> legal =
        test::legal_schedules(Kernel(attention::family(), spec, {}, target));
    for (int i = 0; i < kSchedules; ++i) {
      const Kernel kernel = varlen(legal[random() % legal.size()]);
      if (test::is_legal(kernel)) check(in_turn(kernel, ++turn));
    }
  }
}

// Scores of mean queries in parts: each batch, head and block of queries by itself.
TEST_CASE("sequences are attended part after part", "[fast]") {
  Packed packed{.kernel = kernel_of("head_dim=64 qk=s4 varlen=true"),
                .lengths = {{130, 0, 300, 1}, {70, 65, 0, 200}}};
  packed.before = 9;
  const cli::AttentionJob job = packed.job();
  for (const std::int64_t bytes : {std::int64_t{1}, std::int64_t{5000}}) {
    const cli::RunDevice on = test::device_of({.kernel = packed.kernel, .inputs = {}});
    const attention::Plan plan(on.device, packed.kernel, job.source, {.mean_score_bytes = bytes});
    cli::PackedCall call(job, on, plan, 500, 400);
    call.set(job.inputs, packed.lengths, packed.before);
    const std::vector<cli::AttentionResult> results = call.run();
    REQUIRE(results.front().findings.empty());
    CHECK(call.walls_stand());
    for (std::size_t b = 0; b < results.size(); ++b)
      CHECK(fault_of(packed, job, b, packed.lengths, on, results[b]).empty());
  }
}

// ---- graphs: the launches stay, memory changes -----------------------------------------------------

namespace {

// Lengths for `batch` sequences within the totals: by chance, and at the ends of what there may be.
class RandomLengths {
 public:
  RandomLengths(std::size_t batch, std::int64_t longest, std::int64_t total, std::uint64_t seed)
      : batch_(batch), longest_(longest), total_(total), random_(seed) {}
  SequenceLengths next() {
    SequenceLengths lengths{of_kind(turn_ % 7), of_kind(turn_ / 3 % 7)};
    ++turn_;
    return lengths;
  }

 private:
  std::int64_t up_to(std::int64_t most) {
    return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(most + 1));
  }
  std::vector<std::int64_t> of_kind(std::uint64_t kind) {
    std::vector<std::int64_t> lengths(batch_, 0);
    if (kind == 0) return lengths;                          // all are empty
    if (kind == 1) lengths[random_() % batch_] = longest_;  // one alone, the longest
    if (kind == 2) std::ranges::fill(lengths, 1);           // decoding
    if (kind == 3) std::ranges::fill(lengths, std::min(longest_, total_ / std::int64_t(batch_)));
    if (kind < 4) return lengths;
    std::int64_t left = total_;
    for (std::int64_t& length : lengths) {
      length = up_to(3) == 0 ? up_to(1) : std::min(up_to(longest_), left);
      left -= length = std::min(length, left);
    }
    return lengths;
  }

  std::size_t batch_;
  std::int64_t longest_, total_;
  std::mt19937_64 random_;
  std::uint64_t turn_ = 0;
};

ref::Tensor first_tokens(const ref::Tensor& all, std::int64_t tokens) {
  ref::Tensor some(all.batch, all.heads, tokens, all.channels);
  for (std::int64_t b = 0; b < all.batch; ++b) {
    for (std::int64_t h = 0; h < all.heads; ++h)
      std::copy_n(all.row(b, h, 0), tokens * all.channels, some.row(b, h, 0));
  }
  return some;
}

// A call that knows these lengths and no more: bounds and totals are theirs.
std::vector<cli::AttentionResult> told_of(const cli::AttentionJob& job, const cli::RunDevice& on,
                                          const attention::Plan& plan,
                                          const SequenceLengths& lengths) {
  cli::AttentionJob tight = job;
  tight.inputs.q = first_tokens(job.inputs.q, most_of(lengths.queries));
  tight.inputs.k = first_tokens(job.inputs.k, most_of(lengths.keys));
  tight.inputs.v = first_tokens(job.inputs.v, most_of(lengths.keys));
  cli::PackedCall call(tight, on, plan, std::max<std::int64_t>(sum_of(lengths.queries), 1),
                       std::max<std::int64_t>(sum_of(lengths.keys), 1));
  call.set(tight.inputs, lengths);
  return call.run();
}

// Replays of one graph with as many lengths, and other data. Each sequence gives the bits of a call that knows them, and is
// judged against fp64.
void check_replays(const Kernel& kernel, int replays, std::uint64_t seed) {
  constexpr std::int64_t kLongest = 70, kTotal = 190, kBatch = 4;
  const Packed packed{.kernel = kernel,
                      .lengths = {std::vector<std::int64_t>(kBatch, kLongest),
                                  std::vector<std::int64_t>(kBatch, kLongest)},
                      .distribution = "k_bias",
                      .judged = true};
  cli::AttentionJob job = packed.job();
  const cli::RunDevice on = test::device_of({.kernel = kernel, .inputs = {}});
  const attention::Plan plan(on.device, kernel, job.source);
  cli::PackedCall graph(job, on, plan, kTotal + 5, kTotal + 5);
  graph.capture();
  RandomLengths lengths(kBatch, kLongest, kTotal, seed);
  for (int i = 0; i < replays; ++i) {
    const SequenceLengths now = lengths.next();
    INFO(kernel.key() << ", replay " << i << ", queries "
                      << fmt::format("{}", fmt::join(now.queries, ",")) << ", keys "
                      << fmt::format("{}", fmt::join(now.keys, ",")));
    std::ranges::rotate(job.inputs.q.data, job.inputs.q.data.begin() + 64);
    std::ranges::rotate(job.inputs.v.data, job.inputs.v.data.begin() + 128);
    graph.set(job.inputs, now, i % 6);
    if (i % 2 == 1) graph.fill_workspace(0xFF);
    const std::vector<cli::AttentionResult> got = graph.run();
    for (const rt::Finding& finding : got.front().findings) FAIL_CHECK(test::text_of(finding));
    REQUIRE(got.front().findings.empty());
    CHECK(graph.walls_stand());
    const std::vector<cli::AttentionResult> fresh = told_of(job, on, plan, now);
    REQUIRE(fresh.front().findings.empty());
    for (std::size_t b = 0; b < got.size(); ++b) {
      CHECK(same_bits(got[b].o, fresh[b].o));
      CHECK(same_bits(got[b].lse, fresh[b].lse));
      if (now.queries[b] == 0) continue;
      const cli::AttentionJob alone = cli::job_of_sequence(job, kernel, now, b, {}, kModSeed);
      if (now.keys[b] == 0) {
        CHECK(cli::is_of_no_keys(alone, got[b]));
      } else {
        CHECK(cli::judge(alone, got[b], on, {.rows = 0}).passed);
      }
    }
  }
}

const std::vector<std::string>& graph_kernels() {
  static const std::vector<std::string> all{"head_dim=64 causal",
                                            "head_dim=64 qk=s4",
                                            "head_dim=64 qk=f16 pv=f16 causal sinks",
                                            "head_dim=64 causal pack_gqa=true",
                                            "head_dim=64 granularity=per_tensor v_smoothing=mean",
                                            "head_dim=32 pv=f16 accumulation=f32 window alibi"};
  return all;
}

}  // namespace

TEST_CASE("a graph that is captured once is replayed with other lengths", "[fast]") {
  for (std::size_t i = 0; i < graph_kernels().size(); ++i)
    check_replays(kernel_of(graph_kernels()[i] + " varlen=true"), 17, i + Catch::rngSeed());
}

TEST_CASE("each graph is replayed with a hundred sets of lengths", "[full]") {
  for (std::size_t i = 0; i < graph_kernels().size(); ++i)
    check_replays(kernel_of(graph_kernels()[i] + " varlen=true"), 100, i + Catch::rngSeed());
}

// Rows of a padded batch, of which fewer are there than were captured: what is behind a sequence is one more sequence, in
// which nobody is interested.
TEST_CASE("a padded batch with fewer rows is one of twice as many sequences", "[fast]") {
  for (const std::string& options : graph_kernels()) {
    const Kernel kernel = kernel_of(options + " varlen=true");
    constexpr std::int64_t kRows = 60;
    const std::vector<std::int64_t> keys{60, 1, 37};
    SequenceLengths lengths;
    for (const std::int64_t there : keys) {
      lengths.queries.insert(lengths.queries.end(), {3, 0});  // not padded
      lengths.keys.insert(lengths.keys.end(), {there, kRows - there});
    }
    Packed packed{.kernel = kernel, .lengths = lengths, .judged = true};
    packed.distribution = "k_bias";
    check(packed);
  }
}

// A kernel that takes a length which it should read from a launch argument, as a host would know it.
TEST_CASE("a kernel that does not read the lengths at each replay is seen", "[fast]") {
  const Kernel kernel = kernel_of("head_dim=64 varlen=true");
  const Packed packed{.kernel = kernel, .lengths = {{40, 30}, {40, 30}}};
  cli::AttentionJob job = packed.job();
  job.source = [](const Kernel& each) {
    Artifact artifact = test::emitted(each);
    if (each.key().starts_with("sage_kvstats")) {
      emulator::test::PtxEdit text(artifact.code);
      text.replace(R"(ld\.global\.b32\s+(%r\d+), \[(%rd\d+)\+4\];)", "mov.b32 $1, 40;");
      artifact.code = text.text();
    }
    return artifact;
  };
  const cli::RunDevice on = test::device_of({.kernel = kernel, .inputs = {}});
  const attention::Plan broken(on.device, kernel, job.source);
  const attention::Plan plan(on.device, kernel, test::emitted);
  cli::PackedCall graph(job, on, broken, 90, 90);
  graph.capture();
  const auto agrees = [&](const SequenceLengths& lengths) {
    graph.set(job.inputs, lengths);
    const auto got = graph.run(), fresh = told_of(job, on, plan, lengths);
    return got.front().findings.empty() && same_bits(got[0].o, fresh[0].o) &&
           same_bits(got[1].o, fresh[1].o);
  };
  CHECK(agrees({{40, 0}, {40, 0}}));
  CHECK_FALSE(agrees({{20, 20}, {20, 20}}));
}

// Lengths that the host was not told of: no row outside of a tensor is touched. Tiles are large enough that sequences which
// begin before the one before them do not overlap in the workspace, which the emulator would call a race.
TEST_CASE("lengths beyond their bounds leave memory alone", "[fast]") {
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max(), kLeast = -kMost - 1;
  constexpr std::int32_t kTotal = 5000;  // far more than three sequences of at most 100 have
  const std::vector<std::vector<std::int32_t>> sums{
      {0, 300, 400, 500},      {0, 0, 0, kTotal},
      {-50, 20, 40, 60},       {kLeast, kMost, kLeast, kMost},
      {60, 40, 20, 0},         {kMost, kMost, kMost, kMost},
      {0, kLeast, kMost, 100}, {kTotal - 1, kTotal, kTotal + 1, kTotal + 2}};
  for (const char* options :
       {"head_dim=64 causal", "head_dim=64 qk=s4 pv=f16", "head_dim=64 granularity=per_tensor",
        "head_dim=64 qk=f16 pv=f16 window", "head_dim=64 qk=f16 pv=f16 blocksparse",
        "head_dim=64 causal pack_gqa=true schedule=q128k64w8s2", "head_dim=64 qk=s4 pack_gqa=true",
        "head_dim=64 qk=f16 pv=f16 pack_gqa=true"}) {
    Packed packed{.kernel = kernel_of(std::string(options) + " varlen=true"),
                  .lengths = {{100, 100, 100}, {100, 100, 100}}};
    const cli::AttentionJob job = packed.job();
    const cli::RunDevice on = test::device_of({.kernel = packed.kernel, .inputs = {}});
    const attention::Plan plan(on.device, packed.kernel, job.source);
    cli::PackedCall call(job, on, plan, kTotal, kTotal);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      INFO(options << ", sums " << fmt::format("{}", fmt::join(sums[i], ",")));
      call.set(job.inputs, packed.lengths);
      call.fill_workspace(0xFF);
      call.set_sums(sums[i], sums[(i + 3) % sums.size()]);
      const std::vector<cli::AttentionResult> results = call.run();
      // Memory of every buffer ends where it is allocated: the emulator finds what leaves it.
      CHECK(results.front().findings.empty());
      for (const rt::Finding& finding : results.front().findings)
        FAIL_CHECK(test::text_of(finding));
    }
  }
}

TEST_CASE("a kernel with varlen takes dense batches, with the same bits", "[fast]") {
  for (const char* options :
       {"head_dim=64 causal", "head_dim=64 qk=s4 granularity=per_tensor",
        "head_dim=64 qk=f16 pv=f16", "head_dim=64 v_smoothing=mean window",
        "head_dim=64 qk=s4 pack_gqa=true causal", "head_dim=64 qk=bf16 io=bf16 pack_gqa=true"}) {
    const Kernel kernel = kernel_of(options);
    const ref::Shape shape{.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 130, .kv_len = 600};
    std::vector<cli::AttentionResult> results;
    for (const Kernel& each : {kernel, varlen(kernel)}) {
      const Scene scene{.kernel = each,
                        .inputs = test::inputs_for(each, "k_bias", shape, 5),
                        .alignment = CausalAlignment::bottom_right};
      results.push_back(cli::run_attention(test::job_of(scene), test::device_of(scene)));
      REQUIRE(results.back().findings.empty());
    }
    INFO(options);
    CHECK(same_bits(results[0].o, results[1].o));
    CHECK(same_bits(results[0].lse, results[1].lse));
  }
}

TEST_CASE("what a packed call refuses", "[fast]") {
  const Kernel kernel = kernel_of("head_dim=64 varlen=true");
  const cli::RunDevice on = test::device_of({.kernel = kernel, .inputs = {}});
  const attention::Plan plan(on.device, kernel, test::emitted);
  const attention::Plan plain(on.device, dense(kernel), test::emitted);
  rt::Buffer memory(on.device, 1 << 20);
  const attention::Shape shape{.batch = 2,
                               .q_heads = 1,
                               .kv_heads = 1,
                               .q_len = 10,
                               .kv_len = 10,
                               .total_q = 12,
                               .total_kv = 15};
  const rt::Buffer workspace(on.device, plan.workspace_bytes(shape));
  const auto at = [&](int i) { return memory.data() + static_cast<rt::DevicePtr>(i) * 65536; };
  const auto view = [&](int i) { return rt::nhd(at(i), 1, 15, 64); };
  const attention::Arguments right{.q = view(0),
                                   .k = view(1),
                                   .v = view(2),
                                   .o = view(3),
                                   .lse = at(5),
                                   .cu_seqlens_q = at(4),
                                   .cu_seqlens_kv = at(4)};
  const auto refusal = [&](const attention::Plan& of, const attention::Shape& s,
                           const attention::Arguments& a) {
    try {
      of.run(s, a, workspace.data(), workspace.bytes(), nullptr);
    } catch (const rt::ArgumentError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  using Catch::Matchers::Contains;
  const std::array<std::int32_t, 3> sums{0, 5, 12};
  rt::Buffer lengths(on.device, sizeof sums);
  attention::Arguments one = right;
  one.cu_seqlens_kv = 0;
  CHECK_THAT(refusal(plan, shape, one),
             Contains("cu_seqlens_q is given without cu_seqlens_kv; packed sequences have both"));
  one = right;
  one.cu_seqlens_q = 0;
  CHECK_THAT(refusal(plan, shape, one), Contains("cu_seqlens_kv is given without cu_seqlens_q"));
  one = right;
  one.cu_seqlens_q = one.cu_seqlens_kv = 0;
  CHECK_THAT(refusal(plan, shape, one), Contains("total_q is 12, and cu_seqlens_q is not given"));
  attention::Shape other = shape;
  other.total_q = other.total_kv = 0;
  CHECK_THAT(refusal(plan, other, right), Contains("cu_seqlens_kv are given, and total_q is 0"));
  other = shape;
  other.total_kv = 0;
  CHECK_THAT(refusal(plan, other, right), Contains("total_kv is 0"));
  other.total_kv = -3;
  CHECK_THAT(refusal(plan, other, right), Contains("total_kv is -3"));
  other.total_kv = std::int64_t{1} << 31;
  CHECK_THAT(refusal(plan, other, right), Contains("total_kv is 2147483648"));
  other.total_kv = rt::kMaxLength;
  CHECK_THAT(refusal(plan, other, right), Contains("with 2 sequences padded to multiples of 64"));
  CHECK_THAT(refusal(plain, shape, right), Contains("take one with varlen=true"));
  CHECK_THAT(refusal(plain, shape, right), Contains(dense(kernel).key()));
  one = right;
  one.cu_seqlens_q = at(4) + 2;
  CHECK_THAT(refusal(plan, shape, one), Contains("cu_seqlens_q"));
  one = right;
  one.o = view(4);  // what is written overlaps the lengths
  CHECK_THAT(refusal(plan, shape, one), Contains("cu_seqlens"));
  one = right;
  one.lse = at(3) + 11 * 128;  // O has 12 rows: it ends behind the LSE's begin
  CHECK_THAT(refusal(plan, shape, one), Contains("lse"));
  lengths.upload(std::as_bytes(std::span(sums)));
  memory.fill(0);
  one.lse = at(3) + 12 * 128;  // behind it
  one.cu_seqlens_q = one.cu_seqlens_kv = lengths.data();
  for (const std::int64_t ignored : {0, -3}) {
    for (rt::TensorView* tensor : {&one.q, &one.k, &one.v, &one.o}) tensor->stride_batch = ignored;
    CHECK(refusal(plan, shape, one) == "nothing");
  }
  other = shape;
  other.batch = 1;  // of 12 rows of O, though the longest has 10
  one.lse = at(3) + 11 * 128;
  CHECK_THAT(refusal(plan, other, one), Contains("lse"));
}

TEST_CASE("the workspace of packed sequences grows with their rows", "[fast]") {
  const Kernel kernel = kernel_of("head_dim=64 varlen=true");
  const cli::RunDevice on = test::device_of({.kernel = kernel, .inputs = {}});
  const attention::Plan plan(on.device, kernel, test::emitted);
  attention::Shape shape{.batch = 8, .q_heads = 1, .kv_heads = 1, .q_len = 4096, .kv_len = 4096};
  const std::size_t of_dense = plan.workspace_bytes(shape);
  shape.total_q = shape.total_kv = 4096;
  CHECK(plan.workspace_bytes(shape) < of_dense / 4);
}

// Kernels broken in one way that people break such ones in: none gives the bits of a sequence alone.
namespace {

using emulator::test::PtxEdit;

struct Mutation {
  const char* name;
  std::vector<std::string> broken;  // begin the keys of the kernels that are
  std::function<void(PtxEdit&, const Kernel&)> edit;
  const char* options = "head_dim=64 causal varlen=true";
};

// In every kernel that looks a sequence up (shared/sequence.h): the first sum that it reads, and the next one.
constexpr const char* kBegin = R"(ld\.global\.b32\s+(%r\d+), \[(%rd\d+)\];)";
constexpr const char* kEnd = R"(ld\.global\.b32\s+(%r\d+), \[(%rd\d+)\+4\];)";
// batch * granule + start.
constexpr const char* kStart = R"(mad\.lo\.s32\s+(%r\d+), %r\d+, %r\d+, (%r\d+);)";

// Rows of the workspace for tokens, of kernels that pack rows of heads: where the sequence begins comes first, then how
// many it has.
constexpr const char* kRowsOf = R"(mul\.lo\.s32\s+(%r\d+), (%r\d+), %r\d+;)";
constexpr const char* kPackedRows = "head_dim=64 causal pack_gqa=true varlen=true";

const std::vector<std::string> kPrepare{"sage_quantrows", "sage_quantv"};

std::vector<Mutation> mutations() {
  const auto replace = [](const char* pattern, const char* by) {
    return [=](PtxEdit& text, const Kernel&) { text.replace(pattern, by, PtxEdit::kFirst); };
  };
  return {
      {"codes are read where no sequence begins", {"sage_fwd"}, replace(kStart, "mov.b32 $1, $2;")},
      {"codes are written where no sequence begins", kPrepare, replace(kStart, "mov.b32 $1, $2;")},
      {"padded sequences overlap in the workspace",
       {"sage_quantrows", "sage_quantv", "sage_fwd"},
       replace(kStart, "mov.b32 $1, $2;")},
      {"K mean of the first rows of the batch",
       {"sage_kvstats"},
       replace(kBegin, "mov.b32 $1, 8;")},
      {"K mean of all that follows", {"sage_kvstats"}, replace(kEnd, "mov.b32 $1, 232;")},
      {"the rows of the sequence before",
       {"sage_quantrows"},
       replace(kBegin, "ld.global.b32 $1, [$2+-4];")},
      {"the end of the sequence after", {"sage_fwd"}, replace(kEnd, "ld.global.b32 $1, [$2+8];")},
      {"V of the first sequence", {"sage_quantv"}, replace(kBegin, "mov.b32 $1, 8;")},
      {"sequences that stand at the top left",
       {"sage_fwd"},
       [](PtxEdit& text, const Kernel& kernel) {
         text.shift_parameter(kernel.params().offset<attention::VarlenParams>(), 1);
       }},
      {"heads of the workspace that overlap",
       {"sage_fwd"},
       [](PtxEdit& text, const Kernel& kernel) {
         text.shift_parameter(
             kernel.params().offset<KeySequences>() + offsetof(KeySequences, head_rows), -64);
       }},
      {"rows of the LSE of another head",
       {"sage_fwd"},
       [](PtxEdit& text, const Kernel& kernel) {
         text.shift_parameter(
             kernel.params().offset<QuerySequences>() + offsetof(QuerySequences, total), -1);
       }},
      {"scores of means of another sequence",
       {"sage_meanscores"},
       replace(kStart, "mov.b32 $1, $2;"),
       "head_dim=64 qk=s4 varlen=true"},
      {"maxima of all blocks that there may be",
       {"sage_quantrows"},
       replace(kEnd, "mov.b32 $1, 232;"),
       "head_dim=64 granularity=per_tensor varlen=true"},
      {"packed rows are read where as many tokens would lie",
       {"sage_fwd"},
       replace(kRowsOf, "mov.b32 $1, $2;"),
       kPackedRows},
      {"packed rows are written where as many tokens would lie",
       {"sage_quantrows_d64_f16_s8_r8_g16_fold_packgqa"},
       replace(kRowsOf, "mov.b32 $1, $2;"),
       kPackedRows},
      {"as many packed rows as queries",
       {"sage_fwd"},
       [](PtxEdit& text, const Kernel&) { text.replace(kRowsOf, "mov.b32 $1, $2;", 1); },
       kPackedRows},
      {"scores of means where as many tokens would lie",
       {"sage_meanscores"},
       replace(kRowsOf, "mov.b32 $1, $2;"),
       "head_dim=64 qk=s4 pack_gqa=true varlen=true"},
      {"packed rows of the LSE of another head",
       {"sage_fwd"},
       [](PtxEdit& text, const Kernel& kernel) {
         text.shift_parameter(
             kernel.params().offset<QuerySequences>() + offsetof(QuerySequences, total), -1);
       },
       kPackedRows},
      {"scales of codes of another head",
       {"sage_fwd"},
       [](PtxEdit& text, const Kernel& kernel) {
         text.shift_parameter(
             kernel.params().offset<QuerySequences>() + offsetof(QuerySequences, total), -1);
       },
       "head_dim=64 out=s8 varlen=true"},
      {"bits of tiles of rows of another sequence",
       {"sage_fwd"},
       [](PtxEdit& text, const Kernel& kernel) {
         using Bits = attention::blocksparse::Params;
         text.shift_parameter(kernel.params().offset<Bits>() + offsetof(Bits, query_tiles), -1);
       },
       "head_dim=64 pack_gqa=true blocksparse=true varlen=true"},
  };
}

std::string run_broken(const Packed& packed, const Mutation& mutation) {
  cli::AttentionJob job = packed.job();
  bool edited = false;
  job.source = [&](const Kernel& kernel) {
    Artifact artifact = test::emitted(kernel);
    const bool is_broken = std::ranges::any_of(
        mutation.broken, [&](const std::string& begin) { return kernel.key().starts_with(begin); });
    if (!is_broken) return artifact;
    PtxEdit text(artifact.code);
    mutation.edit(text, kernel);
    artifact.code = text.text();
    edited = true;
    return artifact;
  };
  const cli::RunDevice on = test::device_of({.kernel = packed.kernel, .inputs = {}});
  const attention::Plan plan(on.device, packed.kernel, job.source);
  REQUIRE(edited);
  cli::PackedCall call(job, on, plan, sum_of(packed.lengths.queries) + 8,
                       sum_of(packed.lengths.keys) + 8);
  call.set(job.inputs, packed.lengths, 8);
  const std::vector<cli::AttentionResult> results = call.run();
  if (!results.front().findings.empty()) return test::text_of(results.front().findings[0]);
  if (!call.walls_stand()) return "a wall";
  job.source = test::emitted;
  for (std::size_t b = 0; b < results.size(); ++b) {
    const std::string fault = fault_of(packed, job, b, packed.lengths, on, results[b]);
    if (!fault.empty()) return fault;
  }
  return "nothing";
}

}  // namespace

TEST_CASE("each mutation of a packed kernel is caught", "[fast]") {
  for (const Mutation& mutation : mutations()) {
    Packed packed{.kernel = kernel_of(mutation.options),
                  .lengths = {{70, 30, 100}, {64, 100, 60}},
                  .distribution = "k_bias"};
    std::string caught = run_broken(packed, mutation);
    std::printf("%-48s %.110s\n", mutation.name, caught.c_str());
    INFO(mutation.name);
    CHECK(caught != "nothing");
  }
}
