// Q and K of 16 bits: the kernels of both modes, with V as it is and with FP8, against fp64 and the model of their
// formats, and what only they do: read the caller's rows, whatever lies behind the last one.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/numerics/scene.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/run_judge.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::CausalAlignment;
using cli::Layout;
using test::inputs_for;
using test::Scene;
using test::spec_of;

namespace {

const attention::Mode& mode_of(const std::string& name) {
  const auto modes = attention::modes();
  const auto found = std::find_if(modes.begin(), modes.end(),
                                  [&](const attention::Mode& mode) { return mode.name == name; });
  REQUIRE(found != modes.end());
  return *found;
}

Kernel kernel_of(const std::string& mode, int sm, const attention::Spec& spec) {
  return {attention::family(), attention::with_mode(spec, mode_of(mode)), Target{.sm = sm}};
}

struct Place {
  const char* mode;
  int sm;
};
constexpr std::array kPlaces = {Place{"16bit", 80},  Place{"16bit", 86},    Place{"16bit", 89},
                                Place{"16bit", 120}, Place{"bf16-fp8", 89}, Place{"bf16-fp8", 120}};

// Every mode and target with every head_dim and dtype.
template <typename Visit>
void for_each_kernel(attention::Spec spec, const Visit& visit) {
  for (const Place& place : kPlaces) {
    for (const int head_dim : {64, 128}) {
      for (const DType io : {DType::f16, DType::bf16}) {
        spec.head_dim = head_dim;
        spec.io = io;
        visit(kernel_of(place.mode, place.sm, spec));
      }
    }
  }
}

struct Verdict {
  cli::AttentionResult result;
  ref::Metrics kernel;  // its error against fp64
};

// What `sagegen run` demands: each row within its bounds, no finding.
Verdict check(const Scene& scene) {
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionJob job = test::job_of(scene);
  INFO(test::text_of(job, on));
  Verdict verdict{.result = cli::run_attention(job, on), .kernel = {}};
  for (const rt::Finding& finding : verdict.result.findings) FAIL_CHECK(test::text_of(finding));
  REQUIRE_FALSE(verdict.result.o.empty());
  const cli::JudgeOptions all_rows{.rows = 0};
  const cli::Judgement judgement = cli::judge(job, verdict.result, on, all_rows);
  if (!judgement.passed) FAIL_CHECK(cli::judgement_text(judgement, job, all_rows, true));
  verdict.kernel = judgement.kernel.o;
  return verdict;
}

// ---- what the lengths and heads go through -------------------------------------------------------

constexpr std::array<std::int64_t, 7> kLengths = {1, 63, 64, 65, 130, 200, 257};
constexpr std::size_t kPairs = kLengths.size() * kLengths.size();

// The n-th: every pair of lengths after kPairs steps; other heads, layout and place of queries each time.
Scene ragged_scene(const Kernel& kernel, std::size_t n) {
  const std::size_t pair = n * 17 % kPairs;  // shares no divisor with kPairs
  const ref::Shape shape{.batch = n % 5 == 0 ? 2 : 1,
                         .q_heads = n % 3 == 0 ? 3 : 2,
                         .kv_heads = n % 3 == 0 || n % 2 == 0 ? 1 : 2,
                         .q_len = kLengths[pair / kLengths.size()],
                         .kv_len = kLengths[pair % kLengths.size()]};
  constexpr std::array kDistributions = {"normal", "outlier", "k_bias", "sink", "peaked"};
  return {.kernel = kernel,
          .inputs = inputs_for(kernel, kDistributions[n % kDistributions.size()], shape, 300 + n),
          .layout = n % 2 == 0 ? Layout::hnd : Layout::nhd,
          .alignment = n / 2 % 2 == 0 ? CausalAlignment::bottom_right : CausalAlignment::top_left};
}

// One mod each, then all together.
std::vector<attention::Spec> specs_with_mods() {
  std::vector<attention::Spec> specs;
  attention::Spec all;
#define SAGEGEN_MOD(name)   \
  specs.emplace_back();     \
  specs.back().name = true; \
  all.name = true;
#include "templates/attention/mods/mods.def"
  specs.push_back(all);
  return specs;
}

void check_mods(std::size_t places_of_each) {
  std::size_t n = 0;
  for (const attention::Spec& mods : specs_with_mods()) {
    for (std::size_t i = 0; i < places_of_each; ++i, ++n) {
      attention::Spec spec = mods;
      const Place& place = kPlaces[n % kPlaces.size()];
      spec.head_dim = n / 2 % 2 == 0 ? 64 : 128;
      spec.io = n % 2 == 0 ? DType::bf16 : DType::f16;
      const Kernel kernel = kernel_of(place.mode, place.sm, spec);
      const ref::Shape shape{
          .batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 70 + n % 3 * 40, .kv_len = 150};
      check({.kernel = kernel,
             .inputs = inputs_for(kernel, n % 2 == 0 ? "normal" : "k_bias", shape, n),
             .alignment = n % 2 == 0 ? CausalAlignment::bottom_right : CausalAlignment::top_left});
    }
  }
}

// ---- tensors that lie in others --------------------------------------------------------------------

std::uint16_t bits_of(DType io, double value) {
  return io == DType::f16 ? ref::f16_bits(value) : ref::bf16_bits(value);
}

// Rows of a tensor among NaNs: behind each row, behind the last token of each head, and behind the last head.
struct AmongNans {
  AmongNans(const rt::Device& device, const ref::Tensor& tensor, DType io)
      : stride_token(tensor.channels + 8),
        stride_head((tensor.tokens + 150) * stride_token),
        stride_batch((tensor.heads + 1) * stride_head),
        buffer(device, static_cast<std::size_t>((tensor.batch + 1) * stride_batch) * 2) {
    constexpr std::uint16_t kNan = 0xFFFF;  // of both types
    std::vector<std::uint16_t> bits(buffer.bytes() / 2, kNan);
    for (std::int64_t b = 0; b < tensor.batch; ++b) {
      for (std::int64_t h = 0; h < tensor.heads; ++h) {
        for (std::int64_t n = 0; n < tensor.tokens; ++n) {
          const float* row = tensor.row(b, h, n);
          std::transform(row, row + tensor.channels, bits.begin() + at(b, h, n),
                         [&](float x) { return bits_of(io, x); });
        }
      }
    }
    buffer.upload(std::as_bytes(std::span(bits)));
  }
  std::int64_t at(std::int64_t b, std::int64_t h, std::int64_t n) const {
    return b * stride_batch + h * stride_head + n * stride_token;
  }
  rt::TensorView view() const {
    return {.data = buffer.data(),
            .stride_batch = stride_batch,
            .stride_head = stride_head,
            .stride_token = stride_token};
  }
  std::int64_t stride_token, stride_head, stride_batch;
  rt::Buffer buffer;
};

// Bits of O and of the LSE with all tensors among NaNs.
std::pair<std::vector<double>, std::vector<double>> run_among_nans(const Scene& scene) {
  const cli::RunDevice on = test::device_of(scene);
  const ref::Inputs& in = scene.inputs;
  const DType io = spec_of(scene.kernel).io;
  const AmongNans q(on.device, in.q, io), k(on.device, in.k, io), v(on.device, in.v, io),
      o(on.device, in.q, io);
  rt::Buffer lse(on.device, in.q.data.size() / static_cast<std::size_t>(in.q.channels) * 4);
  const attention::Plan plan(on.device, scene.kernel, test::emitted);
  const attention::Shape shape{.batch = in.q.batch,
                               .q_heads = in.q.heads,
                               .kv_heads = in.k.heads,
                               .q_len = in.q.tokens,
                               .kv_len = in.k.tokens};
  const std::size_t bytes = plan.workspace_bytes(shape);
  const rt::Buffer workspace(on.device, bytes);
  const rt::Stream stream(on.device);
  plan.run(shape,
           {.q = q.view(),
            .k = k.view(),
            .v = v.view(),
            .o = o.view(),
            .lse = lse.data(),
            .causal = scene.alignment},
           workspace.data(), bytes, stream.handle());
  stream.synchronize();
  for (const rt::Finding& finding : on.emulator->findings()) FAIL_CHECK(test::text_of(finding));

  std::vector<std::uint16_t> bits(o.buffer.bytes() / 2);
  o.buffer.download(std::as_writable_bytes(std::span(bits)));
  std::vector<float> lse_values(lse.bytes() / 4);
  lse.download(std::as_writable_bytes(std::span(lse_values)));
  std::vector<double> values;
  std::size_t untouched = bits.size() - in.q.data.size();
  for (const std::uint16_t one : bits) untouched -= one == 0xFFFF;
  CHECK(untouched == 0);
  for (std::int64_t b = 0; b < in.q.batch; ++b) {
    for (std::int64_t h = 0; h < in.q.heads; ++h) {
      for (std::int64_t n = 0; n < in.q.tokens; ++n) {
        for (std::int64_t c = 0; c < in.q.channels; ++c) {
          const std::uint16_t one = bits[static_cast<std::size_t>(o.at(b, h, n) + c)];
          values.push_back(io == DType::f16 ? ref::f16_value(one) : ref::bf16_value(one));
        }
      }
    }
  }
  return {values, {lse_values.begin(), lse_values.end()}};
}

void fill(ref::Tensor& tensor, float value) {
  std::fill(tensor.data.begin(), tensor.data.end(), value);
}

}  // namespace

