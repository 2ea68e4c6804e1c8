// Codes and scales of any origin: what Plan::attend_codes() promises.
//
// - Codes written on the host from docs/reference.md, "Codes and scales", and from nothing else: the kernel attends them
//   as it does those of our own quantizers, which is the proof that the page says what the kernel reads.
// - Q quantized apart from K and V, and K and V once for several Q: the bits of run().
// - Codes as SageAttention's quantizers lay them out (inputs=given): fp64 attention on the dequantized codes, within the
//   judge's bounds.
// Each also with a reader's mistakes, which have to be seen.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include "templates/attention/params.h"
#include "tests/emulator/ptx_edit.h"
#include "tests/numerics/scene.h"
#include "tests/random_kernels.h"
#include "tools/reference/judge.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/run_judge.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;

namespace {

constexpr double kLog2E = std::numbers::log2e;
std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }
std::int64_t up(std::int64_t number, std::int64_t unit) {
  return (number + unit - 1) / unit * unit;
}

// ---- device memory --------------------------------------------------------------------------------

class Memory {
 public:
  explicit Memory(const rt::Device& device) : device_(device) {}
  template <typename T>
  rt::DevicePtr put(const std::vector<T>& values) {
    if (values.empty()) return 0;
    rt::Buffer& buffer = buffers_.emplace_back(device_, values.size() * sizeof(T));
    buffer.upload(std::as_bytes(std::span(values)));
    return buffer.data();
  }
  // Full of NaN, whatever it is to hold.
  rt::DevicePtr room(std::int64_t bytes) {
    if (bytes == 0) return 0;
    rt::Buffer& buffer = buffers_.emplace_back(device_, index(bytes));
    buffer.fill(0xFF);
    return buffer.data();
  }
  template <typename T>
  std::vector<T> get(rt::DevicePtr data) const {
    for (const rt::Buffer& buffer : buffers_) {
      if (buffer.data() != data) continue;
      std::vector<T> values(buffer.bytes() / sizeof(T));
      buffer.download(std::as_writable_bytes(std::span(values)));
      return values;
    }
    FAIL("no such buffer");
    return {};
  }
  const rt::Device& device() const { return device_; }

 private:
  rt::Device device_;
  std::vector<rt::Buffer> buffers_;
};

std::vector<std::uint16_t> io_bits(DType io, const ref::Tensor& tensor) {
  std::vector<std::uint16_t> bits;
  for (const float x : tensor.data)
    bits.push_back(io == DType::f16 ? ref::f16_bits(x) : ref::bf16_bits(x));
  return bits;
}

rt::TensorView view_of(rt::DevicePtr data, const ref::Tensor& like) {
  return rt::hnd(data, like.heads, like.tokens, static_cast<int>(like.channels));
}

attention::Shape shape_of(const ref::Inputs& in) {
  return {.batch = in.q.batch,
          .q_heads = in.q.heads,
          .kv_heads = in.k.heads,
          .q_len = in.q.tokens,
          .kv_len = in.k.tokens};
}

// Inputs of which no two neighbouring scales are alike.
ref::Inputs uneven_inputs(const Kernel& kernel, const ref::Shape& shape, std::uint64_t seed) {
  ref::Inputs in = test::inputs_for(kernel, "k_bias", shape, seed);
  const auto uneven = [&](ref::Tensor& tensor) {
    for (std::int64_t h = 0; h < tensor.batch * tensor.heads; ++h) {
      for (std::int64_t r = 0; r < tensor.tokens; ++r) {
        const double factor =
            (0.4 + 0.2 * static_cast<double>(r * 5 % 8)) / (1 + static_cast<double>(r / 32 % 3));
        for (std::int64_t c = 0; c < tensor.channels; ++c)
          tensor.row(0, h, r)[c] *= static_cast<float>(factor);
      }
    }
    ref::round_to(test::io_type(test::spec_of(kernel).io), tensor);
  };
  uneven(in.q);
  uneven(in.k);
  return in;
}

// ---- what a right result is -----------------------------------------------------------------------

struct Result {
  std::vector<double> o, lse;
};

struct Verdict {
  bool met = false;
  double relative_l1 = 0, limit = 0;
};

Verdict verdict_of(const Kernel& kernel, const ref::Inputs& in, const ref::QuantModel& quant,
                   int capability, const Result& result) {
  const attention::Spec& spec = test::spec_of(kernel);
  const ref::RowNumbers rows = ref::all_rows(in);
  const ref::DeviceArithmetic arithmetic = cli::device_arithmetic(spec, capability);
  const ref::Output got{.o = result.o, .lse = result.lse};
  const ref::Output exact = ref::attention(in, rows);
  const ref::Output model = ref::unrounded_model(in, quant, rows);
  const ref::RowVerdict of_rows =
      ref::judge_rows(rows, model, ref::allowance(in, quant, arithmetic, rows), got);
  const double formats = ref::compare(exact.o, model.o).relative_l1;
  Verdict verdict{.met = of_rows.met() && ref::check_every_row(in, quant, arithmetic, got).none(),
                  .relative_l1 = ref::compare(exact.o, got.o).relative_l1,
                  .limit = cli::accuracy_bound(spec, capability).limit(formats)};
  return verdict;
}

// Memory, a plan, and one call of attend_codes() with a result.
struct Attended {
  explicit Attended(const Kernel& a_kernel, const rt::ArtifactSource& source = test::emitted)
      : kernel(a_kernel),
        on(test::device_of({.kernel = kernel, .inputs = {}})),
        memory(on.device),
        plan(on.device, kernel, source) {}

