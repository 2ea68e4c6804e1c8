// How exact the kernels are: every attention kernel of the default set, with the kernels that
// prepare its inputs, on the emulator with all checks on. The judge is exact attention in double
// precision; what the number formats cost comes from a double-precision model of them, and the
// kernel may add to that no more than its arithmetic explains (accuracy_bound).
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sagegen/set.h"
#include "tests/numerics/scene.h"
#include "tools/reference/judge.h"
#include "tools/reference/tensor_file.h"
#include "tools/sagegen/run_attention.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::CausalAlignment;
using cli::Layout;
using test::inputs_for;
using test::io_type;
using test::Scene;
using test::scores_by_tile;
using test::spec_of;

namespace {

// ---- kernels -----------------------------------------------------------------------------------

std::vector<Kernel> default_set() {
  return read_set_file(SAGEGEN_SOURCE_DIR "/templates/attention/set.toml");
}

// What SageAttention2 does on `sm`: the kernel and its inputs must be of the default set.
Kernel attention_on(int sm, attention::Spec spec, std::optional<Smoothing> smoothing = {}) {
  const Target target{.sm = sm};
  const attention::Spec usual = attention::usual_spec(target);
  spec.pv = usual.pv;
  spec.accumulation = usual.accumulation;
  spec.smoothing = smoothing.value_or(attention::usual_smoothing(spec.qk));
  const Kernel kernel(attention::family(), spec, target);
  const std::vector<Kernel> all = default_set();
  std::vector<Kernel> wanted = kernel.inputs();
  wanted.push_back(kernel);
  for (const Kernel& each : wanted) {
    INFO(each.key());
    REQUIRE(std::find(all.begin(), all.end(), each) != all.end());
  }
  return kernel;
}

std::vector<Kernel> default_attentions() {
  std::vector<Kernel> attentions = default_set();
  std::erase_if(attentions,
                [](const Kernel& kernel) { return &kernel.family() != &attention::family(); });
  return attentions;
}

constexpr std::array kTargets = {80, 86, 89, 120};

// ---- one attention and its verdict -------------------------------------------------------------

struct Verdict {
  cli::AttentionResult result;
  ref::Output exact;
  ref::Metrics kernel, model;  // errors of both against exact attention
  std::int64_t masked_rows = 0;
};

// Rows that see no key are exactly 0 with LSE -inf, and no other row is. Returns their number.
std::int64_t check_masked_rows(const Verdict& v, std::int64_t channels) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::int64_t masked = 0, wrong = 0;
  for (std::size_t row = 0; row < v.exact.lse.size(); ++row) {
    const bool sees_nothing = v.exact.lse[row] == -kInfinity;
    masked += sees_nothing;
    if (!sees_nothing) {
      wrong += !std::isfinite(v.result.lse[row]);
      continue;
    }
    wrong += v.result.lse[row] != -kInfinity;
    const auto begin = v.result.o.begin() + static_cast<std::ptrdiff_t>(row) * channels;
    wrong += std::any_of(begin, begin + channels, [](double value) { return value != 0; });
  }
  CHECK(wrong == 0);
  return masked;
}

// What the tensor core may take from the logarithm of a row sum that stays in its accumulators over all
// tiles: each product of `depth` keys truncates depth + 1 terms to the fraction bits of its alignment, then
// the result. Infinite where nothing is left to promise: 13 bits are for short walks. Sums of f16 are rounded after
// every `depth` keys of a tile of at most 64: of a sum that grows evenly, to 2^-11 of what is there.
double lost_by_accumulation(const Kernel& kernel, std::int64_t keys, int device) {
  const Accumulation accumulation = spec_of(kernel).accumulation;
  if (accumulation == Accumulation::two_level_f32) return 0;
  if (accumulation == Accumulation::f32_f16) {
    const double sums = kKeysOfHalfSums / (spec_of(kernel).pv == DType::e4m3 ? 16.0 : 8.0);
    return (sums + 1) / 2 * std::ldexp(1, -11);
  }
  const bool fp8_of_13_bits = spec_of(kernel).pv == DType::e4m3 && device == 89;
  const double depth = spec_of(kernel).pv == DType::e4m3 ? 16 : 8;
  const double lost_by_product =
      fp8_of_13_bits ? std::ldexp(depth + 2, -13) : std::ldexp(depth + 1, -24) + std::ldexp(1, -23);
  const double lost = static_cast<double>(keys) / depth * lost_by_product;
  return lost < 1 ? -std::log1p(-lost) : std::numeric_limits<double>::infinity();
}

