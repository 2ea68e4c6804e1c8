#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>
#include <span>
#include <stdexcept>

#include <fmt/format.h>

#include "tools/reference/heads.h"
#include "tools/reference/mod_list.h"
#include "tools/reference/parallel_for.h"
#include "tools/reference/quantize.h"
#include "tools/reference/reference.h"
#include "tools/reference/rounding.h"
#include "tools/reference/streaming_softmax.h"

namespace sagegen::reference {

namespace {

constexpr std::int64_t kBlockRows = 32;  // query rows of one piece of work

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

std::string shape_text(const Tensor& t) {
  return fmt::format("[{}, {}, {}, {}]", t.batch, t.heads, t.tokens, t.channels);
}

void check(const Inputs& in) {
  const auto whole = [](const Tensor& t) {
    return t.batch >= 1 && t.heads >= 1 && t.tokens >= 0 && t.channels >= 1 &&
           static_cast<std::int64_t>(t.data.size()) == t.batch * t.heads * t.tokens * t.channels;
  };
  require(whole(in.q) && whole(in.k) && whole(in.v),
          fmt::format("q {}, k {}, v {}: sizes must be positive and match the data",
                      shape_text(in.q), shape_text(in.k), shape_text(in.v)));
  require(in.k.batch == in.v.batch && in.k.heads == in.v.heads && in.k.tokens == in.v.tokens,
          fmt::format("k {} and v {} must have the same batch, heads and tokens", shape_text(in.k),
                      shape_text(in.v)));
  require(in.q.batch == in.k.batch && in.q.channels == in.k.channels,
          fmt::format("q {} and k {} must have the same batch and channels", shape_text(in.q),
                      shape_text(in.k)));
  require(in.q.heads % in.k.heads == 0,
          fmt::format("q has {} heads, which is not a multiple of the {} heads of k", in.q.heads,
                      in.k.heads));
  for (const ScoreMod& mod : in.mods)
    if (mod.check) mod.check({in.q.batch, in.q.heads, in.q.tokens, in.k.tokens});
}

KeyValues pack(const std::vector<double>& keys, const std::vector<double>& values,
               std::int64_t tokens, std::int64_t channels, std::int64_t value_channels) {
  KeyValues kv{.keys = Panels(channels, tokens),
               .key_scale = std::vector<double>(static_cast<std::size_t>(tokens), 1.0),
               .values = Panels(tokens, value_channels),
               .value_scale = std::vector<double>(static_cast<std::size_t>(value_channels), 1.0),
               .value_mean = {}};
  for (std::int64_t n = 0; n < tokens; ++n) {
    for (std::int64_t c = 0; c < channels; ++c)
      kv.keys.at(c, n) = keys[static_cast<std::size_t>(n * channels + c)];
    for (std::int64_t c = 0; c < value_channels; ++c)
      kv.values.at(n, c) = values[static_cast<std::size_t>(n * value_channels + c)];
  }
  return kv;
}

// The queries of one head that are asked for, by token; order: of the head's among `rows`.
Queries chosen_queries(const std::vector<double>& rows, std::int64_t channels, double scale,
                       std::vector<std::int64_t> tokens, std::int64_t batch, std::int64_t head,
                       const RowOrder& order = {}) {
  const std::size_t count = tokens.size();
  Queries queries{.count = static_cast<std::int64_t>(count),
                  .channels = channels,
                  .rows = {},
                  .scale = std::vector<double>(count, scale),
                  .lse_shift = std::vector<double>(count, 0.0),
                  .position = std::move(tokens),
                  .batch = batch,
                  .head = head};
  queries.rows.reserve(count * static_cast<std::size_t>(channels));
  for (const std::int64_t token : queries.position) {
    const auto row = rows.begin() + order.of(token) * channels;
    queries.rows.insert(queries.rows.end(), row, row + channels);
  }
  return queries;
}

// Scores of the mean queries of those runs that have chosen queries.
void add_starts(Queries& queries, const std::vector<double>& means, const std::vector<double>& keys,
                double scale, const RowOrder& order) {
  queries.starts.resize(means.size() / static_cast<std::size_t>(queries.channels));
  for (const std::int64_t token : queries.position) {
    const std::int64_t run = order.of(token) / kMeanRows;
    queries.start_run.push_back(run);
    std::vector<double>& starts = queries.starts[static_cast<std::size_t>(run)];
    if (!starts.empty()) continue;
    starts = mean_scores(means.data() + run * queries.channels, keys, queries.channels);
    for (double& start : starts) start *= scale;
  }
}

// Runs the heads that have rows. make_kv(batch, kv head), make_queries(batch, q head, tokens).
template <typename MakeKeyValues, typename MakeQueries>
Output run_heads(const Inputs& in, const RowNumbers& rows, const SoftmaxOptions& options,
                 int threads, const Progress& progress, const MakeKeyValues& make_kv,
                 const MakeQueries& make_queries) {
  Output out;
  out.o.resize(rows.size() * static_cast<std::size_t>(in.v.channels));
  out.lse.resize(rows.size());
  for_each_kv_head(in, rows, [&](const HeadRows& head) {
    const KeyValues kv = make_kv(head.batch, head.kv_head);
    struct Block {
      std::size_t queries;
      std::int64_t first, last, row;
    };
    std::vector<Queries> queries;
    std::vector<Block> blocks;
    std::int64_t row = head.first_row;
    for (const auto& [q_head, tokens] : head.queries) {
      const auto count = static_cast<std::int64_t>(tokens.size());
      for (std::int64_t first = 0; first < count; first += kBlockRows) {
        blocks.push_back({queries.size(), first, std::min(first + kBlockRows, count), row + first});
      }
      queries.push_back(make_queries(head.batch, q_head, tokens));
      row += count;
    }
    parallel_for(static_cast<std::int64_t>(blocks.size()), threads, [&](std::int64_t item) {
      const Block& block = blocks[static_cast<std::size_t>(item)];
      attend(queries[block.queries], kv, block.first, block.last, options,
             out.o.data() + block.row * in.v.channels, out.lse.data() + block.row);
      if (progress) progress(block.last - block.first);
    });
  });
  return out;
}

Rounding rounding_of(QuantModel::Pv format) {
  switch (format) {
    case QuantModel::Pv::exact:
      return {};
    case QuantModel::Pv::f16:
    case QuantModel::Pv::bf16: {
      const Format grid = format == QuantModel::Pv::f16 ? kF16 : kBf16;
      return [grid](double* x, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) x[i] = round_ieee(x[i], grid);
      };
    }
    case QuantModel::Pv::e4m3:
      return [](double* x, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) x[i] = round_satfinite(x[i], kE4m3);
      };
  }
  return {};
}