  Result attend(const ref::Inputs& in, const attention::QueryCodes& queries,
                const attention::KeyValueCodes& keys_values, attention::Arguments arguments = {},
                bool wants_lse = true) {
    const attention::Shape shape = shape_of(in);
    const std::int64_t rows = shape.batch * shape.q_heads * shape.q_len;
    arguments.o = view_of(memory.room(rows * in.q.channels * 2), in.q);
    arguments.lse = wants_lse ? memory.room(rows * 4) : 0;
    const auto bytes = plan.code_sizes(shape).workspace;
    const rt::Stream stream(on.device);
    plan.attend_codes(shape, queries, keys_values, arguments, memory.room(bytes), index(bytes),
                      stream.handle());
    stream.synchronize();
    for (const rt::Finding& finding : on.emulator->findings()) FAIL_CHECK(test::text_of(finding));
    Result result;
    for (const std::uint16_t bits : memory.get<std::uint16_t>(arguments.o.data)) {
      result.o.push_back(spec().io == DType::f16 ? ref::f16_value(bits) : ref::bf16_value(bits));
    }
    if (!wants_lse) return result;
    const auto lse = memory.get<float>(arguments.lse);
    result.lse.assign(lse.begin(), lse.end());
    return result;
  }
  rt::DevicePtr put(const ref::Tensor& tensor) { return memory.put(io_bits(spec().io, tensor)); }
  const attention::Spec& spec() const { return test::spec_of(kernel); }

  Kernel kernel;
  cli::RunDevice on;
  Memory memory;
  attention::Plan plan;
};

// ---- a quantizer of a reader of the page ----------------------------------------------------------

// What readers get wrong.
enum class Mistake { none, scale_order, next_group, no_softmax_scale, key_order, half_order };

// Rows of Q or K as one tensor: their codes and scales.
struct RowTensor {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
};

struct RowFormat {
  int bits = 8;
  Granularity granularity = Granularity::per_thread;
  std::int64_t group = 32;
  bool is_queries = true;
  std::int64_t padded = 0;  // rows of a head
  std::int64_t row_bytes = 0;
  double fold = 1;  // into the scales
  Mistake mistake = Mistake::none;

  std::int64_t scales_of_group() const {
    switch (granularity) {
      case Granularity::per_thread:
        return is_queries ? 8 : 4;
      case Granularity::per_block:
        return 1;
      case Granularity::per_token:
        return group;
      case Granularity::per_tensor:
        return 0;
    }
    return 0;
  }
  std::int64_t scales_of_head() const {
    return granularity == Granularity::per_tensor ? 1 : padded / group * scales_of_group();
  }
  // Scale of a row, counted in its head.
  std::int64_t scale_of(std::int64_t row) const {
    const std::int64_t run = row / group, in_run = row % group;
    switch (granularity) {
      case Granularity::per_thread:
        return run * scales_of_group() + (is_queries ? in_run % 8 : in_run % 8 / 2);
      case Granularity::per_block:
        return run;
      case Granularity::per_token:
        return row;
      case Granularity::per_tensor:
        return 0;
    }
    return 0;
  }
};

// x: [batch * heads, rows, channels]; least: of |x| that a row counts as at least.
RowTensor write_rows(const std::vector<double>& x, std::int64_t heads, std::int64_t rows,
                     std::int64_t channels, const RowFormat& format,
                     const std::vector<double>& least = {}) {
  const double largest = format.bits == 8 ? 127 : 7;
  RowTensor out;
  out.codes.assign(index(heads * format.padded * format.row_bytes), 0);
  for (std::int64_t h = 0; h < heads; ++h) {
    std::vector<double> amax(index(format.scales_of_head()), 0);
    for (std::int64_t r = 0; r < rows; ++r) {
      double& most = amax[index(format.scale_of(r))];
      if (!least.empty()) most = std::max(most, least[index(h * rows + r)]);
      for (std::int64_t c = 0; c < channels; ++c)
        most = std::max(most, std::fabs(x[index((h * rows + r) * channels + c)]));
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      const double scale = amax[index(format.scale_of(r))] / largest;
      std::uint8_t* row = out.codes.data() + (h * format.padded + r) * format.row_bytes;
      for (std::int64_t c = 0; c < channels; ++c) {
        const double value = x[index((h * rows + r) * channels + c)];
        const int code = scale == 0 ? 0 : static_cast<int>(std::nearbyint(value / scale));
        if (format.bits == 8) {
          row[c] = static_cast<std::uint8_t>(code);
        } else {
          const bool high = (c % 2 == 1) != (format.mistake == Mistake::half_order);
          row[c / 2] |= static_cast<std::uint8_t>((code & 0xF) << (high ? 4 : 0));
        }
      }
    }
    std::vector<double> scales;
    for (const double most : amax) scales.push_back(most / largest * format.fold);
    if (format.mistake == Mistake::scale_order) std::swap(scales[0], scales[1]);
    if (format.mistake == Mistake::next_group)
      std::rotate(scales.begin(), scales.begin() + format.scales_of_group(), scales.end());
    for (const double scale : scales) out.scales.push_back(static_cast<float>(scale));
  }
  return out;
}

std::vector<double> doubles(const ref::Tensor& tensor) {
  return {tensor.data.begin(), tensor.data.end()};
}

// [batch * heads, channels]: over the tokens.
std::vector<double> mean_of(const ref::Tensor& tensor) {
  std::vector<double> mean(index(tensor.batch * tensor.heads * tensor.channels), 0);
  for (std::int64_t h = 0; h < tensor.batch * tensor.heads; ++h) {
    for (std::int64_t r = 0; r < tensor.tokens; ++r) {
      for (std::int64_t c = 0; c < tensor.channels; ++c) {
        mean[index(h * tensor.channels + c)] +=
            tensor.row(0, h, r)[c] / static_cast<double>(tensor.tokens);
      }
    }
  }
  return mean;
}

std::vector<double> less_mean(const ref::Tensor& tensor, const std::vector<double>& mean) {
  std::vector<double> rest = doubles(tensor);
  for (std::size_t i = 0; i < rest.size(); ++i) {
    const std::size_t head = i / index(tensor.tokens * tensor.channels);
    rest[i] -= mean[head * index(tensor.channels) + i % index(tensor.channels)];
  }
  return rest;
}

std::vector<float> floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

constexpr std::array<std::int64_t, 16> kOrder = {0, 1, 8,  9,  2, 3, 10, 11,
                                                 4, 5, 12, 13, 6, 7, 14, 15};

struct Written {
  attention::QueryCodes queries;
  attention::KeyValueCodes keys_values;
};