// The LSE is the logarithm of the sum of weights, so its absolute error is the relative error of
// the weights, and the same bound holds for its mean over rows as for O, that of f32 precision: within
// a tile the sum of codes is exact or nearly so on every device.
void check_lse(const Verdict& v, const std::vector<double>& model, double lost) {
  const cli::AccuracyBound bound{.factor = 1.02, .offset = 2e-4 + lost, .arithmetic = {}};
  double kernel_error = 0, model_error = 0, rows = 0;
  for (std::size_t row = 0; row < v.exact.lse.size(); ++row) {
    if (std::isinf(v.exact.lse[row])) continue;
    kernel_error += std::fabs(v.result.lse[row] - v.exact.lse[row]);
    model_error += std::fabs(model[row] - v.exact.lse[row]);
    ++rows;
  }
  if (rows == 0) return;
  INFO("mean error of the LSE: kernel " << kernel_error / rows << ", model " << model_error / rows);
  CHECK(kernel_error / rows <= bound.limit(model_error / rows));
}

// Every element within what its row's formats and the device's arithmetic explain, as `sagegen run` asks.
void check_each_row(const cli::AttentionJob& job, const cli::AttentionResult& result, int device) {
  const ref::QuantModel quant = cli::quant_model(job);
  const ref::DeviceArithmetic arithmetic = cli::device_arithmetic(job.spec, device);
  const ref::RowNumbers rows = ref::all_rows(job.inputs);
  const ref::Output got{.o = result.o, .lse = result.lse};
  const ref::RowVerdict verdict =
      ref::judge_rows(rows, ref::unrounded_model(job.inputs, quant, rows),
                      ref::allowance(job.inputs, quant, arithmetic, rows), got);
  INFO("of its bound: O " << verdict.worst_o.of_bound << " in row " << verdict.worst_o.row
                          << ", LSE " << verdict.worst_lse.of_bound << " in row "
                          << verdict.worst_lse.row);
  CHECK(verdict.rows_beyond == 0);
  CHECK(verdict.lse_beyond == 0);
  CHECK(ref::check_every_row(job.inputs, quant, arithmetic, got).none());
}

Verdict check(const Scene& scene) {
  const Kernel& kernel = scene.kernel;
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionJob job = test::job_of(scene);
  const ref::Inputs& in = job.inputs;
  INFO(test::text_of(job, on));
  Verdict v{.result = cli::run_attention(job, on),
            .exact = ref::attention(in),
            .kernel = {},
            .model = {}};
  for (const rt::Finding& finding : v.result.findings) FAIL_CHECK(test::text_of(finding));
  REQUIRE(v.result.o.size() == v.exact.o.size());
  const ref::Output model = ref::model(in, cli::quant_model(job));
  v.kernel = ref::compare(v.exact.o, v.result.o);
  v.model = ref::compare(v.exact.o, model.o);
  const cli::AccuracyBound bound = cli::accuracy_bound(job.spec, on.device.compute_capability());
  INFO("relative L1: kernel " << v.kernel.relative_l1 << ", model " << v.model.relative_l1 << ", "
                              << bound.arithmetic);
  CHECK(v.kernel.relative_l1 <= bound.limit(v.model.relative_l1));
  CHECK(v.kernel.non_finite == 0);
  check_each_row(job, v.result, on.device.compute_capability());
  v.masked_rows = check_masked_rows(v, in.q.channels);
  check_lse(v, model.lse,
            lost_by_accumulation(kernel, in.k.tokens, on.device.compute_capability()));
  return v;
}

// ---- what the lengths and heads go through -----------------------------------------------------

constexpr std::array<std::int64_t, 7> kLengths = {1, 17, 63, 64, 65, 129, 200};
constexpr std::size_t kPairs = kLengths.size() * kLengths.size();

struct Heads {
  std::int64_t batch, q, kv;
};
constexpr std::array kHeads = {Heads{2, 4, 2}, Heads{1, 4, 1}, Heads{2, 2, 2}};

// The n-th of a sequence that has met every pair of lengths after kPairs steps, and short and long
// ones after a few.
std::pair<std::int64_t, std::int64_t> length_pair(std::size_t n) {
  constexpr std::size_t kStride = 17;  // shares no divisor with kPairs
  const std::size_t pair = n * kStride % kPairs;
  return {kLengths[pair / kLengths.size()], kLengths[pair % kLengths.size()]};
}

Scene ragged_scene(const Kernel& kernel, std::size_t n) {
  const auto [q_len, kv_len] = length_pair(n);
  const Heads& heads = kHeads[n % kHeads.size()];
  const ref::Shape shape{.batch = heads.batch,
                         .q_heads = heads.q,
                         .kv_heads = heads.kv,
                         .q_len = q_len,
                         .kv_len = kv_len};
  return {.kernel = kernel,
          .inputs = inputs_for(kernel, "normal", shape, 100 + n),
          .layout = n % 2 == 0 ? Layout::hnd : Layout::nhd,
          .alignment = n / 2 % 2 == 0 ? CausalAlignment::bottom_right : CausalAlignment::top_left};
}

