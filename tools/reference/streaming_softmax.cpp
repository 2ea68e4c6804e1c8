#include "tools/reference/streaming_softmax.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "tools/reference/mod_list.h"

namespace sagegen::reference {

namespace {

constexpr std::int64_t kWidth = Panels::kPanelColumns;
constexpr std::int64_t kRowsAtOnce = 2;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// c[rows, 8] += a[rows, inner] * b[inner, 8]. Sums run in the order of `inner` whatever the vector
// width of the machine, so results do not depend on it.
template <std::int64_t rows>
void panel_product(const double* a, std::int64_t a_stride, const double* b, std::int64_t inner,
                   double* c, std::int64_t c_stride) {
  using Lanes =
      double __attribute__((vector_size(kWidth * sizeof(double)), aligned(sizeof(double))));
  Lanes sum[rows];
  for (std::int64_t r = 0; r < rows; ++r) std::memcpy(&sum[r], c + r * c_stride, sizeof(Lanes));
  for (std::int64_t i = 0; i < inner; ++i) {
    Lanes column;
    std::memcpy(&column, b + i * kWidth, sizeof(Lanes));
    for (std::int64_t r = 0; r < rows; ++r) sum[r] += a[r * a_stride + i] * column;
  }
  for (std::int64_t r = 0; r < rows; ++r) std::memcpy(c + r * c_stride, &sum[r], sizeof(Lanes));
}

void product(const double* a, std::int64_t a_stride, std::int64_t rows, const double* b,
             std::int64_t inner, double* c, std::int64_t c_stride) {
  std::int64_t r = 0;
  for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) {
    panel_product<kRowsAtOnce>(a + r * a_stride, a_stride, b, inner, c + r * c_stride, c_stride);
  }
  for (; r < rows; ++r)
    panel_product<1>(a + r * a_stride, a_stride, b, inner, c + r * c_stride, c_stride);
}

// Of query r, by key; null if it has none.
const double* starts_of(const Queries& queries, std::int64_t r) {
  if (queries.starts.empty()) return nullptr;
  const std::int64_t run = queries.start_run[static_cast<std::size_t>(r)];
  return queries.starts[static_cast<std::size_t>(run)].data();
}

// As far as they are one range.
KeySpan visible_keys(std::int64_t query, std::int64_t key_count, const SoftmaxOptions& options) {
  if (options.mods) return options.mods->keys_of(query);
  return {0, options.causal ? causal_keys(query, options.causal_offset, key_count) : key_count};
}

// Scores of keys from place.key on, in base 2, become what mods make of them; -infinity if hidden.
// Whether any is not.
bool modify(const ModList& mods, Place place, double shift, double* scores, std::int64_t count) {
  bool any = false;
  for (std::int64_t j = 0; j < count; ++j, ++place.key) {
    if (mods.hides(place)) {
      scores[j] = -kInfinity;
      continue;
    }
    if (mods.change_scores()) {
      const double score = scores[j] * std::numbers::ln2 + shift;
      scores[j] = mods.changed(place, score) * std::numbers::log2e;
    }
    any |= scores[j] > -kInfinity;
  }
  return any;
}

// One tile of one row: updates maximum and sum, turns scores into probabilities, zero where masked.
// Returns the factor that brings earlier results to the new maximum.
double softmax_step(double* scores, std::int64_t visible, std::int64_t tile,
                    const SoftmaxOptions& options, double& maximum, double& sum) {
  double top = maximum;
  double of_tile = -kInfinity;
  for (std::int64_t j = 0; j < visible; ++j) of_tile = std::max(of_tile, scores[j]);
  if (of_tile > maximum + options.maximum_slack)
    top = std::max(top, on_grid(of_tile, options.p_max, options.maximum_step));
  for (std::int64_t j = 0; j < visible; ++j) {
    scores[j] = std::exp2(scores[j] - top) * options.p_max;
  }
  if (options.round_p) options.round_p(scores, visible);
  double tile_sum = 0.0;
  for (std::int64_t j = 0; j < visible; ++j) tile_sum += scores[j];
  std::fill(scores + visible, scores + tile, 0.0);
  const double factor = maximum == -kInfinity ? 0.0 : std::exp2(maximum - top);
  sum = sum * factor + tile_sum;
  maximum = top;
  return factor;
}

}  // namespace

Panels::Panels(std::int64_t row_count, std::int64_t column_count)
    : rows(row_count),
      columns(column_count),
      data(static_cast<std::size_t>(padded_columns() * row_count)) {}

std::int64_t causal_keys(std::int64_t query, std::int64_t causal_offset, std::int64_t key_count) {
  // Offsets far beyond either end mean all or nothing; clamping them first keeps the sum in range.
  const std::int64_t limit = std::int64_t{1} << 40;
  const std::int64_t offset = std::clamp(causal_offset, -limit, limit);
  return std::clamp<std::int64_t>(query + offset + 1, 0, key_count);
}

double rounded_start(double start, double unit) {
  return unit < kLeastUnit ? start : std::nearbyint(start / unit) * unit;
}

double on_grid(double maximum, double p_max, double step) {
  if (step == 0 || std::fabs(maximum) >= 0x1p22 * step) return maximum;
  const double offset = std::log2(p_max);
  return std::ceil((maximum - offset) / step) * step + offset;
}