// "Codes and scales", from the first line to the last, of the padded tensors.
Written write_codes(Attended& to, const ref::Inputs& in, double softmax_scale, Mistake mistake) {
  const attention::Spec& spec = to.spec();
  const attention::Schedule& schedule = test::schedule_of(to.kernel);
  const std::int64_t d = in.q.channels, q_len = in.q.tokens, kv_len = in.k.tokens;
  const std::int64_t q_heads = in.q.batch * in.q.heads, kv_heads = in.k.batch * in.k.heads;
  const bool smooth_q = spec.smoothing == Smoothing::qk,
             smooth_k = spec.smoothing != Smoothing::none;
  const std::int64_t lqp = up(q_len, std::max(smooth_q ? 128 : spec.q_group, schedule.cta_q));
  const std::int64_t lkp = up(kv_len, std::max(spec.k_group, schedule.cta_k));
  const int bits = spec.qk == DType::s4 ? 4 : 8;
  const std::int64_t row_bytes = up(d * bits / 8, 32);
  Written out;

  const std::vector<double> k_mean = mean_of(in.k);
  if (spec.qk == DType::s8 || spec.qk == DType::s4) {
    RowFormat format{.bits = bits,
                     .granularity = spec.granularity,
                     .group = spec.k_group,
                     .is_queries = false,
                     .padded = lkp,
                     .row_bytes = row_bytes};
    const RowTensor keys =
        write_rows(smooth_k ? less_mean(in.k, k_mean) : doubles(in.k), kv_heads, kv_len, d, format);
    out.keys_values.k_codes = to.memory.put(keys.codes);
    out.keys_values.k_scale = to.memory.put(keys.scales);
    if (smooth_q) out.keys_values.k_mean = to.memory.put(floats(k_mean));

    std::vector<double> q = doubles(in.q), least;
    if (smooth_k) {
      std::vector<double> correction(index(q_heads * lqp), 0);
      for (std::int64_t h = 0; h < q_heads; ++h) {
        for (std::int64_t r = 0; r < q_len; ++r) {
          const std::int64_t kv_head = h / (in.q.heads / in.k.heads);
          for (std::int64_t c = 0; c < d; ++c) {
            correction[index(h * lqp + r)] +=
                softmax_scale * q[index((h * q_len + r) * d + c)] * k_mean[index(kv_head * d + c)];
          }
        }
      }
      out.queries.lse_correction = to.memory.put(floats(correction));
    }
    if (smooth_q) {
      std::vector<double> means(index(q_heads * (lqp / 128) * d), 0);
      least.assign(index(q_heads * q_len), 0);
      const double square = bits == 8 ? 127.0 * 127.0 : 49.0;
      for (std::int64_t h = 0; h < q_heads; ++h) {
        for (std::int64_t first = 0; first < q_len; first += 128) {
          const std::int64_t end = std::min(first + 128, q_len);
          double* mean = means.data() + (h * (lqp / 128) + first / 128) * d;
          double sum = 0;
          for (std::int64_t c = 0; c < d; ++c) {
            for (std::int64_t r = first; r < end; ++r)
              mean[c] += q[index((h * q_len + r) * d + c)] / static_cast<double>(end - first);
            sum += std::fabs(mean[c]);
          }
          for (std::int64_t r = first; r < end; ++r) {
            for (std::int64_t c = 0; c < d; ++c) q[index((h * q_len + r) * d + c)] -= mean[c];
            least[index(h * q_len + r)] =
                sum * square / (0.98 * 0x1p22 - square * static_cast<double>(d));
          }
        }
      }
      out.queries.mean = to.memory.put(floats(means));
    }
    format.group = spec.q_group;
    format.is_queries = true;
    format.padded = lqp;
    format.fold = mistake == Mistake::no_softmax_scale ? 1 : softmax_scale * kLog2E;
    format.mistake = mistake;
    const RowTensor queries = write_rows(q, q_heads, q_len, d, format, least);
    out.queries.codes = to.memory.put(queries.codes);
    out.queries.scale = to.memory.put(queries.scales);
  }

  const bool smooth_v = spec.v_smoothing == ValueSmoothing::mean;
  if (spec.pv == spec.io && spec.accumulation != Accumulation::f32_f16 && !smooth_v) return out;
  const bool e4m3 = spec.pv == DType::e4m3;
  const std::vector<double> v_mean = mean_of(in.v);
  const std::vector<double> v = smooth_v ? less_mean(in.v, v_mean) : doubles(in.v);
  double largest = e4m3 ? 448 : 1024;
  if (spec.accumulation == Accumulation::f32_f16)
    largest = !e4m3 ? 1 : spec.code_range == CodeRange::usual ? 3.5 : 7;
  const std::int64_t dv = up(d, 16);
  std::vector<std::uint8_t> bytes(e4m3 ? index(kv_heads * dv * lkp) : 0);
  std::vector<std::uint16_t> halves(e4m3 ? 0 : index(kv_heads * lkp * dv));
  std::vector<float> scales;
  for (std::int64_t h = 0; h < kv_heads; ++h) {
    for (std::int64_t c = 0; c < d; ++c) {
      double amax = 0;
      for (std::int64_t n = 0; n < kv_len; ++n)
        amax = std::max(amax, std::fabs(v[index((h * kv_len + n) * d + c)]));
      const double scale = amax / largest;
      scales.push_back(static_cast<float>(scale));
      for (std::int64_t at = 0; at < lkp; ++at) {
        const std::int64_t key =
            e4m3 && mistake != Mistake::key_order ? at / 16 * 16 + kOrder[index(at % 16)] : at;
        const double code =
            key < kv_len && scale > 0 ? v[index((h * kv_len + key) * d + c)] / scale : 0;
        if (e4m3)
          bytes[index((h * dv + c) * lkp + at)] =
              ref::e4m3_bits(ref::round_satfinite(code, ref::kE4m3));
        else
          halves[index((h * lkp + at) * dv + c)] = ref::f16_bits(ref::round_ieee(code, ref::kF16));
      }
    }
  }
  out.keys_values.v_codes = e4m3 ? to.memory.put(bytes) : to.memory.put(halves);
  out.keys_values.v_scale = to.memory.put(scales);
  if (smooth_v) out.keys_values.v_mean = to.memory.put(floats(v_mean));
  return out;
}

Kernel usual(int sm, attention::Spec spec, const attention::Schedule& schedule) {
  return {attention::family(), spec, schedule, Target{.sm = sm}};
}

