#include "tools/reference/judge.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "tools/reference/allowance_codes.h"
#include "tools/reference/heads.h"
#include "tools/reference/mod_list.h"
#include "tools/reference/quantize.h"
#include "tools/reference/rounding.h"
#include "tools/reference/streaming_softmax.h"

namespace sagegen::reference {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A number in [0, count), the same on every machine.
std::int64_t draw(std::mt19937_64& random, std::int64_t count) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(count));
}

// `wanted` of [0, count), at random.
std::vector<std::int64_t> choose(std::mt19937_64& random, std::int64_t wanted, std::int64_t count) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  for (std::int64_t i = 0; i < wanted; ++i) {
    std::swap(all[static_cast<std::size_t>(i)],
              all[static_cast<std::size_t>(i + draw(random, count - i))]);
  }
  all.resize(static_cast<std::size_t>(wanted));
  return all;
}

// `wanted` <= tokens: at most half of them at edges.
std::vector<std::int64_t> sample_of_head(std::mt19937_64& random, std::int64_t wanted,
                                         std::int64_t tokens, std::int64_t tile_rows) {
  const std::int64_t last_tile = (tokens - 1) / tile_rows * tile_rows;
  std::vector<std::int64_t> chosen;
  for (const std::int64_t edge :
       {tokens - 1, std::int64_t{0}, last_tile, last_tile - 1, tile_rows - 1, tile_rows}) {
    const bool is_new = std::find(chosen.begin(), chosen.end(), edge) == chosen.end();
    const bool is_room = static_cast<std::int64_t>(chosen.size()) < (wanted + 1) / 2;
    if (edge >= 0 && edge < tokens && is_new && is_room) chosen.push_back(edge);
  }
  const auto edges = static_cast<std::ptrdiff_t>(chosen.size());
  for (const std::int64_t token : choose(random, wanted, tokens)) {
    if (static_cast<std::int64_t>(chosen.size()) == wanted) break;
    if (std::find(chosen.begin(), chosen.begin() + edges, token) == chosen.begin() + edges)
      chosen.push_back(token);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

Judged judged(std::int64_t row, std::int64_t channel, double got, double model, double bound) {
  Judged j{.row = row, .channel = channel, .got = got, .model = model, .bound = bound};
  if (got == model) return j;  // equal infinities, too
  const double off = std::fabs(got - model) / bound;
  j.of_bound = std::isnan(off) || !std::isfinite(bound) ? kInfinity : off;
  return j;
}

void keep_worst(Judged& worst, const Judged& one) {
  if (one.of_bound > worst.of_bound) worst = one;
}

// What elements of O of one channel may be, for the keys seen so far.
struct Range {
  double least = kInfinity, largest = -kInfinity;  // of V
  double low = 0, high = 0;                        // of O
};

// The ranges of the channels of one head, as more and more keys are seen.
class Ranges {
 public:
  Ranges(const Inputs& in, const QuantModel& m, const DeviceArithmetic& arithmetic,
         std::int64_t batch, std::int64_t head)
      : in_(in),
        m_(m),
        arithmetic_(arithmetic),
        batch_(batch),
        head_(head),
        ranges_(static_cast<std::size_t>(in.v.channels)),
        mean_(ranges_.size(), 0.0),
        mean_error_(ranges_.size(), 0.0),
        amax_(ranges_.size(), 0.0) {
    if (m.smooth_v) {
      mean_ = value_mean(in.v, batch, head);
      mean_error_ = bounds::value_mean_error(in.v, batch, head, m.output);
    }
    for (std::int64_t n = 0; n < in.v.tokens; ++n) {
      const float* row = in.v.row(batch, head, n);
      for (std::size_t c = 0; c < amax_.size(); ++c)
        amax_[c] = std::max(amax_[c], std::fabs(row[c] - mean_[c]));
    }
  }

  const std::vector<Range>& of(std::int64_t visible) {
    if (visible <= seen_) return ranges_;
    for (; seen_ < visible; ++seen_) include(ranges_, seen_);
    const double cut = cut_of(visible), least = rounded_least(visible);
    for (std::size_t c = 0; c < ranges_.size(); ++c) widen(ranges_[c], c, cut, least);
    return ranges_;
  }

  // Of keys begin to end - 1 and, if `zero`, a weight without V.
  const std::vector<Range>& of(KeySpan keys, bool zero) {
    if (keys.begin == keys_.begin && keys.end == keys_.end) return ranges_;
    keys_ = keys;
    ranges_.assign(ranges_.size(), {});
    for (std::int64_t n = keys.begin; n < keys.end;) {
      const bool whole = n % kTile == 0 && n + kTile <= keys.end;
      if (whole) {
        const std::vector<Range>& tile = tile_ranges(n / kTile);
        for (std::size_t c = 0; c < ranges_.size(); ++c) {
          ranges_[c].least = std::min(ranges_[c].least, tile[c].least);
          ranges_[c].largest = std::max(ranges_[c].largest, tile[c].largest);
        }
      } else {
        include(ranges_, n);
      }
      n += whole ? kTile : 1;
    }
    const std::int64_t walked = keys.end - keys.begin + m_.tile_keys;
    const double cut = cut_of(walked), least = rounded_least(walked);
    for (std::size_t c = 0; c < ranges_.size(); ++c) {
      const double slack = widen(ranges_[c], c, cut, least);
      if (!zero) continue;
      const double beside_zero =
          m_.smooth_v ? slack : 0;  // what is left of V and the mean come to it
      ranges_[c].low = std::min(ranges_[c].low, -beside_zero);
      ranges_[c].high = std::max(ranges_[c].high, beside_zero);
    }
    return ranges_;
  }

 private:
  static constexpr std::int64_t kTile = 64;

  void include(std::vector<Range>& ranges, std::int64_t key) const {
    const float* row = in_.v.row(batch_, head_, key);
    for (std::size_t c = 0; c < ranges.size(); ++c) {
      ranges[c].least = std::min(ranges[c].least, static_cast<double>(row[c]));
      ranges[c].largest = std::max(ranges[c].largest, static_cast<double>(row[c]));
    }
  }

  const std::vector<Range>& tile_ranges(std::int64_t tile) {
    for (auto t = static_cast<std::int64_t>(tiles_.size()); t <= tile; ++t) {
      std::vector<Range>& ranges = tiles_.emplace_back(ranges_.size());
      const std::int64_t end = std::min((t + 1) * kTile, in_.v.tokens);
      for (std::int64_t n = t * kTile; n < end; ++n) include(ranges, n);
    }
    return tiles_[static_cast<std::size_t>(tile)];
  }

  // The least that f16 rounds sums of a tile by, of all tiles, in codes of V: beside a mean that is added it shows.
  double rounded_least(std::int64_t visible) const {
    const double runs =
                     static_cast<double>((std::min<std::int64_t>(visible, m_.tile_keys) + 7) / 8),
                 tiles = static_cast<double>((visible + m_.tile_keys - 1) / m_.tile_keys);
    return arithmetic_.half_roundings * runs * tiles * 0x1p-25 * 2 / m_.p_max;
  }

  // Section 6 of allowance.h with all terms as large as the largest, for P V and for the sum of P.
  double cut_of(std::int64_t visible) const {
    const std::int64_t summed =
        arithmetic_.two_level ? std::min<std::int64_t>(visible, m_.tile_keys) : visible;
    const double fused = static_cast<double>((summed + 15) / 16);
    const double tiles = static_cast<double>((visible + m_.tile_keys - 1) / m_.tile_keys);
    const double rounded = arithmetic_.half_roundings * static_cast<double>((summed + 7) / 8);
    return 2 *
           (18 * std::ldexp(fused, -arithmetic_.sum_bits) + rounded * 0x1p-11 + tiles * 0x1p-23);
  }

  // Returns by how much.
  double widen(Range& range, std::size_t c, double cut, double least) const {
    const double low = dequantized(range.least, c, -1), high = dequantized(range.largest, c, 1);
    const double left = std::max(std::fabs(low - mean_[c]), std::fabs(high - mean_[c]));
    const double of_mean = m_.smooth_v ? least * amax_[c] / m_.v_max +
                                             0x1p-22 * std::fabs(mean_[c]) + 3 * mean_error_[c]
                                       : 0;
    const double slack = (cut + 0x1p-20) * left + 0x1p-126 + of_mean;
    if (m_.output_codes !=
        QuantModel::OutputCodes::none) {  // of s8, the row adds half of a code of its own
      const double end = largest_output(m_);
      range.low = std::clamp(low - slack, -end, end);
      range.high = std::clamp(high + slack, -end, end);
      if (m_.output_codes == QuantModel::OutputCodes::e4m3) {
        range.low -= half_output_step(m_, std::fabs(range.low), 0);
        range.high += half_output_step(m_, std::fabs(range.high), 0);
      }
      return slack;
    }
    const Format format = format_of(m_.output);
    range.low = round_satfinite(low - slack, format);
    range.high = round_satfinite(high + slack, format);
    return slack;
  }

  // The code that V gets, or the one beside it if f32 arithmetic may decide so.
  double dequantized(double v, std::size_t c, int direction) const {
    if (!m_.v_scaled) return v;
    if (amax_[c] <= kSmallestAmax) return mean_[c];
    const double scaled = (v - mean_[c]) * (m_.v_max / amax_[c]);
    const double of_mean = mean_error_[c] / amax_[c] * (std::fabs(scaled) + m_.v_max);
    const double off = std::min(std::fabs(scaled) * 0x1p-21 + of_mean, 2 * m_.v_max);
    return mean_[c] + round_pv(m_.pv, scaled + direction * off) * (amax_[c] / m_.v_max);
  }

  const Inputs& in_;
  const QuantModel& m_;
  const DeviceArithmetic& arithmetic_;
  const std::int64_t batch_, head_;
  std::int64_t seen_ = 0;
  KeySpan keys_;
  std::vector<std::vector<Range>> tiles_;
  std::vector<Range> ranges_;
  std::vector<double> mean_, mean_error_;  // of smoothed V, by channel
  std::vector<double> amax_;
};

// From the first key that a query sees to the last one; empty if there is none.
KeySpan seen_keys(const ModList& mods, Place place) {
  KeySpan keys = mods.keys_of(place.query);
  if (mods.empty()) return keys;
  const auto sees = [&](std::int64_t key) {
    place.key = key;
    return mods.sees(place);
  };
  while (keys.begin < keys.end && !sees(keys.begin)) ++keys.begin;
  while (keys.begin < keys.end && !sees(keys.end - 1)) --keys.end;
  return keys;
}

}  // namespace

RowNumbers sample_rows(const Inputs& in, std::int64_t count, std::int64_t tile_rows,
                       std::uint64_t seed) {
  const std::int64_t heads = in.q.batch * in.q.heads, tokens = in.q.tokens;
  if (count >= heads * tokens) return all_rows(in);
  std::mt19937_64 random(seed);
  // Of more heads than rows, some get one row; else all get their share.
  std::vector<std::int64_t> wanted(static_cast<std::size_t>(heads), count / heads);
  for (const std::int64_t head : choose(random, count % heads, heads))
    ++wanted[static_cast<std::size_t>(head)];
  RowNumbers rows;
  for (std::int64_t head = 0; head < heads; ++head) {
    const std::int64_t of_head = wanted[static_cast<std::size_t>(head)];
    if (of_head == 0) continue;
    for (const std::int64_t token : sample_of_head(random, of_head, tokens, tile_rows))
      rows.push_back(head * tokens + token);
  }
  return rows;
}

Output take_rows(const Output& whole, const RowNumbers& rows) {
  Output out;
  const std::size_t channels = whole.lse.empty() ? 0 : whole.o.size() / whole.lse.size();
  out.o.reserve(rows.size() * channels);
  out.lse.reserve(rows.size());
  for (const std::int64_t row : rows) {
    const auto at = static_cast<std::size_t>(row);
    const auto begin = whole.o.begin() + static_cast<std::ptrdiff_t>(at * channels);
    out.o.insert(out.o.end(), begin, begin + static_cast<std::ptrdiff_t>(channels));
    out.lse.push_back(whole.lse[at]);
  }
  return out;
}

RowError worst_row(const RowNumbers& rows, const Output& expected, const Output& got) {
  RowError worst;
  if (rows.empty()) return worst;
  worst.row = rows.front();
  const std::size_t channels = expected.o.size() / rows.size();
  for (std::size_t r = 0; r < rows.size() && !std::isnan(worst.relative_l1); ++r) {
    double difference = 0, size = 0;
    for (std::size_t at = r * channels; at < (r + 1) * channels; ++at) {
      difference += std::fabs(expected.o[at] - got.o[at]);
      size += std::fabs(expected.o[at]);
    }
    const double error = difference == 0 ? 0 : difference / size;
    if (!(error <= worst.relative_l1)) worst = {rows[r], error};
  }
  return worst;
}

RowVerdict judge_rows(const RowNumbers& rows, const Output& model, const Allowance& allowance,
                      const Output& got) {
  RowVerdict verdict;
  const std::size_t channels = got.o.size() / rows.size();
  verdict.worst_o = judged(rows[0], 0, got.o[0], model.o[0], allowance.o[0]);
  verdict.worst_lse = judged(rows[0], 0, got.lse[0], model.lse[0], allowance.lse[0]);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    bool beyond = false;
    double squares = 0;
    for (std::size_t c = 0; c < channels; ++c) {
      const std::size_t i = r * channels + c;
      const Judged one =
          judged(rows[r], static_cast<std::int64_t>(c), got.o[i], model.o[i], allowance.o[i]);
      beyond |= one.of_bound > 1;
      if (got.o[i] != model.o[i]) squares += (got.o[i] - model.o[i]) * (got.o[i] - model.o[i]);
      keep_worst(verdict.worst_o, one);
    }
    const Judged whole = judged(rows[r], 0, std::sqrt(squares), 0, allowance.distance[r]);
    if (r == 0 || whole.of_bound > verdict.farthest.of_bound) verdict.farthest = whole;
    verdict.rows_apart += whole.of_bound > 1;
    const Judged lse = judged(rows[r], 0, got.lse[r], model.lse[r], allowance.lse[r]);
    keep_worst(verdict.worst_lse, lse);
    verdict.rows_beyond += beyond;
    verdict.lse_beyond += lse.of_bound > 1;
  }
  return verdict;
}

