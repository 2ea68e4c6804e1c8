// O as codes of a byte, against O of the same kernel in f16: within half a code of it, saturated where e4m3 ends, zeros
// where a row is 0. O lies between walls: what strides leave between two rows stays as it was.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tests/numerics/scene.h"
#include "tools/reference/rounding.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::OutputFormat;
using test::Scene;
using test::spec_of;

namespace {

constexpr std::uint8_t kWall = 0x7F;  // NaN in e4m3
constexpr double kOfF16 = 0x1p-10;    // what f16 may round by, and f32 on the way to codes

std::vector<std::uint8_t> bytes_of(const ref::Tensor& tensor) {
  std::vector<std::uint8_t> bytes;
  for (const float value : tensor.data) {
    const std::uint16_t bits = ref::f16_bits(value);
    bytes.push_back(static_cast<std::uint8_t>(bits & 0xFF));
    bytes.push_back(static_cast<std::uint8_t>(bits >> 8));
  }
  return bytes;
}

rt::Buffer uploaded(const rt::Device& device, std::span<const std::byte> bytes) {
  rt::Buffer buffer(device, bytes.size());
  buffer.upload(bytes);
  return buffer;
}

struct Result {
  std::vector<std::uint8_t> o;  // rows as they lie, walls between them
  std::vector<float> scales;
};

Result run(const Scene& scene, float factor, int gap) {
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionJob job = test::job_of(scene);
  const ref::Inputs& in = job.inputs;
  const attention::Plan plan(on.device, scene.kernel, test::emitted);
  const auto put = [&](const ref::Tensor& tensor) {
    const std::vector<std::uint8_t> bytes = bytes_of(tensor);
    return uploaded(on.device, std::as_bytes(std::span(bytes)));
  };
  const rt::Buffer q = put(in.q), k = put(in.k), v = put(in.v);
  const auto view = [](const rt::Buffer& buffer, const ref::Tensor& tensor) {
    return rt::hnd(buffer.data(), tensor.heads, tensor.tokens, static_cast<int>(tensor.channels));
  };
  const std::int64_t rows = in.q.batch * in.q.heads * in.q.tokens;
  const bool codes = job.spec.out != OutputFormat::io;
  const int stride = static_cast<int>(in.v.channels) + gap, element = codes ? 1 : 2;
  Result result;
  result.o.assign(static_cast<std::size_t>((rows * stride - gap) * element), kWall);
  rt::Buffer o = uploaded(on.device, std::as_bytes(std::span(result.o)));
  result.scales.assign(job.spec.out == OutputFormat::s8 ? static_cast<std::size_t>(rows) : 1,
                       factor);
  const rt::Buffer scales = uploaded(on.device, std::as_bytes(std::span(result.scales)));
  const attention::Shape shape{.batch = in.q.batch,
                               .q_heads = in.q.heads,
                               .kv_heads = in.k.heads,
                               .q_len = in.q.tokens,
                               .kv_len = in.k.tokens};
  const rt::Buffer workspace(on.device, std::max<std::size_t>(plan.workspace_bytes(shape), 1));
  plan.run(shape,
           {.q = view(q, in.q),
            .k = view(k, in.k),
            .v = view(v, in.v),
            .o = rt::hnd(o.data(), in.q.heads, in.q.tokens, stride),
            .causal = job.causal,
            .mods = {},
            .o_scale = codes ? scales.data() : rt::DevicePtr{0}},
           workspace.data(), workspace.bytes(), nullptr);
  on.device.synchronize();
  o.download(std::as_writable_bytes(std::span(result.o)));
  scales.download(std::as_writable_bytes(std::span(result.scales)));
  for (const rt::Finding& finding : on.emulator->findings()) FAIL_CHECK(test::text_of(finding));
  return result;
}

// Half of the distance between the codes of e4m3 about x.
double half_step(double x) { return std::max(std::ldexp(1.0, std::ilogb(x) - 4), 0x1p-10); }

void check_row(const std::vector<double>& exact, const std::uint8_t* codes, OutputFormat out,
               float scale) {
  if (out == OutputFormat::e4m3) {
    for (std::size_t c = 0; c < exact.size(); ++c) {
      const double x = std::clamp(exact[c] * scale, -448.0, 448.0);
      const double bound = (x == 0 ? 0 : half_step(x) * (1 + kOfF16)) + kOfF16 * std::fabs(x) +
                           0x1p-24 * scale;  // f16 has subnormal numbers
      INFO("code " << int{codes[c]} << " for " << x << " at " << c);
      CHECK(std::fabs(ref::e4m3_value(codes[c]) - x) <= bound);
    }
    return;
  }
  double amax = 0;
  int largest = 0;
  for (const double x : exact) amax = std::max(amax, std::fabs(x));
  CHECK(std::fabs(scale - amax / 127) <= kOfF16 * amax / 127);
  for (std::size_t c = 0; c < exact.size(); ++c) {
    const int code = static_cast<std::int8_t>(codes[c]);
    largest = std::max(largest, std::abs(code));
    CHECK(std::fabs(code * double{scale} - exact[c]) <=
          scale * (0.5 + 0x1p-16) + kOfF16 * std::fabs(exact[c]) + 0x1p-24);
  }
  CHECK(largest == (amax > 0 ? 127 : 0));
}

void check(attention::Spec spec, Target target, OutputFormat out, float factor, int gap,
           std::uint64_t seed) {
  spec.io = DType::f16;
  const Kernel plain(attention::family(), spec, target);
  const std::int64_t q_len = seed % 2 == 0 ? 130 : 67;
  Scene scene{.kernel = plain,
              .inputs = test::inputs_for(plain, "outlier",
                                         {.batch = 2,
                                          .q_heads = spec.pack_gqa ? 3 : 2,
                                          .kv_heads = 1,
                                          .q_len = q_len,
                                          .kv_len = 65},
                                         seed),
              .alignment = attention::CausalAlignment::bottom_right};
  // Of the second batch all values are 0, and with a causal mask the first rows of both see nothing.
  ref::Tensor& v = scene.inputs.v;
  std::fill(v.row(1, 0, 0), v.row(1, 0, 0) + v.heads * v.tokens * v.channels, 0.0f);
  const Result expected = run(scene, 0, 0);
  spec.out = out;
  // The same schedule, so that nothing else differs.
  const Kernel with_codes(attention::family(), spec, test::schedule_of(plain), target);
  INFO(with_codes.key() << ", factor " << factor << ", gap " << gap);
  REQUIRE(test::is_legal(with_codes));
  scene.kernel = with_codes;
  const Result got = run(scene, factor, gap);
  const auto channels = static_cast<std::size_t>(v.channels),
             width = channels + static_cast<std::size_t>(gap);
  const std::size_t rows = expected.o.size() / 2 / channels;
  std::size_t zeros = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    std::vector<double> exact;
    for (std::size_t c = 0; c < channels; ++c) {
      const std::size_t at = 2 * (row * channels + c);
      exact.push_back(
          ref::f16_value(static_cast<std::uint16_t>(expected.o[at] | expected.o[at + 1] << 8)));
    }
    zeros += std::ranges::all_of(exact, [](double x) { return x == 0; }) ? 1 : 0;
    check_row(exact, got.o.data() + row * width, out,
              out == OutputFormat::s8 ? got.scales[row] : factor);
    if (row + 1 == rows) break;
    const auto wall = got.o.begin() + static_cast<std::ptrdiff_t>(row * width + channels);
    CHECK(std::count(wall, wall + gap, kWall) == gap);
  }
  CHECK(zeros >= rows / 2);
  CHECK(zeros < rows);
}

