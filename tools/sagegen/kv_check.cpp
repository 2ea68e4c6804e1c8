#include "tools/sagegen/kv_check.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/vocabulary/suggestion.h"
#include "templates/decode/plan.h"
#include "templates/kv_append/plan.h"
#include "tools/reference/reference.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/findings.h"
#include "tools/sagegen/interrupt.h"
#include "tools/sagegen/progress.h"
#include "tools/sagegen/run_device.h"
#include "tools/sagegen/run_job.h"

namespace sagegen::cli {
namespace {

using reference::Tensor;

constexpr std::int64_t kSplits = 2;  // which the kernel merges
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

double io_value(DType io, std::uint16_t bits) {
  return io == DType::f16 ? reference::f16_value(bits) : reference::bf16_value(bits);
}

std::vector<std::uint16_t> bits_of(const Tensor& tensor, DType io) {
  std::vector<std::uint16_t> bits;
  for (const float x : tensor.data)
    bits.push_back(io == DType::f16 ? reference::f16_bits(x) : reference::bf16_bits(x));
  return bits;
}

template <typename T>
runtime::Buffer upload(const runtime::Device& device, const std::vector<T>& values) {
  runtime::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

// A call of both kernels on one sequence, whose pages lie in the pool from the last to the first.
struct Call {
  const KvKernels& kernels;
  const reference::Inputs& inputs;
  const RunDevice& on;
  const runtime::ArtifactSource& source;
  std::vector<std::byte> pool = {};
  std::vector<double> o = {}, lse = {};

  const KvFormat& format() const { return kernels.format; }
  std::int64_t tokens() const { return inputs.k.tokens; }
  std::int64_t pages() const {
    return (tokens() + format().page_tokens - 1) / format().page_tokens;
  }
  std::int64_t slot(std::int64_t token) const {
    const std::int64_t size = format().page_tokens;
    return (pages() - 1 - token / size) * size + token % size;
  }
  const std::byte* block(std::int64_t head, std::int64_t token) const {
    const KvStrides strides = kv_strides(format(), static_cast<int>(inputs.k.heads));
    const std::int64_t place = slot(token), size = format().page_tokens;
    return pool.data() + place / size * strides.page + head * strides.head +
           place % size / kKvBlockTokens * strides.block;
  }

  // All tokens but the last as a prompt, that one as a step, and the attention of its query.
  void run() {
    const KvFormat& cache = format();
    const std::int64_t heads = inputs.k.heads, q_heads = inputs.q.heads;
    const runtime::Buffer k = upload(on.device, bits_of(inputs.k, cache.io)),
                          v = upload(on.device, bits_of(inputs.v, cache.io)),
                          q = upload(on.device, bits_of(inputs.q, cache.io));
    std::vector<std::int64_t> places;
    for (std::int64_t token = 0; token < tokens(); ++token) places.push_back(slot(token));
    std::vector<std::int32_t> table;
    for (std::int64_t page = pages(); page > 0; --page)
      table.push_back(static_cast<std::int32_t>(page - 1));
    const std::vector<std::int32_t> lengths{static_cast<std::int32_t>(tokens())};
    const runtime::Buffer slots = upload(on.device, places), page_table = upload(on.device, table),
                          length = upload(on.device, lengths);
    const KvStrides strides = kv_strides(cache, static_cast<int>(heads));
    pool.resize(static_cast<std::size_t>(pages() * strides.page));
    runtime::Buffer memory(on.device, pool.size());
    memory.fill(0xFF);  // what is not written is NaN

    const kv_append::Plan append(on.device, kernels.append, source);
    const auto append_some = [&](std::int64_t first, std::int64_t count) {
      if (count == 0) return;
      kv_append::Arguments arguments{
          .k = runtime::hnd(k.data(), heads, tokens(), cache.head_dim),
          .v = runtime::hnd(v.data(), heads, tokens(), cache.head_dim),
          .pool = {.data = memory.data(), .pages = pages(), .page_tokens = cache.page_tokens},
          .slots = slots.data() + static_cast<std::uint64_t>(first) * sizeof(std::int64_t)};
      const auto skipped = static_cast<std::uint64_t>(2 * first * cache.head_dim);
      arguments.k.data += skipped;
      arguments.v.data += skipped;
      append.run({.tokens = count, .kv_heads = heads}, arguments, nullptr);
    };
    append_some(0, tokens() - 1);
    append_some(tokens() - 1, 1);

    const decode::Plan decode(on.device, kernels.decode, source);
    const decode::Shape shape{.batch = 1,
                              .q_heads = q_heads,
                              .kv_heads = heads,
                              .q_len = 1,
                              .page_tokens = cache.page_tokens,
                              .max_pages = pages(),
                              .splits = kSplits};
    runtime::Buffer workspace(on.device, decode.workspace_bytes(shape));
    std::vector<std::uint16_t> o_bits(inputs.q.data.size());
    std::vector<float> sums(static_cast<std::size_t>(q_heads));
    runtime::Buffer out(on.device, 2 * o_bits.size()), sum(on.device, 4 * sums.size());
    for (runtime::Buffer* each : {&workspace, &out, &sum}) each->fill(0xFF);
    decode.run(shape,
               {.q = runtime::hnd(q.data(), q_heads, 1, cache.head_dim),
                .pool = memory.data(),
                .strides = strides,
                .pool_pages = pages(),
                .page_table = page_table.data(),
                .lengths = length.data(),
                .o = runtime::hnd(out.data(), q_heads, 1, cache.head_dim),
                .lse = sum.data()},
               workspace.data(), workspace.bytes(), nullptr);
    on.device.synchronize();
    memory.download(pool);
    out.download(std::as_writable_bytes(std::span(o_bits)));
    sum.download(std::as_writable_bytes(std::span(sums)));
    for (const std::uint16_t bits : o_bits) o.push_back(io_value(cache.io, bits));
    lse.assign(sums.begin(), sums.end());
  }
};

double half_at(const std::byte* at) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return reference::f16_value(bits);
}

// Where a row of K or V lies in a block.
struct Row {
  const std::byte* block;
  int bits, zero, scale;
  std::function<int(int row_byte)> byte;
};

// What is stored of a row goes to `stored`. Returns how far the worst element is from what came, in what the promise
// allows: above 1 it is broken. The scale is part of it: a larger one would allow more.
double read_row(const Row& row, DType io, const float* came, int channels, float* stored) {
  if (!kv_quantized(row.bits)) {
    double worst = 0;
    for (int c = 0; c < channels; ++c) {
      const int low = static_cast<int>(row.block[row.byte(2 * c)]),
                high = static_cast<int>(row.block[row.byte(2 * c + 1)]);
      const double value = io_value(io, static_cast<std::uint16_t>(low | high << 8));
      stored[c] = static_cast<float>(value);
      if (!(value == came[c])) worst = 2;
    }
    return worst;
  }
  const auto [least, most] = std::minmax_element(came, came + channels);
  const double zero = half_at(row.block + row.zero), scale = half_at(row.block + row.scale);
  const int top = (1 << row.bits) - 1, per_byte = 8 / row.bits;
  // f16 of the least; a step that the largest code reaches, with a factor of 1 + 2^-11 and a rounding of as much.
  const double off = std::abs(zero - *least), step = std::max(*most - zero, 0.0) / top;
  constexpr double kSmallest = 0x1p-24, kRounded = 0x1p-11;
  const bool fits = off <= std::max(kRounded * std::abs(*least), kSmallest) &&
                    scale >= step * (1 - 0x1p-20) - kSmallest &&
                    scale <= step * (1 + 2 * kRounded + 0x1p-20) + kSmallest;
  double worst = fits ? 0 : 2;
  constexpr double kF32 = 1 + 0x1p-10;  // of half a step: codes are computed in f32
  const double allowed = kF32 * scale / 2 + off + (scale < 0x1p-14 ? top * 0x1p-25 : 0);
  for (int c = 0; c < channels; ++c) {
    const int all = static_cast<int>(row.block[row.byte(c / per_byte)]);
    const double value = scale * (all >> (row.bits * (c % per_byte)) & top) + zero;
    stored[c] = static_cast<float>(value);
    const double error = std::abs(value - came[c]);
    if (!(error <= allowed)) worst = std::max(worst, allowed > 0 ? error / allowed : 2);
    if (allowed > 0) worst = std::max(worst, error / allowed);
  }
  return worst;
}

// What the pool holds in the places of K and V, and the zero points of V.
double read_cache(const Call& call, reference::Inputs& stored, std::vector<double>& v_zeros) {
  const KvBlock layout(call.format());
  double worst = 0;
  for (std::int64_t head = 0; head < call.inputs.k.heads; ++head) {
    for (std::int64_t token = 0; token < call.tokens(); ++token) {
      const std::byte* block = call.block(head, token);
      const int at = static_cast<int>(call.slot(token) % kKvBlockTokens);
      const Row k{block, layout.k_bits, layout.z_k(at), layout.s_k(at),
                  [&](int byte) { return layout.k_byte(at, byte); }};
      const Row v{block, layout.v_bits, layout.z_v(at), layout.s_v(at),
                  [&](int byte) { return layout.v_byte(at, byte); }};
      v_zeros.push_back(kv_quantized(v.bits) ? half_at(block + v.zero) : 0);
      const int channels = call.format().head_dim;
      worst = std::max({worst,
                        read_row(k, call.format().io, call.inputs.k.row(0, head, token), channels,
                                 stored.k.row(0, head, token)),
                        read_row(v, call.format().io, call.inputs.v.row(0, head, token), channels,
                                 stored.v.row(0, head, token))});
    }
  }
  return worst;
}

// As decode rounds Q: to whole multiples of a step of its row's largest number, in f32.
void round_queries(const KvFormat& format, Tensor& q) {
  if (!kv_quantized(format.k_bits)) return;
  const bool wide = kv_code_channels(format.head_dim) > 128;
  const float largest = format.k_bits < 8 ? 127 : wide ? 8127 : 32639;
  for (std::int64_t head = 0; head < q.heads; ++head) {
    float* row = q.row(0, head, 0);
    float amax = 0;
    for (std::int64_t c = 0; c < q.channels; ++c) amax = std::max(amax, std::abs(row[c]));
    if (amax == 0) continue;
    for (std::int64_t c = 0; c < q.channels; ++c)
      row[c] = std::nearbyint(row[c] * (largest / amax)) * amax / largest;
  }
}

double relative_l2(const std::vector<double>& got, const std::vector<double>& expected) {
  double error = 0, all = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - expected[i]) * (got[i] - expected[i]);
    all += expected[i] * expected[i];
  }
  return std::sqrt(error / all);
}