void zero_channel(ref::Tensor& tensor, std::int64_t channel) {
  for (std::int64_t n = 0; n < tensor.batch * tensor.heads * tensor.tokens; ++n) {
    tensor.data[static_cast<std::size_t>(n * tensor.channels + channel)] = 0;
  }
}

}  // namespace

TEST_CASE("each target in short", "[fast]") {
  std::int64_t masked_rows = 0;
  for (const int sm : kTargets) {
    const Kernel plain = attention_on(sm, {.head_dim = 128});
    check({.kernel = plain,
           .inputs = inputs_for(
               plain, "normal",
               {.batch = 2, .q_heads = 2, .kv_heads = 1, .q_len = 65, .kv_len = 129}, 1)});
    const Kernel causal = attention_on(sm, {.head_dim = 64, .io = DType::bf16, .causal = true});
    masked_rows +=
        check({.kernel = causal,
               .inputs = inputs_for(causal, "outlier",
                                    {.q_heads = 2, .kv_heads = 2, .q_len = 70, .kv_len = 50}, 2),
               .layout = Layout::nhd,
               .alignment = CausalAlignment::bottom_right})
            .masked_rows;
  }
  CHECK(masked_rows == 4 * 2 * 20);
}

TEST_CASE("every default kernel at ragged lengths", "[full]") {
  constexpr std::size_t kPairsOfAKernel = 2;
  std::set<std::pair<std::int64_t, std::int64_t>> met;
  std::set<std::string> ran, all;
  std::size_t n = 0;
  for (const Kernel& kernel : default_attentions()) {
    for (std::size_t i = 0; i < kPairsOfAKernel; ++i, ++n) {
      met.insert(length_pair(n));
      const Verdict v = check(ragged_scene(kernel, n));
      ran.insert(v.result.kernels.begin(), v.result.kernels.end());
    }
  }
  CHECK(met.size() == kPairs);
  for (const Kernel& kernel : default_set()) all.insert(kernel.key());
  CHECK(ran == all);
}

TEST_CASE("both alignments of every causal kernel, more or fewer queries than keys", "[full]") {
  std::uint64_t seed = 1000;
  bool more_first = false;
  for (const Kernel& kernel : default_attentions()) {
    if (!spec_of(kernel).causal) continue;
    more_first = !more_first;
    for (const auto& [q_len, kv_len] : {std::pair{129, 65}, std::pair{63, 200}}) {
      for (const auto alignment : {CausalAlignment::top_left, CausalAlignment::bottom_right}) {
        if (((q_len > kv_len) == (alignment == CausalAlignment::top_left)) != more_first) continue;
        const ref::Shape shape{.q_heads = 2, .kv_heads = 1, .q_len = q_len, .kv_len = kv_len};
        const Verdict v = check({.kernel = kernel,
                                 .inputs = inputs_for(kernel, "normal", shape, ++seed),
                                 .layout = seed % 2 == 0 ? Layout::hnd : Layout::nhd,
                                 .alignment = alignment});
        const bool masks_rows = alignment == CausalAlignment::bottom_right && q_len > kv_len;
        // A sink is there for every row.
        CHECK(v.masked_rows == (masks_rows && !spec_of(kernel).sinks ? 2 * (q_len - kv_len) : 0));
      }
    }
  }
}

// Where the scores of a row are a hundred octaves apart, the last bit of the softmax's constant is worth
// more than a unit of the integer scores.
TEST_CASE("rows whose scores lie far apart are within their bounds", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 2, .q_len = 300, .kv_len = 300};
  for (const DType qk : {DType::s8, DType::s4}) {
    const Kernel kernel = attention_on(86, {.head_dim = 64, .qk = qk});
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      ref::Inputs inputs = inputs_for(kernel, "fa3_outlier", kShape, seed);
      inputs.softmax_scale = 1;
      check({.kernel = kernel, .inputs = inputs});
    }
  }
}

