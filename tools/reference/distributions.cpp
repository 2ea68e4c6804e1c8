// Generated inputs. Everything is integer arithmetic, + - * / and sqrt, which IEEE 754 rounds the
// same way everywhere; the logarithm is our own for the same reason.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include <fmt/format.h>

#include "tools/reference/reference.h"

namespace sagegen::reference {

namespace {

std::uint64_t splitmix64(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Natural logarithm of a normal positive number: atanh series on [sqrt(1/2), sqrt(2)).
double deterministic_log(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double z = (m - 1.0) / (m + 1.0), square = z * z;
  double series = 0.0;
  for (int n = 23; n >= 1; n -= 2) series = series * square + 1.0 / n;
  return exponent * 0.6931471805599453 + 2.0 * z * series;
}

// xoshiro256** with normal variates by Marsaglia's polar method.
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t stream) {
    std::uint64_t mix = seed;
    mix = splitmix64(mix) ^ (stream * 0xD1342543DE82EF95u);
    for (std::uint64_t& word : state_) word = splitmix64(mix);
  }

  std::uint64_t bits() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)

  double sign() { return bits() >> 63 ? -1.0 : 1.0; }

  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    for (;;) {
      const double u = 2.0 * uniform() - 1.0, v = 2.0 * uniform() - 1.0;
      const double square = u * u + v * v;
      if (square >= 1.0 || square < 0x1p-100) continue;
      const double factor = std::sqrt(-2.0 * deterministic_log(square) / square);
      spare_ = v * factor;
      has_spare_ = true;
      return u * factor;
    }
  }

 private:
  std::array<std::uint64_t, 4> state_{};
  double spare_ = 0.0;
  bool has_spare_ = false;
};

// Streams: the bulk of each tensor and the channel parameters of each tensor are drawn
// independently, so two distributions with one seed share their N(0,1) part and differ only by what
// their names say.
enum Stream : std::uint64_t {
  kBulkQ = 1,
  kBulkK,
  kBulkV,
  kChannelsQ,
  kChannelsK,
  kChannelsV,
  kExtra
};

void fill_normal(Tensor& tensor, Random random) {
  for (float& value : tensor.data) value = static_cast<float>(random.normal());
}

template <typename Edit>  // edit(batch, head, row of channels, token)
void for_each_row(Tensor& tensor, const Edit& edit) {
  for (std::int64_t b = 0; b < tensor.batch; ++b) {
    for (std::int64_t h = 0; h < tensor.heads; ++h) {
      for (std::int64_t n = 0; n < tensor.tokens; ++n) edit(b, h, tensor.row(b, h, n), n);
    }
  }
}

// Adds draw(channel) to a channel of every token; drawn anew for each batch entry and head.
template <typename Draw>
void add_channel_offset(Tensor& tensor, const Draw& draw) {
  std::vector<float> offset(static_cast<std::size_t>(tensor.channels));
  for_each_row(tensor, [&](std::int64_t, std::int64_t, float* row, std::int64_t token) {
    if (token == 0) {
      for (float& value : offset) value = static_cast<float>(draw());
    }
    for (std::size_t c = 0; c < offset.size(); ++c) row[c] += offset[c];
  });
}

// One channel in ten, chosen at random per head, gets an offset of deviation * N(0,1).
void add_outlier_channels(Tensor& tensor, double deviation, Random random) {
  std::int64_t left = 0, channels_left = 0;
  add_channel_offset(tensor, [&]() -> double {
    if (channels_left == 0) {
      channels_left = tensor.channels;
      left = (tensor.channels + 5) / 10;
    }
    const bool chosen =
        random.uniform() * static_cast<double>(channels_left) < static_cast<double>(left);
    --channels_left;
    left -= chosen;
    return chosen ? deviation * random.normal() : 0.0;
  });
}

void make_normal(Inputs&, std::uint64_t) {}

void make_k_bias(Inputs& in, std::uint64_t seed) {
  Random random(seed, kChannelsK);
  add_channel_offset(in.k, [&] { return 10.0 * random.normal(); });
}

void make_outlier(Inputs& in, std::uint64_t seed) {
  add_outlier_channels(in.q, 6.0, Random(seed, kChannelsQ));
  add_outlier_channels(in.k, 10.0, Random(seed, kChannelsK));
  Random random(seed, kChannelsV);
  add_channel_offset(in.v, [&] { return 2.0 * random.sign(); });
}

// The score of the first key is (4 + N(0,1)) * 2 sqrt(d) / sqrt(d) = 8 + 2 N(0,1), where the
// others' are about N(0,1): at 1024 keys it takes half of the weight or more. Its value is small,
// as the values of sinks are in language models.
void make_sink(Inputs& in, std::uint64_t seed) {
  const double root = std::sqrt(static_cast<double>(in.k.channels));
  const std::int64_t group = in.q.heads / in.k.heads;
  std::vector<double> directions(static_cast<std::size_t>(in.k.batch * in.k.heads * in.k.channels));
  Random random(seed, kExtra);
  for (double& value : directions) value = random.sign() / root;
  const auto direction = [&](std::int64_t batch, std::int64_t kv_head) {
    return directions.data() + (batch * in.k.heads + kv_head) * in.k.channels;
  };
  for_each_row(in.q, [&](std::int64_t b, std::int64_t h, float* row, std::int64_t) {
    const double* u = direction(b, h / group);
    for (std::int64_t c = 0; c < in.q.channels; ++c) row[c] += static_cast<float>(4.0 * u[c]);
  });
  for_each_row(in.k, [&](std::int64_t b, std::int64_t h, float* row, std::int64_t token) {
    const double* u = direction(b, h);
    for (std::int64_t c = 0; c < in.k.channels && token == 0; ++c) {
      row[c] = static_cast<float>(0.1 * row[c] + 2.0 * root * u[c]);
    }
  });
  for_each_row(in.v, [&](std::int64_t, std::int64_t, float* row, std::int64_t token) {
    for (std::int64_t c = 0; c < in.v.channels && token == 0; ++c) row[c] *= 0.05f;
  });
}