// What roundings of P, of P times the scale of V, and of O explain of the relative L2 of O. One of f16 is at most 2^-11 of its
// number, and those of the tokens are independent: their squares add up. That of P moves O by p (v - O), as the sum of P
// has it, too; that of P times the scale by p (v - z), since z is multiplied apart. Few tokens may weigh nearly all, and
// then it is no mean of many: three times as much is allowed.
double limit_of(const KvFormat& format, const reference::Inputs& stored,
                const std::vector<double>& v_zeros, const reference::Output& model) {
  const double f16 = 0x1p-11 / std::sqrt(3.0), bf16 = 8 * f16;
  const bool wide = format.io == DType::bf16, scaled = kv_quantized(format.v_bits);
  const double of_p = wide && !scaled ? bf16 : f16, of_o = wide ? bf16 : f16;
  const std::int64_t channels = stored.q.channels, group = stored.q.heads / stored.k.heads;
  double error = 0, all = 0;
  for (std::int64_t head = 0; head < stored.q.heads; ++head) {
    const float* q = stored.q.row(0, head, 0);
    const double* o = &model.o[static_cast<std::size_t>(head * channels)];
    for (std::int64_t token = 0; token < stored.k.tokens; ++token) {
      const float *k = stored.k.row(0, head / group, token),
                  *v = stored.v.row(0, head / group, token);
      const double score =
          std::inner_product(q, q + channels, k, 0.0) / std::sqrt(static_cast<double>(channels));
      const double p = std::exp(score - model.lse[static_cast<std::size_t>(head)]);
      const double zero = v_zeros[static_cast<std::size_t>(head / group * stored.k.tokens + token)];
      for (std::int64_t c = 0; c < channels; ++c) {
        const double moved = of_p * p * (v[c] - o[c]), scaled_by = f16 * p * (v[c] - zero);
        error += moved * moved + (scaled ? scaled_by * scaled_by : 0);
      }
    }
    for (std::int64_t c = 0; c < channels; ++c) {
      error += of_o * of_o * o[c] * o[c];
      all += o[c] * o[c];
    }
  }
  return 3 * std::sqrt(error / all);
}
double lse_limit_of(const KvFormat& format) { return format.io == DType::bf16 ? 4e-3 : 1e-3; }

