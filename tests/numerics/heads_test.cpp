// Heads of every size that the families name: what is padded is the workspace, shared memory and registers, and
// nothing of it shows. The caller's tensors lie between walls: NaN fills what the strides leave between two rows,
// memory ends with the last row, and O leaves the walls as they were. Each result is judged as `sagegen run` judges it.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "sagegen/emit.h"
#include "tests/numerics/scene.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/run_judge.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::CausalAlignment;
using cli::Layout;
using test::Scene;
using test::spec_of;

namespace {

constexpr std::uint16_t kWall = 0xFFFF;  // NaN in f16 and in bf16

class WalledTensor {
 public:
  // gap: elements from the end of a row to the next row's start.
  WalledTensor(const rt::Device& device, const ref::Tensor& like, DType io, Layout layout, int gap)
      : like_(like),
        io_(io),
        head_dim_(like.channels),
        view_(rt::hnd(0, like.heads, like.tokens, static_cast<int>(like.channels + gap))),
        bits_(elements(layout, gap), kWall),
        buffer_(device, bits_.size() * sizeof(bits_[0])) {
    if (layout == Layout::nhd)
      view_ = rt::nhd(0, like.heads, like.tokens, static_cast<int>(like.channels + gap));
    view_.data = buffer_.data();
    fill_walls();
  }
  void upload() {
    each_row([&](const float* row, std::size_t at) {
      for (std::int64_t c = 0; c < head_dim_; ++c)
        bits_[at + static_cast<std::size_t>(c)] =
            io_ == DType::f16 ? ref::f16_bits(row[c]) : ref::bf16_bits(row[c]);
    });
    fill_walls();
  }
  const rt::TensorView& view() const { return view_; }
  // What lies in the rows now; the walls have to stand.
  std::vector<double> rows() const {
    std::vector<std::uint16_t> bits(bits_.size());
    buffer_.download(std::as_writable_bytes(std::span(bits)));
    std::vector<double> values;
    each_row([&](const float*, std::size_t at) {
      for (std::int64_t c = 0; c < head_dim_; ++c) {
        std::uint16_t& element = bits[at + static_cast<std::size_t>(c)];
        values.push_back(io_ == DType::f16 ? ref::f16_value(element) : ref::bf16_value(element));
        element = kWall;
      }
    });
    CHECK(std::count(bits.begin(), bits.end(), kWall) == static_cast<std::ptrdiff_t>(bits.size()));
    return values;
  }

 private:
  std::size_t elements(Layout, int gap) const {
    return static_cast<std::size_t>(like_.batch * like_.heads * like_.tokens * (head_dim_ + gap) -
                                    gap);
  }
  void fill_walls() { buffer_.upload(std::as_bytes(std::span(bits_))); }
  template <typename Visit>
  void each_row(const Visit& visit) const {
    for (std::int64_t b = 0; b < like_.batch; ++b) {
      for (std::int64_t h = 0; h < like_.heads; ++h) {
        for (std::int64_t n = 0; n < like_.tokens; ++n) {
          visit(like_.row(b, h, n),
                static_cast<std::size_t>(b * view_.stride_batch + h * view_.stride_head +
                                         n * view_.stride_token));
        }
      }
    }
  }

