// What the bits of a sequence do not depend on (templates/attention/plan_invariance.h): each kernel keeps what it claims, and
// what it does not claim it does not keep, in some case at least.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "sagegen/runtime/error.h"
#include "templates/attention/plan_tuned.h"
#include "tests/emulator/ptx_edit.h"
#include "tests/numerics/scene.h"
#include "tools/sagegen/run_packed.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::CausalAlignment;
using attention::Invariance;
using Catch::Matchers::Contains;
using Doubles = std::vector<double>;

namespace {

Kernel kernel_of(const std::string& options) {
  return kernel_of_options(attention::family(), options, Target{.sm = 89});
}

bool same_bits(const Doubles& a, const Doubles& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) {
           return x == y && std::signbit(x) == std::signbit(y);
         });
}

rt::EmulatorOptions by_turn(std::uint64_t turn) {
  constexpr std::array kAsync = {rt::AsyncPolicy::late, rt::AsyncPolicy::eager,
                                 rt::AsyncPolicy::random};
  return {.async = kAsync[turn % kAsync.size()], .seed = turn};
}

// Of every mode, with what is summed, scaled and smoothed in other ways.
const std::vector<std::string>& specs() {
  static const std::vector<std::string> all{
      "head_dim=64",
      "head_dim=64 granularity=per_block",
      "head_dim=64 granularity=per_token smoothing=none",
      "head_dim=64 granularity=per_tensor",
      "head_dim=64 smoothing=qk v_smoothing=mean",
      "head_dim=64 qk=s4",
      "head_dim=64 qk=s4 pv=f16 accumulation=f32 smoothing=none",
      "head_dim=64 pv=f16 accumulation=f32 smoothing=none",
      "head_dim=64 pv=f16 accumulation=f32_f16",
      "head_dim=64 qk=f16 pv=f16",
      "head_dim=64 io=bf16 qk=bf16 pv=bf16",
      "head_dim=64 qk=f16 pv=e4m3",
      "head_dim=64 pack_gqa=true q_group=16",
      "head_dim=32 pack_gqa=true qk=f16 pv=f16",
      "head_dim=64 pack_gqa=true q_group=16 pv=f16 accumulation=f32 smoothing=none",
      "head_dim=64 pv=f16 accumulation=f32 smoothing=none granularity=per_token rotation=hadamard"};
  return all;
}

ref::Tensor tokens_of(const ref::Tensor& all, std::int64_t batch, std::int64_t batches,
                      std::int64_t first, std::int64_t count) {
  ref::Tensor some(batches, all.heads, count, all.channels);
  for (std::int64_t b = 0; b < batches; ++b) {
    for (std::int64_t h = 0; h < all.heads; ++h)
      std::copy_n(all.row(batch + b, h, first), count * all.channels, some.row(b, h, 0));
  }
  return some;
}

// [batch, heads, rows, width] of which a part.
Doubles part_of(const Doubles& all, const ref::Tensor& q, std::int64_t width, std::int64_t batch,
                std::int64_t first, std::int64_t count) {
  Doubles some;
  for (std::int64_t h = 0; h < q.heads; ++h) {
    const auto at = all.begin() + (((batch * q.heads + h) * q.tokens) + first) * width;
    some.insert(some.end(), at, at + count * width);
  }
  return some;
}

cli::AttentionJob job_of(const Kernel& kernel, const ref::Shape& shape, std::uint64_t seed) {
  return test::job_of({.kernel = kernel,
                       .inputs = test::inputs_for(kernel, "k_bias", shape, seed),
                       .layout = seed % 2 == 0 ? cli::Layout::nhd : cli::Layout::hnd,
                       .alignment = CausalAlignment::bottom_right});
}

cli::AttentionResult run(const cli::AttentionJob& job, const Kernel& kernel, std::uint64_t turn) {
  const cli::RunDevice on =
      test::device_of({.kernel = kernel, .inputs = {}, .emulator = by_turn(turn)});
  cli::AttentionResult result = cli::run_attention(job, on);
  for (const rt::Finding& finding : result.findings) FAIL_CHECK(test::text_of(finding));
  return result;
}

