#include "tools/sagegen/run_attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sagegen/runtime/error.h"
#include "tools/reference/rounding.h"

namespace sagegen::cli {
namespace {

using Clock = std::chrono::steady_clock;
using Bits = std::vector<std::uint16_t>;

// Where element (b, h, n, 0) of a [batch, head, token, channel] tensor lies on the device.
struct Placement {
  std::int64_t heads, tokens;
  int channels;  // of a row, with their padding
  Layout layout;
  std::size_t at(std::int64_t b, std::int64_t h, std::int64_t n) const {
    const std::int64_t row =
        layout == Layout::hnd ? (b * heads + h) * tokens + n : (b * tokens + n) * heads + h;
    return static_cast<std::size_t>(row * channels);
  }
  runtime::TensorView view(runtime::DevicePtr data) const {
    return layout == Layout::hnd ? runtime::hnd(data, heads, tokens, channels)
                                 : runtime::nhd(data, heads, tokens, channels);
  }
};

std::uint16_t to_bits(DType io, double value) {
  return io == DType::f16 ? reference::f16_bits(value) : reference::bf16_bits(value);
}

double from_bits(DType io, std::uint16_t bits) {
  return io == DType::f16 ? reference::f16_value(bits) : reference::bf16_value(bits);
}

template <typename Visit>
void for_each_row(std::int64_t batch, std::int64_t heads, std::int64_t tokens, const Visit& visit) {
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t n = 0; n < tokens; ++n) visit(b, h, n);
    }
  }
}

struct DeviceTensor {
  Placement placement;
  runtime::Buffer buffer;
  runtime::TensorView view() const { return placement.view(buffer.data()); }
};

DeviceTensor allocate(const runtime::Device& device, const reference::Tensor& like, int channels,
                      const AttentionJob& job) {
  const Placement placement{like.heads, like.tokens, channels, job.layout};
  const auto elements = static_cast<std::size_t>(like.batch * like.heads * like.tokens * channels);
  return {placement, runtime::Buffer(device, elements * sizeof(std::uint16_t))};
}

DeviceTensor upload(const runtime::Device& device, const reference::Tensor& tensor, int channels,
                    const AttentionJob& job) {
  DeviceTensor result = allocate(device, tensor, channels, job);
  Bits bits(result.buffer.bytes() / sizeof(std::uint16_t), 0);
  for_each_row(tensor.batch, tensor.heads, tensor.tokens, [&](auto b, auto h, auto n) {
    const float* row = tensor.row(b, h, n);
    std::uint16_t* to = bits.data() + result.placement.at(b, h, n);
    for (std::int64_t c = 0; c < tensor.channels; ++c) to[c] = to_bits(job.spec.io, row[c]);
  });
  result.buffer.upload(std::as_bytes(std::span(bits)));
  return result;
}

// Codes of a byte, and the scales that they come with: what they stand for.
std::vector<double> download_codes(const DeviceTensor& o, const runtime::Buffer& scale,
                                   const AttentionJob& job) {
  const reference::Tensor &q = job.inputs.q, &v = job.inputs.v;
  const bool e4m3 = job.spec.out == attention::OutputFormat::e4m3;
  std::vector<std::uint8_t> codes(o.buffer.bytes());
  o.buffer.download(std::as_writable_bytes(std::span(codes)));
  std::vector<float> scales(scale.bytes() / sizeof(float));
  scale.download(std::as_writable_bytes(std::span(scales)));
  std::vector<double> values;
  std::size_t number = 0;
  for_each_row(q.batch, q.heads, q.tokens, [&](auto b, auto h, auto n) {
    const std::uint8_t* row = codes.data() + o.placement.at(b, h, n);
    const double unit = e4m3 ? 1 / double{scales[0]} : double{scales[number++]};
    for (std::int64_t c = 0; c < v.channels; ++c) {
      const double code = e4m3 ? reference::e4m3_value(row[c]) : static_cast<std::int8_t>(row[c]);
      values.push_back(code * unit);
    }
  });
  return values;
}