// A unit of INT4 scores is a part of an octave or several, of one row and tile this, of the next that: maxima that
// are whole octaves, scores that the softmax scales and such as are scaled before, in one warp and row.
TEST_CASE("INT4 scores with units around an octave", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 150, .kv_len = 330};
  constexpr std::array kOfRows = {1.0f, 0x1p-5f, 4.0f};  // exact in f16
  constexpr std::array kOfTiles = {1.0f, 4.0f, 0x1p-6f, 0.5f};
  const auto scale_rows = [](ref::Tensor& tensor, std::int64_t run, const auto& by) {
    for (std::int64_t head = 0; head < tensor.heads; ++head) {
      for (std::int64_t t = 0; t < tensor.tokens; ++t) {
        float* row = tensor.row(0, head, t);
        const float factor = by[static_cast<std::size_t>(t / run) % by.size()];
        for (std::int64_t c = 0; c < tensor.channels; ++c) row[c] *= factor;
      }
    }
  };
  for (const int sm : {80, 89}) {
    for (const int head_dim : {64, 128}) {
      for (const bool causal : {false, true}) {
        const Kernel kernel =
            attention_on(sm, {.head_dim = head_dim, .qk = DType::s4, .causal = causal});
        // Octaves, where factors are 1; in the end the maximum is too large to be rounded.
        for (const float unit : {0.4f, 0.95f, 1.0f, 1.5f, 2.5f, 1e4f, 1e7f, 1e20f}) {
          ref::Inputs inputs = inputs_for(kernel, "normal", kShape, 17);
          scale_rows(inputs.q, 1, kOfRows);
          scale_rows(inputs.k, 64, kOfTiles);
          inputs.softmax_scale = unit * 3.5f;
          INFO("unit " << unit);
          check({.kernel = kernel, .inputs = inputs, .alignment = CausalAlignment::bottom_right});
        }
      }
    }
  }
}

TEST_CASE("every distribution on every target", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 128, .kv_len = 200};
  const std::vector<ref::Distribution>& distributions = ref::distributions();
  REQUIRE(distributions.size() >= 8);
  for (std::size_t t = 0; t < kTargets.size(); ++t) {
    for (std::size_t i = 0; i < distributions.size(); ++i) {
      const std::string& name = distributions[i].name;
      INFO(name);
      // From target to target, each distribution meets both head dims and both dtypes.
      const std::size_t turn = t * 9 + i;
      const Kernel kernel =
          attention_on(kTargets[t], {.head_dim = turn % 2 == 0 ? 128 : 64,
                                     .io = turn / 2 % 2 == 0 ? DType::f16 : DType::bf16});
      check({.kernel = kernel, .inputs = inputs_for(kernel, name, kShape, 7)});
      if (kTargets[t] == 120) continue;
      attention::Spec int4 = spec_of(kernel);
      int4.qk = DType::s4;
      const Kernel of_int4 = attention_on(kTargets[t], int4);
      check({.kernel = of_int4, .inputs = inputs_for(of_int4, name, kShape, 7)});
    }
  }
}

TEST_CASE("recorded inputs of a transformer", "[full]") {
  const std::string path = SAGEGEN_SOURCE_DIR "/tests/data/minilm_qkv.safetensors";
  const auto check_layer = [&](int sm, const char* layer) {
    INFO(layer);
    check({.kernel = attention_on(sm, {.head_dim = 64}),
           .inputs = ref::load_qkv({path}, layer).inputs});  // head_dim 32, padded
  };
  check_layer(80, "layer0");
  check_layer(86, "layer2");
  for (const char* layer : {"layer0", "layer2", "layer5"}) check_layer(89, layer);
  check_layer(120, "layer5");
}

TEST_CASE("on data like the paper's, INT8 and FP8 are as accurate as the paper says", "[full]") {
  for (const int sm : {89, 120}) {
    const Kernel kernel = attention_on(sm, {.head_dim = 128});
    const ref::Shape shape{.q_heads = 2, .kv_heads = 2, .q_len = 1024, .kv_len = 1024};
    const Verdict v = check({.kernel = kernel, .inputs = inputs_for(kernel, "outlier", shape, 1)});
    CHECK(v.kernel.cosine_similarity >= 0.9997);
    CHECK(v.kernel.relative_l1 <= 0.019);
  }
}

TEST_CASE("smoothing brings the error on biased K back to that on unbiased K", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 2, .q_len = 128, .kv_len = 256};
  for (const int sm : {80, 89}) {
    const auto error = [&](const char* distribution, Smoothing smoothing) {
      const Kernel kernel = attention_on(sm, {.head_dim = 128}, smoothing);
      return check({.kernel = kernel, .inputs = inputs_for(kernel, distribution, kShape, 5)})
          .kernel.relative_l1;
    };
    const double unbiased = error("normal", Smoothing::k);
    INFO("sm_" << sm << ", error on normal " << unbiased);
    CHECK(error("k_bias", Smoothing::k) == Approx(unbiased).epsilon(0.08));
    CHECK(error("k_bias", Smoothing::none) >= 1.5 * unbiased);
  }
}