// Whether chunks that begin at multiples of `step` queries have the bits of the whole, and growing or all keys.
bool chunks_agree(const Kernel& kernel, std::int64_t step, bool growing, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  constexpr std::int64_t kMost = 290;
  const std::int64_t q_len = growing ? kMost : 170, kv_len = growing ? kMost : 90;
  const ref::Shape shape{.batch = 1, .q_heads = 4, .kv_heads = 2, .q_len = q_len, .kv_len = kv_len};
  const cli::AttentionJob whole = job_of(kernel, shape, seed);
  const cli::AttentionResult expected = run(whole, kernel, seed);
  const std::int64_t channels = whole.inputs.v.channels;
  bool agree = true;
  for (std::int64_t first = 0; first < q_len;) {
    const std::int64_t most = (q_len - first + step - 1) / step;
    const auto steps = 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(std::min(
                                                                    most, 150 / step + 1)));
    const std::int64_t count = std::min(steps * step, q_len - first);
    const std::int64_t keys = growing ? first + count : kv_len;
    cli::AttentionJob chunk = whole;
    chunk.inputs.q = tokens_of(whole.inputs.q, 0, 1, first, count);
    chunk.inputs.k = tokens_of(whole.inputs.k, 0, 1, 0, keys);
    chunk.inputs.v = tokens_of(whole.inputs.v, 0, 1, 0, keys);
    const cli::AttentionResult got = run(chunk, kernel, seed + 1);
    agree &= same_bits(got.o, part_of(expected.o, whole.inputs.q, channels, 0, first, count));
    agree &= same_bits(got.lse, part_of(expected.lse, whole.inputs.q, 1, 0, first, count));
    first += count;
  }
  return agree;
}

}  // namespace

TEST_CASE("a sequence has the same bits alone and anywhere in a batch", "[fast]") {
  std::uint64_t turn = Catch::rngSeed() % 1000;
  for (const std::string& options : specs()) {
    for (const char* mods : {"", " causal sinks", " window skipsoftmax"}) {
      const Kernel kernel = kernel_of(options + mods);
      CHECK(attention::invariance(kernel, Invariance::batch).holds);
      if (++turn % 3 != 0 && *mods != '\0') continue;
      const ref::Shape shape{.batch = 3,
                             .q_heads = 4,
                             .kv_heads = 2,
                             .q_len = 1 + static_cast<std::int64_t>(turn * 31 % 140),
                             .kv_len = 1 + static_cast<std::int64_t>(turn * 17 % 150)};
      INFO(kernel.key() << ", turn " << turn);
      const cli::AttentionJob all = job_of(kernel, shape, turn);
      const cli::AttentionResult in_batch = run(all, kernel, turn);
      for (std::int64_t b = 0; b < 3; b += 1 + static_cast<std::int64_t>(turn % 2)) {
        cli::AttentionJob alone = all;
        alone.inputs.q = tokens_of(all.inputs.q, b, 1, 0, shape.q_len);
        alone.inputs.k = tokens_of(all.inputs.k, b, 1, 0, shape.kv_len);
        alone.inputs.v = tokens_of(all.inputs.v, b, 1, 0, shape.kv_len);
        const cli::AttentionResult got = run(alone, kernel, turn + 1);
        CHECK(same_bits(
            got.o, part_of(in_batch.o, all.inputs.q, all.inputs.v.channels, b, 0, shape.q_len)));
        CHECK(same_bits(got.lse, part_of(in_batch.lse, all.inputs.q, 1, b, 0, shape.q_len)));
      }
    }
  }
}

namespace {

// A sequence between others of random lengths, in two places: whether it has the same bits.
bool packed_agrees(const Kernel& kernel, const rt::ArtifactSource& source, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto up_to = [&](std::int64_t most) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most + 1));
  };
  constexpr std::int64_t kMost = 140, kBatch = 4, kTotal = kBatch * kMost;
  const ref::Shape shape{
      .batch = kBatch, .q_heads = 4, .kv_heads = 2, .q_len = kMost, .kv_len = kMost};
  const std::int64_t queries = 1 + up_to(kMost - 1), keys = 1 + up_to(kMost - 1);
  Doubles first_o, first_lse;
  bool agree = true;
  for (const std::size_t place : {std::size_t{0}, std::size_t{2}, std::size_t{3}}) {
    cli::AttentionJob job = job_of(kernel, shape, seed + place);  // the others are other ones, too
    job.inputs.causal_offset = 0;
    const cli::AttentionJob same = job_of(kernel, shape, seed);
    const auto put = [&](ref::Tensor& to, const ref::Tensor& from) {
      for (std::int64_t h = 0; h < to.heads; ++h)
        std::copy_n(from.row(0, h, 0), kMost * to.channels,
                    to.row(static_cast<std::int64_t>(place), h, 0));
    };
    put(job.inputs.q, same.inputs.q);
    put(job.inputs.k, same.inputs.k);
    put(job.inputs.v, same.inputs.v);
    cli::SequenceLengths lengths;
    for (std::size_t b = 0; b < kBatch; ++b) {
      lengths.queries.push_back(b == place ? queries : up_to(kMost));
      lengths.keys.push_back(b == place ? keys : up_to(kMost));
    }
    job.layout = cli::Layout::nhd;
    const cli::RunDevice on =
        test::device_of({.kernel = kernel, .inputs = {}, .emulator = by_turn(seed + place)});
    const attention::Plan plan(on.device, kernel, source, {.invariance = Invariance::batch});
    cli::PackedCall call(job, on, plan, kTotal + 20, kTotal + 20);
    call.set(job.inputs, lengths, up_to(20));
    const std::vector<cli::AttentionResult> results = call.run();
    if (!results[0].findings.empty()) return false;
    if (place == 0) {
      first_o = results[place].o;
      first_lse = results[place].lse;
    }
    agree &= same_bits(results[place].o, first_o) && same_bits(results[place].lse, first_lse);
  }
  return agree;
}

}  // namespace

