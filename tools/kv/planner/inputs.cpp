#include "tools/kv/planner/inputs.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "tools/reference/printable.h"
#include "tools/reference/safetensors.h"

namespace sagegen::kv {
namespace {

using reference::Inputs, reference::IoType, reference::Tensor;

// [rows, columns] of N(0, 1) * deviation.
std::vector<double> normal(std::int64_t rows, std::int64_t columns, double deviation,
                           std::uint64_t seed) {
  const Tensor drawn =
      reference::generate("normal", {.q_len = rows, .head_dim = columns}, seed, IoType::f32).q;
  std::vector<double> out(drawn.data.begin(), drawn.data.end());
  for (double& each : out) each *= deviation;
  return out;
}

// x [rows, inner] * w [inner, columns].
std::vector<double> product(const std::vector<double>& x, const std::vector<double>& w,
                            std::int64_t inner) {
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / inner;
  const std::int64_t columns = static_cast<std::int64_t>(w.size()) / inner;
  std::vector<double> out(static_cast<std::size_t>(rows * columns));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < inner; ++i) {
      const double factor = x[static_cast<std::size_t>(r * inner + i)];
      for (std::int64_t c = 0; c < columns; ++c)
        out[static_cast<std::size_t>(r * columns + c)] +=
            factor * w[static_cast<std::size_t>(i * columns + c)];
    }
  }
  return out;
}

// Rows of mean square 1.
std::vector<double> normalized(std::vector<double> x, std::int64_t width) {
  for (auto row = x.begin(); row != x.end(); row += width) {
    double square = 0;
    for (auto at = row; at != row + width; ++at) square += *at * *at;
    for (auto at = row; at != row + width; ++at)
      *at /= std::sqrt(square / static_cast<double>(width));
  }
  return x;
}

// [token, head * channel] as a tensor, rotated by position if asked to: channels c and c + head_dim / 2 by
// position * 10000^(-2 c / head_dim).
enum class Positions { none, rotary };
Tensor heads_of(const std::vector<double>& x, int heads, int head_dim, Positions positions) {
  const std::int64_t tokens = static_cast<std::int64_t>(x.size()) / (heads * head_dim);
  Tensor out(1, heads, tokens, head_dim);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (int h = 0; h < heads; ++h) {
      const double* from = x.data() + (t * heads + h) * head_dim;
      float* to = out.row(0, h, t);
      if (positions == Positions::none) std::copy_n(from, head_dim, to);
      for (int c = 0; positions == Positions::rotary && c < head_dim / 2; ++c) {
        const double angle = static_cast<double>(t) * std::pow(10000.0, -2.0 * c / head_dim);
        const double a = from[c], b = from[c + head_dim / 2];
        to[c] = static_cast<float>(a * std::cos(angle) - b * std::sin(angle));
        to[c + head_dim / 2] = static_cast<float>(a * std::sin(angle) + b * std::cos(angle));
      }
    }
  }
  round_to(IoType::f16, out);
  return out;
}

void check(const DecoderShape& shape) {
  const bool positive = shape.layers > 0 && shape.q_heads > 0 && shape.kv_heads > 0 &&
                        shape.head_dim > 0 && shape.tokens > 0;
  if (positive && shape.q_heads % shape.kv_heads == 0 && shape.head_dim % 2 == 0 &&
      shape.outlier_channels >= 0 && shape.outlier_channels <= shape.head_dim / 2)
    return;
  throw SpecError(
      fmt::format("a decoder of {} layers, {} query heads, {} KV heads of head_dim {}, {} tokens "
                  "and {} outlier channels is "
                  "refused: sizes are 1 or more, KV heads divide query heads, head_dim is even, "
                  "and at most half of the "
                  "channels are outliers",
                  shape.layers, shape.q_heads, shape.kv_heads, shape.head_dim, shape.tokens,
                  shape.outlier_channels));
}

}  // namespace

