// What an Attention launches, judged without executing it: the sequence, the grids, and parameter
// blocks decoded through abi.h. Sizes are computed here from the words of abi.h, not from the
// plan's layout.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "sagegen/abi.h"
#include "tests/driver/fake_plan.h"

using namespace sagegen;
using namespace sagegen::test;

namespace {

template <typename Params>
Params decode(const FakeLaunch& launch) {
  REQUIRE(launch.params.size() == sizeof(Params));
  Params params;
  std::memcpy(&params, launch.params.data(), sizeof params);
  return params;
}

bool same(const abi::Tensor& tensor, const TensorView& view) {
  return tensor.data == view.data && tensor.stride_batch == view.stride_batch &&
         tensor.stride_head == view.stride_head && tensor.stride_token == view.stride_token;
}

bool is_grid(const FakeLaunch& launch, std::int64_t x, std::int64_t y, std::int64_t z) {
  return launch.grid.x == x && launch.grid.y == y && launch.grid.z == z;
}

struct Range {
  std::string name;
  std::uint64_t begin, bytes;
};

// Every tensor of the workspace as its consumers and producers see it.
class Workspace {
 public:
  Workspace(DevicePtr begin, std::uint64_t bytes) : begin_(begin), bytes_(bytes) {}

  // A tensor that several kernels use must be at one place.
  void add(const std::string& name, abi::Address address, std::int64_t bytes) {
    const Range range{name, address, static_cast<std::uint64_t>(bytes)};
    for (const Range& known : ranges_) {
      if (known.name != name) continue;
      INFO(name);
      CHECK(known.begin == range.begin);
      CHECK(known.bytes == range.bytes);
      return;
    }
    ranges_.push_back(range);
  }

  void check() const {
    for (const Range& r : ranges_) {
      INFO(r.name << " at " << r.begin << " with " << r.bytes << " bytes");
      CHECK(r.begin % 256 == 0);
      CHECK(r.begin >= begin_);
      CHECK(r.begin + r.bytes <= begin_ + bytes_);
    }
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      for (std::size_t j = i + 1; j < ranges_.size(); ++j) {
        INFO(ranges_[i].name << " and " << ranges_[j].name);
        CHECK((ranges_[i].begin + ranges_[i].bytes <= ranges_[j].begin ||
               ranges_[j].begin + ranges_[j].bytes <= ranges_[i].begin));
      }
    }
  }

 private:
  DevicePtr begin_;
  std::uint64_t bytes_;
  std::vector<Range> ranges_;
};

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

