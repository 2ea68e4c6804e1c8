#include "tools/kv/planner/cache.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "templates/shared/kv_format.h"
#include "templates/shared/quantization.h"
#include "tools/reference/rounding.h"

namespace sagegen::kv {
namespace {

using reference::kF16, reference::round_satfinite;

// In place: rows times a Hadamard matrix (Sylvester's) over sqrt(size), which is its own inverse.
void rotate(double* row, std::int64_t size) {
  for (std::int64_t half = 1; half < size; half *= 2) {
    for (std::int64_t begin = 0; begin < size; begin += 2 * half) {
      for (std::int64_t i = begin; i < begin + half; ++i) {
        const double a = row[i], b = row[i + half];
        row[i] = a + b;
        row[i + half] = a - b;
      }
    }
  }
  const double factor = 1 / std::sqrt(static_cast<double>(size));
  for (std::int64_t i = 0; i < size; ++i) row[i] *= factor;
}
void rotate_blocks(double* row, std::int64_t channels) {
  const std::int64_t block = rotation_block(static_cast<int>(channels));
  for (std::int64_t at = 0; at < channels; at += block) rotate(row + at, block);
}

// A group of values that lie `stride` apart becomes what its codes stand for.
void quantize_group(double* x, std::int64_t count, std::int64_t stride, int bits) {
  double least = x[0], largest = x[0];
  for (std::int64_t i = 1; i < count; ++i) {
    least = std::min(least, x[i * stride]);
    largest = std::max(largest, x[i * stride]);
  }
  const Grid grid = grid_of(least, largest, bits);
  for (std::int64_t i = 0; i < count; ++i) x[i * stride] = grid.value(grid.code(x[i * stride]));
}

// [token, channel], with zeros in the channels that codes have behind those of the head.
std::vector<double> padded(std::span<const double> rows, std::int64_t channels,
                           std::int64_t code_channels) {
  const std::int64_t tokens = static_cast<std::int64_t>(rows.size()) / channels;
  std::vector<double> out(static_cast<std::size_t>(tokens * code_channels));
  for (std::int64_t t = 0; t < tokens; ++t)
    std::copy_n(rows.begin() + t * channels, channels, out.begin() + t * code_channels);
  return out;
}

std::int64_t code_channels_of(std::int64_t channels) {
  return kv_code_channels(static_cast<int>(channels));
}

std::vector<double> means(std::span<const double> rows, std::int64_t channels) {
  std::vector<double> mean(static_cast<std::size_t>(channels));
  for (std::size_t i = 0; i < rows.size(); ++i) mean[i % mean.size()] += rows[i];
  const double tokens = static_cast<double>(rows.size()) / static_cast<double>(channels);
  for (double& each : mean) each /= tokens;
  return mean;
}

}  // namespace

std::string to_string(const CacheModel& model) {
  std::string text = "per_token";
  if (model.grouping == Grouping::kivi)
    text = fmt::format("kivi group={} residual={}", model.group, model.residual);
  if (model.smooth_k) text += " smooth_k";
  if (model.hadamard) text += " hadamard";
  return text;
}

void validate(const CacheModel& model) {
  if (model.grouping != Grouping::kivi) return;
  if (model.group < 1 || 64 % model.group != 0) {
    throw SpecError(
        fmt::format("a KIVI cache with groups of {} is refused: channels come in multiples of 64, "
                    "which groups must divide; "
                    "32 is usual",
                    model.group));
  }
  if (model.residual < model.group || model.residual % model.group != 0) {
    throw SpecError(
        fmt::format("a KIVI cache with a window of {} tokens is refused: keys become codes {} "
                    "tokens at a time, so that the "
                    "window must be a multiple of that",
                    model.residual, model.group));
  }
}

int Grid::code(double x) const {
  if (scale == 0) return 0;
  constexpr double kWhole =
      0x1.8p52;  // added and subtracted: to the nearest whole number, ties to even
  const double steps = std::clamp((x - zero) / scale, 0.0, static_cast<double>(top));
  return static_cast<int>((steps + kWhole) - kWhole);
}

Grid grid_of(double least, double largest, int bits) {
  const int top = (1 << bits) - 1;
  const double zero = round_satfinite(least, kF16);
  const double range = std::max(largest - zero, 0.0);
  if (least == largest) return {.zero = zero, .scale = 0, .top = top};
  return {.zero = zero, .scale = round_satfinite(range * (1 + 0x1p-11) / top, kF16), .top = top};
}

std::int64_t quantized_keys(std::int64_t tokens, const CacheModel& model) {
  return model.grouping == Grouping::kivi ? tokens - tokens % model.residual : tokens;
}
std::int64_t quantized_values(std::int64_t tokens, const CacheModel& model) {
  return model.grouping == Grouping::kivi ? std::max<std::int64_t>(tokens - model.residual, 0)
                                          : tokens;
}

std::vector<double> stored_keys(std::span<const double> keys, std::int64_t channels, int bits,
                                const CacheModel& model) {
  std::vector<double> out(keys.begin(), keys.end());
  const std::int64_t tokens = static_cast<std::int64_t>(keys.size()) / channels;
  const std::int64_t codes = quantized_keys(tokens, model);
  if (!kv_quantized(bits) || codes == 0) return out;
  std::vector<double> mean(static_cast<std::size_t>(channels));
  if (model.smooth_k) mean = means(keys, channels);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] -= mean[i % mean.size()];
  const std::int64_t width = channels;  // padding is no part of a group
  std::vector<double> rows(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(codes * width));
  for (std::int64_t t = 0; model.hadamard && t < codes; ++t)
    rotate_blocks(rows.data() + t * width, width);
  if (model.grouping == Grouping::per_token) {
    for (std::int64_t t = 0; t < codes; ++t)
      quantize_group(rows.data() + t * width, width, 1, bits);
  } else {
    for (std::int64_t t = 0; t < codes; t += model.group) {
      for (std::int64_t c = 0; c < width; ++c)
        quantize_group(rows.data() + t * width + c, model.group, width, bits);
    }
  }
  std::copy(keys.begin(), keys.end(), out.begin());
  for (std::int64_t t = 0; t < codes; ++t) {
    double* row = rows.data() + t * width;
    if (model.hadamard) rotate_blocks(row, width);
    for (std::int64_t c = 0; c < channels; ++c)
      out[static_cast<std::size_t>(t * channels + c)] = row[c] + mean[static_cast<std::size_t>(c)];
  }
  return out;
}

