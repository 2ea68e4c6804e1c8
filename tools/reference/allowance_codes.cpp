#include "tools/reference/allowance_codes.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "tools/reference/heads.h"
#include "tools/reference/quantize.h"
#include "tools/reference/rounding.h"

namespace sagegen::reference::bounds {

namespace {

constexpr double kCodeRounding = 0x1p-21;  // as in the header of allowance.h
// Of a fused sum of products of 16 bits along the channels.
constexpr std::int64_t kFused = 16;
constexpr double kCut = 18 * 0x1p-23;

Codes no_codes(std::int64_t rows, std::int64_t channels) {
  return {.channels = channels,
          .codes = {},
          .step = std::vector<double>(index(rows), 1.0),
          .undecided = std::vector<std::vector<int>>(index(rows))};
}

// width(row, channel): how far from the middle between two codes the kernel may decide otherwise.
template <typename Width>
Codes take_codes(RowCodes rows, const Width& width) {
  Codes out{.channels = rows.channels,
            .codes = {rows.codes.begin(), rows.codes.end()},
            .step = std::move(rows.row_scale),
            .undecided = std::vector<std::vector<int>>(index(rows.rows))};
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    for (std::int64_t c = 0; c < rows.channels; ++c) {
      const double x = std::fabs(rows.scaled[index(r * rows.channels + c)]);
      const double to_middle = std::fabs(x - std::floor(x) - 0.5);
      if (to_middle <= width(r, c, x)) out.undecided[index(r)].push_back(static_cast<int>(c));
    }
  }
  return out;
}

// How far f32 may take rows off that are quantized: [row, channel]; and at most in the rows that share a scale, [row].
struct RowErrors {
  std::int64_t channels = 0;
  std::vector<double> off, worst;
  double of(std::int64_t row, std::int64_t channel) const {
    return off[index(row * channels + channel)];
  }
};

// rows: before they are rotated. of_mean(row, channel): how far their mean may be off. 16. of the header.
template <typename OfMean>
RowErrors row_errors(const std::vector<double>& rows, std::int64_t channels, const QuantModel& m,
                     const RowGrouping& grouping, const OfMean& of_mean) {
  const std::int64_t count = static_cast<std::int64_t>(rows.size()) / channels;
  RowErrors errors{.channels = channels, .off = std::vector<double>(rows.size()), .worst = {}};
  const std::int64_t block = m.rotate ? rotation_block(channels) : 1;
  const double norm = 1 / std::sqrt(static_cast<double>(block));
  const double rounding = m.rotate ? (2 + std::log2(static_cast<double>(block))) * 0x1p-24 : 0;
  std::vector<double> worst;  // by scale
  for (std::int64_t r = 0; r < count; ++r) {
    const auto scale = index(scale_index(r, grouping));
    if (worst.size() <= scale) worst.resize(scale + 1, 0.0);
    for (std::int64_t first = 0; first < channels; first += block) {
      double off = 0;
      for (std::int64_t c = first; c < first + block; ++c)
        off += of_mean(r, c) + rounding * std::fabs(rows[index(r * channels + c)]);
      off *= norm;
      std::fill_n(errors.off.begin() + r * channels + first, block, off);
      worst[scale] = std::max(worst[scale], off);
    }
  }
  for (std::int64_t r = 0; r < count; ++r)
    errors.worst.push_back(worst[index(scale_index(r, grouping))]);
  return errors;
}

void take_keys(Head& head, const Inputs& in, const QuantModel& m, std::int64_t b, std::int64_t h) {
  const std::int64_t n = in.k.tokens, channels = in.k.channels;
  std::vector<double> keys = head_rows(in.k, b, h);
  head.mean.assign(index(channels), 0.0);
  head.mean_error = head.mean;
  if (m.qk_bits == kUnquantized) {
    head.keys = no_codes(n, channels);
    head.key_slack.assign(index(n), 0.0);
    head.key_scale_error = head.key_slack;
    return;
  }
  if (m.smooth_k) {
    head.mean = channel_mean(in.k, b, h);
    head.mean_error = mean_error(in.k, b, h);
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] -= head.mean[i % head.mean.size()];
  }
  const RowGrouping grouping = grouping_of_keys(m, channels);
  const RowErrors errors =
      row_errors(keys, channels, m, grouping,
                 [&](std::int64_t, std::int64_t c) { return head.mean_error[index(c)]; });
  RowCodes rows =
      quantize_rows(to_quantize(std::move(keys), channels, m), channels, m.qk_bits, grouping);
  const double limit = m.qk_bits == 4 ? 7 : 127;
  const std::vector<double> step = rows.row_scale;
  head.keys = take_codes(std::move(rows), [&](std::int64_t r, std::int64_t c, double x) {
    const double of_mean = errors.of(r, c) + errors.worst[index(r)] * x / limit;
    return of_mean > 0 ? x * kCodeRounding + of_mean / step[index(r)] : x * kCodeRounding;
  });
  head.key_slack.resize(index(n));
  head.key_scale_error.resize(index(n));
  for (std::size_t j = 0; j < step.size(); ++j) {
    const double worst = errors.worst[j];
    head.key_slack[j] = step[j] + 4 * worst;
    const double amax = limit * step[j];
    head.key_scale_error[j] = worst > 0 && amax > worst ? worst / amax : 0;
    if (worst == 0 || amax > 4 * worst) continue;
    // The group is all rounding error: no code of it is decided.
    head.all_undecided = true;
    head.keys.undecided[j].resize(index(channels));
    for (std::int64_t c = 0; c < channels; ++c)
      head.keys.undecided[j][index(c)] = static_cast<int>(c);
  }
}

