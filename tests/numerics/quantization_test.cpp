// Smoothing and granularity of Q and K (SageAttention2 sections 3.1 and 3.2): what they buy on data like the paper's,
// and that the part of the scores which smoothing takes from Q comes back whole, whatever the sizes of queries, means
// and keys, and in whatever parts the problem is attended. Codes, scales and scores of means themselves:
// codes_test.cpp; schedules: schedules_test.cpp.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "sagegen/emit.h"
#include "tests/numerics/scene.h"
#include "tools/sagegen/run_judge.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using test::inputs_for;
using test::Scene;

namespace {

Kernel kernel_of(int sm, Smoothing smoothing, attention::Spec spec = {}) {
  const attention::Spec usual = attention::usual_spec({.sm = sm});
  spec.pv = usual.pv;
  spec.accumulation = usual.accumulation;
  spec.smoothing = smoothing;
  return {attention::family(), spec, Target{.sm = sm}};
}

// Runs, demands what `sagegen run` demands (each row within its bounds, no finding), and compares with fp64.
ref::Metrics checked(const Scene& scene) {
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionJob job = test::job_of(scene);
  INFO(test::text_of(job, on));
  const cli::AttentionResult result = cli::run_attention(job, on);
  for (const rt::Finding& finding : result.findings) FAIL_CHECK(test::text_of(finding));
  const cli::JudgeOptions all_rows{.rows = 0};
  const int capability = on.device.compute_capability();
  const cli::Judgement judgement =
      cli::judge(job, result, capability, cli::expected_of(job, capability, all_rows));
  if (!judgement.passed) FAIL_CHECK(cli::judgement_text(judgement, job, all_rows, true));
  const ref::Metrics metrics = ref::compare(ref::attention(job.inputs).o, result.o);
  CHECK(metrics.non_finite == 0);
  return metrics;
}

// Channels of Q and K weighed against each other, as SmoothQuant does with strength 1/2: q c . k / c.
ref::Inputs smooth_quant(ref::Inputs in) {
  for (std::int64_t c = 0; c < in.q.channels; ++c) {
    const auto largest = [&](const ref::Tensor& tensor) {
      float most = 0;
      for (std::size_t i = static_cast<std::size_t>(c); i < tensor.data.size();
           i += static_cast<std::size_t>(tensor.channels))
        most = std::max(most, std::fabs(tensor.data[i]));
      return most;
    };
    const float factor = std::sqrt(largest(in.k) / largest(in.q));
    for (std::size_t i = static_cast<std::size_t>(c); i < in.q.data.size();
         i += static_cast<std::size_t>(in.q.channels))
      in.q.data[i] *= factor;
    for (std::size_t i = static_cast<std::size_t>(c); i < in.k.data.size();
         i += static_cast<std::size_t>(in.k.channels))
      in.k.data[i] /= factor;
  }
  return in;
}

constexpr std::array kTargets = {80, 86, 89};

void fill_rows(ref::Tensor& tensor, float value) {
  std::fill(tensor.data.begin(), tensor.data.end(), value);
}

}  // namespace

