// The codes of one head, and where a right kernel may decide otherwise: 1 and 5 of allowance.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tools/reference/quantize.h"
#include "tools/reference/reference.h"
#include "tools/reference/streaming_softmax.h"

namespace sagegen::reference::bounds {

inline constexpr std::int64_t kFusedKeys = 16;  // of a fused sum

inline std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// Of the formats of P and V, half a step: relative, and the smallest.
double half_step(QuantModel::Pv format);
double half_least(QuantModel::Pv format);
// A tensor core gives a smaller number, and 0, the exponent of this one.
double smallest_normal(QuantModel::Pv format);

// Codes of one head of Q or K, [row, channel], and where they are undecided. Without codes: steps of 1, and
// nothing is undecided.
struct Codes {
  std::int64_t channels = 0;
  std::vector<std::int16_t> codes;
  std::vector<double> step;                 // [row]
  std::vector<std::vector<int>> undecided;  // [row], channels

  const std::int16_t* row(std::int64_t r) const {
    return codes.empty() ? nullptr : codes.data() + r * channels;
  }
};

struct UndecidedValue {
  std::int64_t key, channel;
  double step;
};

// One key/value head as the bound needs it.
struct Head {
  std::int64_t number = 0;
  Codes keys;
  std::vector<double> key_slack;         // [key]: what an undecided code of the key is worth, in K
  std::vector<double> key_scale_error;   // [key]: relative, of the scale
  std::vector<double> mean, mean_error;  // [channel], of K; 0 without smoothing
  Panels values;                         // codes
  Panels largest_value;                  // |code|, [kFusedKeys keys, channel]
  std::vector<double> value_scale;       // [channel]
  // [channel], of V; empty without smoothing. Errors: of the mean, and relative, of the scale.
  std::vector<double> value_mean, value_mean_error, value_scale_error;
  std::vector<UndecidedValue> undecided_values;  // by key
  bool all_undecided = false;                    // keys that are nothing but rounding errors
};

// Scores of a mean query, [key] in base 2, and how far the kernel's may be off before they become whole units.
struct Starts {
  std::vector<double> score, error;
};

struct QueryCodes : Codes {
  std::vector<double> scale_error;  // [row]: relative, of the scale; empty: 0
  std::vector<Starts> starts;       // by row / kMeanRows, of the chosen rows; empty: none
  RowOrder order = {};              // of the head's tokens among the rows
};

// d of allowance.h: what f32 makes of the mean over the keys, [channel].
std::vector<double> mean_error(const Tensor& tensor, std::int64_t batch, std::int64_t head);
// The same of V: sums of bf16 are taken of V * 2^-31, so that none is beyond f32, and are multiples of its smallest number.
std::vector<double> value_mean_error(const Tensor& v, std::int64_t batch, std::int64_t head,
                                     IoType io);
// A sum of products of unquantized Q and K on a tensor core, and what it may lose.
struct Product {
  double sum = 0, cut = 0;
};
Product product_of(const float* q, const float* k, std::int64_t channels, IoType io);

Head head_codes(const Inputs& in, const QuantModel& m, std::int64_t batch, std::int64_t kv_head);
QueryCodes query_codes(const Inputs& in, const QuantModel& m, std::int64_t batch, std::int64_t head,
                       const std::vector<std::int64_t>& chosen, const Head& of_keys);

}  // namespace sagegen::reference::bounds