void take_values(Head& head, const Inputs& in, const QuantModel& m, std::int64_t b,
                 std::int64_t h) {
  const std::int64_t n = in.v.tokens, channels = in.v.channels;
  ChannelCodes v = quantize_values(in.v, b, h, m);
  if (m.smooth_v) {
    head.value_mean = v.mean;
    head.value_mean_error = value_mean_error(in.v, b, h, m.output);
    for (std::size_t c = 0; c < v.scale.size(); ++c) {
      const double amax = v.scale[c] * m.v_max, off = head.value_mean_error[c];
      head.value_scale_error.push_back(amax > 0 ? std::min(off / amax, 1.0) : 0);
    }
  }
  head.values = Panels(n, channels);
  head.largest_value = Panels((n + kFusedKeys - 1) / kFusedKeys, channels);
  const double least = smallest_normal(m.pv);
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const double code = v.codes[index(j * channels + c)];
      head.values.at(j, c) = code;
      double& largest = head.largest_value.at(j / kFusedKeys, c);
      largest = std::max({largest, std::fabs(code), least});
      if (!m.v_scaled) continue;
      const double x = v.scaled[index(j * channels + c)];
      double off = std::fabs(x) * kCodeRounding;
      if (m.smooth_v && v.scale[index(c)] > 0) {
        off += std::fabs(x) * head.value_scale_error[index(c)] +
               head.value_mean_error[index(c)] / v.scale[index(c)];
        off = std::min(off, 2 * m.v_max);  // no code is larger
      }
      const double step = round_pv(m.pv, x + off) - round_pv(m.pv, x - off);
      if (step != 0) head.undecided_values.push_back({j, c, std::fabs(step)});
    }
  }
  head.value_scale = std::move(v.scale);
}

}  // namespace

std::vector<double> mean_error(const Tensor& tensor, std::int64_t b, std::int64_t h) {
  std::vector<double> error(index(tensor.channels), 0.0);
  const auto keys = static_cast<double>(tensor.tokens), additions = keys / 256 + 64;
  for (std::int64_t j = 0; j < tensor.tokens; ++j) {
    for (std::size_t c = 0; c < error.size(); ++c)
      error[c] += additions * 0x1p-24 / keys * std::fabs(tensor.row(b, h, j)[c]);
  }
  return error;
}

