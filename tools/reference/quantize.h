// The codes of the quantization model, in double. Written from the description of the formats in
// SageAttention2 sections 3.1 to 3.3; tests compare the kernels' workspace with them.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/reference/reference.h"

namespace sagegen::reference {

// A group of rows, or a channel of V, whose largest |x| is this or less counts as zero: a part of
// the formats (README, "How accurate"), since the inverse of its scale would overflow f32.
inline constexpr double kSmallestAmax = 0x1p-100;

// QuantModel::qk_bits of Q and K that have no codes.
inline constexpr int kUnquantized = 16;

// Rows of one head quantized to symmetric integers: value = code * scale[group_of(row)].
struct RowCodes {
  std::int64_t rows = 0, channels = 0;
  std::vector<double> codes;      // [row, channel], whole numbers in [-limit, limit]
  std::vector<double> scaled;     // [row, channel], x / scale before rounding
  std::vector<double> row_scale;  // [row]: the scale that the row uses; 0 if its group is all zero
};

// Which rows share a scale. In every run of `group` rows, row r uses scale (r mod 8) / divisor of
// that run with per_thread; with per_block the run has one scale.
struct RowGrouping {
  std::int64_t group = 32;
  QuantModel::Scales scales = QuantModel::Scales::per_thread;
  std::int64_t divisor = 1;         // 1 for Q (8 scales), 2 for K (4 scales)
  double smallest = kSmallestAmax;  // of rotated rows: times sqrt(rotation_block())
};
RowGrouping grouping_of_queries(const QuantModel& model, std::int64_t channels);
RowGrouping grouping_of_keys(const QuantModel& model, std::int64_t channels);

// Which scale, of those of a head, row r uses: the same number for the same one.
std::int64_t scale_index(std::int64_t row, const RowGrouping& grouping);

// data: [row, channel]. bits: 8 or 4, scale = amax / 127 or amax / 7, nearest even; kUnquantized: codes are the data,
// scales 1. least_amax: [row], the same for
// all rows that share a scale; empty: 0.
RowCodes quantize_rows(const std::vector<double>& data, std::int64_t channels, int bits,
                       const RowGrouping& grouping, const std::vector<double>& least_amax = {});

// The rotation of QuantModel::rotate, of rows [row, channel]. to_quantize: the rows as they are if the model has none.
std::int64_t rotation_block(std::int64_t channels);
std::vector<double> rotated(const std::vector<double>& rows, std::int64_t channels);
std::vector<double> to_quantize(std::vector<double> rows, std::int64_t channels,
                                const QuantModel& model);

// Rows of queries less the mean m of each run of kMeanRows (the last run may be shorter). No scale of theirs is
// so small that m . key would leave the integer sums, which end at 2^22 units: in units of q scale * k scale it is
// at most limit * sum |m| / q scale, and the codes add limit^2 per channel. Two in a hundred are kept free.
inline constexpr std::int64_t kMeanRows = 128;
struct SmoothedQueries {
  std::vector<double> rows;        // [row, channel]
  std::vector<double> means;       // [run, channel]
  std::vector<double> least_amax;  // [row]
};
SmoothedQueries smooth_queries(std::vector<double> rows, std::int64_t channels, int bits,
                               bool rotate = false);  // |m| of rotated means
// Where the tokens of a head lie among the rows that are quantized together.
struct RowOrder {
  std::int64_t first = 0, step = 1;
  std::int64_t of(std::int64_t token) const { return first + token * step; }
};
RowOrder row_order(const Inputs& in, const QuantModel& model, std::int64_t head);
// These rows, [row, channel]: of one head of Q or, if the model packs heads, of all that share its head of K.
std::vector<double> query_rows(const Inputs& in, const QuantModel& model, std::int64_t batch,
                               std::int64_t head);
// Keys of one head less their mean, if the model smooths K.
std::vector<double> smoothed_keys(const Tensor& k, std::int64_t batch, std::int64_t head,
                                  const QuantModel& model);
// mean . key for every key, [key].
std::vector<double> mean_scores(const double* mean, const std::vector<double>& keys,
                                std::int64_t channels);

// Mean over all tokens of one head, per channel.
std::vector<double> channel_mean(const Tensor& tensor, std::int64_t batch, std::int64_t head);

// V of one head with one scale per channel: value = code * scale[channel] + mean[channel]. Without scaling the
// scale is 1.
struct ChannelCodes {
  std::vector<double> codes;   // [token, channel], on the grid of the format
  std::vector<double> scaled;  // [token, channel], before rounding
  std::vector<double> scale;   // [channel]; 0 if the channel is all zero
  std::vector<double> mean;  // [channel]; 0 without smoothing, and where differences are beyond f32
};
// What smoothing subtracts, [channel].
std::vector<double> value_mean(const Tensor& v, std::int64_t batch, std::int64_t head);
ChannelCodes quantize_values(const Tensor& v, std::int64_t batch, std::int64_t head,
                             const QuantModel& model);

// Rounds to the format of P and V; exact leaves the value as it is.
double round_pv(QuantModel::Pv format, double x);

}  // namespace sagegen::reference