Verdict attend_written(const Kernel& kernel, const ref::Shape& shape, Mistake mistake) {
  Attended to(kernel);
  const attention::Spec& spec = to.spec();
  ref::Inputs in = uneven_inputs(kernel, shape, 3);
  in.softmax_scale = 0.17;
  const Written codes = write_codes(to, in, in.softmax_scale, mistake);
  attention::Arguments arguments{.softmax_scale = static_cast<float>(in.softmax_scale)};
  if (spec.qk == spec.io) arguments.q = view_of(to.put(in.q), in.q);
  if (spec.qk == spec.io || spec.smoothing == Smoothing::qk)
    arguments.k = view_of(to.put(in.k), in.k);
  if (!attention::v_is_quantized(spec)) arguments.v = view_of(to.put(in.v), in.v);
  const Result result = to.attend(in, codes.queries, codes.keys_values, arguments);
  const ref::QuantModel quant = cli::quant_model(
      {.inputs = in, .spec = spec, .schedule = test::schedule_of(kernel), .source = {}});
  return verdict_of(kernel, in, quant, to.on.device.compute_capability(), result);
}

constexpr attention::Schedule kSmall{.cta_q = 64, .cta_k = 64, .warps = 2, .stages = 2};
constexpr ref::Shape kShape{
    .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 70, .kv_len = 101, .head_dim = 64};

attention::Spec fp8(attention::Spec spec) {
  spec.pv = DType::e4m3;
  spec.accumulation = Accumulation::two_level_f32;
  return spec;
}
attention::Spec fp16(attention::Spec spec) {
  spec.pv = DType::f16;
  spec.accumulation = Accumulation::f32;
  return spec;
}

// One of each thing that the page says something about.
std::vector<Kernel> kernels_of_the_page() {
  attention::Spec means = fp8({.head_dim = 64});
  means.v_smoothing = ValueSmoothing::mean;
  attention::Spec half_sums = fp8({.head_dim = 64, .smoothing = Smoothing::none});
  half_sums.accumulation = Accumulation::f32_f16;
  const Granularity block = Granularity::per_block, token = Granularity::per_token,
                    tensor = Granularity::per_tensor;
  return {
      usual(89, fp8({.head_dim = 64}), kSmall),
      usual(80, fp16({.head_dim = 64, .io = DType::bf16, .granularity = block}), kSmall),
      usual(89, fp8({.head_dim = 72, .granularity = token, .smoothing = Smoothing::none}), kSmall),
      usual(89, fp8({.head_dim = 64, .granularity = tensor}), kSmall),
      usual(89, fp8({.head_dim = 64, .qk = DType::s4, .smoothing = Smoothing::qk}), kSmall),
      usual(80, fp16({.head_dim = 72, .qk = DType::s4, .smoothing = Smoothing::none}), kSmall),
      usual(89, means, kSmall),
      usual(89, half_sums, kSmall),
      usual(89, fp8({.head_dim = 64, .qk = DType::f16, .smoothing = Smoothing::none}), kSmall)};
}

}  // namespace

TEST_CASE("codes of a quantizer written from the page are attended as our own are",
          "[fast][full]") {
  for (const Kernel& kernel : kernels_of_the_page()) {
    INFO(kernel.key());
    ref::Shape shape = kShape;
    shape.head_dim = test::spec_of(kernel).head_dim;
    const Verdict verdict = attend_written(kernel, shape, Mistake::none);
    CHECK(verdict.met);
    CHECK(verdict.relative_l1 <= verdict.limit);
  }
}

TEST_CASE("mistakes of who writes codes are seen", "[fast][full]") {
  const Kernel int8 = usual(89, fp8({.head_dim = 64}), kSmall);
  const Kernel int4 =
      usual(89, fp8({.head_dim = 64, .qk = DType::s4, .smoothing = Smoothing::k}), kSmall);
  for (const Mistake mistake :
       {Mistake::scale_order, Mistake::next_group, Mistake::no_softmax_scale, Mistake::key_order}) {
    INFO(static_cast<int>(mistake));
    CHECK_FALSE(attend_written(int8, kShape, mistake).met);
  }
  CHECK_FALSE(attend_written(int4, kShape, Mistake::half_order).met);
}

// ---- the quantizers alone -------------------------------------------------------------------------

namespace {

struct Bits {
  std::vector<std::uint16_t> o;
  std::vector<float> lse;
  bool operator==(const Bits&) const = default;
};

// In the tensors of one set of codes, which are large enough for all lengths of Q.
struct Pieces {
  Attended to;
  attention::KeyValueCodes keys_values;
  rt::TensorView k, v;

  Pieces(const Kernel& kernel, const ref::Inputs& in) : to(kernel) {
    k = view_of(to.put(in.k), in.k);
    v = view_of(to.put(in.v), in.v);
    const attention::Shape shape{
        .batch = in.k.batch, .q_heads = in.k.heads, .kv_heads = in.k.heads, .kv_len = in.k.tokens};
    const attention::CodeSizes sizes = to.plan.code_sizes(shape);
    keys_values = {.k_codes = to.memory.room(sizes.k_codes),
                   .k_scale = to.memory.room(sizes.k_scale),
                   .k_mean = to.memory.room(sizes.k_mean),
                   .v_codes = to.memory.room(sizes.v_codes),
                   .v_scale = to.memory.room(sizes.v_scale),
                   .v_mean = to.memory.room(sizes.v_mean)};
    const rt::Stream stream(to.on.device);
    to.plan.quantize_keys_values(shape, {.k = k, .v = v}, keys_values,
                                 to.memory.room(sizes.workspace), index(sizes.workspace),
                                 stream.handle());
    stream.synchronize();
  }

  attention::Arguments arguments_of(const ref::Inputs& in, bool wants_lse) {
    const std::int64_t rows = in.q.batch * in.q.heads * in.q.tokens;
    return {.q = view_of(to.put(in.q), in.q),
            .k = k,
            .v = v,
            .o = view_of(to.memory.room(rows * in.q.channels * 2), in.q),
            .lse = wants_lse ? to.memory.room(rows * 4) : 0,
            .softmax_scale = 0.17f,
            .causal = attention::CausalAlignment::bottom_right};
  }
  Bits bits_of(const attention::Arguments& arguments) const {
    Bits bits{.o = to.memory.get<std::uint16_t>(arguments.o.data), .lse = {}};
    if (arguments.lse != 0) bits.lse = to.memory.get<float>(arguments.lse);
    return bits;
  }