void make_v_offset(Inputs& in, std::uint64_t) {
  for (float& value : in.v.data) value += 2.0f;
}

void make_peaked(Inputs& in, std::uint64_t) {
  for (float& value : in.q.data) value *= 3.0f;
}

void make_fa3_outlier(Inputs& in, std::uint64_t seed) {
  Random random(seed, kExtra);
  for (Tensor* tensor : {&in.q, &in.k, &in.v}) {
    for (float& value : tensor->data) {
      if (random.uniform() < 0.001) value += static_cast<float>(10.0 * random.normal());
    }
  }
}

void make_zero_parts(Inputs& in, std::uint64_t) {
  for_each_row(in.q, [&](std::int64_t, std::int64_t, float* row, std::int64_t token) {
    if (token % 8 == 3) std::fill(row, row + in.q.channels, 0.0f);
  });
  for_each_row(in.k, [&](std::int64_t, std::int64_t, float* row, std::int64_t token) {
    if (token % 5 == 0) std::fill(row, row + in.k.channels, 0.0f);
  });
  for_each_row(in.v, [&](std::int64_t, std::int64_t, float* row, std::int64_t) {
    for (std::int64_t c = 0; c < in.v.channels; c += 4) row[c] = 0.0f;
  });
}

struct Entry {
  Distribution distribution;
  void (*make)(Inputs&, std::uint64_t seed);
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> list = {
      {{"normal", "Q, K, V ~ N(0,1)"}, make_normal},
      {{"k_bias",
        "Q, K, V ~ N(0,1); every channel of K moved by 10 N(0,1): biased by ten standard "
        "deviations"},
       make_k_bias},
      {{"outlier",
        "Q, K, V ~ N(0,1); one channel in ten of Q moved by 6 N(0,1) and one in ten of K by 10 "
        "N(0,1), "
        "the channels drawn anew for each head; every channel of V moved by 2, up or down at "
        "random"},
       make_outlier},
      {{"sink",
        "Q, K, V ~ N(0,1); Q moved by 4 along one direction per head; the first key is 2 "
        "sqrt(head_dim) "
        "long along it, so its score is N(8,4) beside N(0,1); its value is scaled by 0.05"},
       make_sink},
      {{"v_offset", "Q, K ~ N(0,1); V ~ N(2,1)"}, make_v_offset},
      {{"peaked", "Q ~ N(0,9); K, V ~ N(0,1): rows dominated by a few keys"}, make_peaked},
      {{"fa3_outlier",
        "Q, K, V ~ N(0,1) + N(0,100) * Bernoulli(0.001), the set of the FlashAttention-3 paper"},
       make_fa3_outlier},
      {{"zero_parts",
        "Q, K, V ~ N(0,1) with zeros: every fourth channel of V, every fifth row of K, and rows 3 "
        "mod 8 "
        "of Q, which share their scales"},
       make_zero_parts},
  };
  return list;
}

}  // namespace

const std::vector<Distribution>& distributions() {
  static const std::vector<Distribution> list = [] {
    std::vector<Distribution> names;
    for (const Entry& entry : entries()) names.push_back(entry.distribution);
    return names;
  }();
  return list;
}

Inputs generate(const std::string& name, const Shape& shape, std::uint64_t seed, IoType io) {
  const auto entry = std::find_if(entries().begin(), entries().end(),
                                  [&](const Entry& e) { return e.distribution.name == name; });
  if (entry == entries().end()) {
    std::string names;
    for (const Distribution& d : distributions()) names += (names.empty() ? "" : ", ") + d.name;
    throw std::invalid_argument(
        fmt::format("unknown distribution '{}'; there are {}", name, names));
  }
  if (shape.batch < 1 || shape.q_heads < 1 || shape.kv_heads < 1 || shape.q_len < 1 ||
      shape.kv_len < 1 || shape.head_dim < 1 || shape.value_dim < 0 ||
      shape.q_heads % shape.kv_heads != 0) {
    throw std::invalid_argument(fmt::format(
        "cannot generate batch {}, {} query heads, {} key heads, lengths {} and {}, head_dim {}: "
        "sizes must "
        "be positive and the query heads a multiple of the key heads",
        shape.batch, shape.q_heads, shape.kv_heads, shape.q_len, shape.kv_len, shape.head_dim));
  }
  Inputs in;
  in.q = Tensor(shape.batch, shape.q_heads, shape.q_len, shape.head_dim);
  in.k = Tensor(shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim);
  in.v = Tensor(shape.batch, shape.kv_heads, shape.kv_len,
                shape.value_dim != 0 ? shape.value_dim : shape.head_dim);
  fill_normal(in.q, Random(seed, kBulkQ));
  fill_normal(in.k, Random(seed, kBulkK));
  fill_normal(in.v, Random(seed, kBulkV));
  entry->make(in, seed);
  for (Tensor* tensor : {&in.q, &in.k, &in.v}) round_to(io, *tensor);
  return in;
}

}  // namespace sagegen::reference