TEST_CASE("all-zero channels, rows and tensors give no NaN", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 20, .kv_len = 70};
  constexpr std::int64_t kChannel = 5, kRow = 9;
  for (const int sm : kTargets) {
    for (const DType io : {DType::f16, DType::bf16}) {
      const Kernel kernel = attention_on(sm, {.head_dim = 64, .io = io});
      const ref::Inputs normal = inputs_for(kernel, "normal", kShape, 11);
      const auto with = [&](const auto& edit) {
        ref::Inputs edited = normal;
        edit(edited);
        return check({.kernel = kernel, .inputs = edited});
      };
      const auto clear = [](ref::Tensor& t) { std::fill(t.data.begin(), t.data.end(), 0.0f); };
      {
        const Verdict v = with([&](ref::Inputs& in) { zero_channel(in.v, kChannel); });
        for (std::size_t i = kChannel; i < v.result.o.size(); i += 64) CHECK(v.result.o[i] == 0);
      }
      with([&](ref::Inputs& in) { std::fill_n(in.k.row(0, 0, kRow), in.k.channels, 0.0f); });
      with([&](ref::Inputs& in) { clear(in.k); });
      {
        const Verdict v = with([&](ref::Inputs& in) { clear(in.q); });
        for (const double lse : v.result.lse) CHECK(lse == Approx(std::log(70.0)).epsilon(1e-6));
      }
      {
        const Verdict v = with([&](ref::Inputs& in) { clear(in.v); });
        CHECK(std::count(v.result.o.begin(), v.result.o.end(), 0.0) ==
              static_cast<std::ptrdiff_t>(v.result.o.size()));
      }
    }
  }
}

// From scales where the kernels fold the bias of the scores into a constant to scales where a unit of
// a score is worth many powers of two and one key takes the whole row. In between the last bit of a
// score in f32 is worth some percent of a weight.
TEST_CASE("scores near and far apart", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 65, .kv_len = 129};
  for (const int sm : kTargets) {
    for (const bool causal : {false, true}) {
      const Kernel kernel = attention_on(sm, {.head_dim = 64, .causal = causal});
      for (const double scale :
           {1e-6, 1.0, 10.0, 100.0, 1e3, 1e4, 3e4, 1e5, 1e6, 1e8, 1e12, 1e25}) {
        INFO("softmax scale " << scale);
        Scene scene{.kernel = kernel, .inputs = inputs_for(kernel, "normal", kShape, 23)};
        scene.inputs.softmax_scale = scale;
        const Verdict v = check(scene);
        for (const double lse : v.result.lse) CHECK(std::isfinite(lse));
      }
    }
  }
}

// A maximum that may stay does so while scores rise by less than its slack of 8 octaves, however often they do.
TEST_CASE("scores that rise from tile to tile, slowly and in jumps, in all rows and in one",
          "[full]") {
  struct Course {
    const char* name;
    std::function<double(std::int64_t tile)> octaves;
  };
  const Course kCourses[] = {
      {"a part of an octave each", [](std::int64_t t) { return 0.9 * static_cast<double>(t); }},
      {"less than the slack each", [](std::int64_t t) { return 7.3 * static_cast<double>(t); }},
      {"more than the slack each", [](std::int64_t t) { return 8.7 * static_cast<double>(t); }},
      {"one jump", [](std::int64_t t) { return t < 5 ? 0.0 : 40.0; }},
      {"one jump just within the slack", [](std::int64_t t) { return t < 3 ? 0.0 : 7.0; }},
      {"falling", [](std::int64_t t) { return -3.0 * static_cast<double>(t); }},
      {"up and down", [](std::int64_t t) { return t % 3 == 0   ? 0.0
                                                  : t % 3 == 1 ? 15.0
                                                               : 6.0; }},
  };
  const std::pair<const char*, std::function<double(std::int64_t)>> kRows[] = {
      {"all rows", [](std::int64_t) { return 1.0; }},
      {"one row of 16", [](std::int64_t i) { return i % 16 == 5 ? 1.0 : 0.0; }},
      {"rows that rise by more the later they are",
       [](std::int64_t i) { return static_cast<double>(i % 40) / 20; }},
  };
  constexpr ref::Shape kShape{.q_heads = 1, .kv_heads = 1, .q_len = 90, .kv_len = 590};
  struct On {
    int sm, head_dim;
    DType io, qk;
    bool causal;
  };
  constexpr On kKernels[] = {
      {80, 64, DType::f16, DType::s8, false},  {80, 64, DType::f16, DType::s8, true},
      {80, 64, DType::bf16, DType::s8, false}, {86, 64, DType::bf16, DType::s8, true},
      {80, 64, DType::f16, DType::s4, false},  {80, 128, DType::f16, DType::s4, true},
      {86, 128, DType::bf16, DType::s4, true}, {80, 128, DType::f16, DType::s8, true},
      {89, 64, DType::f16, DType::s8, true},   {120, 64, DType::f16, DType::s8, false}};
  bool top_left_now = false;  // the alignment of causal kernels, which differs from case to case
  for (const On& on : kKernels) {
    const Kernel kernel = attention_on(
        on.sm, {.head_dim = on.head_dim, .io = on.io, .qk = on.qk, .causal = on.causal});
    for (const Course& course : kCourses) {
      for (const auto& [rows, worth] : kRows) {
        top_left_now = !top_left_now;
        for (const CausalAlignment alignment :
             {CausalAlignment::top_left, CausalAlignment::bottom_right}) {
          if (!on.causal && alignment == CausalAlignment::bottom_right) continue;
          const bool in_turn = (alignment == CausalAlignment::top_left) == top_left_now;
          if (on.causal && !in_turn) continue;
          INFO(kernel.key() << ", " << course.name << ", " << rows);
          Scene scene{.kernel = kernel,
                      .inputs = scores_by_tile(kernel, kShape, 41, course.octaves, worth)};
          scene.alignment = alignment;
          check(scene);
        }
      }
    }
    for (const double scale : {1e-5, 1e20}) {
      Scene scene{
          .kernel = kernel,
          .inputs = scores_by_tile(kernel, kShape, 43, kCourses[1].octaves, kRows[2].second)};
      scene.inputs.softmax_scale = scale;
      check(scene);
    }
  }
}

