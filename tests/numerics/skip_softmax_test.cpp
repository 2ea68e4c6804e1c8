// Skip-softmax (templates/attention/mods/skipsoftmax.h): which tiles warps leave out, what that costs, and that nothing
// else changes. Scores go up and down by tiles of 64 keys, so that it is known which tiles weigh next to nothing.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sagegen/emit.h"
#include "tests/numerics/scene.h"
#include "tools/sagegen/run_judge.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::ModArguments;
using test::Scene;
using test::schedule_of;
using test::spec_of;

namespace {

using Counts = std::vector<std::uint32_t>;  // skipped, computed, of each request

struct Ran {
  cli::AttentionResult result;
  Counts counts;
};

// Gives `mods` to the kernel, with counts if it has skip-softmax. thresholds: of each request; empty: none are given.
Ran run(const Scene& scene, const ModArguments& mods, const std::vector<float>& thresholds = {},
        const std::vector<std::uint32_t>& bits = {}) {
  const cli::RunDevice on = test::device_of(scene);
  cli::AttentionJob job = test::job_of(scene);
  std::vector<rt::Buffer> tensors;
  const auto put = [&](auto values) {
    tensors.emplace_back(on.device, values.size() * 4);
    tensors.back().upload(std::as_bytes(std::span(values)));
    return tensors.back().data();
  };
  ModArguments given = mods;
  Counts counts(2 * static_cast<std::size_t>(scene.inputs.q.batch), 0);
  if (job.spec.skipsoftmax) given.skipsoftmax.counts = put(counts);
  const std::size_t at = tensors.size();
  if (!thresholds.empty()) given.skipsoftmax.thresholds = put(thresholds);
  if (!bits.empty()) given.blocksparse.bits = put(bits);
  job.mods = [&](const rt::Device&, std::vector<rt::Buffer>&) { return given; };
  Ran ran{.result = cli::run_attention(job, on)};
  INFO(test::text_of(job, on));
  for (const rt::Finding& finding : ran.result.findings) FAIL(test::text_of(finding));
  if (job.spec.skipsoftmax) {
    tensors[at - 1].download(std::as_writable_bytes(std::span(counts)));
    ran.counts = counts;
  }
  return ran;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}
void check_same(const Ran& a, const Ran& b) {
  CHECK(same_bits(a.result.o, b.result.o));
  CHECK(same_bits(a.result.lse, b.result.lse));
}

// By tile; the fourth and the last ones are far below all that comes before them, the third one is not.
constexpr std::array<double, 6> kOctaves{0, -40, -3, 2, -35, -40};
constexpr std::int64_t kLight = 3;  // of them
constexpr std::int64_t kKeys = 6 * 64 - 5, kQueries = 150;
constexpr float kThreshold = 0x1p-20f;

double octaves_of(std::int64_t tile) { return kOctaves[static_cast<std::size_t>(tile)]; }

ref::Inputs by_tile(const Kernel& kernel) {
  return test::scores_by_tile(kernel, {.q_heads = 2, .q_len = kQueries, .kv_len = kKeys}, 5,
                              octaves_of, [](std::int64_t) { return 1; });
}

// Kernels of every mode of the target with head_dim 64 and 128, in both types, with the flag.
std::vector<Kernel> kernels_of(Target target, bool attention::Spec::*flag) {
  std::vector<Kernel> kernels;
  for (const attention::Mode& mode : attention::modes()) {
    for (const int head_dim : {64, 128}) {
      for (const DType io : {DType::f16, DType::bf16}) {
        attention::Spec spec = attention::usual_spec(target);
        spec.head_dim = head_dim;
        spec.io = io;
        spec = attention::with_mode(spec, mode);
        if (flag != nullptr) spec.*flag = true;
        const Kernel kernel(attention::family(), spec, target);
        if (test::is_legal(kernel)) kernels.push_back(kernel);
      }
    }
  }
  return kernels;
}
std::int64_t warps_with_queries(const Kernel& kernel, std::int64_t queries) {
  const attention::Schedule& schedule = schedule_of(kernel);
  const std::int64_t rows = schedule.cta_q / schedule.warps;
  return (queries + rows - 1) / rows;
}

Kernel with(const Kernel& kernel, const std::function<void(attention::Spec&)>& change) {
  attention::Spec spec = spec_of(kernel);
  change(spec);
  return Kernel(attention::family(), spec, schedule_of(kernel), kernel.target());
}

const std::vector<Target> kTargets{Target{80}, Target{86}, Target{89}, Target{120}};

}  // namespace