struct Checked {
  double stored = kNone;        // worst element, in what the promise of append allows
  double format_error = kNone;  // of O: what codes of K, V and Q cost
  double kernel_error = kNone, limit = kNone;
  double lse_error = kNone, lse_limit = kNone;
  std::vector<runtime::Finding> findings = {};
  bool passed() const {
    return findings.empty() && stored <= 1 && kernel_error <= limit && lse_error <= lse_limit;
  }
};

Checked check_pair(Call call) {
  Checked result{.lse_limit = lse_limit_of(call.format())};
  try {
    call.run();
  } catch (const runtime::DriverError&) {
    if (call.on.emulator) result.findings = call.on.emulator->findings();
    if (result.findings.empty()) throw;
    return result;
  }
  if (call.on.emulator) result.findings = call.on.emulator->findings();
  reference::Inputs stored = call.inputs;
  std::vector<double> v_zeros;
  result.stored = read_cache(call, stored, v_zeros);
  round_queries(call.format(), stored.q);
  const reference::Output exact = reference::attention(call.inputs),
                          model = reference::attention(stored);
  result.format_error = relative_l2(model.o, exact.o);
  result.kernel_error = relative_l2(call.o, model.o);
  result.limit = limit_of(call.format(), stored, v_zeros, model);
  result.lse_error = 0;
  for (std::size_t i = 0; i < model.lse.size(); ++i) {
    const double error = std::abs(call.lse[i] - model.lse[i]);
    if (!(error <= result.lse_error)) result.lse_error = error;  // NaN stays
    if (std::isnan(error)) break;
  }
  return result;
}

Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }
std::string shown(double x) { return std::isfinite(x) ? fmt::format("{:.2e}", x) : "none"; }

}  // namespace