  ref::Tensor like_;
  DType io_;
  std::int64_t head_dim_;
  rt::TensorView view_;
  std::vector<std::uint16_t> bits_;
  rt::Buffer buffer_;
};

cli::AttentionResult run_between_walls(const cli::AttentionJob& job, const cli::RunDevice& on,
                                       int gap) {
  const ref::Inputs& in = job.inputs;
  const attention::Plan plan(
      on.device, Kernel(attention::family(), job.spec, job.schedule, on.target), job.source);
  const auto tensor = [&](const ref::Tensor& like) {
    return WalledTensor(on.device, like, job.spec.io, job.layout, gap);
  };
  WalledTensor q = tensor(in.q), k = tensor(in.k), v = tensor(in.v),
               o = tensor({in.q.batch, in.q.heads, in.q.tokens, in.v.channels});
  q.upload();
  k.upload();
  v.upload();
  const attention::Shape shape{.batch = in.q.batch,
                               .q_heads = in.q.heads,
                               .kv_heads = in.k.heads,
                               .q_len = in.q.tokens,
                               .kv_len = in.k.tokens};
  const rt::Buffer lse(
      on.device, static_cast<std::size_t>(in.q.batch * in.q.heads * in.q.tokens) * sizeof(float));
  const rt::Buffer workspace(on.device, plan.workspace_bytes(shape));
  std::vector<rt::Buffer> mod_tensors;
  const attention::ModArguments mods =
      job.mods ? job.mods(on.device, mod_tensors) : attention::ModArguments{};
  const rt::Stream stream(on.device);
  cli::AttentionResult result;
  try {
    // softmax_scale 0: that of the head_dim, not of what it is padded to.
    plan.run(shape,
             {.q = q.view(),
              .k = k.view(),
              .v = v.view(),
              .o = o.view(),
              .lse = lse.data(),
              .causal = job.causal,
              .mods = mods},
             workspace.data(), workspace.bytes(), stream.handle());
    stream.synchronize();
    result.o = o.rows();
    std::vector<float> lse_values(lse.bytes() / sizeof(float));
    lse.download(std::as_writable_bytes(std::span(lse_values)));
    result.lse.assign(lse_values.begin(), lse_values.end());
  } catch (const rt::DriverError&) {
    if (on.emulator->findings().empty()) throw;
  }
  result.findings = on.emulator->findings();
  return result;
}

// Runs and demands what `sagegen run` demands.
void check(const Scene& scene, int gap) {
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionJob job = test::job_of(scene);
  INFO(test::text_of(job, on) << ", gap " << gap);
  const cli::AttentionResult result = run_between_walls(job, on, gap);
  for (const rt::Finding& finding : result.findings) FAIL_CHECK(test::text_of(finding));
  const cli::JudgeOptions all_rows{.rows = 0};
  const cli::Judgement judgement = cli::judge(job, result, on, all_rows);
  if (!judgement.passed) FAIL_CHECK(cli::judgement_text(judgement, job, all_rows, true));
}

// What changes from one run to the next: everything that the kernel's key leaves open, in cycles of different lengths.
void check_in_turn(const Kernel& kernel, std::uint64_t turn) {
  constexpr std::array<std::array<std::int64_t, 2>, 7> kLengths{
      {{1, 1}, {65, 63}, {130, 130}, {17, 200}, {63, 65}, {127, 1}, {33, 128}}};
  constexpr std::array kGaps = {8, 0, 24};
  constexpr std::array kAsync = {rt::AsyncPolicy::late, rt::AsyncPolicy::eager,
                                 rt::AsyncPolicy::random};
  const std::array<std::string, 4> distributions{"normal", "outlier", "k_bias", "normal"};
  const auto& [q_len, kv_len] = kLengths[turn % kLengths.size()];
  const ref::Shape shape{.batch = 1 + static_cast<std::int64_t>(turn / 2 % 2),
                         .q_heads = 2,
                         .kv_heads = 1,
                         .q_len = q_len,
                         .kv_len = kv_len};
  check(
      {.kernel = kernel,
       .inputs = test::inputs_for(kernel, distributions[turn % distributions.size()], shape, turn),
       .layout = turn / 3 % 2 == 0 ? Layout::nhd : Layout::hnd,
       .alignment = turn % 5 < 3 ? CausalAlignment::bottom_right : CausalAlignment::top_left,
       .emulator = {.async = kAsync[turn / 2 % kAsync.size()], .seed = turn}},
      kGaps[turn % kGaps.size()]);
}

// The spec on one of the targets that have it, in turn; none if no target does.
std::vector<Kernel> on_a_target(const attention::Spec& spec, std::uint64_t turn) {
  std::vector<Kernel> kernels;
  for (const TargetInfo& info : supported_targets()) {
    const Kernel kernel(attention::family(), spec, info.target);
    if (test::is_legal(kernel)) kernels.push_back(kernel);
  }
  if (kernels.empty()) return {};
  return {kernels[turn % kernels.size()]};
}

attention::Spec spec_of_mode(int head_dim, const attention::Mode& mode, DType io = DType::f16) {
  return attention::with_mode({.head_dim = head_dim, .io = io}, mode);
}

// Every head_dim with every mode, mask and dtype.
constexpr std::size_t kOfEach = 6 * 2 * 2;
std::vector<Kernel> every_head() {
  std::vector<Kernel> kernels;
  for (const int head_dim : head_dims().allowed) {
    for (const attention::Mode& mode : attention::modes()) {
      for (const bool causal : {false, true}) {
        for (const DType io : {DType::f16, DType::bf16}) {
          attention::Spec spec = spec_of_mode(head_dim, mode, io);
          spec.causal = causal;
          const std::vector<Kernel> on = on_a_target(spec, kernels.size());
          kernels.insert(kernels.end(), on.begin(), on.end());
        }
      }
    }
  }
  return kernels;
}

// Every pair of a head_dim and another value_dim.
std::vector<attention::Spec> every_pair() {
  std::vector<attention::Spec> pairs;
  for (const int head_dim : head_dims().allowed) {
    for (const int value_dim : head_dims().allowed) {
      if (value_dim != head_dim) pairs.push_back({.head_dim = head_dim, .value_dim = value_dim});
    }
  }
  return pairs;
}

// The n-th pair, with the mode that is asked for: dtype and mask change with both, so that a mode meets all of them.
attention::Spec spec_of_pair(const attention::Spec& pair, std::size_t n, std::size_t mode) {
  attention::Spec spec = pair;
  spec.io = (n + mode) % 2 == 0 ? DType::f16 : DType::bf16;
  spec = attention::with_mode(spec, attention::modes()[mode]);
  spec.causal = (n / 2 + mode) % 2 == 0;
  return spec;
}

}  // namespace