TEST_CASE("INT4 with Q and K smoothed is as accurate as the paper says", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 256, .kv_len = 1024};
  for (const int sm : kTargets) {
    for (const int head_dim : {64, 128}) {
      const auto error = [&](Smoothing smoothing) {
        const Kernel kernel = kernel_of(sm, smoothing, {.head_dim = head_dim, .qk = DType::s4});
        return checked({.kernel = kernel, .inputs = inputs_for(kernel, "outlier", kShape, 1)});
      };
      const ref::Metrics none = error(Smoothing::none), k = error(Smoothing::k),
                         qk = error(Smoothing::qk);
      const Kernel plain = kernel_of(sm, Smoothing::none, {.head_dim = head_dim, .qk = DType::s4});
      const ref::Inputs inputs = inputs_for(plain, "outlier", kShape, 1);
      const cli::AttentionJob job = test::job_of({.kernel = plain, .inputs = inputs});
      const ref::Metrics balanced = ref::compare(
          ref::attention(inputs).o, ref::model(smooth_quant(inputs), cli::quant_model(job)).o);
      INFO("sm_" << sm << ", head_dim " << head_dim << ": cosine similarity "
                 << none.cosine_similarity << " none, " << balanced.cosine_similarity
                 << " SmoothQuant, " << k.cosine_similarity << " K, " << qk.cosine_similarity
                 << " Q and K");
      CHECK(none.cosine_similarity < balanced.cosine_similarity);
      CHECK(balanced.cosine_similarity < k.cosine_similarity);
      CHECK(k.cosine_similarity < qk.cosine_similarity);
      CHECK(none.relative_l1 > balanced.relative_l1);
      CHECK(balanced.relative_l1 > k.relative_l1);
      CHECK(k.relative_l1 > qk.relative_l1);
      CHECK(qk.cosine_similarity >= 0.994);
      CHECK(qk.relative_l1 <= 0.065);
    }
  }
}

// The paper's table of granularities: finer ones are more accurate, and a thread's scales are worth a row's.
TEST_CASE("INT4 is the more accurate the fewer numbers share a scale", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 4, .kv_heads = 2, .q_len = 384, .kv_len = 1024};
  struct Sharing {
    const char* name;
    Granularity granularity;
    int q_group;
  };
  constexpr std::array kFromFine = {Sharing{"per token", Granularity::per_token, 32},
                                    Sharing{"per thread", Granularity::per_thread, 32},
                                    Sharing{"per warp", Granularity::per_block, 32},
                                    Sharing{"per block", Granularity::per_block, 128},
                                    Sharing{"per tensor", Granularity::per_tensor, 128}};
  for (const Smoothing smoothing : {Smoothing::k, Smoothing::qk}) {
    std::vector<ref::Metrics> errors;
    for (const Sharing& sharing : kFromFine) {
      const Kernel kernel = kernel_of(89, smoothing,
                                      {.head_dim = 64,
                                       .qk = DType::s4,
                                       .granularity = sharing.granularity,
                                       .q_group = sharing.q_group});
      errors.push_back(
          checked({.kernel = kernel, .inputs = inputs_for(kernel, "outlier", kShape, 5)}));
      std::printf("smoothing %s, %s: cosine similarity %.4f %%, relative L1 %.4f\n",
                  std::string(to_string(smoothing)).c_str(), sharing.name,
                  100 * errors.back().cosine_similarity, errors.back().relative_l1);
    }
    CHECK(errors[0].cosine_similarity - errors[1].cosine_similarity <= 0.0005);
    CHECK(errors[1].cosine_similarity > errors[2].cosine_similarity);
    CHECK(errors[1].cosine_similarity > errors[3].cosine_similarity);
    CHECK(errors[3].cosine_similarity > errors[4].cosine_similarity);
  }
}

TEST_CASE("smoothing Q costs INT8 nothing", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 2, .q_len = 200, .kv_len = 300};
  for (const int sm : {80, 120}) {
    for (const char* distribution : {"normal", "outlier", "k_bias"}) {
      const auto error = [&](Smoothing smoothing) {
        const Kernel kernel = kernel_of(sm, smoothing, {.head_dim = 128});
        return checked({.kernel = kernel, .inputs = inputs_for(kernel, distribution, kShape, 2)})
            .relative_l1;
      };
      CHECK(error(Smoothing::qk) <= 1.02 * error(Smoothing::k));
    }
  }
}