// Both types of P, all accumulations and ranges of codes that a target has, head_dim 64.
std::vector<Kernel> every_pv(DType io) {
  std::vector<Kernel> kernels;
  for (const int sm : kTargets) {
    for (const DType pv : {DType::f16, DType::e4m3}) {
      for (const auto& [accumulation, range] :
           {std::pair{Accumulation::f32, CodeRange::usual},
            std::pair{Accumulation::two_level_f32, CodeRange::usual},
            std::pair{Accumulation::f32_f16, CodeRange::usual},
            std::pair{Accumulation::f32_f16, CodeRange::fine_v}}) {
        attention::Spec spec{.head_dim = 64, .io = io};
        spec.pv = pv;
        spec.accumulation = accumulation;
        spec.code_range = range;
        const Target target{.sm = sm};
        const Kernel kernel(attention::family(), spec, target);
        if (!kernel.violations().empty()) continue;  // FP8 needs sm_89
        kernels.push_back(kernel);
        if (sm != (pv == DType::f16 ? 80 : 120)) continue;
        spec.v_smoothing = ValueSmoothing::mean;
        kernels.emplace_back(attention::family(), spec, target);
      }
    }
  }
  return kernels;
}

// Every query scores key 0 `gap` above all others, in natural logarithms.
ref::Inputs one_strong_key(std::int64_t queries, std::int64_t keys, double gap, DType io) {
  constexpr float kQuery = 8;  // times the softmax scale of 1 / 8
  ref::Inputs in{.q = {1, 1, queries, 64}, .k = {1, 1, keys, 64}, .v = {1, 1, keys, 64}};
  for (std::int64_t n = 0; n < queries; ++n) *in.q.row(0, 0, n) = kQuery;
  *in.k.row(0, 0, 0) = static_cast<float>(gap);
  ref::round_to(io_type(io), in.k);
  return in;
}

// P is rounded to codes whose sum is not that of P: 64 keys of this gap would weigh 1.05 in FP8.
TEST_CASE("O stays within the range of V, up to the largest finite values", "[full]") {
  const double gap = std::log(448 / 17.2);
  for (const DType io : {DType::f16, DType::bf16}) {
    const float largest = io == DType::f16 ? 65504.0f : 0x1.FEp127f;
    const std::vector<Kernel> kernels = every_pv(io);
    REQUIRE(kernels.size() == 2 * 3 + 2 * (3 + 4) + 3 + 4);
    for (const Kernel& kernel : kernels) {
      Scene scene{.kernel = kernel, .inputs = one_strong_key(64, 64, gap, io)};
      std::fill(scene.inputs.v.data.begin(), scene.inputs.v.data.end(), largest);
      for (const double o : check(scene).result.o) REQUIRE(o == largest);

      // Channels that are positive, negative, of both signs.
      scene.inputs.v = inputs_for(kernel, "normal", {.q_len = 1, .kv_len = 64}, 31).v;
      for (std::size_t i = 0; i < scene.inputs.v.data.size(); ++i) {
        float& v = scene.inputs.v.data[i];
        v = std::clamp(v / 3, -1.0f, 1.0f) * largest;
        if (i % 3 != 0) v = i % 3 == 1 ? std::fabs(v) : -std::fabs(v);
      }
      ref::round_to(io_type(io), scene.inputs.v);
      for (const double o : check(scene).result.o) REQUIRE(std::fabs(o) <= largest);
    }
  }
}

