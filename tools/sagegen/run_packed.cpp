#include "tools/sagegen/run_packed.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "sagegen/error.h"
#include "sagegen/runtime/error.h"
#include "tools/reference/rounding.h"

namespace sagegen::cli {
namespace {

constexpr unsigned char kNaNByte = 0xFF;  // NaN in f16, bf16 and f32, and in e4m3
constexpr std::uint16_t kNaN = 0xFFFF;

std::int64_t rows_of(const std::vector<std::int64_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
}

std::vector<std::int32_t> sums_of(const std::vector<std::int64_t>& lengths, std::int64_t before) {
  std::vector<std::int32_t> sums{static_cast<std::int32_t>(before)};
  for (const std::int64_t length : lengths)
    sums.push_back(sums.back() + static_cast<std::int32_t>(length));
  return sums;
}

std::size_t bytes_of(std::int64_t elements, std::size_t size) {
  return static_cast<std::size_t>(elements) * size;
}

template <typename T>
std::vector<T> downloaded(const runtime::Buffer& buffer) {
  std::vector<T> values(buffer.bytes() / sizeof(T));
  buffer.download(std::as_writable_bytes(std::span(values)));
  return values;
}

bool are_walls(const std::vector<float>& values) {
  return std::ranges::all_of(values, [](float value) { return std::isnan(value); });
}

}  // namespace

PackedCall::PackedCall(const AttentionJob& job, const RunDevice& on, const attention::Plan& plan,
                       std::int64_t total_q, std::int64_t total_kv)
    : job_(job),
      on_(on),
      plan_(plan),
      total_q_(total_q),
      total_kv_(total_kv),
      shape_{.batch = job.inputs.q.batch,
             .q_heads = job.inputs.q.heads,
             .kv_heads = job.inputs.k.heads,
             .q_len = job.inputs.q.tokens,
             .kv_len = job.inputs.k.tokens,
             .total_q = total_q,
             .total_kv = total_kv},
      q_(on.device, bytes_of(total_q * shape_.q_heads * job.spec.head_dim, sizeof(kNaN))),
      k_(on.device, bytes_of(total_kv * shape_.kv_heads * job.spec.head_dim, sizeof(kNaN))),
      v_(on.device, bytes_of(total_kv * shape_.kv_heads * value_dim(), sizeof(kNaN))),
      o_(on.device, bytes_of(total_q * shape_.q_heads * value_dim(), element_bytes())),
      lse_(on.device, bytes_of(total_q * shape_.q_heads, sizeof(float))),
      o_scale_(on.device,
               job.spec.out == attention::OutputFormat::s8 ? lse_.bytes() : sizeof(float)),
      sums_q_(on.device, bytes_of(shape_.batch + 1, sizeof(std::int32_t))),
      sums_kv_(on.device, sums_q_.bytes()),
      workspace_(on.device, plan.workspace_bytes(shape_)) {
  if (job.mods) mods_ = job.mods(on.device, mod_tensors_);
}

int PackedCall::value_dim() const { return attention::value_dim(job_.spec); }

std::size_t PackedCall::element_bytes() const {
  return static_cast<std::size_t>(attention::output_bytes(job_.spec));
}

std::size_t PackedCall::at(std::int64_t head, std::int64_t row, std::int64_t total,
                           std::int64_t heads, int width) const {
  const std::int64_t index = job_.layout == Layout::hnd ? head * total + row : row * heads + head;
  return static_cast<std::size_t>(index * width);
}

runtime::TensorView PackedCall::view(const runtime::Buffer& buffer, std::int64_t heads,
                                     std::int64_t total, int width) const {
  return job_.layout == Layout::hnd ? runtime::hnd(buffer.data(), heads, total, width)
                                    : runtime::nhd(buffer.data(), heads, total, width);
}

void PackedCall::upload(runtime::Buffer& to, const reference::Tensor& tensor,
                        const std::vector<std::int64_t>& lengths, std::int64_t before,
                        std::int64_t total, int width) const {
  std::vector<std::uint16_t> bits(to.bytes() / sizeof(kNaN), kNaN);
  const bool f16 = job_.spec.io == DType::f16;
  std::int64_t first = before;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    for (std::int64_t h = 0; h < tensor.heads; ++h) {
      for (std::int64_t n = 0; n < lengths[b]; ++n) {
        const float* row = tensor.row(static_cast<std::int64_t>(b), h, n);
        std::uint16_t* out = bits.data() + at(h, first + n, total, tensor.heads, width);
        std::fill_n(out, width, std::uint16_t{0});
        for (std::int64_t c = 0; c < tensor.channels; ++c)
          out[c] = f16 ? reference::f16_bits(row[c]) : reference::bf16_bits(row[c]);
      }
    }
    first += lengths[b];
  }
  to.upload(std::as_bytes(std::span(bits)));
}

