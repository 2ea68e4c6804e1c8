#include "tools/reference/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>

#include "tools/reference/heads.h"
#include "tools/reference/rounding.h"

namespace sagegen::reference {

namespace {

constexpr std::int64_t kRowPeriod = 8;  // rows of the score fragment that one thread steps over

}  // namespace

std::int64_t scale_index(std::int64_t row, const RowGrouping& grouping) {
  const std::int64_t run = row / grouping.group;
  switch (grouping.scales) {
    case QuantModel::Scales::per_thread:
      return run * kRowPeriod + row % grouping.group % kRowPeriod / grouping.divisor;
    case QuantModel::Scales::per_block:
      return run;
    case QuantModel::Scales::per_token:
      return row;
    case QuantModel::Scales::per_tensor:
      return 0;
  }
  return 0;
}

RowCodes quantize_rows(const std::vector<double>& data, std::int64_t channels, int bits,
                       const RowGrouping& grouping, const std::vector<double>& least_amax) {
  const double limit = bits == 4 ? 7.0 : 127.0;
  RowCodes out;
  out.channels = channels;
  out.rows = static_cast<std::int64_t>(data.size()) / channels;
  if (bits == kUnquantized) {
    out.codes = out.scaled = data;
    out.row_scale.assign(static_cast<std::size_t>(out.rows), 1.0);
    return out;
  }
  out.codes.resize(data.size());
  out.scaled.resize(data.size());
  out.row_scale.resize(static_cast<std::size_t>(out.rows));
  if (out.rows == 0) return out;

  std::vector<double> amax(
      static_cast<std::size_t>(scale_index(out.rows - 1, grouping) + kRowPeriod));
  for (std::int64_t r = 0; r < out.rows; ++r) {
    double& top = amax[static_cast<std::size_t>(scale_index(r, grouping))];
    if (!least_amax.empty()) top = std::max(top, least_amax[static_cast<std::size_t>(r)]);
    for (std::int64_t c = 0; c < channels; ++c) {
      top = std::max(top, std::fabs(data[static_cast<std::size_t>(r * channels + c)]));
    }
  }
  for (std::int64_t r = 0; r < out.rows; ++r) {
    const double top = amax[static_cast<std::size_t>(scale_index(r, grouping))];
    const double inverse = top > grouping.smallest ? limit / top : 0.0;
    out.row_scale[static_cast<std::size_t>(r)] = top / limit;
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto i = static_cast<std::size_t>(r * channels + c);
      out.scaled[i] = data[i] * inverse;
      out.codes[i] = std::nearbyint(out.scaled[i]);
    }
  }
  return out;
}

std::vector<double> channel_mean(const Tensor& tensor, std::int64_t batch, std::int64_t head) {
  std::vector<double> mean(static_cast<std::size_t>(tensor.channels), 0.0);
  for (std::int64_t n = 0; n < tensor.tokens; ++n) {
    const float* row = tensor.row(batch, head, n);
    for (std::int64_t c = 0; c < tensor.channels; ++c) mean[static_cast<std::size_t>(c)] += row[c];
  }
  for (double& value : mean) value /= static_cast<double>(tensor.tokens);
  return mean;
}

std::int64_t rotation_block(std::int64_t channels) {
  std::int64_t block = 1;
  while (channels % (2 * block) == 0) block *= 2;
  return block;
}

// Element (i, j) of a block's matrix is -1 to the number of bits that i and j have in common.
std::vector<double> rotated(const std::vector<double>& rows, std::int64_t channels) {
  const auto block = static_cast<std::size_t>(rotation_block(channels));
  const double norm = 1 / std::sqrt(static_cast<double>(block));
  std::vector<double> out(rows.size(), 0.0);
  for (std::size_t first = 0; first < rows.size(); first += block) {
    for (std::size_t i = 0; i < block; ++i) {
      for (std::size_t j = 0; j < block; ++j) {
        const bool minus = std::popcount(i & j) % 2 != 0;
        out[first + i] += (minus ? -norm : norm) * rows[first + j];
      }
    }
  }
  return out;
}

std::vector<double> to_quantize(std::vector<double> rows, std::int64_t channels,
                                const QuantModel& model) {
  return model.rotate ? rotated(rows, channels) : std::move(rows);
}

namespace {

RowGrouping grouping_of(const QuantModel& model, std::int64_t channels, int group,
                        std::int64_t divisor) {
  RowGrouping grouping{.group = group, .scales = model.scales, .divisor = divisor};
  if (model.rotate) grouping.smallest *= std::sqrt(static_cast<double>(rotation_block(channels)));
  return grouping;
}

}  // namespace

RowGrouping grouping_of_queries(const QuantModel& model, std::int64_t channels) {
  return grouping_of(model, channels, model.q_group, 1);
}
RowGrouping grouping_of_keys(const QuantModel& model, std::int64_t channels) {
  return grouping_of(model, channels, model.k_group, 2);
}