// SageAttention2++ says that sums of f16 cost nothing. Its ranges of codes cost something where values that matter lie
// far below the largest of their channel: those of attention sinks.
TEST_CASE("sums of f16 in a tile are as accurate as sums of f32", "[full]") {
  // Many heads of few rows: where the sinks of a head lie decides what it loses.
  constexpr ref::Shape kShape{.batch = 2, .q_heads = 4, .kv_heads = 4, .q_len = 32, .kv_len = 1024};
  for (const int sm : {86, 89, 120}) {
    for (const int head_dim : {64, 128}) {
      const Kernel in_f32 = attention_on(sm, {.head_dim = head_dim});
      attention::Spec half_sums = spec_of(in_f32);
      half_sums.accumulation = Accumulation::f32_f16;
      attention::Spec fine_v = half_sums;
      fine_v.code_range = CodeRange::fine_v;
      for (const ref::Distribution& distribution : ref::distributions()) {
        const ref::Inputs inputs = inputs_for(in_f32, distribution.name, kShape, 1);
        const ref::Output exact = ref::attention(inputs);
        const auto error = [&](const attention::Spec& spec) {
          const Scene scene{.kernel = Kernel(attention::family(), spec, Target{.sm = sm}),
                            .inputs = inputs,
                            .emulator = {.checks = rt::Checks::off}};
          const cli::AttentionResult result =
              cli::run_attention(test::job_of(scene), test::device_of(scene));
          return ref::compare(exact.o, result.o).relative_l1;
        };
        const double of_f32 = error(spec_of(in_f32)), of_f16 = error(half_sums);
        INFO(in_f32.key() << " on " << distribution.name << ": " << of_f32 << ", with sums of f16 "
                          << of_f16);
        if (half_sums.pv == DType::f16) {  // whose own error leaves those of the sums to be seen
          CHECK(of_f16 <= 1.02 * of_f32 + std::ldexp(1, -15));
          continue;
        }
        const double of_fine_v = error(fine_v);
        INFO("fine_v " << of_fine_v);
        const bool sink = distribution.name == "sink";
        CHECK(of_f16 <= (sink ? 1.04 : 1.003) * of_f32);
        CHECK(of_fine_v <= (sink ? 1.02 : 1.003) * of_f32);
        if (sink) CHECK(of_fine_v < of_f16);
      }
    }
  }
}

// The codes of P in FP16 end at 512 there, not at 1: else keys 14 octaves below the maximum would be subnormal, and
// these here lose half of a step of 20.5.
TEST_CASE("weak keys keep their weight where P V of FP16 is summed in f16", "[full]") {
  constexpr std::int64_t kKeys = 65536;
  attention::Spec spec = attention::with_pv({.head_dim = 64}, DType::f16);
  spec.accumulation = Accumulation::f32_f16;
  Scene scene{.kernel = Kernel(attention::family(), spec, Target{.sm = 86}),
              .inputs = one_strong_key(16, kKeys, std::log(0x1p24 / 20.5), DType::f16),
              .emulator = {.checks = rt::Checks::off}};
  std::fill(scene.inputs.v.data.begin(), scene.inputs.v.data.end(), 1.0f);
  std::fill_n(scene.inputs.v.row(0, 0, 0), 64, 0.0f);
  // P, and on the average 4.5 of a tile's eight sums.
  CHECK(check(scene).kernel.relative_l1 <= 5.5 * std::ldexp(1, -11));
}

// Sums of f16 end at 65504: uniform attention has every P at its maximum, a V of one magnitude every code.
TEST_CASE("the largest codes of P and V in every key of a tile come to finite sums", "[full]") {
  for (const DType io : {DType::f16, DType::bf16}) {
    for (const Kernel& kernel : every_pv(io)) {
      for (const DType qk : {DType::s8, DType::s4}) {
        attention::Spec spec = spec_of(kernel);
        spec.qk = qk;
        const Kernel of_codes(attention::family(), spec, kernel.target());
        if (!of_codes.violations().empty()) continue;
        Scene scene{.kernel = of_codes, .inputs = one_strong_key(64, 3 * 64, 0, io)};
        ref::Tensor& v = scene.inputs.v;
        for (std::size_t i = 0; i < v.data.size(); ++i) v.data[i] = i % 64 % 2 == 0 ? 3.0f : -3.0f;
        const Verdict of_one_sign = check(scene);
        for (std::size_t i = 0; i < of_one_sign.result.o.size(); ++i)
          REQUIRE(of_one_sign.result.o[i] == (i % 64 % 2 == 0 ? 3 : -3));
        // In every channel 40 keys of a tile are positive and 24 negative, in turns and in runs; where V is smoothed,
        // as many of each, so that the mean is 0.
        const bool smooth = spec.v_smoothing == ValueSmoothing::mean;
        const std::size_t positive = smooth ? 32 : 40;
        for (std::size_t i = 0; i < v.data.size(); ++i) {
          const std::size_t key = i / 64 % 64, turn = i % 64 % 2 == 0 ? key * 5 % 64 : key;
          v.data[i] = turn < positive ? 3.0f : -3.0f;
        }
        const Verdict of_both = check(scene);
        const double mean = 3.0 * (2.0 * static_cast<double>(positive) - 64) / 64;
        for (const double o : of_both.result.o)
          REQUIRE(o == Approx(mean).epsilon(3e-3).margin(smooth ? 2e-3 : 0));
      }
    }
  }
}