std::vector<double> download_o(const DeviceTensor& o, const AttentionJob& job) {
  const reference::Tensor &q = job.inputs.q, &v = job.inputs.v;
  Bits bits(o.buffer.bytes() / sizeof(std::uint16_t));
  o.buffer.download(std::as_writable_bytes(std::span(bits)));
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(q.batch * q.heads * q.tokens * v.channels));
  for_each_row(q.batch, q.heads, q.tokens, [&](auto b, auto h, auto n) {
    const std::uint16_t* row = bits.data() + o.placement.at(b, h, n);
    for (std::int64_t c = 0; c < v.channels; ++c) values.push_back(from_bits(job.spec.io, row[c]));
  });
  return values;
}

// What the kernel counted in one of the mods' tensors.
std::optional<TileCounts> tile_counts(const attention::ModArguments& mods,
                                      const std::vector<runtime::Buffer>& tensors) {
  const runtime::DevicePtr counts = mods.skipsoftmax.counts;
  const auto tensor = std::find_if(
      tensors.begin(), tensors.end(),
      [&](const runtime::Buffer& buffer) { return counts != 0 && buffer.data() == counts; });
  if (tensor == tensors.end()) return {};
  std::vector<std::uint32_t> values(tensor->bytes() / sizeof(std::uint32_t));
  tensor->download(std::as_writable_bytes(std::span(values)));
  TileCounts tiles;
  for (std::size_t i = 0; i < values.size(); i += 2) {
    tiles.skipped += values[i];
    tiles.computed += values[i + 1];
  }
  return tiles;
}

// Codes of kernels that quantize for themselves, as given ones: padded rows by their strides, and the softmax scale in
// those of Q.
class GivenCodes {
 public:
  GivenCodes(const AttentionJob& job, const RunDevice& on, const attention::Shape& shape)
      : spec_(job.spec),
        shape_(shape),
        device_(on.device),
        own_(on.device,
             attention::with_own_codes(
                 Kernel(attention::family(), job.spec, job.schedule, on.target)),
             job.source),
        sizes_(own_.code_sizes(shape)),
        queries_{.codes = room(sizes_.q_codes),
                 .scale = room(sizes_.q_scale),
                 .lse_correction = room(sizes_.lse_correction)},
        keys_values_{.k_codes = room(sizes_.k_codes),
                     .k_scale = room(sizes_.k_scale),
                     .k_mean = room(sizes_.k_mean),
                     .v_codes = room(sizes_.v_codes),
                     .v_scale = room(sizes_.v_scale),
                     .v_mean = room(sizes_.v_mean)} {}

  std::vector<std::string> quantizers() const {
    std::vector<std::string> names = own_.kernel_names();
    names.pop_back();  // attention itself
    return names;
  }

  void run(const attention::Plan& plan, const attention::Arguments& arguments,
           const runtime::Stream& stream) {
    const runtime::DevicePtr workspace = room(sizes_.workspace);
    const auto bytes = static_cast<std::size_t>(sizes_.workspace);
    own_.quantize_keys_values(shape_, arguments, keys_values_, workspace, bytes, stream.handle());
    if (sizes_.q_codes != 0) {
      own_.quantize_queries(shape_, arguments, keys_values_, queries_, workspace, bytes,
                            stream.handle());
    }
    stream.synchronize();
    plan.attend_codes(shape_, given_queries(), given_keys_values(), arguments, 0, 0,
                      stream.handle());
  }

 private:
  runtime::DevicePtr room(std::int64_t bytes) {
    if (bytes == 0) return 0;
    return buffers_.emplace_back(device_, static_cast<std::size_t>(bytes)).data();
  }
  // [batch, heads, rows, row] of so many bytes in all.
  attention::CodeStrides strides(std::int64_t bytes, std::int64_t heads, std::int64_t row) const {
    return {.batch = bytes / shape_.batch, .head = bytes / shape_.batch / heads, .row = row};
  }