std::vector<std::string> recorded_layers(const std::string& path) {
  const std::string shown = reference::printable(path);
  const reference::SafetensorsFile file(path);
  reference::TensorFile names;
  for (const reference::TensorEntry& entry : file.header().entries)
    names.tensors.emplace_back().name = entry.name;
  std::map<int, std::string> by_number;
  for (const std::string& prefix : reference::qkv_prefixes(names)) {
    constexpr std::string_view kDigits = "0123456789";
    const std::size_t last = prefix.find_last_of(kDigits);
    if (last == std::string::npos) {
      throw reference::FileError(
          fmt::format("{}: '{}' has no number, which would say which layer it is; name tensors "
                      "layer0.q, layer0.k "
                      "and layer0.v, and so on",
                      shown, reference::printable(prefix)));
    }
    const std::size_t before = prefix.find_last_not_of(kDigits, last);
    const std::string digits = prefix.substr(before + 1, last - before);
    const int number = digits.size() > 6 ? 1'000'000 : std::stoi(digits);
    const auto [same, is_new] = by_number.emplace(number, prefix);
    if (!is_new) {
      throw reference::FileError(
          fmt::format("{}: '{}' and '{}' are both layer {}; a layer has one q, k and v", shown,
                      reference::printable(same->second), reference::printable(prefix), number));
    }
  }
  if (by_number.empty()) {
    throw reference::FileError(
        fmt::format("{}: there are no layers; tensors are needed named layer0.q, layer0.k and "
                    "layer0.v, and so on",
                    shown));
  }
  std::vector<std::string> prefixes;
  for (const auto& [number, prefix] : by_number) {
    if (number != static_cast<int>(prefixes.size())) {
      throw reference::FileError(fmt::format(
          "{}: layer {} is missing, and layer {} is there; a map is of all layers, from 0 on",
          shown, prefixes.size(), by_number.rbegin()->first));
    }
    prefixes.push_back(prefix);
  }
  return prefixes;
}

std::vector<Inputs> decoder_inputs(const DecoderShape& shape, std::uint64_t seed) {
  check(shape);
  const std::int64_t hidden = std::int64_t{shape.q_heads} * shape.head_dim;
  const std::int64_t kv_width = std::int64_t{shape.kv_heads} * shape.head_dim;
  const double unit = 1 / std::sqrt(static_cast<double>(hidden));
  std::uint64_t stream = seed * 1000;
  std::vector<double> x = normal(shape.tokens, hidden, 1, ++stream);
  std::vector<Inputs> layers;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const std::vector<double> normed = normalized(x, hidden);
    const double depth = shape.layers > 1 ? static_cast<double>(layer) / (shape.layers - 1) : 0;
    const double sharpness =
        shape.first_sharpness * std::pow(shape.last_sharpness / shape.first_sharpness, depth);
    std::vector<double> q =
        product(normed, normal(hidden, hidden, unit * sharpness, ++stream), hidden);
    std::vector<double> k = product(normed, normal(hidden, kv_width, unit, ++stream), hidden);
    const std::vector<double> v = product(normed, normal(hidden, kv_width, unit, ++stream), hidden);
    const std::vector<double> bias =
        normal(shape.kv_heads, std::max(shape.outlier_channels, 1), 1, ++stream);
    for (std::int64_t t = 0; t < shape.tokens; ++t) {
      for (int h = 0; h < shape.kv_heads; ++h) {
        for (int c = 0; c < shape.outlier_channels; ++c) {
          const double draw =
              bias[static_cast<std::size_t>(h * std::max(shape.outlier_channels, 1) + c)];
          k[static_cast<std::size_t>(t * kv_width + h * shape.head_dim + shape.head_dim / 2 - 1 -
                                     c)] +=
              std::copysign(shape.outlier * (1 + 0.25 * std::fabs(draw)), draw);
        }
      }
    }
    Inputs& inputs = layers.emplace_back();
    inputs.q = heads_of(q, shape.q_heads, shape.head_dim, Positions::rotary);
    inputs.k = heads_of(k, shape.kv_heads, shape.head_dim, Positions::rotary);
    inputs.v = heads_of(v, shape.kv_heads, shape.head_dim, Positions::none);
    inputs.causal = true;
    const std::vector<double> o = reference::attention(inputs).o;
    std::vector<double> rows(x.size());  // [token, head * channel]
    for (std::size_t at = 0; at < o.size(); ++at) {
      const auto i = static_cast<std::int64_t>(at);
      const std::int64_t c = i % shape.head_dim, t = i / shape.head_dim % shape.tokens,
                         h = i / shape.head_dim / shape.tokens;
      rows[static_cast<std::size_t>(t * hidden + h * shape.head_dim + c)] = o[at];
    }
    const std::vector<double> back = product(rows, normal(hidden, hidden, unit, ++stream), hidden);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += back[i];
  }
  return layers;
}

}  // namespace sagegen::kv