// Runs the plan and checks everything that one launch sequence has to satisfy.
void check_call(FakePlan& plan, const AttentionShape& shape, const AttentionArguments& arguments) {
  plan.run(shape, arguments);
  const auto& launches = plan.driver->launches();
  const AttentionProblem& problem = plan.problem;
  const QuantSpec& quant = plan.quant;
  const bool smooth = quant.smoothing == Smoothing::k;
  const bool quantize_v = quant.pv == DType::e4m3 || problem.io == DType::bf16;
  const bool per_thread = quant.granularity == Granularity::per_thread;

  const std::int64_t b = shape.batch, hq = shape.q_heads, hkv = shape.kv_heads,
                     d = problem.head_dim;
  const std::int64_t lqp = round_up(shape.q_len, std::max(quant.q_group, plan.schedule.cta_q));
  const std::int64_t lkp = round_up(shape.kv_len, std::max(quant.k_group, plan.schedule.cta_k));
  const std::int64_t q_scale_bytes = 4 * b * hq * (lqp / quant.q_group) * (per_thread ? 8 : 1);
  const std::int64_t k_scale_bytes = 4 * b * hkv * (lkp / quant.k_group) * (per_thread ? 4 : 1);
  const std::int64_t v_bytes = b * hkv * lkp * d * (quant.pv == DType::e4m3 ? 1 : 2);
  const float scale = arguments.softmax_scale != 0.0f
                          ? arguments.softmax_scale
                          : static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
  Workspace workspace(kWorkspace, plan.workspace_bytes(shape));

  std::size_t next = 0;
  const auto take = [&](KernelKind kind) -> const FakeLaunch& {
    REQUIRE(next < launches.size());
    const FakeLaunch& launch = launches[next++];
    CHECK(parse_key(launch.kernel).kind == kind);
    const KernelResources needs = resources(parse_key(launch.kernel));
    CHECK(launch.block.x == static_cast<unsigned>(needs.threads));
    CHECK(launch.dynamic_smem == static_cast<unsigned>(needs.dynamic_smem));
    return launch;
  };

  std::int64_t chunks = 1;
  if (smooth || quantize_v) {
    const FakeLaunch& launch = take(KernelKind::kv_statistics);
    const auto p = decode<abi::KvStatisticsParams>(launch);
    chunks = (shape.kv_len + p.chunk_len - 1) / p.chunk_len;
    CHECK(is_grid(launch, chunks, hkv, b));
    CHECK(p.chunk_len % 64 == 0);
    CHECK(chunks >= 1);
    CHECK(chunks <= 16);
    CHECK((p.chunk_len <= 512 || chunks >= 9));
    CHECK(p.kv_len == shape.kv_len);
    CHECK(same(p.k, arguments.k));
    CHECK(same(p.v, arguments.v));
    CHECK((p.k_sum_partial != 0) == smooth);
    CHECK((p.v_amax_partial != 0) == quantize_v);
    if (smooth) workspace.add("k_sum_partial", p.k_sum_partial, 4 * b * hkv * chunks * d);
    if (quantize_v) workspace.add("v_amax_partial", p.v_amax_partial, 4 * b * hkv * chunks * d);
  }
  {
    const FakeLaunch& launch = take(KernelKind::quantize_k);
    const auto p = decode<abi::QuantizeKParams>(launch);
    CHECK(is_grid(launch, lkp / quant.k_group, hkv, b));
    CHECK(same(p.k, arguments.k));
    CHECK(p.kv_len == shape.kv_len);
    CHECK(p.kv_len_padded == lkp);
    CHECK((p.k_mean != 0) == smooth);
    CHECK((p.k_sum_partial != 0) == smooth);
    if (smooth) {
      CHECK(p.chunks == chunks);
      workspace.add("k_sum_partial", p.k_sum_partial, 4 * b * hkv * chunks * d);
      workspace.add("k_mean", p.k_mean, 4 * b * hkv * d);
    }
    workspace.add("k_codes", p.k_codes, b * hkv * lkp * d);
    workspace.add("k_scale", p.k_scale, k_scale_bytes);
  }
  if (quantize_v) {
    const FakeLaunch& launch = take(KernelKind::quantize_v);
    const auto p = decode<abi::QuantizeVParams>(launch);
    CHECK(is_grid(launch, lkp / 64, hkv, b));
    CHECK(lkp % 64 == 0);
    CHECK(same(p.v, arguments.v));
    CHECK(p.kv_len == shape.kv_len);
    CHECK(p.kv_len_padded == lkp);
    CHECK(p.chunks == chunks);
    workspace.add("v_amax_partial", p.v_amax_partial, 4 * b * hkv * chunks * d);
    workspace.add("v_codes", p.v_codes, v_bytes);
    workspace.add("v_scale", p.v_scale, 4 * b * hkv * d);
  }
  const bool correct_lse = smooth && arguments.lse != 0;
  {
    const FakeLaunch& launch = take(KernelKind::quantize_q);
    const auto p = decode<abi::QuantizeQParams>(launch);
    CHECK(is_grid(launch, lqp / quant.q_group, hq, b));
    CHECK(same(p.q, arguments.q));
    CHECK(p.q_len == shape.q_len);
    CHECK(p.q_len_padded == lqp);
    CHECK(p.heads_per_kv_head == hq / hkv);
    CHECK(p.softmax_scale == scale);
    CHECK((p.lse_correction != 0) == correct_lse);
    if (correct_lse) {
      workspace.add("k_mean", p.k_mean, 4 * b * hkv * d);
      workspace.add("lse_correction", p.lse_correction, 4 * b * hq * lqp);
    }
    workspace.add("q_codes", p.q_codes, b * hq * lqp * d);
    workspace.add("q_scale", p.q_scale, q_scale_bytes);
  }
  {
    const FakeLaunch& launch = take(KernelKind::attention);
    const auto p = decode<abi::AttentionParams>(launch);
    CHECK(is_grid(launch, lqp / plan.schedule.cta_q, hq, b));
    workspace.add("q_codes", p.q_codes, b * hq * lqp * d);
    workspace.add("q_scale", p.q_scale, q_scale_bytes);
    workspace.add("k_codes", p.k_codes, b * hkv * lkp * d);
    workspace.add("k_scale", p.k_scale, k_scale_bytes);
    if (quantize_v) {
      workspace.add("v_codes", p.v.data, v_bytes);
      workspace.add("v_scale", p.v_scale, 4 * b * hkv * d);
    } else {
      CHECK(same(p.v, arguments.v));
    }
    CHECK(same(p.o, arguments.o));
    CHECK(p.lse == arguments.lse);
    CHECK((p.lse_correction != 0) == correct_lse);
    if (correct_lse) workspace.add("lse_correction", p.lse_correction, 4 * b * hq * lqp);
    CHECK(p.q_len == shape.q_len);
    CHECK(p.q_len_padded == lqp);
    CHECK(p.kv_len == shape.kv_len);
    CHECK(p.kv_len_padded == lkp);
    CHECK(p.heads_per_kv_head == hq / hkv);
    const bool bottom_right =
        problem.mask == Mask::causal && arguments.causal == CausalAlignment::bottom_right;
    CHECK(p.causal_offset == (bottom_right ? shape.kv_len - shape.q_len : 0));
  }
  CHECK(next == launches.size());
  workspace.check();
  CHECK(plan.driver->misuse().empty());
}