void attend(const Queries& queries, const KeyValues& kv, std::int64_t first, std::int64_t last,
            const SoftmaxOptions& options, double* o, double* lse) {
  const std::int64_t rows = last - first;
  const std::int64_t channels = queries.channels, value_channels = kv.values.columns;
  const std::int64_t key_count = kv.values.rows;
  const std::int64_t tile = options.tile_keys;
  const std::int64_t o_stride = kv.values.padded_columns();
  std::vector<double> scores(static_cast<std::size_t>(rows * tile));
  std::vector<double> sums(static_cast<std::size_t>(rows * o_stride));
  std::vector<double> maximum(static_cast<std::size_t>(rows), -kInfinity);
  std::vector<double> row_sum(static_cast<std::size_t>(rows), 0.0);

  const double* q = queries.rows.data() + first * channels;
  const ModList* const mods = options.mods;
  std::vector<KeySpan> spans;
  std::int64_t start = key_count, end = 0;
  for (std::int64_t r = first; r < last; ++r) {
    const std::int64_t position = queries.position[static_cast<std::size_t>(r)];
    const KeySpan seen = spans.emplace_back(visible_keys(position, key_count, options));
    if (seen.begin >= seen.end) continue;
    start = std::min(start, seen.begin);
    end = std::max(end, seen.end);
  }
  const bool with_shift = mods && !mods->keep_differences();
  const auto shift_of = [&](std::int64_t r) {
    return queries.lse_shift[static_cast<std::size_t>(first + r)];
  };
  const double sink = mods ? mods->sink(queries.batch, queries.head) : -kInfinity;
  for (std::int64_t r = 0; r < rows && sink > -kInfinity; ++r) {
    const double score = with_shift ? sink : sink - shift_of(r);
    const double base2 = score * std::numbers::log2e;
    const double top = on_grid(base2, options.p_max, options.maximum_step);
    maximum[static_cast<std::size_t>(r)] = top;
    row_sum[static_cast<std::size_t>(r)] = options.p_max * std::exp2(base2 - top);
  }
  for (std::int64_t begin = start / tile * tile; begin < end; begin += tile) {
    const std::int64_t keys = std::min(tile, key_count - begin);
    std::fill(scores.begin(), scores.end(), 0.0);
    for (std::int64_t j = 0; j < keys; j += kWidth) {
      product(q, channels, rows, kv.keys.data.data() + (begin + j) * channels, channels,
              scores.data() + j, tile);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      double* row = scores.data() + r * tile;
      const KeySpan seen = spans[static_cast<std::size_t>(r)];
      const std::int64_t visible = std::clamp<std::int64_t>(seen.end - begin, 0, keys);
      const std::int64_t unseen = std::clamp<std::int64_t>(seen.begin - begin, 0, visible);
      const double scale = queries.scale[static_cast<std::size_t>(first + r)];
      const double* const starts = starts_of(queries, first + r);
      for (std::int64_t j = unseen; j < visible; ++j) {
        const double unit = scale * kv.key_scale[static_cast<std::size_t>(begin + j)];
        row[j] *= unit;
        if (!starts) continue;
        const double of_mean = starts[begin + j];
        row[j] += queries.whole_starts ? rounded_start(of_mean, unit) : of_mean;
      }
      bool any = unseen < visible;
      if (any && mods) {
        std::fill(row, row + unseen, -kInfinity);
        const std::int64_t token = queries.position[static_cast<std::size_t>(first + r)];
        any = modify(*mods, {queries.batch, queries.head, token, begin + unseen},
                     with_shift ? shift_of(r) : 0.0, row + unseen, visible - unseen);
      }
      if (!any) {
        std::fill(row, row + tile, 0.0);
        continue;
      }
      const double factor =
          softmax_step(row, visible, tile, options, maximum[static_cast<std::size_t>(r)],
                       row_sum[static_cast<std::size_t>(r)]);
      double* sum = sums.data() + r * o_stride;
      for (std::int64_t c = 0; c < o_stride; ++c) sum[c] *= factor;
    }
    for (std::int64_t c = 0; c < o_stride; c += kWidth) {
      product(scores.data(), tile, rows, kv.values.data.data() + c * key_count + begin * kWidth,
              keys, sums.data() + c, o_stride);
    }
  }

  for (std::int64_t r = 0; r < rows; ++r) {
    const double top = maximum[static_cast<std::size_t>(r)];
    const double total = row_sum[static_cast<std::size_t>(r)];
    double of_keys = 1;
    if (sink > -kInfinity) {
      const double base2 = (with_shift ? sink : sink - shift_of(r)) * std::numbers::log2e;
      of_keys = 1 - options.p_max * std::exp2(base2 - top) / total;
    }
    const bool is_empty = mods ? top == -kInfinity : spans[static_cast<std::size_t>(r)].end == 0;
    for (std::int64_t c = 0; c < value_channels; ++c) {
      double& out = o[r * value_channels + c];
      out = is_empty ? 0.0
                     : sums[static_cast<std::size_t>(r * o_stride + c)] *
                           (kv.value_scale[static_cast<std::size_t>(c)] / total);
      if (!is_empty && !kv.value_mean.empty())
        out += kv.value_mean[static_cast<std::size_t>(c)] * of_keys;
    }
    const double shift = with_shift ? 0.0 : shift_of(r);
    lse[r] =
        is_empty ? -kInfinity : top * std::numbers::ln2 + std::log(total / options.p_max) + shift;
  }
}

}  // namespace sagegen::reference