TEST_CASE("a packed sequence has the same bits wherever it stands and among whichever others",
          "[fast]") {
  std::uint64_t seed = Catch::rngSeed() % 1000;
  for (const std::string& options : specs()) {
    const Kernel kernel =
        kernel_of(options + (++seed % 2 == 0 ? " causal varlen=true" : " varlen=true"));
    INFO(kernel.key() << ", seed " << seed);
    CHECK(packed_agrees(kernel, test::emitted, seed));
  }
}

// Sequences that begin where the rows of the one before them end share groups of rows with it.
TEST_CASE("a kernel whose groups cross from one sequence to the next is seen", "[fast]") {
  const rt::ArtifactSource crossing = [](const Kernel& kernel) {
    Artifact artifact = test::emitted(kernel);
    if (kernel.key().starts_with("sage_quantrows") || kernel.key().starts_with("sage_fwd") ||
        kernel.key().starts_with("sage_quantv")) {
      emulator::test::PtxEdit text(artifact.code);
      text.replace(R"(mad\.lo\.s32\s+(%r\d+), %r\d+, %r\d+, (%r\d+);)", "mov.b32 $1, $2;");
      artifact.code = text.text();
    }
    return artifact;
  };
  CHECK_FALSE(packed_agrees(kernel_of("head_dim=64 varlen=true"), crossing, 5));
  // K means of all sequences: of the first rows of the packed tensor.
  const rt::ArtifactSource mean_of_batch = [](const Kernel& kernel) {
    Artifact artifact = test::emitted(kernel);
    if (kernel.key().starts_with("sage_kvstats")) {
      emulator::test::PtxEdit text(artifact.code);
      text.replace(R"(ld\.global\.b32\s+(%r\d+), \[(%rd\d+)\];)", "mov.b32 $1, 0;");
      artifact.code = text.text();
    }
    return artifact;
  };
  CHECK_FALSE(packed_agrees(kernel_of("head_dim=64 varlen=true"), mean_of_batch, 5));
}

TEST_CASE("queries in chunks have the bits of all of them at once, where a kernel claims it",
          "[fast]") {
  std::uint64_t seed = Catch::rngSeed() % 1000;
  int claims = 0, tried = 0, differ = 0;
  std::vector<std::string> all = specs();
  all.insert(all.end(), {"head_dim=64 skipsoftmax", "head_dim=64 qk=f16 pv=f16 softcap sinks"});
  for (const std::string& options : all) {
    const Kernel kernel = kernel_of(options);
    const attention::InvarianceRule rule = attention::invariance(kernel, Invariance::query_chunks);
    const std::int64_t step = rule.queries(kernel.view(attention::family()).spec.pack_gqa, 2);
    INFO(kernel.key() << ", chunks of " << step << ", seed " << seed);
    ++seed;
    claims += rule.holds;
    const bool agree = chunks_agree(kernel, step, false, seed);
    CHECK(agree == rule.holds);
    if (rule.holds && step > 1 && ++tried) differ += !chunks_agree(kernel, 7, false, seed);
  }
  CHECK(claims == static_cast<int>(all.size()) - 1);
  CHECK(differ >= tried - 1);  // no warp of the other need have skipped another tile
}

