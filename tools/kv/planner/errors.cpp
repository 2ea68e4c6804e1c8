#include "tools/kv/planner/errors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "tools/reference/heads.h"
#include "tools/reference/parallel_for.h"
#include "tools/reference/streaming_softmax.h"

namespace sagegen::kv {
namespace {

using reference::Inputs, reference::KeyValues, reference::Panels, reference::Queries;

constexpr std::int64_t kPositionsAtOnce = 16;
constexpr std::size_t kNoCodes = kCodeBitsCount - 1;  // 16 bits
static_assert(kCodeBits[kNoCodes] == 16);

std::size_t index_of(const Storage& storage) {
  const auto at = std::ranges::find(kCodeBits, bits_of(storage));
  return static_cast<std::size_t>(at - kCodeBits.begin());
}

void check(const Inputs& in) {
  reference::check_rows(in, {});
  if (in.k.channels != in.v.channels) {
    throw SpecError(fmt::format(
        "keys of {} channels with values of {} are refused: a KV cache has one head_dim for both",
        in.k.channels, in.v.channels));
  }
  if (in.k.channels > kMostHeadDim)
    throw SpecError(fmt::format("head_dim {} is refused: a KV cache has at most {} channels",
                                in.k.channels, kMostHeadDim));
  if (!in.mods.empty()) throw SpecError("errors are measured of attention without score mods");
  for (const reference::Tensor* tensor : {&in.q, &in.k, &in.v}) {
    if (!std::ranges::all_of(tensor->data, [](float x) { return std::isfinite(x); }))
      throw SpecError("Q, K or V has a value that is not finite, of which no error can be told");
  }
}

std::vector<std::int64_t> measured_positions(std::int64_t tokens, std::int64_t queries) {
  const std::int64_t count = queries > 0 ? std::min(queries, tokens) : tokens;
  std::vector<std::int64_t> positions;
  for (std::int64_t i = 1; i <= count; ++i) positions.push_back(i * tokens / count - 1);
  return positions;
}

// One KV head with the queries that it serves: position by position, of each all heads.
struct Head {
  std::vector<double> keys, values;  // as they came, [token, channel]
  Queries queries;
  std::vector<double> exact;  // o, [query, channel of V]
};

Head head_of(const Inputs& in, std::int64_t batch, std::int64_t kv_head,
             const std::vector<std::int64_t>& positions) {
  Head head{.keys = reference::head_rows(in.k, batch, kv_head),
            .values = reference::head_rows(in.v, batch, kv_head),
            .queries = {},
            .exact = {}};
  const std::int64_t group = in.q.heads / in.k.heads;
  Queries& queries = head.queries;
  queries.count = static_cast<std::int64_t>(positions.size()) * group;
  queries.channels = in.q.channels;
  for (const std::int64_t position : positions) {
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const float* row = in.q.row(batch, h, position);
      queries.rows.insert(queries.rows.end(), row, row + in.q.channels);
      queries.position.push_back(position);
    }
  }
  queries.scale.assign(static_cast<std::size_t>(queries.count), reference::base2_scale(in));
  queries.lse_shift.assign(static_cast<std::size_t>(queries.count), 0.0);
  return head;
}

// The output of a head's queries with keys of so many bits and values of each number of bits side by side:
// [query, index of bits, channel].
std::vector<double> outputs(const Inputs& in, const Head& head, int k_bits,
                            const CacheModel& model) {
  const std::int64_t tokens = in.k.tokens, k_channels = in.k.channels, v_channels = in.v.channels;
  const std::vector<double> keys = stored_keys(head.keys, k_channels, k_bits, model);
  std::array<std::vector<double>, kCodeBitsCount> values;
  for (std::size_t i = 0; i < kCodeBitsCount; ++i)
    values[i] = stored_values(head.values, v_channels, kCodeBits[i], model);
  const std::int64_t columns = v_channels * static_cast<std::int64_t>(kCodeBitsCount);
  KeyValues kv{
      .keys = Panels(k_channels, tokens),
      .key_scale = std::vector<double>(static_cast<std::size_t>(tokens), 1.0),
      .values = Panels(tokens, columns),
      .value_scale = std::vector<double>(static_cast<std::size_t>(columns), 1.0),
      .value_mean = {},
  };
  const auto set_key = [&](std::int64_t token, const std::vector<double>& from) {
    for (std::int64_t c = 0; c < k_channels; ++c)
      kv.keys.at(c, token) = from[static_cast<std::size_t>(token * k_channels + c)];
  };
  const auto set_value = [&](std::int64_t token, bool codes) {
    for (std::int64_t at = 0; at < columns; ++at) {
      const auto& from = codes ? values[static_cast<std::size_t>(at / v_channels)] : head.values;
      kv.values.at(token, at) =
          from[static_cast<std::size_t>(token * v_channels + at % v_channels)];
    }
  };
  for (std::int64_t token = 0; token < tokens; ++token) {
    set_key(token, head.keys);
    set_value(token, false);
  }
  // How much of the cache is codes moves on with the queries, never back.
  std::int64_t keys_done = 0, values_done = 0;
  const auto advance = [&](std::int64_t cached) {
    for (; keys_done < quantized_keys(cached, model); ++keys_done) set_key(keys_done, keys);
    for (; values_done < quantized_values(cached, model); ++values_done)
      set_value(values_done, true);
  };
  const reference::SoftmaxOptions softmax{
      .causal = in.causal, .causal_offset = in.causal_offset, .round_p = {}};
  const std::int64_t count = head.queries.count;
  std::vector<double> o(static_cast<std::size_t>(count * columns)),
      lse(static_cast<std::size_t>(count));
  // Of several positions at once, but not all: what comes before a mask is multiplied for all of them.
  const bool moves = in.causal && model.grouping == Grouping::kivi;
  const std::int64_t step = in.q.heads / in.k.heads * (moves ? 1 : kPositionsAtOnce);
  for (std::int64_t first = 0; first < count; first += step) {
    const std::int64_t last = std::min(first + step, count);
    const std::int64_t position = head.queries.position[static_cast<std::size_t>(first)];
    advance(moves ? reference::causal_keys(position, in.causal_offset, tokens) : tokens);
    reference::attend(head.queries, kv, first, last, softmax, o.data() + first * columns,
                      lse.data() + first);
  }
  return o;
}

}  // namespace