TEST_CASE("light tiles are left out as if a mask hid them", "[full]") {
  int kernels = 0;
  for (const Target target : kTargets) {
    for (const Kernel& kernel : kernels_of(target, &attention::Spec::skipsoftmax)) {
      const attention::Schedule& schedule = schedule_of(kernel);
      if (schedule.cta_k != 64) continue;
      ++kernels;
      CAPTURE(kernel.key());
      const Scene scene{.kernel = kernel, .inputs = by_tile(kernel)};
      const Ran skipping = run(scene, {.skipsoftmax = {.threshold = kThreshold}});
      const Kernel masked = with(kernel, [](attention::Spec& spec) {
        spec.skipsoftmax = false;
        spec.blocksparse = true;
      });
      std::uint32_t word = 0;
      for (std::size_t t = 0; t < kOctaves.size(); ++t) word |= (kOctaves[t] > -20 ? 1u : 0u) << t;
      const auto tiles = static_cast<std::size_t>((kQueries + schedule.cta_q - 1) / schedule.cta_q);
      check_same(skipping,
                 run({.kernel = masked, .inputs = scene.inputs},
                     {.blocksparse = {.tile_queries = schedule.cta_q, .tile_keys = schedule.cta_k}},
                     {}, std::vector<std::uint32_t>(2 * tiles, word)));
      const std::int64_t warps = 2 * warps_with_queries(kernel, kQueries);  // of two heads
      const auto all = static_cast<std::int64_t>(kOctaves.size());
      CHECK(skipping.counts == Counts{static_cast<std::uint32_t>(kLight * warps),
                                      static_cast<std::uint32_t>((all - kLight) * warps)});
    }
  }
  CHECK(kernels > 30);
}

TEST_CASE("a threshold of 0 skips nothing and changes no bit", "[full]") {
  for (const Target target : {Target{80}, Target{89}}) {
    for (const Kernel& kernel : kernels_of(target, &attention::Spec::skipsoftmax)) {
      CAPTURE(kernel.key());
      const Scene scene{.kernel = kernel, .inputs = by_tile(kernel)};
      const Kernel plain = with(kernel, [](attention::Spec& spec) { spec.skipsoftmax = false; });
      const Ran skipping = run(scene, {});
      CHECK(skipping.counts[0] == 0);
      CHECK(skipping.counts[1] > 0);
      check_same(skipping, run({.kernel = plain, .inputs = scene.inputs}, {}));
    }
  }
}