TEST_CASE("each head_dim with some mode, mask and dtype", "[fast]") {
  const std::vector<Kernel> kernels = every_head();
  // Of each kOfEach kernels: number 5 further every time is another mode, mask and dtype.
  for (std::size_t i = 0; i < head_dims().allowed.size(); ++i)
    check_in_turn(kernels[kOfEach * i + 5 * i % kOfEach], i + 1);
  // Of 72 V ends within a slice of P V, in codes and as the caller gives it.
  for (const std::size_t i : {0, 5, 6, 12}) check_in_turn(kernels[2 * kOfEach + i], i + 2);
}

TEST_CASE("some pairs of a head_dim and another value_dim", "[fast]") {
  // Those of models, and each mode with V wider and narrower; 72 ends within a slice of P V and a step of Q K^T.
  constexpr std::array<std::array<int, 2>, 12> kPairs{{{192, 128},
                                                       {64, 256},
                                                       {128, 64},
                                                       {72, 128},
                                                       {256, 32},
                                                       {96, 72},
                                                       {32, 80},
                                                       {160, 96},
                                                       {128, 192},
                                                       {80, 32},
                                                       {64, 128},
                                                       {192, 160}}};
  for (std::size_t i = 0; i < kPairs.size(); ++i) {
    const attention::Spec pair{.head_dim = kPairs[i][0], .value_dim = kPairs[i][1]};
    for (const Kernel& kernel : on_a_target(spec_of_pair(pair, i, i % 6), i))
      check_in_turn(kernel, i + 1);
  }
}

TEST_CASE(
    "every pair of a head_dim and another value_dim with every mode, masks and dtypes in turn",
    "[full]") {
  const std::vector<attention::Spec> pairs = every_pair();
  std::uint64_t turn = 0;
  for (std::size_t n = 0; n < pairs.size(); ++n) {
    for (std::size_t mode = 0; mode < attention::modes().size(); ++mode) {
      const std::vector<Kernel> on = on_a_target(spec_of_pair(pairs[n], n, mode), turn);
      INFO(pairs[n].head_dim << "/" << pairs[n].value_dim << ", mode " << mode);
      CHECK(on.size() == 1);
      for (const Kernel& kernel : on) check_in_turn(kernel, turn);
      ++turn;
    }
  }
}