double LayerErrors::squared_share(std::size_t head, const Pair& pair) const {
  const double exact =
      std::accumulate(heads.begin(), heads.end(), 0.0,
                      [](double sum, const HeadErrors& each) { return sum + each.exact; });
  return heads[head].error[index_of(pair.k)][index_of(pair.v)] / exact;
}

double LayerErrors::relative(const Pair& pair) const {
  double sum = 0;
  for (std::size_t head = 0; head < heads.size(); ++head) sum += squared_share(head, pair);
  return std::sqrt(sum);
}

LayerErrors measure_layer(const Inputs& in, const MeasureOptions& options) {
  validate(options.cache);
  check(in);
  const std::vector<std::int64_t> positions = measured_positions(in.q.tokens, options.queries);
  const std::int64_t heads = in.k.batch * in.k.heads, channels = in.v.channels;
  std::vector<Head> of_head(static_cast<std::size_t>(heads));
  std::vector<HeadErrors> errors(of_head.size());
  const auto measure = [&](std::size_t at, std::size_t k) {
    Head& head = of_head[at];
    const std::vector<double> o = outputs(in, head, kCodeBits[k], options.cache);
    HeadErrors& sums = errors[at];
    if (k == kNoCodes) {
      for (std::int64_t query = 0; query < head.queries.count; ++query) {
        const auto* row = o.data() + (query * static_cast<std::int64_t>(kCodeBitsCount) +
                                      static_cast<std::int64_t>(kNoCodes)) *
                                         channels;
        head.exact.insert(head.exact.end(), row, row + channels);
      }
      for (const double each : head.exact) sums.exact += each * each;
    }
    const double* got = o.data();
    for (std::int64_t query = 0; query < head.queries.count; ++query) {
      const double* expected = head.exact.data() + query * channels;
      for (double& sum : sums.error[k]) {
        for (std::int64_t c = 0; c < channels; ++c, ++got)
          sum += (*got - expected[c]) * (*got - expected[c]);
      }
    }
  };
  // First with exact keys, which is where the output comes from that all others are compared with.
  reference::parallel_for(heads, options.threads, [&](std::int64_t at) {
    of_head[static_cast<std::size_t>(at)] =
        head_of(in, at / in.k.heads, at % in.k.heads, positions);
    measure(static_cast<std::size_t>(at), kNoCodes);
  });
  reference::parallel_for(heads * static_cast<std::int64_t>(kNoCodes), options.threads,
                          [&](std::int64_t item) {
                            const auto at = static_cast<std::size_t>(item);
                            measure(at / kNoCodes, at % kNoCodes);
                          });
  LayerErrors layer{.head_dim = static_cast<int>(in.k.channels),
                    .heads = std::vector<HeadErrors>(static_cast<std::size_t>(in.k.heads))};
  double exact = 0;
  for (std::size_t at = 0; at < errors.size(); ++at) {
    HeadErrors& sums = layer.heads[at % layer.heads.size()];
    sums.exact += errors[at].exact;
    exact += errors[at].exact;
    for (std::size_t k = 0; k < kCodeBitsCount; ++k) {
      for (std::size_t v = 0; v < kCodeBitsCount; ++v) sums.error[k][v] += errors[at].error[k][v];
    }
  }
  if (exact == 0)
    throw SpecError(
        "the exact output of attention is all zeros, of which no relative error can be told");
  return layer;
}

std::uint64_t digest_of(const Inputs& in) {
  std::uint64_t digest = 0xCBF29CE484222325u;  // FNV-1a, of words in place of bytes
  const auto add = [&](std::uint64_t word) { digest = (digest ^ word) * 0x100000001B3u; };
  for (const reference::Tensor* tensor : {&in.q, &in.k, &in.v}) {
    for (const std::int64_t extent :
         {tensor->batch, tensor->heads, tensor->tokens, tensor->channels})
      add(static_cast<std::uint64_t>(extent));
    for (const float value : tensor->data) add(std::bit_cast<std::uint32_t>(value));
  }
  add(std::bit_cast<std::uint64_t>(in.softmax_scale));
  add(in.causal ? 1 : 0);
  add(static_cast<std::uint64_t>(in.causal_offset));
  return digest;
}

}  // namespace sagegen::kv