TEST_CASE("Q and K of 16 bits in short", "[fast]") {
  std::size_t n = 0;
  for_each_kernel({}, [&](const Kernel& kernel) { check(ragged_scene(kernel, n++)); });
}

TEST_CASE("Q and K of 16 bits at ragged lengths, causal and not", "[full]") {
  std::size_t n = 0;
  for (const bool causal : {false, true}) {
    attention::Spec spec;
    spec.causal = causal;
    for_each_kernel(spec, [&](const Kernel& kernel) {
      for (int i = 0; i < 3; ++i) check(ragged_scene(kernel, n++));
    });
  }
  CHECK(n >= 2 * kPairs);
}

TEST_CASE("Q and K of 16 bits with each mask and bias", "[fast]") { check_mods(1); }

TEST_CASE("Q and K of 16 bits with each mask and bias, on every target", "[full]") {
  check_mods(2 * kPlaces.size());
}

// Where rows end inside a tile, of Q as of K and V.
TEST_CASE("what lies between rows and behind the last one does not matter", "[fast]") {
  for (const bool causal : {false, true}) {
    attention::Spec spec;
    spec.causal = causal;
    std::uint64_t seed = 40;
    for_each_kernel(spec, [&](const Kernel& kernel) {
      const ref::Shape shape{
          .batch = 2, .q_heads = 2, .kv_heads = 1, .q_len = 67, .kv_len = seed % 2 == 0 ? 75 : 33};
      const Scene scene{.kernel = kernel,
                        .inputs = inputs_for(kernel, "normal", shape, ++seed),
                        .alignment = CausalAlignment::bottom_right};
      INFO(kernel.key());
      const Verdict expected = check(scene);
      const auto [o, lse] = run_among_nans(scene);
      CHECK(o == expected.result.o);
      CHECK(lse == expected.result.lse);
    });
  }
}