// A contiguous tensor in a random order of axes, with random padding behind rows.
TensorView random_view(std::mt19937& random, DevicePtr data, std::int64_t heads,
                       std::int64_t tokens, int head_dim) {
  const auto pad = static_cast<int>(random() % 3) * 8;
  const int row = head_dim + pad;
  TensorView view =
      random() % 2 == 0 ? hnd(data, heads, tokens, row) : nhd(data, heads, tokens, row);
  view.stride_batch += static_cast<std::int64_t>(random() % 4) * 64;
  return view;
}

std::vector<PlanOptions> every_plan() {
  std::vector<PlanOptions> plans;
  for (const TargetInfo& info : supported_targets()) {
    for (const int head_dim : {64, 128}) {
      for (const DType io : {DType::f16, DType::bf16}) {
        for (const Mask mask : {Mask::none, Mask::causal}) {
          for (const Granularity granularity : {Granularity::per_thread, Granularity::per_block}) {
            for (const Smoothing smoothing : {Smoothing::none, Smoothing::k}) {
              plans.push_back({.problem = {.head_dim = head_dim, .io = io, .mask = mask},
                               .target = info.target,
                               .granularity = granularity,
                               .smoothing = smoothing});
            }
          }
        }
      }
    }
  }
  return plans;
}

}  // namespace

TEST_CASE("launches of every plan at random shapes and strides") {
  std::mt19937 random(20240917);
  const auto length = [&] {
    return static_cast<std::int64_t>(1 + random() % (random() % 2 ? 20000 : 300));
  };
  for (const PlanOptions& options : every_plan()) {
    INFO(to_string(options.target)
         << " d" << options.problem.head_dim << " " << to_string(options.problem.io) << " "
         << to_string(options.granularity) << " " << to_string(options.smoothing));
    FakePlan plan(options);
    for (int repeat = 0; repeat < 6; ++repeat) {
      const auto kv_heads = static_cast<std::int64_t>(1 + random() % 4);
      const AttentionShape shape{.batch = static_cast<std::int64_t>(1 + random() % 3),
                                 .q_heads = kv_heads * static_cast<std::int64_t>(1 + random() % 4),
                                 .kv_heads = kv_heads,
                                 .q_len = length(),
                                 .kv_len = length()};
      INFO("batch " << shape.batch << " heads " << shape.q_heads << "/" << shape.kv_heads
                    << " lengths " << shape.q_len << "/" << shape.kv_len);
      const int head_dim = options.problem.head_dim;
      const AttentionArguments arguments{
          .q = random_view(random, kQ, shape.q_heads, shape.q_len, head_dim),
          .k = random_view(random, kK, shape.kv_heads, shape.kv_len, head_dim),
          .v = random_view(random, kV, shape.kv_heads, shape.kv_len, head_dim),
          .o = random_view(random, kO, shape.q_heads, shape.q_len, head_dim),
          .lse = random() % 2 == 0 ? 0 : kLse,
          .softmax_scale = random() % 2 == 0 ? 0.0f : 0.25f,
          .causal = random() % 2 == 0 ? CausalAlignment::top_left : CausalAlignment::bottom_right};
      check_call(plan, shape, arguments);
    }
  }
}