  attention::QueryCodes given_queries() {
    attention::QueryCodes given = queries_;
    if (sizes_.q_codes == 0) return given;
    const std::int64_t row = code_row_bytes(spec_.qk, spec_.head_dim);
    given.strides = strides(sizes_.q_codes, shape_.q_heads, row);
    given.scale_stride = sizes_.q_scale / shape_.batch / shape_.q_heads / 4;
    given.scale_is_folded = true;
    if (given.lse_correction != 0) given.lse_correction = unpadded(given.lse_correction);
    return given;
  }

  attention::KeyValueCodes given_keys_values() const {
    attention::KeyValueCodes given = keys_values_;
    given.k_mean = 0;
    if (sizes_.k_codes != 0) {
      given.k_strides =
          strides(sizes_.k_codes, shape_.kv_heads, code_row_bytes(spec_.qk, spec_.head_dim));
      given.k_scale_stride = sizes_.k_scale / shape_.batch / shape_.kv_heads / 4;
    }
    if (sizes_.v_codes != 0) {
      const std::int64_t channels = value_channels(attention::value_dim(spec_));
      const std::int64_t of_head = sizes_.v_codes / shape_.batch / shape_.kv_heads;
      given.v_strides = strides(sizes_.v_codes, shape_.kv_heads,
                                spec_.pv == DType::e4m3 ? of_head / channels : 2 * channels);
    }
    return given;
  }

  // f32 [batch, heads, rows] without the rows of padding.
  runtime::DevicePtr unpadded(runtime::DevicePtr data) {
    const std::int64_t heads = shape_.batch * shape_.q_heads;
    std::vector<float> padded(static_cast<std::size_t>(sizes_.lse_correction) / sizeof(float));
    for (const runtime::Buffer& buffer : buffers_) {
      if (buffer.data() == data) buffer.download(std::as_writable_bytes(std::span(padded)));
    }
    const auto rows = static_cast<std::int64_t>(padded.size()) / heads;
    std::vector<float> values;
    for (std::int64_t head = 0; head < heads; ++head) {
      const auto first = padded.begin() + head * rows;
      values.insert(values.end(), first, first + shape_.q_len);
    }
    const runtime::DevicePtr to = room(static_cast<std::int64_t>(values.size() * sizeof(float)));
    buffers_.back().upload(std::as_bytes(std::span(values)));
    return to;
  }

  const attention::Spec& spec_;
  attention::Shape shape_;
  runtime::Device device_;
  std::vector<runtime::Buffer> buffers_;
  attention::Plan own_;
  attention::CodeSizes sizes_;
  attention::QueryCodes queries_;
  attention::KeyValueCodes keys_values_;
};

}  // namespace

WorkspaceReport workspace_report(const attention::Plan& plan, const attention::Shape& shape) {
  WorkspaceReport report{
      .bytes = plan.workspace_bytes(shape), .cut = plan.cut(shape), .tensors = plan.scratch(shape)};
  std::erase_if(report.tensors,
                [](const attention::Plan::ScratchTensor& tensor) { return tensor.bytes == 0; });
  return report;
}

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

runtime::ArtifactSource timed(const runtime::ArtifactSource& source, double& ms) {
  return [source, &ms](const Kernel& kernel) {
    const auto begin = Clock::now();
    runtime::ArtifactSource::Shared artifact = source(kernel);
    ms += ms_since(begin);
    return artifact;
  };
}

AttentionResult run_attention(const AttentionJob& job, const RunDevice& on) {
  double emit_ms = 0;
  const auto load_begin = Clock::now();
  const attention::Plan plan(on.device,
                             Kernel(attention::family(), job.spec, job.schedule, on.target),
                             timed(job.source, emit_ms), job.plan);
  const double load_ms = ms_since(load_begin);
  AttentionResult result = run_attention(job, on, plan);
  result.emit_ms = emit_ms;
  result.load_ms = load_ms;
  return result;
}