// SageAttention2 smooths V for sums of few bits. It serves the codes, too, so with every accumulation.
TEST_CASE("a channel's offset costs a smoothed V nothing", "[fast]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 64, .kv_len = 300};
  for (const int sm : {89, 120}) {
    for (const Accumulation accumulation :
         {Accumulation::f32, Accumulation::two_level_f32, Accumulation::f32_f16}) {
      const auto error = [&](ValueSmoothing v_smoothing, const char* distribution) {
        attention::Spec spec = attention::usual_spec({.sm = sm});
        spec.head_dim = 64;
        spec.accumulation = accumulation;
        spec.v_smoothing = v_smoothing;
        const Kernel kernel(attention::family(), spec, Target{.sm = sm});
        return checked({.kernel = kernel, .inputs = inputs_for(kernel, distribution, kShape, 7)});
      };
      const double plain = error(ValueSmoothing::none, "v_offset").rmse,
                   smoothed = error(ValueSmoothing::mean, "v_offset").rmse;
      INFO("sm_" << sm << ", " << to_string(accumulation) << ": RMSE " << plain << ", smoothed "
                 << smoothed);
      CHECK(smoothed < 0.7 * plain);
      CHECK(error(ValueSmoothing::mean, "normal").rmse <
            1.05 * error(ValueSmoothing::none, "normal").rmse);
    }
  }
}

// A rotation spreads what single channels have over all of them. Where the means took it already, it is worth nothing.
TEST_CASE("rotating Q and K serves codes of rows with outliers, and costs others nothing",
          "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 200, .kv_len = 300};
  for (const int sm : {80, 89}) {
    for (const DType qk : {DType::s8, DType::s4}) {
      for (const int head_dim : {64, 96, 128}) {
        for (const Smoothing smoothing : {Smoothing::none, Smoothing::k, Smoothing::qk}) {
          const auto error = [&](const char* distribution, Rotation rotation) {
            const Kernel kernel =
                kernel_of(sm, smoothing, {.head_dim = head_dim, .qk = qk, .rotation = rotation});
            return checked(
                       {.kernel = kernel, .inputs = inputs_for(kernel, distribution, kShape, 4)})
                .relative_l1;
          };
          const double plain = error("outlier", Rotation::none),
                       rotated = error("outlier", Rotation::hadamard);
          INFO("sm_" << sm << ", " << to_string(qk) << ", head_dim " << head_dim << ", smoothing "
                     << to_string(smoothing) << ": relative L1 " << plain << ", rotated "
                     << rotated);
          const bool codes_are_few = qk == DType::s4 && smoothing != Smoothing::qk;
          CHECK(rotated < (codes_are_few ? 0.95 : 1.05) * plain);
          CHECK(error("normal", Rotation::hadamard) < 1.05 * error("normal", Rotation::none));
        }
      }
    }
  }
}

// All that a kernel sees of the problem is its part: batches, heads, or blocks of queries.
TEST_CASE("attention in parts is attention", "[fast]") {
  const Kernel kernel =
      kernel_of(89, Smoothing::qk, {.head_dim = 64, .qk = DType::s4, .causal = true});
  constexpr ref::Shape kShape{.batch = 3, .q_heads = 6, .kv_heads = 2, .q_len = 300, .kv_len = 150};
  constexpr std::int64_t kBlock = 4 * 192;  // bytes of 128 queries, keys padded to 64
  const Scene scene{.kernel = kernel,
                    .inputs = inputs_for(kernel, "outlier", kShape, 3),
                    .alignment = attention::CausalAlignment::bottom_right};
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionJob job = test::job_of(scene);
  const attention::Shape shape{
      .batch = 3, .q_heads = 6, .kv_heads = 2, .q_len = 300, .kv_len = 150};
  checked(scene);
  const cli::AttentionResult whole = cli::run_attention(job, on);
  std::size_t before = 0;
  // A block at a time, two and one, a head, three of six, a batch, two and one, everything.
  for (const std::int64_t blocks : {0, 1, 2, 3, 15, 18, 36, 54}) {
    const attention::Plan plan(on.device, kernel, test::emitted,
                               {.mean_score_bytes = blocks * kBlock});
    INFO(blocks << " blocks of queries at a time");
    const cli::AttentionResult parts = cli::run_attention(job, on, plan);
    for (const rt::Finding& finding : parts.findings) FAIL_CHECK(test::text_of(finding));
    CHECK(parts.o == whole.o);
    CHECK(parts.lse == whole.lse);
    const std::size_t bytes = plan.workspace_bytes(shape);
    CHECK((blocks <= 1 ? bytes >= before : bytes > before));
    before = bytes;
  }
}