  Bits whole(const ref::Inputs& in, bool wants_lse) {
    const attention::Arguments arguments = arguments_of(in, wants_lse);
    const std::size_t bytes = to.plan.workspace_bytes(shape_of(in));
    const rt::Stream stream(to.on.device);
    to.plan.run(shape_of(in), arguments, to.memory.room(static_cast<std::int64_t>(bytes)), bytes,
                stream.handle());
    stream.synchronize();
    return bits_of(arguments);
  }

  Bits in_pieces(const ref::Inputs& in, bool wants_lse) {
    const attention::Arguments arguments = arguments_of(in, wants_lse);
    const attention::CodeSizes sizes = to.plan.code_sizes(
        shape_of(in), wants_lse ? attention::Lse::wanted : attention::Lse::unwanted);
    const attention::QueryCodes queries{.codes = to.memory.room(sizes.q_codes),
                                        .scale = to.memory.room(sizes.q_scale),
                                        .mean = to.memory.room(sizes.q_mean),
                                        .lse_correction = to.memory.room(sizes.lse_correction)};
    const rt::DevicePtr workspace = to.memory.room(sizes.workspace);
    const rt::Stream stream(to.on.device);
    if (sizes.q_codes != 0) {
      to.plan.quantize_queries(shape_of(in), arguments, keys_values, queries, workspace,
                               index(sizes.workspace), stream.handle());
    }
    for (int twice = 0; twice < 2; ++twice) {
      to.plan.attend_codes(shape_of(in), queries, keys_values, arguments, workspace,
                           index(sizes.workspace), stream.handle());
    }
    stream.synchronize();
    for (const rt::Finding& finding : to.on.emulator->findings())
      FAIL_CHECK(test::text_of(finding));
    return bits_of(arguments);
  }
};

}  // namespace

TEST_CASE("K and V quantized once and attended with any Q give the bits of run()", "[fast][full]") {
  std::vector<Kernel> kernels = kernels_of_the_page();
  attention::Spec causal = fp8({.head_dim = 64});
  causal.causal = true;
  kernels.push_back(usual(89, causal, kSmall));
  for (const Kernel& kernel : kernels) {
    INFO(kernel.key());
    ref::Shape shape{.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 150, .kv_len = 101};
    const ref::Inputs long_q = test::inputs_for(kernel, "k_bias", shape, 5);
    shape.q_len = 33;
    ref::Inputs short_q = test::inputs_for(kernel, "k_bias", shape, 6);
    short_q.k = long_q.k;
    short_q.v = long_q.v;
    Pieces pieces(kernel, long_q);
    for (const bool wants_lse : {true, false}) {
      const Bits of_long = pieces.in_pieces(long_q, wants_lse);
      CHECK(of_long == pieces.whole(long_q, wants_lse));
      CHECK(pieces.in_pieces(short_q, wants_lse) == pieces.whole(short_q, wants_lse));
    }
  }
}

// ---- codes of SageAttention -----------------------------------------------------------------------