// What attention sinks do to long inputs: each of the many weak keys weighs less than half the smallest
// code, or little more. V = 1 has to come out as 1, whatever of their weight P V keeps.
// Each kernel has one of three inputs, in turn: what differs between targets that have it, too, is little.
TEST_CASE("a constant V comes out as it is, however the weights round", "[full]") {
  constexpr std::int64_t kKeys = 65536;
  constexpr std::array kGaps = {9.0, 13.5};
  const std::vector<Kernel> kernels = every_pv(DType::f16);
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const Kernel& kernel = kernels[i];
    const std::size_t turn = i % 3;
    const bool peaked = turn < kGaps.size();
    Scene scene{.kernel = kernel,
                .inputs = peaked ? one_strong_key(16, kKeys, kGaps[turn], DType::f16)
                                 : inputs_for(kernel, "normal", {.q_len = 16, .kv_len = kKeys}, 3),
                .emulator = {.checks = rt::Checks::off}};
    std::fill(scene.inputs.v.data.begin(), scene.inputs.v.data.end(), 1.0f);
    INFO(turn);
    const Verdict v = check(scene);
    for (const double o : v.result.o) REQUIRE(o == 1);
    if (!peaked) continue;
    // The scores are exact here, so the LSE has the roundings of P alone: half a step of a normal
    // code, or of a subnormal one, per key, and what exp2, log2 and f32 cost.
    constexpr double kKeysAsReal = kKeys;
    const double rounding = spec_of(kernel).pv == DType::e4m3
                                ? 1.0 / 16 + kKeysAsReal * std::ldexp(1, -10) / 448
                                : std::ldexp(1, -11) + kKeysAsReal * std::ldexp(1, -25);
    const double lost = lost_by_accumulation(kernel, kKeys, kernel.target().sm);
    for (std::size_t row = 0; row < v.result.lse.size(); ++row) {
      REQUIRE(std::fabs(v.result.lse[row] - v.exact.lse[row]) <= rounding + lost + 1e-5);
    }
  }
}

TEST_CASE("PTX of a lower target on newer devices", "[full]") {
  constexpr ref::Shape kShape{.batch = 2, .q_heads = 2, .kv_heads = 1, .q_len = 65, .kv_len = 129};
  constexpr std::array kPlaces = {std::pair{89, "sm_90"}, std::pair{89, "sm_120"},
                                  std::pair{80, "sm_89"}, std::pair{80, "sm_90"},
                                  std::pair{80, "sm_120"}};
  for (const auto& [sm, profile] : kPlaces) {
    const Kernel kernel = attention_on(sm, {.head_dim = 128});
    check(
        {.kernel = kernel, .inputs = inputs_for(kernel, "normal", kShape, 13), .profile = profile});
  }
}

TEST_CASE("no legal order of warps and copies changes a bit", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 1, .kv_heads = 1, .q_len = 129, .kv_len = 200};
  for (const int sm : {80, 89, 120}) {
    const Kernel kernel = attention_on(sm, {.head_dim = 64, .causal = true});
    Scene scene{.kernel = kernel,
                .inputs = inputs_for(kernel, "normal", kShape, 17),
                .alignment = CausalAlignment::bottom_right};
    const Verdict first = check(scene);
    std::uint64_t seed = 0;
    for (const auto async :
         {rt::AsyncPolicy::late, rt::AsyncPolicy::eager, rt::AsyncPolicy::random}) {
      for (const auto schedule : {rt::SchedulePolicy::round_robin, rt::SchedulePolicy::random,
                                  rt::SchedulePolicy::reverse}) {
        INFO("async policy " << static_cast<int>(async) << ", schedule policy "
                             << static_cast<int>(schedule));
        scene.emulator = {.schedule = schedule, .async = async, .seed = ++seed};
        const Verdict v = check(scene);
        CHECK(v.result.o == first.result.o);
        CHECK(v.result.lse == first.result.lse);
      }
    }
  }
}