std::vector<double> stored_values(std::span<const double> values, std::int64_t channels, int bits,
                                  const CacheModel& model) {
  if (!kv_quantized(bits)) return {values.begin(), values.end()};
  const bool kivi = model.grouping == Grouping::kivi;
  const std::int64_t width = kivi ? code_channels_of(channels) : channels;
  const std::int64_t tokens = static_cast<std::int64_t>(values.size()) / channels;
  const std::int64_t group = kivi ? model.group : width;
  std::vector<double> rows = padded(values, channels, width), out(values.size());
  for (std::int64_t at = 0; at < tokens * width; at += group)
    quantize_group(rows.data() + at, group, 1, bits);
  for (std::int64_t t = 0; t < tokens; ++t)
    std::copy_n(rows.begin() + t * width, channels, out.begin() + t * channels);
  return out;
}

Storage storage_of(int bits) {
  if (bits == 16) return kExact;
  if (bits != 2 && bits != 4 && bits != 8)
    throw SpecError(
        fmt::format("codes of {} bits are refused: a KV cache has 2, 4, 8 or 16", bits));
  return integer(bits);
}

int bits_of(const Storage& storage) {
  if (storage.kind != Kind::exact && storage.kind != Kind::integer) {
    throw SpecError(
        "a cache of float8 or float4 is refused: the planner has integers with scale and zero "
        "point, and 16 bits");
  }
  return storage_of(storage.bits).bits;
}

namespace {

// Of K or V of a token, as codes of a KIVI cache: an f16 scale and zero point for each group.
int kivi_bits(int bits, int head_dim, const CacheModel& model) {
  const int channels = kv_code_channels(head_dim);
  return channels * bits + (kv_quantized(bits) ? channels / model.group * 32 : 0);
}

}  // namespace

int token_bits(const Pair& pair, int head_dim, const CacheModel& model) {
  const int k = bits_of(pair.k), v = bits_of(pair.v);
  if (model.grouping == Grouping::kivi)
    return kivi_bits(k, head_dim, model) + kivi_bits(v, head_dim, model);
  return 8 * kv_token_bytes({.head_dim = head_dim, .k_bits = k, .v_bits = v});
}

double cache_bytes(const Pair& pair, int head_dim, std::int64_t tokens, const CacheModel& model) {
  const int k = bits_of(pair.k), v = bits_of(pair.v);
  const auto count = [](std::int64_t n) { return static_cast<double>(n); };
  if (model.grouping == Grouping::per_token)
    return count(tokens) * token_bits(pair, head_dim, model) / 8;
  const std::int64_t keys = quantized_keys(tokens, model), values = quantized_values(tokens, model);
  return (count(keys) * kivi_bits(k, head_dim, model) +
          count(values) * kivi_bits(v, head_dim, model) +
          count(2 * tokens - keys - values) * kivi_bits(16, head_dim, model)) /
         8;
}

}  // namespace sagegen::kv