std::vector<double> value_mean_error(const Tensor& v, std::int64_t b, std::int64_t h, IoType io) {
  std::vector<double> error = mean_error(v, b, h);
  if (io == IoType::bf16) {
    for (double& of_channel : error) of_channel += 0x1p-118;
  }
  return error;
}

double half_step(QuantModel::Pv format) {
  return format == QuantModel::Pv::e4m3 ? 0x1p-4 : format == QuantModel::Pv::f16 ? 0x1p-11 : 0x1p-8;
}

// Of bf16, that of f32, below which f32 is 0.
double half_least(QuantModel::Pv format) {
  return format == QuantModel::Pv::e4m3  ? 0x1p-10
         : format == QuantModel::Pv::f16 ? 0x1p-25
                                         : 0x1p-126;
}

double smallest_normal(QuantModel::Pv format) {
  return format == QuantModel::Pv::e4m3  ? 0x1p-6
         : format == QuantModel::Pv::f16 ? 0x1p-14
                                         : 0x1p-126;
}

// 12. of the header.
Product product_of(const float* q, const float* k, std::int64_t channels, IoType io) {
  const double least = power_of_two(format_of(io).min_exponent);
  Product product;
  for (std::int64_t first = 0; first < channels; first += kFused) {
    double largest = std::fabs(product.sum);
    const std::int64_t last = std::min(first + kFused, channels);
    for (std::int64_t c = first; c < last; ++c) {
      const double a = q[c], b = k[c];
      product.sum += a * b;
      largest = std::max(largest, std::max(std::fabs(a), least) * std::max(std::fabs(b), least));
      if ((c + 1) % (kFused / 2) == 0) largest = std::max(largest, std::fabs(product.sum));
    }
    product.cut += kCut * std::max(largest, std::fabs(product.sum));
  }
  return product;
}

Head head_codes(const Inputs& in, const QuantModel& m, std::int64_t batch, std::int64_t kv_head) {
  Head head;
  head.number = kv_head;
  take_keys(head, in, m, batch, kv_head);
  take_values(head, in, m, batch, kv_head);
  return head;
}

namespace {

// Of the sums of 128 rows: sixteen, then eight, then the quotient.
constexpr double kMeanAdditions = 26 * 0x1p-24;

// What fused sums of 16 products cut from mean . key: at the end of each, or after half of it, and of its largest term.
double cut_of_sums(const double* mean, const double* key, std::int64_t channels) {
  constexpr int kProducts = 3;  // high * high, high * low, low * high: the same sum goes on
  double sum = 0, cut = 0;
  for (std::int64_t first = 0; first < channels; first += kFused) {
    double largest = std::fabs(sum);
    for (std::int64_t c = first; c < std::min(first + kFused, channels); ++c) {
      sum += mean[c] * key[c];
      largest = std::max(largest, std::fabs(mean[c] * key[c]));
      if (c % (kFused / 2) == kFused / 2 - 1) largest = std::max(largest, std::fabs(sum));
    }
    cut += kProducts * kCut * largest;
  }
  return cut;
}

// 11. of the header. mean, mean_error: [channel]. keys: smoothed ones.
Starts take_starts(const Inputs& in, const QuantModel& m, const Head& head,
                   const std::vector<double>& keys, const double* mean, const double* mean_error) {
  const double scale = base2_scale(in);
  const bool bf16 = m.output == IoType::bf16;
  const double split = 3 * (bf16 ? 0x1p-17 : 0x1p-22);
  const double least_mean = bf16 ? 0x1p-133 / scale : 0x1p-25,
               least_key = bf16 ? 0x1p-133 : 0x1p-24;
  Starts starts{.score = mean_scores(mean, keys, in.k.channels), .error = {}};
  for (std::int64_t j = 0; j < in.k.tokens; ++j) {
    const double* const key = keys.data() + j * in.k.channels;
    double off = cut_of_sums(mean, key, in.k.channels);
    for (std::int64_t c = 0; c < in.k.channels; ++c) {
      off += (mean_error[c] + split * std::fabs(mean[c]) + least_mean) * std::fabs(key[c]) +
             (head.mean_error[index(c)] + least_key) * std::fabs(mean[c]);
    }
    double& score = starts.score[index(j)];
    score *= scale;
    starts.error.push_back(scale * off + 0x1p-20 * std::fabs(score));
  }
  return starts;
}

}  // namespace