AttentionResult run_attention(const AttentionJob& job, const RunDevice& on,
                              const attention::Plan& plan) {
  const reference::Inputs& in = job.inputs;
  const attention::Shape shape{.batch = in.q.batch,
                               .q_heads = in.q.heads,
                               .kv_heads = in.k.heads,
                               .q_len = in.q.tokens,
                               .kv_len = in.k.tokens};
  AttentionResult result;
  result.kernels = plan.kernel_names();
  result.note = plan.note();
  std::optional<GivenCodes> given;
  if (attention::takes_given_codes(job.spec)) {
    given.emplace(job, on, shape);
    const std::vector<std::string> quantizers = given->quantizers();
    result.kernels.insert(result.kernels.begin(), quantizers.begin(), quantizers.end());
  }

  const int head_dim = job.spec.head_dim, value_dim = attention::value_dim(job.spec);
  const DeviceTensor q = upload(on.device, in.q, head_dim, job);
  const DeviceTensor k = upload(on.device, in.k, head_dim, job);
  const DeviceTensor v = upload(on.device, in.v, value_dim, job);
  DeviceTensor o = allocate(on.device, in.q, value_dim, job);
  constexpr unsigned char kNaNByte = 0xFF;  // what a kernel forgets to write shows up as NaN
  o.buffer.fill(kNaNByte);
  const auto rows = static_cast<std::size_t>(in.q.batch * in.q.heads * in.q.tokens);
  runtime::Buffer lse(on.device, rows * sizeof(float));
  lse.fill(kNaNByte);
  const bool codes = job.spec.out != attention::OutputFormat::io;
  std::vector<float> scales(job.spec.out == attention::OutputFormat::s8 ? rows : 1,
                            static_cast<float>(job.output_factor));
  runtime::Buffer o_scale(on.device, scales.size() * sizeof(float));
  o_scale.upload(std::as_bytes(std::span(scales)));
  result.workspace = workspace_report(plan, shape);
  const std::size_t workspace_bytes = result.workspace.bytes;
  const runtime::Buffer workspace(on.device, workspace_bytes);
  const runtime::Stream stream(on.device);

  std::vector<runtime::Buffer> mod_tensors;
  const attention::ModArguments mods =
      job.mods ? job.mods(on.device, mod_tensors) : attention::ModArguments{};
  const double scale =
      in.softmax_scale > 0 ? in.softmax_scale : 1.0 / std::sqrt(static_cast<double>(in.q.channels));
  const attention::Arguments arguments{.q = q.view(),
                                       .k = k.view(),
                                       .v = v.view(),
                                       .o = o.view(),
                                       .lse = lse.data(),
                                       .softmax_scale = static_cast<float>(scale),
                                       .causal = job.causal,
                                       .mods = mods,
                                       .o_scale = codes ? o_scale.data() : 0};
  const auto run_begin = Clock::now();
  try {
    if (given)
      given->run(plan, arguments, stream);
    else
      plan.run(shape, arguments, workspace.data(), workspace_bytes, stream.handle());
    stream.synchronize();
  } catch (const runtime::DriverError&) {
    if (on.emulator) result.findings = on.emulator->findings();
    if (result.findings.empty()) throw;
    return result;
  }
  result.run_ms = ms_since(run_begin);
  result.o = codes ? download_codes(o, o_scale, job) : download_o(o, job);
  std::vector<float> lse_values(rows);
  lse.download(std::as_writable_bytes(std::span(lse_values)));
  result.lse.assign(lse_values.begin(), lse_values.end());
  result.tiles = tile_counts(mods, mod_tensors);
  if (on.emulator) result.findings = on.emulator->findings();
  return result;
}