// Where most of every query is the same, and its scores reach as far as integer sums do. Errors are compared with the
// model's here, whatever the bounds of rows allow.
TEST_CASE("scores of means as large as integer sums hold", "[full]") {
  constexpr ref::Shape kShape{.q_len = 128, .kv_len = 256};
  const auto factor_of = [](std::int64_t i, std::uint64_t stream) {
    return ((static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15u + stream) >> 40) % 2 == 0 ? 1.0f
                                                                                           : -1.0f;
  };
  for (const DType qk : {DType::s4, DType::s8}) {
    for (const int sm : {80, 89}) {
      for (const auto& [mean, deviation] :
           {std::pair{2000.0f, 0.25f}, std::pair{500.0f, 0.0625f}}) {
        for (const float scale : {0.25f, 1.0f}) {
          const Kernel kernel = kernel_of(sm, Smoothing::qk, {.head_dim = 64, .qk = qk});
          ref::Inputs in = inputs_for(kernel, "normal", kShape, 6);
          for (std::int64_t n = 0; n < kShape.q_len; ++n) {
            for (std::int64_t c = 0; c < 64; ++c) {
              float& q = in.q.row(0, 0, n)[c];
              q = deviation * std::clamp(std::round(q), -1.0f, 1.0f) +
                  (c % 4 == 0 ? 0 : mean * factor_of(c, 1));
            }
          }
          for (std::int64_t n = 0; n < kShape.kv_len; ++n) {
            for (std::int64_t c = 0; c < 64; ++c) {
              float& k = in.k.row(0, 0, n)[c];
              k = c % 4 == 0 ? k / 2 : factor_of(n, 2) * factor_of(c, 1);
            }
          }
          in.softmax_scale = scale / deviation;
          ref::round_to(ref::IoType::f16, in.q);
          ref::round_to(ref::IoType::f16, in.k);
          const Scene scene{.kernel = kernel, .inputs = in};
          INFO(kernel.key() << ", mean " << mean << ", scale " << in.softmax_scale);
          const ref::Metrics got = checked(scene);
          const ref::Metrics model = ref::compare(
              ref::attention(in).o, ref::model(in, cli::quant_model(test::job_of(scene))).o);
          CHECK(got.relative_l1 <= 1.05 * model.relative_l1 + 5e-4);
        }
      }
    }
  }
}

// A channel that all queries and keys share: it has no part in any weight, and must not cost one.
TEST_CASE("a large channel that Q and K share costs nothing", "[full]") {
  constexpr ref::Shape kShape{.q_len = 128, .kv_len = 256};
  for (const DType io : {DType::f16, DType::bf16}) {
    const Kernel kernel = kernel_of(80, Smoothing::qk, {.head_dim = 64, .io = io, .qk = DType::s4});
    ref::Inputs in = inputs_for(kernel, "normal", kShape, 7);
    for (ref::Tensor* tensor : {&in.q, &in.k})
      for (std::size_t i = 5; i < tensor->data.size(); i += 64) tensor->data[i] += 5000;
    for (ref::Tensor* tensor : {&in.q, &in.k}) ref::round_to(test::io_type(io), *tensor);
    const Scene scene{.kernel = kernel, .inputs = in};
    const ref::Metrics got = checked(scene);
    const ref::Metrics model =
        ref::compare(ref::attention(in).o, ref::model(in, cli::quant_model(test::job_of(scene))).o);
    INFO(kernel.key() << ": relative L1 " << got.relative_l1 << ", of the model "
                      << model.relative_l1);
    CHECK(got.relative_l1 <= 1.02 * model.relative_l1 + 2e-4);
  }
}