Impossible check_every_row(const Inputs& in, const QuantModel& m,
                           const DeviceArithmetic& arithmetic, const Output& got) {
  Impossible out;
  const ModList mods(in);
  const auto note = [&](std::int64_t& counter, const Judged& one) {
    ++counter;
    if (!out.first) out.first = one;
  };
  for_each_kv_head(in, all_rows(in), [&](const HeadRows& head) {
    std::int64_t row = head.first_row;
    for (const auto& [q_head, tokens] : head.queries) {
      Ranges ranges(in, m, arithmetic, head.batch, head.kv_head);
      const bool has_sink = mods.sink(head.batch, q_head) > -kInfinity;
      for (const std::int64_t token : tokens) {
        const KeySpan keys = seen_keys(mods, {.batch = head.batch, .head = q_head, .query = token});
        const bool sees_none = keys.begin == keys.end;
        const std::vector<Range>& range =
            mods.empty() ? ranges.of(keys.end) : ranges.of(keys, has_sink);
        double of_code = 0;
        if (m.output_codes == QuantModel::OutputCodes::s8) {
          for (const Range& r : range)
            of_code = std::max({of_code, std::fabs(r.low) / 253, std::fabs(r.high) / 253});
        }
        for (std::int64_t c = 0; c < in.v.channels; ++c) {
          const double o = got.o[static_cast<std::size_t>(row * in.v.channels + c)];
          if (sees_none) {
            if (o != 0) note(out.masked, judged(row, c, o, 0, 0));
            continue;
          }
          const Range& of_channel = range[static_cast<std::size_t>(c)];
          const double low = of_channel.low - of_code, high = of_channel.high + of_code;
          const Judged here = judged(row, c, o, low + (high - low) / 2, (high - low) / 2);
          if (!std::isfinite(o)) {
            note(out.non_finite, here);
          } else if (o < low || o > high) {
            note(out.outside_range, here);
          }
        }
        const double lse = got.lse[static_cast<std::size_t>(row)];
        const bool is_empty = sees_none && !has_sink;
        if (is_empty && lse != -kInfinity) {
          note(out.masked, judged(row, 0, lse, -kInfinity, 0));
        } else if (!is_empty && !std::isfinite(lse)) {
          note(out.non_finite, judged(row, 0, lse, 0, kInfinity));
        }
        ++row;
      }
    }
  });
  return out;
}

}  // namespace sagegen::reference