SmoothedQueries smooth_queries(std::vector<double> rows, std::int64_t channels, int bits,
                               bool rotate) {
  const double limit = bits == 4 ? 7.0 : 127.0;
  const double least =
      limit * limit / (0.98 * 0x1p22 - limit * limit * static_cast<double>(channels));
  const auto width = static_cast<std::size_t>(channels);
  const std::size_t count = rows.size() / width;
  SmoothedQueries out;
  for (std::size_t first = 0; first < count; first += kMeanRows) {
    const std::size_t last = std::min(first + kMeanRows, count);
    std::vector<double> means;
    for (std::size_t c = 0; c < width; ++c) {
      double sum = 0.0;
      for (std::size_t r = first; r < last; ++r) sum += rows[r * width + c];
      const double mean = sum / static_cast<double>(last - first);
      for (std::size_t r = first; r < last; ++r) rows[r * width + c] -= mean;
      means.push_back(mean);
    }
    out.means.insert(out.means.end(), means.begin(), means.end());
    double size = 0.0;
    for (const double mean : rotate ? rotated(means, channels) : means) size += std::fabs(mean);
    out.least_amax.insert(out.least_amax.end(), last - first, least * size);
  }
  out.rows = std::move(rows);
  return out;
}

RowOrder row_order(const Inputs& in, const QuantModel& model, std::int64_t head) {
  if (!model.packed_heads) return {};
  const std::int64_t sharing = in.q.heads / in.k.heads;
  return {.first = head % sharing, .step = sharing};
}

std::vector<double> query_rows(const Inputs& in, const QuantModel& model, std::int64_t batch,
                               std::int64_t head) {
  const RowOrder order = row_order(in, model, head);
  const std::int64_t first_head = head - order.first;
  std::vector<double> rows;
  rows.reserve(static_cast<std::size_t>(in.q.tokens * order.step * in.q.channels));
  for (std::int64_t token = 0; token < in.q.tokens; ++token) {
    for (std::int64_t h = first_head; h < first_head + order.step; ++h) {
      const float* row = in.q.row(batch, h, token);
      rows.insert(rows.end(), row, row + in.q.channels);
    }
  }
  return rows;
}

std::vector<double> smoothed_keys(const Tensor& k, std::int64_t batch, std::int64_t head,
                                  const QuantModel& model) {
  std::vector<double> keys = head_rows(k, batch, head);
  if (!model.smooth_k) return keys;
  const std::vector<double> mean = channel_mean(k, batch, head);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] -= mean[i % mean.size()];
  return keys;
}

std::vector<double> mean_scores(const double* mean, const std::vector<double>& keys,
                                std::int64_t channels) {
  std::vector<double> scores;
  for (std::size_t begin = 0; begin < keys.size(); begin += static_cast<std::size_t>(channels))
    scores.push_back(std::inner_product(mean, mean + channels,
                                        keys.begin() + static_cast<std::ptrdiff_t>(begin), 0.0));
  return scores;
}

double round_pv(QuantModel::Pv format, double x) {
  switch (format) {
    case QuantModel::Pv::exact:
      return x;
    case QuantModel::Pv::f16:
      return round_ieee(x, kF16);
    case QuantModel::Pv::bf16:
      return round_ieee(x, kBf16);
    case QuantModel::Pv::e4m3:
      return round_satfinite(x, kE4m3);
  }
  return x;
}

std::vector<double> value_mean(const Tensor& v, std::int64_t batch, std::int64_t head) {
  std::vector<double> mean = channel_mean(v, batch, head);
  for (std::size_t c = 0; c < mean.size(); ++c) {
    double least = v.row(batch, head, 0)[c], largest = least;
    for (std::int64_t n = 1; n < v.tokens; ++n) {
      const double value = v.row(batch, head, n)[c];
      least = std::min(least, value);
      largest = std::max(largest, value);
    }
    if (largest - least > std::numeric_limits<float>::max()) mean[c] = 0;
  }
  return mean;
}

ChannelCodes quantize_values(const Tensor& v, std::int64_t batch, std::int64_t head,
                             const QuantModel& model) {
  const auto channels = static_cast<std::size_t>(v.channels);
  ChannelCodes out;
  out.scale.assign(channels, 0.0);
  out.mean.assign(channels, 0.0);
  if (model.smooth_v && v.tokens > 0) out.mean = value_mean(v, batch, head);
  std::vector<double> inverse(channels, 1.0);
  if (model.v_scaled) {
    for (std::int64_t n = 0; n < v.tokens; ++n) {
      const float* row = v.row(batch, head, n);
      for (std::size_t c = 0; c < channels; ++c) {
        out.scale[c] = std::max(out.scale[c], std::fabs(row[c] - out.mean[c]));
      }
    }
    for (std::size_t c = 0; c < channels; ++c) {
      inverse[c] = out.scale[c] > kSmallestAmax ? model.v_max / out.scale[c] : 0.0;
      out.scale[c] /= model.v_max;
    }
  } else {
    out.scale.assign(channels, 1.0);
  }
  out.codes.resize(static_cast<std::size_t>(v.tokens) * channels);
  out.scaled.resize(out.codes.size());
  for (std::int64_t n = 0; n < v.tokens; ++n) {
    const float* row = v.row(batch, head, n);
    for (std::size_t c = 0; c < channels; ++c) {
      const std::size_t i = static_cast<std::size_t>(n) * channels + c;
      out.scaled[i] = (row[c] - out.mean[c]) * inverse[c];
      out.codes[i] = round_pv(model.pv, out.scaled[i]);
    }
  }
  return out;
}

}  // namespace sagegen::reference