TEST_CASE("quantize and attend launch the two halves of run, with the same arguments") {
  const AttentionShape shape{.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 300, .kv_len = 500};
  FakePlan plan({.problem = {.head_dim = 64, .io = DType::bf16}, .target = {.sm = 89}});
  AttentionArguments arguments = plain_arguments(shape, 64);
  arguments.lse = kLse;
  plan.run(shape, arguments);
  const std::vector<FakeLaunch> whole = plan.driver->launches();
  REQUIRE(whole.size() == 5);

  plan.driver->clear_launches();
  const std::size_t bytes = plan.workspace_bytes(shape);
  plan.attention.quantize(shape, arguments, kWorkspace, bytes, nullptr);
  REQUIRE(plan.driver->launches().size() == 4);
  plan.attention.attend(shape, arguments, kWorkspace, bytes, nullptr);
  const std::vector<FakeLaunch> halves = plan.driver->launches();
  REQUIRE(halves.size() == 5);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    CHECK(halves[i].kernel == whole[i].kernel);
    CHECK(halves[i].params == whole[i].params);
    CHECK(is_grid(halves[i], whole[i].grid.x, whole[i].grid.y, whole[i].grid.z));
  }
  CHECK_THROWS_AS(plan.attention.quantize(shape, arguments, kWorkspace, bytes - 1, nullptr),
                  ArgumentError);
  CHECK_THROWS_AS(plan.attention.attend(shape, arguments, kWorkspace, bytes - 1, nullptr),
                  ArgumentError);
}

TEST_CASE("the workspace of a known shape has the size one computes by hand") {
  // sm_89, head_dim 128, per-thread scales in groups of 32 queries and 64 keys, 128 x 64 tiles.
  const FakePlan plan;
  REQUIRE(plan.schedule.cta_q == 128);
  REQUIRE(plan.schedule.cta_k == 64);
  const AttentionShape shape{.batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 129, .kv_len = 65};
  const std::size_t q_codes = 2 * 256 * 128, q_scale = 2 * 8 * 8 * 4;  // 129 -> 256: 8 groups
  const std::size_t k_codes = 128 * 128, k_scale = 256;  // 65 -> 128: 2 groups, 32 bytes
  const std::size_t v_codes = 128 * 128, v_scale = 128 * 4, v_amax = 128 * 4;
  const std::size_t k_sum = 128 * 4, k_mean = 128 * 4, correction = 2 * 256 * 4;
  CHECK(plan.workspace_bytes(shape) == q_codes + q_scale + k_codes + k_scale + v_codes + v_scale +
                                           v_amax + k_sum + k_mean + correction);
}

TEST_CASE("strides beyond 2^32 elements and lengths near 2^31 arrive whole") {
  FakePlan plan;
  const AttentionShape shape{
      .batch = 2, .q_heads = 2, .kv_heads = 2, .q_len = 70000, .kv_len = 200064};
  const std::int64_t token = (std::int64_t{1} << 33) + 8;
  AttentionArguments arguments = plain_arguments(shape, 128);
  arguments.k = {
      .data = 0x10'0000'0000'0000, .stride_batch = 512, .stride_head = 128, .stride_token = token};
  arguments.q.data = 0x7000'0000'0000'0000;
  check_call(plan, shape, arguments);

  const AttentionShape longest{
      .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 2147483520, .kv_len = 2147483584};
  check_call(plan, longest, plain_arguments(longest, 128));
}

TEST_CASE("everything goes to the caller's stream, and nothing but launches") {
  FakePlan plan;
  const Stream stream(plan.device);
  const AttentionShape shape{.batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 5, .kv_len = 7};
  const std::size_t bytes = plan.workspace_bytes(shape);
  const int before = plan.driver->call_count();
  plan.attention.run(shape, plain_arguments(shape, 128), kWorkspace, bytes, stream.handle());
  REQUIRE(plan.driver->launches().size() == 5);
  for (const FakeLaunch& launch : plan.driver->launches()) CHECK(launch.stream == stream.handle());
  for (auto i = static_cast<std::size_t>(before); i < plan.driver->calls().size(); ++i) {
    const std::string& call = plan.driver->calls()[i];
    CHECK((call == "cuLaunchKernel" || call == "cuCtxGetCurrent" || call == "cuCtxSetCurrent"));
  }
}

TEST_CASE("kernel names are those of the loaded entries, in launch order") {
  FakePlan plan;
  const AttentionShape shape{};
  plan.run(shape, plain_arguments(shape, 128));
  std::vector<std::string> launched;
  for (const FakeLaunch& launch : plan.driver->launches()) launched.push_back(launch.kernel);
  CHECK(plan.attention.kernel_names() == launched);
  std::vector<std::string> asked_for;
  for (const KernelSpec& spec : plan.attention.kernels().in_order()) asked_for.push_back(key(spec));
  CHECK(asked_for == launched);
}