void PackedCall::set(const reference::Inputs& inputs, const SequenceLengths& lengths,
                     std::int64_t before) {
  if (before + rows_of(lengths.queries) > total_q_ || before + rows_of(lengths.keys) > total_kv_)
    throw InternalError("packed sequences have more rows than their tensors");
  lengths_ = lengths;
  before_ = before;
  upload(q_, inputs.q, lengths.queries, before, total_q_, job_.spec.head_dim);
  upload(k_, inputs.k, lengths.keys, before, total_kv_, job_.spec.head_dim);
  upload(v_, inputs.v, lengths.keys, before, total_kv_, value_dim());
  set_sums(sums_of(lengths.queries, before), sums_of(lengths.keys, before));
}

void PackedCall::set_sums(const std::vector<std::int32_t>& of_queries,
                          const std::vector<std::int32_t>& of_keys) {
  sums_q_.upload(std::as_bytes(std::span(of_queries)));
  sums_kv_.upload(std::as_bytes(std::span(of_keys)));
}

void PackedCall::enqueue(runtime::StreamHandle stream) const {
  const reference::Inputs& in = job_.inputs;
  const bool codes = job_.spec.out != attention::OutputFormat::io;
  const double scale =
      in.softmax_scale > 0 ? in.softmax_scale : 1.0 / std::sqrt(static_cast<double>(in.q.channels));
  plan_.run(shape_,
            {.q = view(q_, in.q.heads, total_q_, job_.spec.head_dim),
             .k = view(k_, in.k.heads, total_kv_, job_.spec.head_dim),
             .v = view(v_, in.k.heads, total_kv_, value_dim()),
             .o = view(o_, in.q.heads, total_q_, value_dim()),
             .lse = lse_.data(),
             .softmax_scale = static_cast<float>(scale),
             .causal = job_.causal,
             .mods = mods_,
             .cu_seqlens_q = sums_q_.data(),
             .cu_seqlens_kv = sums_kv_.data(),
             .o_scale = codes ? o_scale_.data() : 0},
            workspace_.data(), workspace_.bytes(), stream);
}

void PackedCall::capture() {
  graph_ = std::make_unique<runtime::Graph>(
      on_.device, [this](runtime::StreamHandle stream) { enqueue(stream); });
}

std::vector<AttentionResult> PackedCall::run() {
  AttentionResult common;
  common.kernels = plan_.kernel_names();
  common.note = plan_.note();
  common.workspace = workspace_report(plan_, shape_);
  o_.fill(kNaNByte);
  lse_.fill(kNaNByte);
  o_scale_.fill(kNaNByte);
  if (job_.spec.out == attention::OutputFormat::e4m3) {
    const auto factor = static_cast<float>(job_.output_factor);
    o_scale_.upload(std::as_bytes(std::span(&factor, 1)));
  }
  const runtime::Stream stream(on_.device);
  const auto begin = std::chrono::steady_clock::now();
  try {
    if (graph_)
      graph_->launch(stream.handle());
    else
      enqueue(stream.handle());
    stream.synchronize();
  } catch (const runtime::DriverError&) {
    if (on_.emulator) common.findings = on_.emulator->findings();
    if (common.findings.empty()) throw;
    return std::vector<AttentionResult>(lengths_.queries.size(), common);
  }
  run_ms_ =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  if (on_.emulator) common.findings = on_.emulator->findings();

  Written written{.o = downloaded<std::uint8_t>(o_),
                  .lse = downloaded<float>(lse_),
                  .o_scales = downloaded<float>(o_scale_)};
  std::vector<AttentionResult> results;
  std::int64_t first = before_;
  for (std::size_t b = 0; b < lengths_.queries.size(); ++b) {
    AttentionResult result = result_of(b, first, written);
    result.kernels = common.kernels;
    result.note = common.note;
    result.workspace = common.workspace;
    result.findings = common.findings;
    results.push_back(std::move(result));
    first += lengths_.queries[b];
  }
  const bool has_scales = job_.spec.out == attention::OutputFormat::s8;
  walls_stand_ = std::ranges::all_of(written.o, [](std::uint8_t b) { return b == kNaNByte; }) &&
                 are_walls(written.lse) && (!has_scales || are_walls(written.o_scales));
  return results;
}