TEST_CASE("a warp skips only what none of its rows needs", "[fast]") {
  attention::Spec spec = attention::usual_spec(Target{89});
  spec.head_dim = 64;
  spec.skipsoftmax = true;
  const Kernel kernel(attention::family(), spec, Target{89});
  // To query 70, of the third warp, what is light to the others is all that counts.
  Scene scene{.kernel = kernel};
  scene.inputs = test::scores_by_tile(
      kernel, {.q_heads = 1, .q_len = kQueries, .kv_len = kKeys}, 5,
      [](std::int64_t tile) { return octaves_of(tile) / 4; },
      [](std::int64_t query) { return query == 70 ? -1 : 1; });
  scene.inputs.mods = {ref::skip_softmax({0.05f})};
  const cli::RunDevice on = test::device_of(scene);
  cli::AttentionJob job = test::job_of(scene);
  job.mods = [](const rt::Device& device, std::vector<rt::Buffer>& keep) {
    keep.emplace_back(device, 8);
    keep.back().fill(0);
    return ModArguments{.skipsoftmax = {.threshold = 0.05f, .counts = keep.back().data()}};
  };
  const cli::AttentionResult result = cli::run_attention(job, on);
  const cli::Judgement judgement = cli::judge(job, result, on, {});
  CHECK(judgement.row.met());
  CHECK(judgement.passed);
  REQUIRE(result.tiles);
  // Warps 0, 1, 3 and 4 of 32 rows skip three tiles each; to the third one's other rows nothing new.
  CHECK(result.tiles->skipped == 4 * kLight);
  CHECK(result.tiles->computed == 5 * 6 - 4 * kLight);
}

TEST_CASE("each request has a threshold of its own, and one query is enough to skip", "[fast]") {
  attention::Spec spec = attention::usual_spec(Target{80});
  spec.skipsoftmax = true;
  const Kernel kernel(attention::family(), spec, Target{80});
  const ref::Inputs one = test::scores_by_tile(kernel, {.q_heads = 1, .q_len = 1, .kv_len = kKeys},
                                               5, octaves_of, [](std::int64_t) { return 1; });
  ref::Inputs both = one;
  for (ref::Tensor* tensor : {&both.q, &both.k, &both.v}) {
    const std::vector<float> data = tensor->data;
    tensor->data.insert(tensor->data.end(), data.begin(), data.end());
    tensor->batch = 2;
  }
  const Ran ran = run({.kernel = kernel, .inputs = both}, {}, {0, kThreshold});
  CHECK(ran.counts == Counts{0, 6, kLight, 6 - kLight});
  const Ran first = run({.kernel = kernel, .inputs = one}, {});
  const Ran second =
      run({.kernel = kernel, .inputs = one}, {.skipsoftmax = {.threshold = kThreshold}});
  std::vector<double> expected = first.result.o;
  expected.insert(expected.end(), second.result.o.begin(), second.result.o.end());
  CHECK(same_bits(ran.result.o, expected));
}

// Every kernel beside other mods, judged as `sagegen run` judges it: rows that skipped may lose what they skipped.
TEST_CASE("kernels that skip are as exact as they promise, whatever else they have", "[full]") {
  std::uint64_t skipped = 0, turn = 0;
  for (const Target target : {Target{80}, Target{89}}) {
    for (const Kernel& kernel : kernels_of(target, &attention::Spec::skipsoftmax)) {
      for (bool attention::Spec::*mod :
           {&attention::Spec::causal, &attention::Spec::window, &attention::Spec::softcap,
            &attention::Spec::bias, &attention::Spec::alibi, &attention::Spec::mask,
            &attention::Spec::sinks, &attention::Spec::blocksparse}) {
        ++turn;
        const Kernel both = with(kernel, [&](attention::Spec& spec) {
          spec.*mod = true;
          if (turn % 3 == 1 && spec.pv == DType::e4m3) spec.v_smoothing = ValueSmoothing::mean;
          if (turn % 2 == 1) spec.value_dim = 192 - spec.head_dim;  // 128 and 64
        });
        if (!test::is_legal(both)) continue;
        Scene scene{.kernel = both, .inputs = by_tile(both)};
        const cli::RunDevice on = test::device_of(scene);
        const cli::AttentionJob job = test::job_of(scene);
        INFO(test::text_of(job, on));
        const cli::AttentionResult result = cli::run_attention(job, on);
        for (const rt::Finding& finding : result.findings) FAIL_CHECK(test::text_of(finding));
        const cli::Judgement judgement = cli::judge(job, result, on, {});
        CHECK(judgement.passed);
        skipped += result.tiles->skipped;
      }
    }
  }
  CHECK(skipped > 0);
}
