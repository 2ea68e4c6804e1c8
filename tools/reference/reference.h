// The judge: exact attention in double precision, a double-precision model of the quantization,
// error metrics, input distributions. Shares no code with generator or runtime; host arrays only.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/reference/mods.h"

namespace sagegen::reference {

// [batch, head, token, channel], contiguous, values already rounded to the io dtype.
struct Tensor {
  std::int64_t batch = 1, heads = 1, tokens = 1, channels = 1;
  std::vector<float> data;
  Tensor() = default;
  Tensor(std::int64_t b, std::int64_t h, std::int64_t n, std::int64_t d)
      : batch(b), heads(h), tokens(n), channels(d), data(static_cast<std::size_t>(b * h * n * d)) {}
  float* row(std::int64_t b, std::int64_t h, std::int64_t n) {
    return data.data() + ((b * heads + h) * tokens + n) * channels;
  }
  const float* row(std::int64_t b, std::int64_t h, std::int64_t n) const {
    return data.data() + ((b * heads + h) * tokens + n) * channels;
  }
};

enum class IoType { f16, bf16, f32 };
void round_to(IoType type, Tensor& tensor);

struct Inputs {
  Tensor q, k, v;              // q.heads is a multiple of k.heads
  double softmax_scale = 0.0;  // 0: 1 / sqrt(channels)
  bool causal = false;
  std::int64_t causal_offset = 0;   // key j is visible to query i if j <= i + offset
  std::vector<ScoreMod> mods = {};  // besides
};

struct Output {
  std::vector<double> o;  // shape of q
  // [batch, q heads, q tokens], natural logarithm; -inf for a fully masked row without a sink
  std::vector<double> lse;
};

// Rows of the output, one per query of [batch, head, token], by number: (batch * heads + head) *
// tokens + token. Ascending, each once.
using RowNumbers = std::vector<std::int64_t>;
RowNumbers all_rows(const Inputs& inputs);

// Told how many more rows are done, from many threads at once.
using Progress = std::function<void(std::int64_t rows)>;

// Exact attention. A fully masked row gives 0. threads: 0 = as many as the machine has; the result
// does not depend on it. Throws std::invalid_argument if the shapes do not fit together.
Output attention(const Inputs& inputs, int threads = 0);
// Of some rows only, in their order; exact all the same.
Output attention(const Inputs& inputs, const RowNumbers& rows, int threads = 0,
                 const Progress& progress = {});

// The quantization alone: codes rounded as the formats round, everything else in double, the output
// rounded to `output`. What is left between this and exact attention is the price of the formats.
struct QuantModel {
  int qk_bits =
      8;  // 8 or 4: symmetric codes, amax / 127 or amax / 7; 16: none, Q and K are what they are
  // Which rows share a scale: those of a lane of the attention kernel in a group of rows, all of a group, none, or all
  // of a head.
  enum class Scales { per_thread, per_block, per_token, per_tensor } scales = Scales::per_thread;
  int q_group = 32, k_group = 64;  // rows
  // Rows of Q are counted over all heads that share a head of K and V: token 0 of each of these heads, then token 1, and
  // so on. It is such rows that share scales, and means.
  bool packed_heads = false;
  bool smooth_k = true;
  // Of Q the mean of each 128 rows, whose scores come back rounded to whole units, q scale * k scale, but where each
  // score has a unit of its own (per_token). Only with smooth_k.
  bool smooth_q = false;
  // Codes are of rows of Q and K times a Hadamard matrix of 1 / sqrt(b) and -1 / sqrt(b), of each b channels, b the
  // largest power of two that divides them: scores are what they were. After the means are subtracted.
  bool rotate = false;
  enum class Pv { exact, f16, bf16, e4m3 } pv = Pv::e4m3;
  bool v_scaled = true;  // per-channel scale of V (amax / v_max)
  bool smooth_v =
      false;  // of V the mean over the keys is subtracted, and added to O. Only with v_scaled
  double v_max = 448.0;
  double p_max = 448.0;  // static scale of P: 448 for e4m3, 1 for f16
  // Maxima, less log2(p_max), are rounded up to multiples of this many octaves, but those of scores that mods
  // change; 0: they are not.
  double maximum_step = 0;
  // A row keeps its maximum until a score is above it by more than this many octaves.
  double maximum_slack = 0;
  int tile_keys = 64;  // P is quantized against the running maximum of the tiles so far
  IoType output = IoType::f16;
  // O as codes of a byte in place of that: e4m3 of O times output_factor, saturated; s8 with the largest magnitude of a
  // row / 127 as its scale.
  enum class OutputCodes { none, e4m3, s8 } output_codes = OutputCodes::none;
  double output_factor = 1;
  friend bool operator==(const QuantModel&, const QuantModel&) = default;
};
Output model(const Inputs& inputs, const QuantModel& model, int threads = 0);
// Rounds rows of an output to its format or its codes, and gives what the codes stand for.
void round_output(const QuantModel& model, std::vector<double>& o, std::int64_t channels);
// Of some rows only, and before the output is rounded to its format; saturated where codes are.
Output unrounded_model(const Inputs& inputs, const QuantModel& model, const RowNumbers& rows,
                       int threads = 0, const Progress& progress = {});

// SageAttention2, appendix A.7, and the largest absolute difference. A NaN in `got` makes all four
// NaN, which fails every comparison with a bound. Two zero tensors are equal: cosine similarity 1,
// relative L1 0.
struct Metrics {
  double cosine_similarity = 0, relative_l1 = 0, rmse = 0, max_abs = 0;
  std::int64_t non_finite = 0;  // values of `got` that are NaN or infinite
};
Metrics compare(const std::vector<double>& expected, const std::vector<double>& got);

// Named distributions with stated statistics; the same name, shape and seed give the same values on
// every machine. `normal`, `k_bias`, `outlier`, `sink`, `v_offset`, ... (see distributions()).
struct Distribution {
  std::string name;
  std::string description;  // statistics in words
};
const std::vector<Distribution>& distributions();
struct Shape {
  std::int64_t batch = 1, q_heads = 1, kv_heads = 1, q_len = 1, kv_len = 1, head_dim = 128;
  std::int64_t value_dim = 0;  // channels of V; 0: head_dim
};
// Throws std::invalid_argument for an unknown name (lists what exists) or an impossible shape.
Inputs generate(const std::string& name, const Shape& shape, std::uint64_t seed, IoType io);

}  // namespace sagegen::reference
