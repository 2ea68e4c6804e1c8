#include "tools/reference/mods.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

namespace sagegen::reference {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRounding = 0x1p-24;  // of f32, relative
// Farther than any tensor is long: sums of a position and this stay in range.
constexpr std::int64_t kFar = std::int64_t{1} << 40;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

std::int64_t near(std::int64_t distance) { return std::clamp(distance, -kFar, kFar); }

// An array of [batch, head, query, key] that copies of a mod share.
template <typename T>
struct Array {
  std::shared_ptr<const std::vector<T>> data;
  Strides strides;

  Array(std::vector<T> values, const Strides& s)
      : data(std::make_shared<const std::vector<T>>(std::move(values))), strides(s) {}

  T at(std::int64_t batch, std::int64_t head, std::int64_t query, std::int64_t key) const {
    return (*data)[static_cast<std::size_t>(batch * strides[0] + head * strides[1] +
                                            query * strides[2] + key * strides[3])];
  }
  T at(const Place& p) const { return at(p.batch, p.head, p.query, p.key); }

  void check(const std::string& name, const Extent& e) const {
    const std::array<std::int64_t, 4> counts = {e.batch, e.heads, e.queries, e.keys};
    std::int64_t last = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      require(strides[i] >= 0, fmt::format("{}: stride {} is negative", name, strides[i]));
      if (counts[i] == 0) return;
      last += (counts[i] - 1) * strides[i];
    }
    require(last < static_cast<std::int64_t>(data->size()),
            fmt::format("{}: [{}, {}, {}, {}] with strides {}, {}, {}, {} ends at element {}, but "
                        "there are {}",
                        name, e.batch, e.heads, e.queries, e.keys, strides[0], strides[1],
                        strides[2], strides[3], last, data->size()));
  }
};

void check_heads(const std::string& name, std::size_t count, const Extent& e) {
  require(static_cast<std::int64_t>(count) == e.heads,
          fmt::format("{}: {} values for {} heads of Q; give one per head", name, count, e.heads));
}

// Logits that a kernel can take to base 2 in f32; too low a one is -infinity there.
bool fits(double logit) {
  return logit * std::numbers::log2e <= std::numeric_limits<float>::max();  // no NaN either
}
double or_none(double logit) {
  const bool ends = logit * std::numbers::log2e < std::numeric_limits<float>::lowest();
  return ends ? -kInfinity : logit;
}

// score + term: the term is a product with log2(e), rounded itself, and the sum is rounded.
double sum_rounding(double term, double sum) {
  return kRounding * (3 * std::fabs(term) + std::fabs(sum));
}

}  // namespace

ScoreMod window(std::int64_t left, std::int64_t right, std::int64_t offset) {
  const std::int64_t to_begin = left < 0 ? -2 * kFar : near(offset) - near(left);
  const std::int64_t to_end = right < 0 ? 2 * kFar : near(offset) + near(right) + 1;
  ScoreMod mod;
  mod.name = "sliding window";
  mod.keys_of = [=](std::int64_t query) { return KeySpan{query + to_begin, query + to_end}; };
  return mod;
}

ScoreMod soft_cap(double cap, double tanh_error) {
  require(cap > 0 && std::isfinite(cap),
          fmt::format("soft cap: the cap is {}; it must be positive and finite", cap));
  ScoreMod mod;
  mod.name = "soft cap";
  mod.changes = [=](const Place&, double score) { return cap * std::tanh(score / cap); };
  mod.derivative = [=](const Place&, double score) {
    const double t = std::tanh(score / cap);
    return 1 - t * t;
  };
  mod.bend = 4 / (3 * std::numbers::sqrt3 * cap);
  // Two roundings of the argument and two of the result; |s f'(s)| is never more than |f(s)|.
  mod.rounding = [=](const Place&, double, double after) {
    return std::fabs(after) * (tanh_error + 4 * kRounding);
  };
  return mod;
}