namespace {

reference::QuantModel::Scales scales_of(Granularity granularity) {
  using Scales = reference::QuantModel::Scales;
  switch (granularity) {
    case Granularity::per_thread:
      return Scales::per_thread;
    case Granularity::per_block:
      return Scales::per_block;
    case Granularity::per_token:
      return Scales::per_token;
    case Granularity::per_tensor:
      return Scales::per_tensor;
  }
  return Scales::per_thread;
}

}  // namespace

reference::QuantModel quant_model(const AttentionJob& job) {
  const attention::Spec& q = job.spec;
  using Pv = reference::QuantModel::Pv;
  reference::QuantModel model;
  model.qk_bits = bits(q.qk);
  model.maximum_step = attention::maximum_step(q);
  model.maximum_slack = attention::maximum_slack(q);
  model.scales = scales_of(q.granularity);
  model.q_group = q.q_group;
  model.k_group = q.k_group;
  model.packed_heads = q.pack_gqa;
  model.smooth_k = smooths_k(q.smoothing);
  model.smooth_q = q.smoothing == Smoothing::qk;
  model.pv = q.pv == DType::e4m3 ? Pv::e4m3 : q.pv == DType::bf16 ? Pv::bf16 : Pv::f16;
  model.v_scaled = v_is_quantized(q);
  model.rotate = q.rotation == Rotation::hadamard;
  model.smooth_v = q.v_smoothing == ValueSmoothing::mean;
  model.v_max = largest_v_code(q.pv, attention::code_octaves(q).v);
  model.p_max = std::round(std::exp2(attention::p_offset(q)));
  model.tile_keys = job.schedule.cta_k;
  model.output = job.spec.io == DType::f16 ? reference::IoType::f16 : reference::IoType::bf16;
  using Codes = reference::QuantModel::OutputCodes;
  if (q.out == attention::OutputFormat::s8) model.output_codes = Codes::s8;
  if (q.out == attention::OutputFormat::e4m3) {
    model.output_codes = Codes::e4m3;
    model.output_factor = job.output_factor;
  }
  return model;
}

namespace {

bool sums_in_13_bits(const attention::Spec& spec, int compute_capability) {
  return spec.pv == DType::e4m3 && compute_capability == 89;
}

}  // namespace

reference::DeviceArithmetic device_arithmetic(const attention::Spec& spec, int compute_capability) {
  // Tensor cores between Ada's and GeForce Blackwell's multiply e4m3 as f16.
  const bool through_f16 =
      spec.pv == DType::e4m3 && compute_capability >= 90 && compute_capability < 120;
  const int of_half_sums = through_f16 ? 4 : 1;
  return {.sum_bits = sums_in_13_bits(spec, compute_capability) ? 13 : 23,
          .two_level = spec.accumulation != Accumulation::f32,
          .half_roundings = spec.accumulation == Accumulation::f32_f16 ? of_half_sums : 0};
}

AccuracyBound accuracy_bound(const attention::Spec& spec, int compute_capability) {
  AccuracyBound bound{
      .factor = 1.02, .offset = 2e-4, .arithmetic = "accumulation of f32 precision"};
  if (sums_in_13_bits(spec, compute_capability))
    bound = {.factor = 1.05, .offset = 5e-4, .arithmetic = "13-bit tensor-core accumulators"};
  if (spec.accumulation != Accumulation::f32_f16) return bound;
  // A tile has so many sums that are rounded to f16, none larger than the last one where products have one sign. Each
  // of them is off by 2^-11 / sqrt(3), root mean square, in P V and in the sum of P.
  const double sums = kKeysOfHalfSums / (spec.pv == DType::e4m3 ? 16.0 : 8.0);
  bound.half_rounding = std::ldexp(std::sqrt(2 * sums / 3), -11);
  bound.offset += bound.half_rounding;
  bound.arithmetic += ", rounded to f16 in a tile";
  return bound;
}

}  // namespace sagegen::cli