TEST_CASE("chunked prefill has the bits of one call, where a kernel claims it", "[fast]") {
  std::uint64_t seed = Catch::rngSeed() % 1000;
  int claims = 0;
  for (const std::string& options : specs()) {
    for (const char* mods : {"", " sinks alibi", " window softcap"}) {
      const Kernel kernel = kernel_of(options + " causal" + mods);
      const attention::InvarianceRule rule =
          attention::invariance(kernel, Invariance::growing_keys);
      if (!rule.holds && *mods != '\0') continue;
      const std::int64_t step = rule.queries(kernel.view(attention::family()).spec.pack_gqa, 2);
      INFO(kernel.key() << ", chunks of " << step << ", seed " << seed);
      ++seed;
      claims += rule.holds;
      CHECK(chunks_agree(kernel, step, true, seed) == rule.holds);
    }
  }
  CHECK(claims == 3 * 7);
}

TEST_CASE("what a plan that is to be invariant refuses", "[fast]") {
  const cli::RunDevice on = test::device_of({.kernel = kernel_of("head_dim=64"), .inputs = {}});
  const auto refusal = [&](const std::string& options, Invariance level) {
    try {
      const attention::Plan plan(on.device, kernel_of(options), test::emitted,
                                 {.invariance = level});
    } catch (const SpecError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(refusal("head_dim=64 granularity=per_tensor", Invariance::batch) == "accepted");
  CHECK_THAT(refusal("head_dim=64 granularity=per_tensor", Invariance::query_chunks),
             Contains("is not invariant (query_chunks)") && Contains("one scale for all queries"));
  CHECK_THAT(refusal("head_dim=64 causal", Invariance::query_chunks),
             Contains("count queries from the first one of a call"));
  CHECK_THAT(refusal("head_dim=64 qk=f16 pv=f16", Invariance::growing_keys),
             Contains("take a kernel with causal=true"));
  CHECK_THAT(refusal("head_dim=64 causal", Invariance::growing_keys),
             Contains("take smoothing=none"));
  CHECK_THAT(refusal("head_dim=64 causal smoothing=none", Invariance::growing_keys),
             Contains("take P V of f16 with accumulation=f32"));

  const Kernel kernel = kernel_of("head_dim=64 causal smoothing=none pv=f16 accumulation=f32");
  const attention::InvarianceRule rule = attention::invariance(kernel, Invariance::growing_keys);
  CHECK(rule.holds);
  CHECK(rule.queries(false, 1) == 128);  // tiles of queries; those of keys, and groups, are smaller
  const Kernel changed =
      kernel_of("head_dim=64 causal alibi smoothing=none pv=f16 accumulation=f32");
  CHECK(attention::invariance(changed, Invariance::growing_keys).queries(false, 1) == 64);
  const Kernel any = kernel_of("head_dim=64 causal alibi qk=f16 pv=f16");
  CHECK(attention::invariance(any, Invariance::growing_keys).queries(false, 1) == 1);
  const attention::Plan plan(on.device, kernel, test::emitted,
                             {.invariance = Invariance::growing_keys});
  const rt::Buffer memory(on.device, 1 << 16);
  const auto text = [&](std::int64_t q_len, std::int64_t kv_len, CausalAlignment causal) {
    try {
      const rt::TensorView view = rt::hnd(memory.data(), 1, 128, 64);
      plan.run({.q_len = q_len, .kv_len = kv_len},
               {.q = view, .k = view, .v = view, .o = view, .causal = causal}, 0, 0, nullptr);
    } catch (const rt::ArgumentError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK_THAT(text(10, 50, CausalAlignment::bottom_right),
             Contains("begin at key 40; chunks begin at multiples of 128"));
  CHECK_THAT(text(50, 10, CausalAlignment::bottom_right), Contains("begin at key -40"));
  CHECK_THAT(text(10, 138, CausalAlignment::top_left), Contains("causal bottom_right"));
  CHECK_THAT(text(10, 138, CausalAlignment::bottom_right), Contains("workspace"));

  // One schedule, whatever the shape: nothing is looked up.
  attention::TuningOptions tuning{.choice = {.mode = attention::TuningMode::cached},
                                  .database = "/nonexistent/tuning",
                                  .plan = {.invariance = Invariance::batch}};
  attention::TunedPlan tuned(on.device, kernel, test::emitted, tuning);
  const std::vector<attention::Shape> shapes{{.q_len = 1, .kv_len = 500},
                                             {.q_len = 64, .kv_len = 64}};
  tuned.prepare(shapes);
  CHECK(tuned.choices().empty());
  CHECK(&tuned.plan_for(shapes[0]) == &tuned.plan_for(shapes[1]));
}