namespace {

// What its quantizers leave, on the host: https://github.com/thu-ml/SageAttention, quantizers of CUDA and Triton.
// Codes are as long as the inputs; the softmax scale is not in them, but for those per block.
enum class Sage { per_thread, per_warp, per_block };

struct SageFormat {
  Sage scales = Sage::per_thread;
  std::int64_t q_block = 128, q_warp = 32, k_block = 64;
  double v_max = 448;
  bool tokens_first = false;  // NHD
  bool fp8_values = true;
  bool smooth_v = false;
};

std::int8_t round_away(double x) {  // Triton: x + 0.5 of its sign, then towards zero
  return static_cast<std::int8_t>(std::trunc(x + (x >= 0 ? 0.5 : -0.5)));
}

// Codes, scales and, for the judge, what they stand for.
struct SageRows {
  std::vector<std::int8_t> codes;  // in the order of the tensor
  std::vector<float> scales;       // [batch, heads, of_head]
  std::int64_t of_head = 0;
  ref::Tensor dequantized;
};

SageRows sage_rows(const ref::Tensor& x, const SageFormat& format, bool is_queries, double fold) {
  const std::int64_t block = is_queries ? format.q_block : format.k_block;
  const std::int64_t warp = is_queries && format.scales != Sage::per_block ? format.q_warp : block;
  const std::int64_t per_warp = format.scales != Sage::per_thread ? 1 : is_queries ? 8 : 4;
  SageRows out{.codes = std::vector<std::int8_t>(x.data.size()),
               .scales = {},
               .of_head = up(x.tokens, block) / warp * per_warp,
               .dequantized = x};
  const auto group_of = [&](std::int64_t n) {
    const std::int64_t in_warp = per_warp == 1 ? 0 : is_queries ? n % 8 : n % 8 / 2;
    return n / warp * per_warp + in_warp;
  };
  for (std::int64_t b = 0; b < x.batch; ++b) {
    for (std::int64_t h = 0; h < x.heads; ++h) {
      std::vector<double> amax(index(out.of_head), 0);
      for (std::int64_t n = 0; n < x.tokens; ++n) {
        for (std::int64_t c = 0; c < x.channels; ++c) {
          double& most = amax[index(group_of(n))];
          most = std::max(most, std::fabs(x.row(b, h, n)[c] * fold));
        }
      }
      std::vector<float> scales;
      for (const double most : amax) {
        scales.push_back(static_cast<float>(format.scales == Sage::per_thread ? most / 127 + 1e-7
                                            : format.scales == Sage::per_warp
                                                ? std::max(most, 1e-7) / 127
                                                : most / 127));
      }
      for (std::int64_t n = 0; n < x.tokens; ++n) {
        const double scale = scales[index(group_of(n))];
        const std::int64_t row = format.tokens_first ? (b * x.tokens + n) * x.heads + h
                                                     : (b * x.heads + h) * x.tokens + n;
        for (std::int64_t c = 0; c < x.channels; ++c) {
          const double value = x.row(b, h, n)[c] * fold / scale;
          const std::int8_t code = format.scales == Sage::per_warp
                                       ? static_cast<std::int8_t>(std::nearbyint(value))
                                       : round_away(value);
          out.codes[index(row * x.channels + c)] = code;
          out.dequantized.row(b, h, n)[c] = static_cast<float>(code * scale / fold);
        }
      }
      out.scales.insert(out.scales.end(), scales.begin(), scales.end());
    }
  }
  return out;
}

// [batch, heads, channels, keys] or [batch, channels, heads, keys], in blocks of 64 keys.
struct SageValues {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales, means;  // [batch, heads, channels]
  std::int64_t keys = 0;
  ref::Tensor dequantized;
};

SageValues sage_values(const ref::Tensor& v, const SageFormat& format) {
  SageValues out{
      .codes = {}, .scales = {}, .means = {}, .keys = up(v.tokens, 64), .dequantized = v};
  out.codes.assign(index(v.batch * v.heads * v.channels * out.keys), 0);
  for (std::int64_t b = 0; b < v.batch; ++b) {
    for (std::int64_t h = 0; h < v.heads; ++h) {
      for (std::int64_t c = 0; c < v.channels; ++c) {
        double mean = 0, amax = 0;
        for (std::int64_t n = 0; n < v.tokens; ++n)
          mean += v.row(b, h, n)[c] / static_cast<double>(v.tokens);
        const auto offset = static_cast<float>(format.smooth_v ? mean : 0);
        for (std::int64_t n = 0; n < v.tokens; ++n)
          amax = std::max(amax, std::fabs(static_cast<double>(v.row(b, h, n)[c]) - offset));
        const auto scale = static_cast<float>(amax / format.v_max);
        out.scales.push_back(scale);
        out.means.push_back(offset);
        const std::int64_t row = format.tokens_first ? (b * v.channels + c) * v.heads + h
                                                     : (b * v.heads + h) * v.channels + c;
        for (std::int64_t at = 0; at < out.keys; ++at) {
          const std::int64_t key = at / 16 * 16 + kOrder[index(at % 16)];
          if (key >= v.tokens) continue;
          const double value = static_cast<double>(v.row(b, h, key)[c]) - offset;
          const std::uint8_t code = ref::e4m3_bits(ref::round_satfinite(value / scale, ref::kE4m3));
          out.codes[index(row * out.keys + at)] = code;
          out.dequantized.row(b, h, key)[c] = static_cast<float>(ref::e4m3_value(code) * scale);
        }
      }
    }
  }
  return out;
}

// Bytes from row to row, of rows as long as they are.
attention::CodeStrides strides_of(std::int64_t heads, std::int64_t rows, std::int64_t row_bytes,
                                  bool rows_first) {
  const std::int64_t batch = heads * rows * row_bytes;
  return rows_first ? attention::CodeStrides{batch, row_bytes, heads * row_bytes}
                    : attention::CodeStrides{batch, rows * row_bytes, row_bytes};
}

struct SageCase {
  int sm = 89;
  attention::Spec spec;
  attention::Schedule schedule = kSmall;
  SageFormat format;
  ref::Shape shape = kShape;
};

Kernel kernel_of(const SageCase& each) {
  attention::Spec spec = each.spec;
  spec.inputs = attention::InputSource::given;
  spec.smoothing = Smoothing::none;
  return usual(each.sm, spec, each.schedule);
}

struct SageWritten {
  Written codes;
  ref::Inputs dequantized;
};

constexpr double kSageScale = 0.11;

SageWritten write_sage(Attended& to, const SageCase& each, const ref::Inputs& in) {
  const SageFormat& format = each.format;
  const bool folded = format.scales == Sage::per_block;
  ref::Inputs smooth = in;  // K less its mean, rounded to 16 bits as a tensor of its own
  const std::vector<double> rest = less_mean(in.k, mean_of(in.k));
  std::copy(rest.begin(), rest.end(), smooth.k.data.begin());
  ref::round_to(test::io_type(to.spec().io), smooth.k);
  SageWritten out{.codes = {}, .dequantized = smooth};
  out.dequantized.softmax_scale = kSageScale;
  const SageRows q = sage_rows(smooth.q, format, true, folded ? kSageScale * kLog2E : 1);
  const SageRows k = sage_rows(smooth.k, format, false, 1);
  out.dequantized.q = q.dequantized;
  out.dequantized.k = k.dequantized;
  const std::int64_t d = in.q.channels;
  out.codes.queries = {.codes = to.memory.put(q.codes),
                       .scale = to.memory.put(q.scales),
                       .strides = strides_of(in.q.heads, in.q.tokens, d, format.tokens_first),
                       .scale_stride = q.of_head,
                       .scale_is_folded = folded};
  out.codes.keys_values = {.k_codes = to.memory.put(k.codes),
                           .k_scale = to.memory.put(k.scales),
                           .k_strides = strides_of(in.k.heads, in.k.tokens, d, format.tokens_first),
                           .k_scale_stride = k.of_head};
  if (!format.fp8_values) return out;
  const SageValues v = sage_values(in.v, format);
  out.dequantized.v = v.dequantized;
  out.codes.keys_values.v_codes = to.memory.put(v.codes);
  out.codes.keys_values.v_scale = to.memory.put(v.scales);
  if (format.smooth_v) out.codes.keys_values.v_mean = to.memory.put(v.means);
  out.codes.keys_values.v_strides = strides_of(in.v.heads, d, v.keys, format.tokens_first);
  return out;
}

ref::QuantModel model_of(const Kernel& kernel, const SageFormat& format, const ref::Inputs& in) {
  ref::QuantModel quant = cli::quant_model({.inputs = in,
                                            .spec = test::spec_of(kernel),
                                            .schedule = test::schedule_of(kernel),
                                            .source = {}});
  if (format.fp8_values) quant.v_max = format.v_max;
  quant.smooth_v = false;  // of codes, whose mean is apart
  return quant;
}

// Dequantized codes are numbers whose codes are the same ones: the judge's model of our formats is that of these, too.
// Throws DriverError if a kernel is stopped.
Verdict attend_sage(const SageCase& each, const rt::ArtifactSource& source,
                    const std::function<void(Written&, Attended&)>& change = {}) {
  const Kernel kernel = kernel_of(each);
  Attended to(kernel, source);
  const ref::Inputs in = uneven_inputs(kernel, each.shape, 9);
  SageWritten written = write_sage(to, each, in);
  attention::Arguments arguments{.softmax_scale = static_cast<float>(kSageScale)};
  if (!each.format.fp8_values) arguments.v = view_of(to.put(in.v), in.v);
  if (change) change(written.codes, to);
  Result result = to.attend(in, written.codes.queries, written.codes.keys_values, arguments);
  if (each.format.smooth_v) {  // O less the mean is what the codes give
    const auto means = to.memory.get<float>(written.codes.keys_values.v_mean);
    for (std::size_t i = 0; i < result.o.size(); ++i) {
      const std::int64_t at = static_cast<std::int64_t>(i), d = in.q.channels;
      const std::int64_t kv_head = at / d / in.q.tokens / (in.q.heads / in.k.heads);
      result.o[i] -= means[index(kv_head * d + at % d)];
    }
  }
  return verdict_of(kernel, written.dequantized, model_of(kernel, each.format, written.dequantized),
                    to.on.device.compute_capability(), result);
}

attention::Spec warps(attention::Spec spec, int q_group) {
  spec.granularity = Granularity::per_block;
  spec.q_group = q_group;
  return spec;
}

std::vector<SageCase> sage_cases() {
  const attention::Spec d64 = fp8({.head_dim = 64}), d128 = fp8({.head_dim = 128});
  attention::Spec half_sums = d64, means = d64;
  half_sums.accumulation = Accumulation::f32_f16;
  means.v_smoothing = ValueSmoothing::mean;
  attention::Spec of_16_rows = d64;
  of_16_rows.q_group = 16;
  attention::Spec of_128_keys = d64;
  of_128_keys.k_group = 128;
  constexpr attention::Schedule kUsual{.cta_q = 128, .cta_k = 64, .warps = 4, .stages = 2};
  constexpr attention::Schedule kNarrow{.cta_q = 64, .cta_k = 64, .warps = 4, .stages = 2};
  const ref::Shape wide{
      .batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 131, .kv_len = 129, .head_dim = 128};
  return {{.spec = d64, .format = {}},
          {.spec = d64, .format = {.tokens_first = true}},
          {.spec = d128, .schedule = kUsual, .format = {.tokens_first = true}, .shape = wide},
          // scales that end with the last query, before the last warp
          {.spec = d64, .schedule = kUsual, .format = {.q_block = 32}},
          {.spec = warps(d64, 32), .format = {.scales = Sage::per_warp}},
          {.spec = warps(d64, 128), .format = {.scales = Sage::per_block, .tokens_first = true}},
          {.spec = of_16_rows, .schedule = kNarrow, .format = {.q_warp = 16}},
          {.spec = of_128_keys, .format = {.k_block = 128}},
          {.spec = half_sums, .format = {.v_max = 2.25}},
          {.spec = means, .format = {.smooth_v = true}},
          {.sm = 80, .spec = fp16({.head_dim = 64}), .format = {.fp8_values = false}}};
}

}  // namespace

