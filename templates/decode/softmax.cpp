#include "templates/decode/softmax.h"

#include <algorithm>

namespace sagegen::decode {

using namespace dsl;

namespace {

std::int32_t ones(DType type) { return type == DType::f16 ? 0x3C003C00 : 0x3F803F80; }

}  // namespace

Softmax::Softmax(const DecodeBlock& block, const Queries& queries)
    : block_(block), queries_(queries) {
  KernelBuilder& k = block.k;
  for (int half = 0; half < block.row_halves(); ++half) {
    maximum_.push_back(k.var(k.f32(kHidden)));
    shift_.push_back(k.var(k.f32(0.0f)));
    sums_.emplace_back();
    for (Var<F32>& sum : sums_.back()) sum = k.var(k.f32(0.0f));
  }
}

F32 Softmax::scale(int half) const {
  return changes_scores(block_.spec) ? block_.k.f32(1.0f) : queries_.scale(half);
}

F32 Softmax::maximum(int half) const {
  return maximum_[static_cast<std::size_t>(half)].get() * scale(half);
}

std::array<F32, 2> Softmax::of_channel(int half, int channel) const {
  KernelBuilder& k = block_.k;
  std::array<F32, 2> result;
  for (std::size_t i = 0; i < 2; ++i) {
    result[i] =
        k.shuffle(sums_[static_cast<std::size_t>(half)][i].get(), block_.lane.quad + 4 * channel);
  }
  return result;
}

// Symmetric codes have the zero point -offset s, those of e4m3 have none.
std::array<F32, 2> Softmax::sums_of_zero_points(int half) const {
  KernelBuilder& k = block_.k;
  const Spec& spec = block_.spec;
  if (spec.v_codes == KvCoding::e4m3) return {k.f32(0.0f), k.f32(0.0f)};
  std::array<F32, 2> sums = of_channel(half, 0);
  const auto offset = static_cast<float>(kv_code_offset(spec.v_codes, spec.v_bits));
  if (offset != 0) sums = {sums[0] * -offset, sums[1] * -offset};
  return sums;
}

void Softmax::raise_maxima(const Scores& scores, const Rescale& rescale) {
  KernelBuilder& k = block_.k;
  std::vector<F32> largest;
  Pred rises = k.pred(false);
  for (std::size_t half = 0; half < maximum_.size(); ++half) {
    std::vector<F32> of_lane;
    for (const auto& in_block : scores) {
      for (const auto& of_parity : in_block)
        of_lane.insert(of_lane.end(), of_parity[half].begin(), of_parity[half].end());
    }
    for (; of_lane.size() > 1; of_lane.resize(of_lane.size() / 2)) {
      for (std::size_t i = 0; i < of_lane.size() / 2; ++i)
        of_lane[i] = k.max(of_lane[2 * i], of_lane[2 * i + 1]);
    }
    largest.push_back(of_lane[0]);
    rises = rises || of_lane[0] > maximum_[half].get();
  }
  k.if_(k.any(rises), [&] {
    for (std::size_t half = 0; half < maximum_.size(); ++half) {
      const int h = static_cast<int>(half);
      const F32 before = maximum_[half];
      const F32 maximum = k.max(before, quad_max(k, largest[half]));
      const F32 factor = k.exp2((before - maximum) * scale(h));
      maximum_[half] = maximum;
      // A row that sees nothing yet keeps the shift 0: with its own, what is hidden would weigh 1.
      shift_[half] = k.select(
          maximum > kHidden,
          k.fma_down(-maximum, scale(h), k.f32(static_cast<float>(block_.octaves()))), k.f32(0.0f));
      const std::array factors{k.shuffle(factor, block_.lane.quad * 8),
                               k.shuffle(factor, block_.lane.quad * 8 + 4)};
      for (std::size_t i = 0; i < 4; ++i) sums_[half][i] = sums_[half][i].get() * factors[i % 2];
      rescale(h, factors);
    }
  });
}

std::vector<Weights> Softmax::weights(const Scores& scores,
                                      const std::vector<TokenParameters>& parameters) {
  KernelBuilder& k = block_.k;
  const DType type = block_.p_type();
  std::vector<Weights> result(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    for (std::size_t half = 0; half < maximum_.size(); ++half) {
      std::array<I32, 2> plain, scaled;
      for (std::size_t parity = 0; parity < 2; ++parity) {
        const ScorePair& pair = scores[i][parity][half];
        const auto p = [&](std::size_t column) {
          return k.exp2(k.fma(pair[column], scale(static_cast<int>(half)), shift_[half]));
        };
        const F32 first = p(0);
        plain[parity] = k.pack2(type, first, p(1));
        if (kv_quantized(block_.spec.v_bits))
          scaled[parity] = k.multiply2(type, plain[parity], parameters[i].s_v[parity]);
      }
      result[i].plain.push_back(MmaB(type, plain));
      result[i].of_codes.push_back(kv_quantized(block_.spec.v_bits) ? MmaB(type, scaled)
                                                                    : result[i].plain.back());
    }
  }
  return result;
}

void Softmax::sum(const std::vector<Weights>& weights,
                  const std::vector<TokenParameters>& parameters) {
  KernelBuilder& k = block_.k;
  const DType type = block_.p_type();
  const I32 one = k.i32(ones(type));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    std::array<I32, 4> rows{one, one, one, one};
    if (kv_quantized(block_.spec.v_bits) && block_.spec.v_codes != KvCoding::e4m3) {
      // As it lies in memory: what is in the upper rows does not matter.
      const TokenParameters& of = parameters[i];
      const bool k_codes = kv_quantized(block_.spec.k_bits);
      const std::array<I32, 2>& upper = k_codes ? of.s_k : of.s_v;
      const std::array<I32, 2>& zero_point = block_.cache.v_has_zero_point() ? of.z_v : of.s_v;
      const Pred is_sum = block_.lane.row == 1;
      rows = {k.select(is_sum, one, zero_point[0]), upper[0], k.select(is_sum, one, zero_point[1]),
              upper[1]};
    }
    const MmaA a(type, rows);
    for (std::size_t half = 0; half < sums_.size(); ++half) {
      auto& sums = sums_[half];
      const MmaC sum = k.mma(
          a, weights[i].plain[half],
          MmaC(k.as_bits(sums[0]), k.as_bits(sums[1]), k.as_bits(sums[2]), k.as_bits(sums[3])));
      for (std::size_t j = 0; j < 4; ++j) sums[j] = k.as_f32(sum[j]);
    }
  }
}

}  // namespace sagegen::decode
