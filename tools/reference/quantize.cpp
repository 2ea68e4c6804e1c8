#include "tools/reference/quantize.h"

#include <algorithm>
#include <cmath>

#include "tools/reference/rounding.h"

namespace sagegen::reference {

namespace {

constexpr std::int64_t kRowPeriod = 8;  // rows of the score fragment that one thread steps over

std::int64_t scale_index(std::int64_t row, const RowGrouping& grouping) {
  const std::int64_t run = row / grouping.group;
  if (!grouping.per_thread) return run;
  return run * kRowPeriod + row % grouping.group % kRowPeriod / grouping.divisor;
}

}  // namespace

RowCodes quantize_rows(const std::vector<double>& data, std::int64_t channels, int bits,
                       const RowGrouping& grouping) {
  const double limit = bits == 4 ? 7.0 : 127.0;
  RowCodes out;
  out.channels = channels;
  out.rows = static_cast<std::int64_t>(data.size()) / channels;
  out.codes.resize(data.size());
  out.scaled.resize(data.size());
  out.row_scale.resize(static_cast<std::size_t>(out.rows));
  if (out.rows == 0) return out;

  std::vector<double> amax(
      static_cast<std::size_t>(scale_index(out.rows - 1, grouping) + kRowPeriod));
  for (std::int64_t r = 0; r < out.rows; ++r) {
    double& top = amax[static_cast<std::size_t>(scale_index(r, grouping))];
    for (std::int64_t c = 0; c < channels; ++c) {
      top = std::max(top, std::fabs(data[static_cast<std::size_t>(r * channels + c)]));
    }
  }
  for (std::int64_t r = 0; r < out.rows; ++r) {
    const double top = amax[static_cast<std::size_t>(scale_index(r, grouping))];
    const double inverse = top > kSmallestAmax ? limit / top : 0.0;
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

ChannelCodes quantize_values(const Tensor& v, std::int64_t batch, std::int64_t head,
                             const QuantModel& model) {
  const auto channels = static_cast<std::size_t>(v.channels);
  ChannelCodes out;
  out.scale.assign(channels, 0.0);
  std::vector<double> inverse(channels, 1.0);
  if (model.v_scaled) {
    for (std::int64_t n = 0; n < v.tokens; ++n) {
      const float* row = v.row(batch, head, n);
      for (std::size_t c = 0; c < channels; ++c) {
        out.scale[c] = std::max(out.scale[c], std::fabs(static_cast<double>(row[c])));
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
      out.scaled[i] = row[c] * inverse[c];
      out.codes[i] = round_pv(model.pv, out.scaled[i]);
    }
  }
  return out;
}

}  // namespace sagegen::reference