// As far as bf16 reaches: neither sums of 128 queries nor products with keys leave f32 where those of codes do not.
TEST_CASE("queries and keys of all sizes that bf16 has", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 150, .kv_len = 100};
  const Kernel kernel =
      kernel_of(89, Smoothing::qk, {.head_dim = 64, .io = DType::bf16, .qk = DType::s4});
  struct Sizes {
    float q, k;
    double scale;
  };
  for (const Sizes& sizes :
       {Sizes{1.5e38f, 1.0f, 3e-39}, Sizes{1.5e38f, 1e-38f, 0.1}, Sizes{1e25f, 1e14f, 1e-38},
        Sizes{1e-30f, 1e30f, 0.1}, Sizes{1e20f, 1e-20f, 0.1}}) {
    ref::Inputs in = inputs_for(kernel, "normal", kShape, 8);
    for (float& q : in.q.data) q = sizes.q * (0.9f + 0.02f * q);
    for (float& k : in.k.data) k *= sizes.k;
    in.softmax_scale = sizes.scale;
    ref::round_to(ref::IoType::bf16, in.q);
    ref::round_to(ref::IoType::bf16, in.k);
    INFO("q " << sizes.q << ", k " << sizes.k << ", softmax scale " << sizes.scale);
    const cli::AttentionJob job = test::job_of({.kernel = kernel, .inputs = in});
    const cli::AttentionResult result =
        cli::run_attention(job, test::device_of({.kernel = kernel, .inputs = in}));
    REQUIRE_FALSE(result.o.empty());
    const ref::Metrics got = ref::compare(ref::attention(in).o, result.o);
    const ref::Metrics model =
        ref::compare(ref::attention(in).o, ref::model(in, cli::quant_model(job)).o);
    CHECK(got.non_finite == 0);
    CHECK(got.relative_l1 <= 1.05 * model.relative_l1 + 1e-3);
  }
}

// Scores of means from nothing to all there is: a mean that is most of every query, queries that are their mean,
// keys that are theirs, one key, one query, zeros, the largest numbers. Integer sums hold 2^22 units.
TEST_CASE("means, deviations and keys of every size", "[full]") {
  for (const DType qk : {DType::s4, DType::s8}) {
    for (const DType io : {DType::f16, DType::bf16}) {
      for (const int head_dim : {64, 128}) {
        const Kernel kernel =
            kernel_of(89, Smoothing::qk, {.head_dim = head_dim, .io = io, .qk = qk});
        const auto with = [&](ref::Shape shape, const auto& edit) {
          ref::Inputs in = inputs_for(kernel, "normal", shape, 4);
          edit(in);
          ref::round_to(test::io_type(io), in.q);
          ref::round_to(test::io_type(io), in.k);
          checked({.kernel = kernel, .inputs = in});
        };
        constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 150, .kv_len = 100};
        for (const float mean : {0x1p-14f, 1.0f, 300.0f, 3e4f}) {
          INFO("mean " << mean);
          with(kShape, [&](ref::Inputs& in) {  // each channel has a sign, and an eighth none
            for (std::size_t i = 0; i < in.q.data.size(); ++i)
              in.q.data[i] += i % 8 == 0 ? 0 : i % 3 == 0 ? -mean : mean;
            in.softmax_scale = 1 / (mean + 1);
          });
          with(kShape, [&](ref::Inputs& in) { fill_rows(in.q, mean); });
          with(kShape, [&](ref::Inputs& in) { fill_rows(in.k, mean); });
          with(kShape, [&](ref::Inputs& in) { fill_rows(in.q, mean), fill_rows(in.k, -mean); });
        }
        with(kShape, [](ref::Inputs& in) { fill_rows(in.q, 0); });
        with(kShape, [](ref::Inputs& in) { fill_rows(in.k, 0); });
        with({.q_len = 1, .kv_len = 1}, [](ref::Inputs&) {});
        with({.q_len = 1, .kv_len = 300}, [](ref::Inputs&) {});
        with({.q_len = 129, .kv_len = 1}, [](ref::Inputs&) {});
        for (const double scale : {1e-6, 1.0, 100.0, 1e5, 1e12, 1e25}) {
          with(kShape, [&](ref::Inputs& in) {
            for (float& q : in.q.data) q += 2;
            in.softmax_scale = scale;
          });
        }
      }
    }
  }
}