// With the n-th mode, and gaps, lengths and masks in turn.
void check_in_turn(int head_dim, int value_dim, OutputFormat out, std::size_t n, float factor) {
  const bool fp8 = out == OutputFormat::e4m3;
  attention::Spec spec = attention::with_mode({.head_dim = head_dim, .io = DType::f16},
                                              attention::modes()[n % attention::modes().size()]);
  spec.value_dim = value_dim == head_dim ? 0 : value_dim;
  spec.causal = n % 3 == 0;
  const bool needs_89 = fp8 || spec.pv == DType::e4m3;
  check(spec, {.sm = needs_89 ? 89 : 80}, out, factor,
        static_cast<int>(n % 3) * (value_dim % 16 == 0 ? 16 : 8), n);
}

}  // namespace

TEST_CASE("O as codes of some kernels", "[fast]") {
  check_in_turn(32, 32, OutputFormat::e4m3, 0, 16);
  check_in_turn(64, 72, OutputFormat::e4m3, 5, 100);
  check_in_turn(72, 72, OutputFormat::s8, 1, 0);
  check_in_turn(192, 128, OutputFormat::s8, 3, 0);
}

// Strides of heads and of queries, which neighbouring rows of a tile differ in, count bytes, too.
TEST_CASE("O as codes of rows of heads that share K and V", "[fast]") {
  std::uint64_t seed = 0;
  for (const OutputFormat out : {OutputFormat::e4m3, OutputFormat::s8}) {
    for (const int value_dim : {0, 72, 128}) {
      attention::Spec spec =
          attention::with_mode({.head_dim = 64, .io = DType::f16}, attention::modes()[seed % 6]);
      spec.value_dim = value_dim;
      spec.pack_gqa = true;
      spec.causal = true;  // rows that see no key
      if (attention::qk_is_quantized(spec)) spec.q_group = 16;
      check(spec, {.sm = 89}, out, 30, value_dim == 72 ? 8 : 16, seed++);
    }
  }
}

TEST_CASE("codes beyond 448 saturate, and those of tiny numbers are 0", "[fast]") {
  check_in_turn(64, 64, OutputFormat::e4m3, 1, 1e4f);
  check_in_turn(64, 64, OutputFormat::e4m3, 2, 1e-6f);
}

TEST_CASE("O as codes with every number of channels and every mode", "[full]") {
  std::size_t turn = 0;
  for (const OutputFormat out : {OutputFormat::e4m3, OutputFormat::s8}) {
    for (const int value_dim : head_dims().allowed) {
      for (const int head_dim : {value_dim, value_dim == 64 ? 96 : 64})
        check_in_turn(head_dim, value_dim, out, turn++, 30);
    }
    for (std::size_t mode = 0; mode < attention::modes().size(); ++mode)
      check_in_turn(128, 128, out, mode, 30);
  }
}