TEST_CASE(
    "pairs of head dims with granularities, smoothing of both, accumulations and mods in turn",
    "[full]") {
  const std::vector<bool attention::Spec::*> mods{
#define SAGEGEN_MOD(name) &attention::Spec::name,
#include "templates/attention/mods/mods.def"
  };
  constexpr std::array kGranularities = {Granularity::per_thread, Granularity::per_block,
                                         Granularity::per_token, Granularity::per_tensor};
  constexpr std::array kAccumulations = {Accumulation::f32, Accumulation::two_level_f32,
                                         Accumulation::f32_f16};
  constexpr std::array kSmoothings = {Smoothing::none, Smoothing::k};
  const std::vector<attention::Spec> pairs = every_pair();
  std::size_t refused = 0;
  for (std::size_t n = 0; n < pairs.size(); ++n) {
    attention::Spec spec = spec_of_pair(pairs[n], n, n % 4);  // these have codes of Q and K
    spec.granularity = kGranularities[n % kGranularities.size()];
    spec.q_group = n % 3 == 0 ? 32 : 128;
    if (n % 5 != 0) spec.smoothing = kSmoothings[n % kSmoothings.size()];
    if (n % 4 == 2) spec.rotation = Rotation::hadamard;
    spec.accumulation = kAccumulations[n % kAccumulations.size()];
    if (n % 2 == 1) spec.v_smoothing = ValueSmoothing::mean;
    if (n % 3 == 1) spec.*mods[n / 3 % mods.size()] = true;
    const std::vector<Kernel> on = on_a_target(spec, n);
    refused += on.empty() ? 1 : 0;
    for (const Kernel& kernel : on) check_in_turn(kernel, n);
  }
  CHECK(refused == 0);
}

TEST_CASE("every head_dim with every mode, mask and dtype", "[full]") {
  const std::vector<Kernel> kernels = every_head();
  CHECK(kernels.size() == head_dims().allowed.size() * kOfEach);
  std::printf("%zu kernels\n", kernels.size());
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    check_in_turn(kernels[i], i);
    check_in_turn(kernels[i], 2 + i / 2);
  }
}

TEST_CASE("every head_dim with every granularity and smoothing, and accumulations in turn",
          "[full]") {
  constexpr std::array kAccumulations = {Accumulation::f32, Accumulation::two_level_f32,
                                         Accumulation::f32_f16};
  std::uint64_t turn = 0;
  std::size_t refused = 0;
  for (const int head_dim : head_dims().allowed) {
    for (const Granularity granularity : {Granularity::per_thread, Granularity::per_block,
                                          Granularity::per_token, Granularity::per_tensor}) {
      for (const Smoothing smoothing : {Smoothing::none, Smoothing::k, Smoothing::qk}) {
        // The first four have codes of Q and K.
        attention::Spec spec = spec_of_mode(head_dim, attention::modes()[++turn % 4]);
        spec.granularity = granularity;
        spec.q_group = turn % 2 == 0 ? 32 : 128;
        spec.smoothing = smoothing;
        spec.accumulation = kAccumulations[turn % 5 % kAccumulations.size()];
        spec.io = turn / 2 % 2 == 0 ? DType::f16 : DType::bf16;
        spec.causal = turn % 7 < 3;
        const std::vector<Kernel> on = on_a_target(spec, turn);
        refused += on.empty() ? 1 : 0;
        for (const Kernel& kernel : on) check_in_turn(kernel, turn);
      }
    }
  }
  // INT8 sums of 256 channels have no room for mean scores.
  CHECK(refused == 2);
}

TEST_CASE("every head_dim with every mod", "[full]") {
  const std::vector<bool attention::Spec::*> mods{
#define SAGEGEN_MOD(name) &attention::Spec::name,
#include "templates/attention/mods/mods.def"
  };
  std::uint64_t turn = 0;
  for (const int head_dim : head_dims().allowed) {
    for (const auto mod : mods) {
      attention::Spec spec = spec_of_mode(head_dim, attention::modes()[++turn % 6]);
      spec.*mod = true;
      spec.causal |= turn % 3 == 0;
      for (const Kernel& kernel : on_a_target(spec, turn)) check_in_turn(kernel, turn);
    }
  }
}

// Other tiles, warps and stages than the usual ones: passes of copies that end within a tile, threads that have more
// than one row or none to store.
TEST_CASE("every head_dim and mode with schedules by chance", "[full]") {
  constexpr int kSchedules = 6;
  std::mt19937_64 random(7 + Catch::rngSeed());
  std::uint64_t turn = 0;
  for (const int head_dim : head_dims().allowed) {
    for (const attention::Mode& mode : attention::modes()) {
      const Target target{.sm = mode.pv == DType::e4m3 ? 89 : 80};
      const std::vector<Kernel> legal = test::legal_schedules(
          Kernel(attention::family(), spec_of_mode(head_dim, mode), {}, target));
      CHECK(legal.size() > (mode.qk ? 8 : 2));  // tiles of 16 bits take twice the room
      for (int i = 0; i < kSchedules; ++i) check_in_turn(legal[random() % legal.size()], ++turn);
    }
  }
}