QueryCodes query_codes(const Inputs& in, const QuantModel& m, std::int64_t b, std::int64_t h,
                       const std::vector<std::int64_t>& chosen, const Head& of_keys) {
  const std::int64_t channels = in.q.channels;
  const RowGrouping grouping = grouping_of_queries(m, channels);
  const RowOrder order = row_order(in, m, h);
  const std::int64_t row_count = in.q.tokens * order.step;
  if (m.qk_bits == kUnquantized) return {no_codes(row_count, channels), {}, {}, order};
  std::vector<double> rows = query_rows(in, m, b, h);
  if (!m.smooth_q && !m.rotate) {
    return {take_codes(quantize_rows(rows, channels, m.qk_bits, grouping),
                       [](std::int64_t, std::int64_t, double x) { return x * kCodeRounding; }),
            {},
            {},
            order};
  }
  // What f32 makes of the means: [run, channel].
  const std::int64_t runs = (row_count + kMeanRows - 1) / kMeanRows;
  std::vector<double> mean_error(index(runs * channels), 0.0);
  for (std::size_t i = 0; m.smooth_q && i < rows.size(); ++i) {
    const std::int64_t row = static_cast<std::int64_t>(i) / channels, run = row / kMeanRows;
    const auto count = static_cast<double>(std::min(kMeanRows, row_count - run * kMeanRows));
    mean_error[index(run * channels + static_cast<std::int64_t>(i) % channels)] +=
        kMeanAdditions * std::fabs(rows[i]) / count;
  }
  SmoothedQueries smoothed{.rows = std::move(rows), .means = {}, .least_amax = {}};
  if (m.smooth_q)
    smoothed = smooth_queries(std::move(smoothed.rows), channels, m.qk_bits, m.rotate);
  const RowErrors errors =
      row_errors(smoothed.rows, channels, m, grouping, [&](std::int64_t r, std::int64_t c) {
        return mean_error[index(r / kMeanRows * channels + c)];
      });
  RowCodes codes = quantize_rows(to_quantize(std::move(smoothed.rows), channels, m), channels,
                                 m.qk_bits, grouping, smoothed.least_amax);
  const double limit = m.qk_bits == 4 ? 7 : 127;
  const std::vector<double> step = codes.row_scale;
  QueryCodes out{take_codes(std::move(codes),
                            [&](std::int64_t r, std::int64_t c, double x) {
                              const double of_mean =
                                  errors.of(r, c) + errors.worst[index(r)] * x / limit;
                              return of_mean > 0 ? x * kCodeRounding + of_mean / step[index(r)]
                                                 : x * kCodeRounding;
                            }),
                 {},
                 {},
                 order};
  for (std::int64_t r = 0; r < row_count; ++r) {
    const double amax = limit * step[index(r)], off = errors.worst[index(r)];
    out.scale_error.push_back(off > 0 ? std::min(off / amax, 1.0) : 0.0);
  }
  if (!m.smooth_q) return out;
  out.starts.resize(index(runs));
  const std::int64_t kv_head = h / (in.q.heads / in.k.heads);
  const std::vector<double> keys = smoothed_keys(in.k, b, kv_head, m);
  for (const std::int64_t token : chosen) {
    const std::int64_t run = order.of(token) / kMeanRows;
    if (!out.starts[index(run)].score.empty()) continue;
    out.starts[index(run)] =
        take_starts(in, m, of_keys, keys, smoothed.means.data() + run * channels,
                    mean_error.data() + run * channels);
  }
  return out;
}

}  // namespace sagegen::reference::bounds