ScoreMod skip_softmax(std::vector<float> thresholds) {
  for (const float threshold : thresholds) {
    require(threshold >= 0 && threshold < 1,
            fmt::format("skip-softmax: a threshold is {}; it must be at least 0 and less than 1",
                        threshold));
  }
  ScoreMod mod;
  mod.name = "skip-softmax";
  mod.check = [name = mod.name, count = thresholds.size()](const Extent& e) {
    require(static_cast<std::int64_t>(count) == e.batch,
            fmt::format("{}: {} thresholds for a batch of {}; give one for each", name, count,
                        e.batch));
  };
  mod.least_weight = [thresholds = std::move(thresholds)](std::int64_t batch) {
    return static_cast<double>(thresholds[static_cast<std::size_t>(batch)]);
  };
  return mod;
}

ScoreMod sinks(std::vector<float> logits) {
  for (const float logit : logits) {
    require(fits(logit),
            fmt::format("attention sinks: a logit is {}; times log2(e) it must be finite in f32",
                        logit));
  }
  ScoreMod mod;
  mod.name = "attention sinks";
  mod.check = [name = mod.name, count = logits.size()](const Extent& e) {
    check_heads(name, count, e);
  };
  mod.sink = [logits = std::move(logits)](std::int64_t, std::int64_t head) {
    return or_none(logits[static_cast<std::size_t>(head)]);
  };
  return mod;
}

ScoreMod bias(std::vector<float> values, const Strides& strides) {
  for (const float value : values) {
    require(
        fits(value),
        fmt::format("additive bias: a value is {}; times log2(e) it must be finite in f32", value));
  }
  const Array<float> array(std::move(values), strides);
  const auto term = [array](const Place& p) { return or_none(array.at(p)); };
  ScoreMod mod;
  mod.name = "additive bias";
  mod.check = [array, name = mod.name](const Extent& e) { array.check(name, e); };
  mod.changes = [term](const Place& p, double score) { return score + term(p); };
  mod.rounding = [term](const Place& p, double, double after) {
    return sum_rounding(term(p), after);
  };
  return mod;
}

ScoreMod mask(std::vector<std::uint8_t> visible, const Strides& strides) {
  const Array<std::uint8_t> array(std::move(visible), strides);
  ScoreMod mod;
  mod.name = "boolean mask";
  mod.check = [array, name = mod.name](const Extent& e) { array.check(name, e); };
  mod.hides = [array](const Place& p) { return array.at(p) == 0; };
  return mod;
}

ScoreMod alibi(std::vector<float> slopes, std::int64_t offset) {
  for (const float slope : slopes)
    require(std::isfinite(slope), fmt::format("ALiBi: a slope is {}; it must be finite", slope));
  ScoreMod mod;
  mod.name = "ALiBi";
  mod.check = [name = mod.name, count = slopes.size()](const Extent& e) {
    check_heads(name, count, e);
  };
  const auto term = [slopes = std::move(slopes), far = near(offset)](const Place& p) {
    const auto distance = static_cast<double>(std::abs(p.query + far - p.key));
    return or_none(-static_cast<double>(slopes[static_cast<std::size_t>(p.head)]) * distance);
  };
  mod.changes = [term](const Place& p, double score) { return score + term(p); };
  mod.rounding = [term](const Place& p, double, double after) {
    return sum_rounding(term(p), after);
  };
  return mod;
}

ScoreMod block_sparse(std::vector<std::uint32_t> words, std::int64_t tile_q, std::int64_t tile_k,
                      const std::array<std::int64_t, 3>& strides, std::int64_t group) {
  require(tile_q > 0 && tile_k > 0,
          fmt::format("block-sparse mask: tiles of {} queries and {} keys; both must be positive",
                      tile_q, tile_k));
  const Array<std::uint32_t> array(std::move(words), {strides[0], strides[1], strides[2], 1});
  ScoreMod mod;
  mod.name = "block-sparse mask";
  mod.check = [=, name = mod.name](const Extent& e) {
    const std::int64_t key_tiles = (e.keys + tile_k - 1) / tile_k;
    array.check(name, {e.batch, e.heads / group, (e.queries * group + tile_q - 1) / tile_q,
                       (key_tiles + 31) / 32});
  };
  mod.hides = [=](const Place& p) {
    const std::int64_t tile = p.key / tile_k;
    const std::int64_t row = p.query * group + p.head % group;
    return (array.at(p.batch, p.head / group, row / tile_q, tile / 32) >> (tile % 32) & 1) == 0;
  };
  return mod;
}

}  // namespace sagegen::reference