// Leaves walls where it was.
AttentionResult PackedCall::result_of(std::size_t sequence, std::int64_t first,
                                      Written& written) const {
  using attention::OutputFormat;
  constexpr float kWall = std::numeric_limits<float>::quiet_NaN();
  const OutputFormat out = job_.spec.out;
  const auto value = [&](const std::uint8_t* element, double unit) {
    if (out == OutputFormat::e4m3) return reference::e4m3_value(*element) * unit;
    if (out == OutputFormat::s8) return static_cast<std::int8_t>(*element) * unit;
    const auto bits = static_cast<std::uint16_t>(element[0] | element[1] << 8);
    return job_.spec.io == DType::f16 ? reference::f16_value(bits) : reference::bf16_value(bits);
  };
  AttentionResult result;
  const reference::Tensor& q = job_.inputs.q;
  const std::size_t bytes = element_bytes(), width = static_cast<std::size_t>(value_dim());
  for (std::int64_t h = 0; h < q.heads; ++h) {
    for (std::int64_t n = 0; n < lengths_.queries[sequence]; ++n) {
      std::uint8_t* row =
          written.o.data() + at(h, first + n, total_q_, q.heads, value_dim()) * bytes;
      const auto number = static_cast<std::size_t>(h * total_q_ + first + n);
      double unit = 1;
      if (out == OutputFormat::s8) unit = std::exchange(written.o_scales[number], kWall);
      if (out == OutputFormat::e4m3) unit = 1 / double{written.o_scales[0]};
      for (std::int64_t c = 0; c < job_.inputs.v.channels; ++c)
        result.o.push_back(value(row + static_cast<std::size_t>(c) * bytes, unit));
      std::fill_n(row, width * bytes, kNaNByte);
      result.lse.push_back(std::exchange(written.lse[number], kWall));
    }
  }
  return result;
}

namespace {

reference::Tensor rows_of_batch(const reference::Tensor& all, std::int64_t batch,
                                std::int64_t tokens) {
  reference::Tensor one(1, all.heads, tokens, all.channels);
  for (std::int64_t h = 0; h < all.heads; ++h)
    std::copy_n(all.row(batch, h, 0), tokens * all.channels, one.row(0, h, 0));
  return one;
}

// The mod as it is for one batch, which is now the only one.
reference::ScoreMod of_batch(const reference::ScoreMod& mod, std::int64_t batch) {
  reference::ScoreMod one = mod;
  const auto there = [batch](reference::Place place) {
    place.batch += batch;
    return place;
  };
  if (mod.hides) one.hides = [=](const reference::Place& at) { return mod.hides(there(at)); };
  if (mod.changes) {
    one.changes = [=](const reference::Place& at, double score) {
      return mod.changes(there(at), score);
    };
  }
  if (mod.sink)
    one.sink = [=](std::int64_t b, std::int64_t head) { return mod.sink(b + batch, head); };
  if (mod.least_weight) {
    one.check = nullptr;  // of all batches
    one.least_weight = [=](std::int64_t b) { return mod.least_weight(b + batch); };
  }
  if (mod.derivative) {
    one.derivative = [=](const reference::Place& at, double score) {
      return mod.derivative(there(at), score);
    };
  }
  if (mod.rounding) {
    one.rounding = [=](const reference::Place& at, double before, double after) {
      return mod.rounding(there(at), before, after);
    };
  }
  return one;
}

// Bits of a batch of the largest lengths as those of one of its batches, of other lengths.
void take_tiles(attention::blocksparse::Arguments& of, const attention::ModCall& all,
                const attention::ModCall& one, std::int64_t batch, const runtime::Device& device,
                std::vector<runtime::Buffer>& keep) {
  const auto from = std::ranges::find_if(
      keep, [&](const runtime::Buffer& buffer) { return buffer.data() == of.bits; });
  std::vector<std::uint32_t> words(from->bytes() / sizeof(std::uint32_t)), taken;
  from->download(std::as_writable_bytes(std::span(words)));
  namespace mod = attention::blocksparse;
  const std::int64_t heads = mod::tile_heads(one);
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t tile = 0; tile < mod::query_tiles(one); ++tile) {
      const std::int64_t row =
          ((batch * heads + h) * mod::query_tiles(all) + tile) * mod::row_words(all);
      for (std::int64_t i = 0; i < mod::row_words(one); ++i)
        taken.push_back(words[static_cast<std::size_t>(row + i)]);
    }
  }
  keep.emplace_back(device, taken.size() * sizeof(std::uint32_t));
  keep.back().upload(std::as_bytes(std::span(taken)));
  of.bits = keep.back().data();
}

}  // namespace