void check(const QuantModel& m) {
  require(m.qk_bits == 8 || m.qk_bits == 4 || m.qk_bits == kUnquantized,
          fmt::format("qk_bits is {}; it can be 8, 4 or 16", m.qk_bits));
  require(m.qk_bits != kUnquantized || !m.smooth_k, "smooth_k is for codes, of 8 or 4 bits");
  require(m.q_group >= 8 && m.q_group % 8 == 0 && m.k_group >= 8 && m.k_group % 8 == 0,
          fmt::format("q_group {} and k_group {} must be multiples of 8", m.q_group, m.k_group));
  require(m.tile_keys >= 8 && m.tile_keys % 8 == 0,
          fmt::format("tile_keys is {}; it must be a multiple of 8", m.tile_keys));
  require(m.smooth_k || !m.smooth_q, "smooth_q needs smooth_k");
  require(m.v_scaled || !m.smooth_v, "smooth_v needs v_scaled");
  require(m.p_max > 0 && m.v_max > 0, "p_max and v_max must be positive");
}

}  // namespace

void check_rows(const Inputs& in, const RowNumbers& rows) {
  check(in);
  const std::int64_t count = in.q.batch * in.q.heads * in.q.tokens;
  std::int64_t before = -1;
  for (const std::int64_t row : rows) {
    require(before < row && row < count,
            fmt::format("row {} after row {} of {}: numbers must ascend and exist", row, before,
                        count));
    before = row;
  }
}

RowNumbers all_rows(const Inputs& in) {
  RowNumbers rows(static_cast<std::size_t>(in.q.batch * in.q.heads * in.q.tokens));
  std::iota(rows.begin(), rows.end(), std::int64_t{0});
  return rows;
}

Output attention(const Inputs& in, int threads) { return attention(in, all_rows(in), threads, {}); }

Output attention(const Inputs& in, const RowNumbers& rows, int threads, const Progress& progress) {
  check_rows(in, rows);
  const double scale = base2_scale(in);
  const ModList mods(in);
  return run_heads(
      in, rows,
      {.causal = in.causal,
       .causal_offset = in.causal_offset,
       .round_p = {},
       .mods = mods.empty() ? nullptr : &mods},
      threads, progress,
      [&](std::int64_t b, std::int64_t h) {
        return pack(head_rows(in.k, b, h), head_rows(in.v, b, h), in.k.tokens, in.k.channels,
                    in.v.channels);
      },
      [&](std::int64_t b, std::int64_t h, const std::vector<std::int64_t>& tokens) {
        return chosen_queries(head_rows(in.q, b, h), in.q.channels, scale, tokens, b, h);
      });
}

Output model(const Inputs& in, const QuantModel& m, int threads) {
  Output out = unrounded_model(in, m, all_rows(in), threads, {});
  round_output(m, out.o, in.v.channels);
  return out;
}

void round_output(const QuantModel& m, std::vector<double>& o, std::int64_t channels) {
  const Format format = format_of(m.output);
  const auto width = static_cast<std::size_t>(channels);
  for (std::size_t row = 0; row < o.size(); row += width) {
    const std::span<double> values(o.data() + row, width);
    double amax = 0;
    for (const double x : values) amax = std::max(amax, std::fabs(x));
    for (double& x : values) {
      if (m.output_codes == QuantModel::OutputCodes::none) {
        x = round_ieee(x, format);
      } else if (m.output_codes == QuantModel::OutputCodes::e4m3) {
        x = round_satfinite(x * m.output_factor, kE4m3) / m.output_factor;
      } else if (amax > 0) {
        x = std::nearbyint(x * 127 / amax) * amax / 127;
      }
    }
  }
}