TEST_CASE("codes as SageAttention lays them out are attended as what they stand for",
          "[fast][full]") {
  for (const SageCase& each : sage_cases()) {
    INFO(kernel_of(each).key() << (each.format.tokens_first ? " NHD" : " HND"));
    const Verdict verdict = attend_sage(each, test::emitted);
    CHECK(verdict.met);
    CHECK(verdict.relative_l1 <= verdict.limit);
  }
}

TEST_CASE("given codes read in another way are seen", "[fast][full]") {
  const SageCase usual_case{.spec = fp8({.head_dim = 64}), .format = {}};
  const auto changed = [&](const std::function<void(Written&, Attended&)>& change) {
    return attend_sage(usual_case, test::emitted, change).met;
  };
  CHECK(changed([](Written&, Attended&) {}));
  // the scale is taken for one with the softmax scale in it
  CHECK_FALSE(changed([](Written& w, Attended&) { w.queries.scale_is_folded = true; }));
  // heads of scales lie closer than they do
  CHECK_FALSE(changed([](Written& w, Attended&) { w.queries.scale_stride = 0; }));
  // scales of the next row of 8, of the next group
  for (const std::ptrdiff_t by : {1, 8}) {
    CHECK_FALSE(changed([&](Written& w, Attended& to) {
      auto scales = to.memory.get<float>(w.queries.scale);
      std::rotate(scales.begin(), scales.begin() + by, scales.end());
      w.queries.scale = to.memory.put(scales);
    }));
    CHECK_FALSE(changed([&](Written& w, Attended& to) {
      auto scales = to.memory.get<float>(w.keys_values.k_scale);
      std::rotate(scales.begin(), scales.begin() + (by == 1 ? 1 : 4), scales.end());
      w.keys_values.k_scale = to.memory.put(scales);
    }));
  }
  // keys of V in order
  CHECK_FALSE(changed([&](Written& w, Attended& to) {
    const auto codes = to.memory.get<std::uint8_t>(w.keys_values.v_codes);
    std::vector<std::uint8_t> in_order(codes.size());
    for (std::size_t i = 0; i < codes.size(); ++i)
      in_order[i / 16 * 16 + index(kOrder[i % 16])] = codes[i];
    w.keys_values.v_codes = to.memory.put(in_order);
  }));
}