AttentionJob job_of_sequence(const AttentionJob& packed, const Kernel& kernel,
                             const SequenceLengths& lengths, std::size_t sequence,
                             const ModOptions& mods, std::uint64_t seed) {
  const auto batch = static_cast<std::int64_t>(sequence);
  const std::int64_t q_len = lengths.queries[sequence], kv_len = lengths.keys[sequence];
  reference::Inputs all = packed.inputs;  // of the mods: as large as they are, placed as here
  if (packed.causal == attention::CausalAlignment::bottom_right) all.causal_offset = kv_len - q_len;
  const RunMods made = make_mods(mods, kernel, all, seed);

  AttentionJob job = packed;
  job.inputs.q = rows_of_batch(all.q, batch, q_len);
  job.inputs.k = rows_of_batch(all.k, batch, kv_len);
  job.inputs.v = rows_of_batch(all.v, batch, kv_len);
  job.inputs.causal_offset = all.causal_offset;
  job.inputs.mods.clear();
  for (const reference::ScoreMod& mod : made.twins) job.inputs.mods.push_back(of_batch(mod, batch));
  const attention::ModCall of_all{.batch = all.q.batch,
                                  .q_heads = all.q.heads,
                                  .q_len = all.q.tokens,
                                  .kv_len = all.k.tokens,
                                  .offset = 0,
                                  .cta_q = packed.schedule.cta_q,
                                  .cta_k = packed.schedule.cta_k,
                                  .group = packed.spec.pack_gqa ? all.q.heads / all.k.heads : 1};
  attention::ModCall of_one = of_all;
  of_one.batch = 1;
  of_one.q_len = q_len;
  of_one.kv_len = kv_len;
  job.mods = [=](const runtime::Device& device, std::vector<runtime::Buffer>& keep) {
    constexpr std::int64_t kBiasBytes = 2;
    attention::ModArguments arguments = made.give(device, keep);
    arguments.bias.data +=
        static_cast<runtime::DevicePtr>(batch * arguments.bias.stride_batch * kBiasBytes);
    arguments.mask.data += static_cast<runtime::DevicePtr>(batch * arguments.mask.stride_batch);
    if (arguments.blocksparse.bits != 0)
      take_tiles(arguments.blocksparse, of_all, of_one, batch, device, keep);
    return arguments;
  };
  return job;
}

bool is_of_no_keys(const AttentionJob& job, const AttentionResult& result) {
  const reference::Tensor& q = job.inputs.q;
  const bool zero = std::ranges::all_of(result.o, [](double x) { return x == 0; });
  bool right = zero && result.lse.size() == static_cast<std::size_t>(q.heads * q.tokens);
  for (std::size_t i = 0; i < result.lse.size() && right; ++i) {
    double expected = -std::numeric_limits<double>::infinity();
    for (const reference::ScoreMod& mod : job.inputs.mods) {
      if (mod.sink) expected = mod.sink(0, static_cast<std::int64_t>(i) / q.tokens);
    }
    constexpr double kOfF32 = 1e-5;  // two roundings each way, of numbers that are not large
    right = result.lse[i] == expected ||
            std::abs(result.lse[i] - expected) <= kOfF32 * (1 + std::abs(expected));
  }
  return right;
}

}  // namespace sagegen::cli