Output unrounded_model(const Inputs& in, const QuantModel& m, const RowNumbers& rows, int threads,
                       const Progress& progress) {
  check_rows(in, rows);
  check(m);
  const double scale = base2_scale(in);
  const std::int64_t group = in.q.heads / in.k.heads;
  const auto channels = static_cast<std::size_t>(in.k.channels);

  const auto make_kv = [&](std::int64_t b, std::int64_t h) {
    RowCodes k = quantize_rows(to_quantize(smoothed_keys(in.k, b, h, m), in.k.channels, m),
                               in.k.channels, m.qk_bits, grouping_of_keys(m, in.k.channels));
    ChannelCodes v = quantize_values(in.v, b, h, m);
    KeyValues kv = pack(k.codes, v.codes, in.k.tokens, in.k.channels, in.v.channels);
    kv.key_scale = std::move(k.row_scale);
    kv.value_scale = std::move(v.scale);
    if (m.smooth_v) kv.value_mean = std::move(v.mean);
    return kv;
  };
  const auto make_queries = [&](std::int64_t b, std::int64_t h,
                                const std::vector<std::int64_t>& tokens) {
    const RowOrder order = row_order(in, m, h);
    SmoothedQueries smoothed{.rows = query_rows(in, m, b, h), .means = {}, .least_amax = {}};
    if (m.smooth_q)
      smoothed = smooth_queries(std::move(smoothed.rows), in.q.channels, m.qk_bits, m.rotate);
    const RowCodes q =
        quantize_rows(to_quantize(std::move(smoothed.rows), in.q.channels, m), in.q.channels,
                      m.qk_bits, grouping_of_queries(m, in.q.channels), smoothed.least_amax);
    Queries queries = chosen_queries(q.codes, in.q.channels, scale, tokens, b, h, order);
    queries.whole_starts = m.scales != QuantModel::Scales::per_token;
    if (m.smooth_q)
      add_starts(queries, smoothed.means, smoothed_keys(in.k, b, h / group, m), scale, order);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      queries.scale[i] = q.row_scale[static_cast<std::size_t>(order.of(tokens[i]))] * scale;
    if (m.smooth_k && in.k.tokens > 0) {
      // Smoothing lowers every score of a row by the same amount; only the LSE sees it, and some mods.
      const std::vector<double> mean = channel_mean(in.k, b, h / group);
      for (std::size_t i = 0; i < queries.lse_shift.size(); ++i) {
        const float* row = in.q.row(b, h, tokens[i]);
        double dot = 0.0;
        for (std::size_t c = 0; c < channels; ++c) dot += row[c] * mean[c];
        queries.lse_shift[i] = dot * scale * std::numbers::ln2;
      }
    }
    return queries;
  };

  const ModList mods(in);
  Output out = run_heads(in, rows,
                         {.causal = in.causal,
                          .causal_offset = in.causal_offset,
                          .tile_keys = m.tile_keys,
                          .p_max = m.p_max,
                          .round_p = rounding_of(m.pv),
                          .maximum_step = mods.change_scores() ? 0 : m.maximum_step,
                          .maximum_slack = m.maximum_slack,
                          .mods = mods.empty() ? nullptr : &mods},
                         threads, progress, make_kv, make_queries);
  const double end = largest_output(m);
  for (double& value : out.o) value = std::clamp(value, -end, end);
  return out;
}

Metrics compare(const std::vector<double>& expected, const std::vector<double>& got) {
  require(expected.size() == got.size(),
          fmt::format("cannot compare {} values with {}", expected.size(), got.size()));
  double dot = 0, expected_square = 0, got_square = 0, difference_sum = 0, expected_sum = 0;
  double difference_square = 0;
  Metrics m;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double e = expected[i], g = got[i], difference = std::fabs(e - g);
    m.non_finite += !std::isfinite(g);
    dot += e * g;
    expected_square += e * e;
    got_square += g * g;
    difference_sum += difference;
    expected_sum += std::fabs(e);
    difference_square += difference * difference;
    // Written so that a NaN stays.
    if (!(difference <= m.max_abs)) m.max_abs = std::isnan(m.max_abs) ? m.max_abs : difference;
  }
  // Two zero tensors are equal; a zero tensor against another has no direction and no relative
  // size.
  const bool equal = difference_sum == 0.0;
  m.cosine_similarity = equal ? 1.0 : dot / (std::sqrt(expected_square) * std::sqrt(got_square));
  m.relative_l1 = equal ? 0.0 : difference_sum / expected_sum;
  m.rmse =
      expected.empty() ? 0.0 : std::sqrt(difference_square / static_cast<double>(expected.size()));
  return m;
}

}  // namespace sagegen::reference