TEST_CASE("kernels of one mode need no workspace, those of the other only that of V", "[fast]") {
  for_each_kernel({}, [&](const Kernel& kernel) {
    INFO(kernel.key());
    const cli::RunDevice on = test::device_of({.kernel = kernel, .inputs = {}});
    const attention::Plan plan(on.device, kernel, test::emitted);
    const attention::Shape shape{
        .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 100, .kv_len = 100};
    const bool fp8 = spec_of(kernel).pv == DType::e4m3;
    CHECK(plan.kernel_names().size() == (fp8 ? 3 : 1));
    const std::set<std::string_view> of_v{"v_codes", "v_scale", "v_amax_partial"};
    for (const attention::Plan::ScratchTensor& tensor : plan.scratch(shape))
      CHECK((tensor.bytes > 0) == (fp8 && of_v.contains(tensor.name)));
    CHECK((plan.workspace_bytes(shape) == 0) == !fp8);
  });
}

// Of f16 all that there is, with the largest softmax scale that is taken; of bf16 what leaves the products within f32.
TEST_CASE("scores near and far apart, up to the largest finite ones", "[full]") {
  std::uint64_t seed = 70;
  for_each_kernel({}, [&](const Kernel& kernel) {
    const bool f16 = spec_of(kernel).io == DType::f16;
    const ref::Shape shape{.q_heads = 2, .kv_heads = 2, .q_len = 40, .kv_len = 140};
    const ref::Inputs normal = inputs_for(kernel, "normal", shape, ++seed);
    for (const double softmax_scale : {1e-30, 1e-3, 1.0, 100.0, 1e25}) {
      const bool huge = softmax_scale == 1e25;
      if (huge && !f16) continue;  // scaled scores would leave f32
      Scene scene{.kernel = kernel, .inputs = normal};
      scene.inputs.softmax_scale = softmax_scale;
      check(scene);
    }
    Scene scene{.kernel = kernel, .inputs = normal};
    const float largest = f16 ? 65504.0f : 0x1p59f;
    for (float& x : scene.inputs.q.data) x = std::copysign(largest, x);
    for (float& x : scene.inputs.k.data) x = std::copysign(largest, x);
    scene.inputs.softmax_scale = 1e-3;
    check(scene);
    fill(scene.inputs.q, largest);
    fill(scene.inputs.k, -largest);
    check(scene);
  });
}