Exit kv_check(const kv::Map& map, const KvModel& model, const KvCheckCommand& command,
              Output& output) {
  constexpr std::int64_t kMostTokens = 1 << 16;  // their fp64 attention takes seconds
  if (command.tokens > kMostTokens) {
    throw UsageError(
        fmt::format("--context {} is refused: check judges up to {} tokens; a kernel does the same "
                    "for each tile",
                    command.tokens, kMostTokens));
  }
  const auto& known = reference::distributions();
  if (std::ranges::none_of(known, [&](const auto& d) { return d.name == command.distribution; })) {
    std::vector<std::string> names;
    for (const auto& each : known) names.push_back(each.name);
    throw UsageError(fmt::format("--dist {}: use one of {}{}", command.distribution,
                                 fmt::join(names, ", "), suggestion(command.distribution, names)));
  }
  runtime::EmulatorOptions options;
  options.interrupt = interrupt_flag();
  const RunDevice on = open_run_device(command.device, "", options);
  const std::vector<KvKernels> pairs =
      kv_kernels(map, model, on.target, decode::best_target(on.device));
  const runtime::ArtifactSource source = ptx_source(command.ptx, on);
  const reference::Inputs inputs = reference::generate(
      command.distribution,
      {.batch = 1,
       .q_heads = model.all_q_heads(),
       .kv_heads = model.kv_heads,
       .q_len = 1,
       .kv_len = command.tokens,
       .head_dim = model.format.head_dim},
      command.seed,
      model.format.io == DType::f16 ? reference::IoType::f16 : reference::IoType::bf16);
  Table table({"pair", "stored, of allowed", "error of the format", "of the kernel beyond", "limit",
               "LSE off by", "findings", ""});
  Json list = Json::array();
  std::string found;
  bool passed = true;
  {
    std::optional<InterruptScope> interruptible;
    if (on.emulator) interruptible.emplace();
    Progress progress("checking pairs", pairs.size());
    for (const KvKernels& each : pairs) {
      if (on.emulator) on.emulator->clear_findings();
      const Checked checked =
          check_pair({.kernels = each, .inputs = inputs, .on = on, .source = source});
      progress.advance();
      passed = passed && checked.passed();
      const std::string name = kv::to_string(each.pair);
      table.add({name,
                 std::isfinite(checked.stored) ? fmt::format("{:.3f}", checked.stored) : "none",
                 shown(checked.format_error), shown(checked.kernel_error), shown(checked.limit),
                 shown(checked.lse_error), std::to_string(checked.findings.size()),
                 checked.passed() ? "passed" : "FAILED"});
      list.push_back({{"pair", name},
                      {"layers", each.layers},
                      {"append", each.append.key()},
                      {"decode", each.decode.key()},
                      {"stored_of_allowed", number(checked.stored)},
                      {"format_error", number(checked.format_error)},
                      {"kernel_error", number(checked.kernel_error)},
                      {"limit", number(checked.limit)},
                      {"lse_error", number(checked.lse_error)},
                      {"lse_limit", checked.lse_limit},
                      {"passed", checked.passed()},
                      {"findings", findings_json(checked.findings)}});
      if (!checked.findings.empty()) found += findings_text(checked.findings);
      if (was_interrupted()) break;
    }
  }
  output.text(fmt::format(
      "append and decode on {}: {} tokens, {} KV heads, {} query heads, "
      "{} channels, {}, seed {}\n\n{}{}{}\n",
      on.name, command.tokens, model.kv_heads, model.all_q_heads(), model.format.head_dim,
      command.distribution, command.seed, table.text(), found, passed ? "passed" : "FAILED"));
  output.json({{"device", on.name},
               {"target", to_string(on.target)},
               {"ptx", ptx_origin(command.ptx)},
               {"distribution", command.distribution},
               {"seed", command.seed},
               {"tokens", command.tokens},
               {"kv_heads", model.kv_heads},
               {"q_heads", model.all_q_heads()},
               {"head_dim", model.format.head_dim},
               {"page_tokens", model.format.page_tokens},
               {"pairs", list},
               {"passed", passed}});
  return passed ? Exit::ok : Exit::check_failed;
}

}  // namespace sagegen::cli