// Kernels that read a scale, a stride or a row beside the right one.
TEST_CASE("broken kernels of given codes are found", "[fast][full]") {
  SageCase each{.spec = fp8({.head_dim = 64}), .format = {.tokens_first = true}};
  const ParamLayout layout = kernel_of(each).params();
  const std::size_t usual = layout.offset<attention::Params>();
  const std::size_t given = layout.offset<attention::GivenParams>();
  const auto in_usual = [&](auto member) { return usual + member_offset(member); };
  const auto in_given = [&](auto member) { return given + member_offset(member); };
  using P = attention::Params;
  using G = attention::GivenParams;
  const std::size_t token = offsetof(TensorParam, stride_token);
  struct Shift {
    const char* what;
    std::size_t parameter;
    long by;
  };
  const std::vector<Shift> shifts = {
      {"the scale of the next query", in_usual(&P::q_scale), 4},
      {"the scales of the group before", in_usual(&P::q_scale), -32},
      {"the scale of the next keys", in_usual(&P::k_scale), 4},
      {"the scales of the next keys' group", in_usual(&P::k_scale), 16},
      {"heads of scales of Q", in_given(&G::q_scales), -8},
      {"heads of scales of K", in_given(&G::k_scales), 4},
      {"rows of Q", in_given(&G::q) + token, 16},
      {"rows of K", in_given(&G::k) + token, -16},
      {"channels of V", in_usual(&P::v) + token, 64},
      {"a query too many", in_usual(&P::q_len), 1}};
  const auto caught = [&](const std::function<void(emulator::test::PtxEdit&)>& edit) {
    const auto source = [&](const Kernel& kernel) {
      Artifact artifact = test::emitted(kernel);
      emulator::test::PtxEdit text(artifact.code);
      edit(text);
      artifact.code = text.text();
      return artifact;
    };
    try {
      return !attend_sage(each, source).met;
    } catch (const rt::DriverError&) {  // by a check of the emulator
      return true;
    }
  };
  CHECK_FALSE(caught([](emulator::test::PtxEdit&) {}));
  for (const Shift& shift : shifts) {
    INFO(shift.what);
    CHECK(caught(
        [&](emulator::test::PtxEdit& text) { text.shift_parameter(shift.parameter, shift.by); }));
  }
  INFO("the scales of Q without the softmax scale");
  const std::string unit =
      "ld.param.b32\\s+(%r\\d+), \\[.*\\+" + std::to_string(in_given(&G::unit)) + "\\];";
  CHECK(caught([&](emulator::test::PtxEdit& text) {
    text.replace(unit, "mov.b32 $1, 0f3F800000;", emulator::test::PtxEdit::kAll);
  }));
}

// Its LSE leaves to the caller what smoothing took; the kernel adds it where it is given.
TEST_CASE("given codes of a smoothed K have their LSE corrected", "[fast][full]") {
  SageCase each{.spec = fp8({.head_dim = 64}), .format = {}};
  const auto result_with = [&](Smoothing smoothing, const std::vector<float>& correction) {
    attention::Spec spec = test::spec_of(kernel_of(each));
    spec.smoothing = smoothing;
    Attended to(usual(each.sm, spec, each.schedule));
    const ref::Inputs in = uneven_inputs(to.kernel, each.shape, 9);
    SageWritten written = write_sage(to, each, in);
    written.codes.queries.lse_correction = to.memory.put(correction);
    return to.attend(in, written.codes.queries, written.codes.keys_values,
                     {.softmax_scale = static_cast<float>(kSageScale)});
  };
  std::vector<float> correction;
  for (std::int64_t row = 0; row < kShape.batch * kShape.q_heads * kShape.q_len; ++row)
    correction.push_back(static_cast<float>(row % 97) / 8);
  const Result plain = result_with(Smoothing::none, {});
  const Result corrected = result_with(Smoothing::k, correction);
  CHECK(plain.o == corrected.o);
  for (std::size_t row = 0; row < correction.size(); ++row)
    CHECK(corrected.lse[row] == Approx(plain.lse[row] + correction[row]).epsilon(1e-6));
}

// ---- every kernel ---------------------------------------------------------------------------------

namespace {

// With codes of its own kernels, as given ones by the strides of padded tensors (cli::run_attention), a kernel computes
// what one with codes of its own does: the same products in the same order.
void check_same_bits(const Kernel& kernel, std::uint64_t seed) {
  INFO(kernel.key());
  const ref::Shape shape{.batch = 2,
                         .q_heads = 2,
                         .kv_heads = 1,
                         .q_len = 1 + static_cast<std::int64_t>(seed * 37 % 150),
                         .kv_len = 1 + static_cast<std::int64_t>(seed * 53 % 200)};
  const ref::Inputs in = test::inputs_for(kernel, "outlier", shape, seed);
  const auto result_of = [&](const Kernel& each) {
    const test::Scene scene{.kernel = each,
                            .inputs = in,
                            .layout = seed % 2 == 0 ? cli::Layout::hnd : cli::Layout::nhd};
    const cli::AttentionResult result =
        cli::run_attention(test::job_of(scene), test::device_of(scene));
    for (const rt::Finding& finding : result.findings) FAIL_CHECK(test::text_of(finding));
    return result;
  };
  const cli::AttentionResult given = result_of(kernel);
  const cli::AttentionResult own = result_of(attention::with_own_codes(kernel));
  CHECK_FALSE(given.o.empty());
  CHECK(given.o == own.o);
  CHECK(given.lse == own.lse);
}

Kernel next_given(test::RandomKernels& random) {
  while (true) {
    const Kernel kernel = random.valid_of(attention::family());
    const bool small = test::spec_of(kernel).head_dim <= 128;  // the emulator takes long
    if (small && attention::takes_given_codes(test::spec_of(kernel)) &&
        test::is_legal(attention::with_own_codes(kernel)))
      return kernel;
  }
}

}  // namespace

TEST_CASE("given codes with each mask and bias give the bits of own ones", "[fast][full]") {
  std::uint64_t seed = 1;
#define SAGEGEN_MOD(mod)                                                  \
  for (const Smoothing smoothing : {Smoothing::none, Smoothing::k}) {     \
    attention::Spec spec = fp8({.head_dim = 64, .smoothing = smoothing}); \
    spec.inputs = attention::InputSource::given;                          \
    spec.mod = true;                                                      \
    check_same_bits(usual(89, spec, kSmall), seed++);                     \
  }
#include "templates/attention/mods/mods.def"
}

TEST_CASE("given codes give the codes of O that own ones give", "[fast][full]") {
  std::uint64_t seed = 1;
  for (const attention::OutputFormat out :
       {attention::OutputFormat::e4m3, attention::OutputFormat::s8}) {
    for (const int value_dim : {0, 72}) {
      attention::Spec spec = fp8({.head_dim = 64, .smoothing = Smoothing::none});
      spec.inputs = attention::InputSource::given;
      spec.value_dim = value_dim;
      spec.out = out;
      spec.causal = seed % 2 == 0;
      check_same_bits(usual(89, spec, kSmall), seed++);
    }
  }
}

TEST_CASE("a sample of all kernels of given codes gives the bits of own ones", "[full]") {
  test::RandomKernels random(17);
  for (std::uint64_t seed = 1; seed <= 40; ++seed) check_same_bits(next_given(random), seed);
}