TEST_CASE("a constant V comes out as it is, with Q and K of 16 bits", "[fast]") {
  std::uint64_t seed = 90;
  for_each_kernel({}, [&](const Kernel& kernel) {
    for (const char* distribution : {"normal", "peaked"}) {
      Scene scene{
          .kernel = kernel,
          .inputs = inputs_for(kernel, distribution,
                               {.q_heads = 2, .kv_heads = 1, .q_len = 65, .kv_len = 200}, ++seed)};
      fill(scene.inputs.v, 1.0f);
      const Verdict verdict = check(scene);
      INFO(kernel.key());
      CHECK(std::all_of(verdict.result.o.begin(), verdict.result.o.end(),
                        [](double x) { return x == 1; }));
    }
  });
}

// Where no outlier takes the codes of Q and K, and where one does.
TEST_CASE("the fewer bits, the larger the error", "[full]") {
  constexpr ref::Shape kShape{.q_heads = 2, .kv_heads = 1, .q_len = 256, .kv_len = 1024};
  for (const char* distribution : {"normal", "outlier"}) {
    const auto error = [&](const char* mode, DType io) {
      const Kernel kernel = kernel_of(mode, 89, {.head_dim = 128, .io = io});
      return check({.kernel = kernel, .inputs = inputs_for(kernel, distribution, kShape, 7)})
          .kernel.relative_l1;
    };
    const double f16 = error("16bit", DType::f16), bf16 = error("16bit", DType::bf16),
                 fp8 = error("bf16-fp8", DType::bf16), int8 = error("int8-fp8", DType::bf16);
    INFO(distribution << ": relative L1 " << f16 << " f16, " << bf16 << " bf16, " << fp8
                      << " with FP8, " << int8 << " with INT8, too");
    CHECK(f16 < 5e-4);
    CHECK(f16 < bf16);
    CHECK(bf16 < 4e-3);
    CHECK(bf16 < fp8);
    CHECK(fp8 < int8);
  }
}

// Sums of f16 are of V that is quantized, to codes that leave room for them.
TEST_CASE("Q and K of 16 bits where P V is summed in f16", "[fast]") {
  std::size_t n = 0;
  for (const Place& place : kPlaces) {
    for (const DType io : {DType::f16, DType::bf16}) {
      attention::Spec spec = attention::with_mode({.head_dim = 64, .io = io}, mode_of(place.mode));
      if (spec.pv == DType::bf16) continue;
      spec.accumulation = Accumulation::f32_f16;
      check(ragged_scene(Kernel(attention::family(), spec, Target{.sm = place.sm}), n++));
    }
  }
}

TEST_CASE("other schedules of Q and K of 16 bits", "[fast]") {
  std::size_t n = 0;
  for (const char* schedule : {"q16k16w1s4", "q32k32w1s3", "q64k16w4s2", "q128k128w8s1",
                               "q128k64w8s2", "q64k64w2s3", "q256k32w8s1", "q32k64w2s4"}) {
    for (const Place& place : kPlaces) {
      const Kernel kernel = kernel_of(place.mode, place.sm, {.head_dim = 64, .causal = n % 2 == 0})
                                .with_schedule(schedule);
      if (!kernel.violations().empty()) continue;  // FP8 takes 64 keys at least
      check(ragged_scene(kernel, ++n));
    }
  }
  CHECK(n >= 36);
}

TEST_CASE("no legal order of warps and copies changes a bit of Q and K of 16 bits", "[full]") {
  std::uint64_t seed = 0;
  for_each_kernel({}, [&](const Kernel& kernel) {
    Scene scene{
        .kernel = kernel,
        .inputs = inputs_for(kernel, "normal",
                             {.q_heads = 1, .kv_heads = 1, .q_len = 70, .kv_len = 300}, ++seed)};
    const Verdict expected = check(scene);
    for (const auto order : {rt::SchedulePolicy::random, rt::SchedulePolicy::reverse}) {
      for (const auto async : {rt::AsyncPolicy::eager, rt::AsyncPolicy::random}) {
        scene.emulator = {.schedule = order, .async = async, .seed = seed};
        const Verdict got = check(scene);
        CHECK(got.result.o == expected.result.o);
        CHECK(got.result.lse == expected.result.lse);
      }
    }
  });
}
