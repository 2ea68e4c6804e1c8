#include "templates/decode/scores.h"

namespace sagegen::decode {

using namespace dsl;

namespace {

std::int32_t bits_of(std::uint32_t bits) { return static_cast<std::int32_t>(bits); }

using Words = std::vector<I32>;

// Words of codes, or numbers of 16 bits.
Words words_of(const DecodeBlock& block, Words words) {
  if (block.spec.k_codes != KvCoding::e4m3) return words;
  Words numbers;
  for (const I32 word : words) {
    for (const I32 pair : f16_of_e4m3(word)) numbers.push_back(pair);
  }
  return numbers;
}

// What B of the products is made of.
class ScoresOfEightKeys {
 public:
  ScoresOfEightKeys(const DecodeBlock& block, const Queries& queries, Words words)
      : block_(block), k_(block.k), queries_(queries), words_(std::move(words)) {}

  // q . codes of each half of the rows; of K in 16 bits q . k.
  std::vector<ScorePair> products() const {
    switch (product_of(block_.spec)) {
      case Product::two_planes:
        return two_planes();
      case Product::masked_bytes:
        return masked_bytes();
      case Product::codes:
        return codes();
      case Product::floats:
        break;
    }
    return floats();
  }

 private:
  std::size_t count() const { return queries_.operands().size(); }
  const MmaA& operand(std::size_t i) const { return queries_.operands()[i]; }
  static ScorePair half_of(KernelBuilder& k, const MmaC& sum, std::size_t half) {
    return {k.as_f32(sum[2 * half]), k.as_f32(sum[2 * half + 1])};
  }
  ScorePair half_of(const MmaC& sum, std::size_t half) const { return half_of(k_, sum, half); }
  static ScorePair without_bias(const ScorePair& sums) {
    return {sums[0] - Queries::kBias, sums[1] - Queries::kBias};
  }
  // first + second / base, both biased.
  ScorePair joined(const ScorePair& first, const ScorePair& second, float base) const {
    ScorePair result;
    for (std::size_t i = 0; i < 2; ++i)
      result[i] = k_.fma(second[i], k_.f32(1.0f / base),
                         first[i] - (Queries::kBias + Queries::kBias / base));
    return result;
  }

  std::vector<ScorePair> two_planes() const {
    const auto base = static_cast<float>(plane_base(block_.spec));
    const std::vector<KeyItem> items = key_items(block_.spec);
    const bool in_halves = block_.row_halves() == 1;
    std::vector<MmaC> sums{queries_.start()};
    if (!in_halves) sums.push_back(queries_.start(1));
    for (std::size_t i = 0; i < count(); ++i) {
      const std::size_t step = i / sums.size();
      MmaC& sum = sums[i % sums.size()];
      sum = k_.mma(operand(i),
                   MmaUnsignedB(words_[static_cast<std::size_t>(items[2 * step].word)],
                                words_[static_cast<std::size_t>(items[2 * step + 1].word)]),
                   sum);
    }
    if (in_halves) return {joined(half_of(sums[0], 0), half_of(sums[0], 1), base)};
    return {joined(half_of(sums[0], 0), half_of(sums[1], 0), base),
            joined(half_of(sums[0], 1), half_of(sums[1], 1), base)};
  }

  // Of a byte the codes `field` and `field` + half of them, with the upper one as so many times its value.
  std::vector<ScorePair> masked_bytes() const {
    const bool nibbles = block_.spec.k_bits == 4;
    const std::vector<KeyItem> items = key_items(block_.spec);
    const auto both = [&](const KeyItem& item) {
      const I32 word = words_[static_cast<std::size_t>(item.word)];
      if (nibbles) return word;
      return (item.field == 0 ? word : word >> 2) & 0x33333333;
    };
    const auto upper = [&](const KeyItem& item) {
      const I32 word = words_[static_cast<std::size_t>(item.word)];
      if (nibbles) return word & bits_of(0xF0F0F0F0);
      return (item.field == 0 ? word : word >> 2) & 0x30303030;
    };
    MmaC sum = queries_.start();
    for (std::size_t i = 0; i < count(); i += 2) {
      const KeyItem &a = items[i], &b = items[i + 1];
      sum = k_.mma(operand(i), MmaUnsignedB{both(a), both(b)}, sum);
      sum = k_.mma(operand(i + 1), MmaUnsignedB{upper(a), upper(b)}, sum);
    }
    return {joined(half_of(sum, 0), half_of(sum, 1), 16.0f)};
  }

  std::vector<ScorePair> codes() const {
    const int bits = block_.spec.k_bits;
    const std::int32_t mask = bits == 4 ? 0x0F0F0F0F : 0x03030303;
    const std::vector<KeyItem> items = key_items(block_.spec);
    const auto bytes = [&](const KeyItem& item) {
      const I32 word = words_[static_cast<std::size_t>(item.word)];
      return (item.field == 0 ? word : word >> (bits * item.field)) & mask;
    };
    MmaC sum = queries_.start();
    for (std::size_t i = 0; i < count(); ++i)
      sum = k_.mma(operand(i), MmaUnsignedB{bytes(items[2 * i]), bytes(items[2 * i + 1])}, sum);
    return {without_bias(half_of(sum, 0)), without_bias(half_of(sum, 1))};
  }

  std::vector<ScorePair> floats() const {
    const DType type = key_type(block_.spec);
    const I32 zero = k_.i32(0);
    const auto multiply = [&](std::size_t i, std::size_t first, std::size_t second, MmaC& sum) {
      sum = k_.mma(operand(i), MmaB(type, {words_[first], words_[second]}), sum);
    };
    MmaC first{zero, zero, zero, zero}, second{zero, zero, zero, zero};
    if (block_.row_halves() == 2) {
      for (std::size_t i = 0; i < count(); ++i) multiply(i, 2 * i, 2 * i + 1, first);
      return {half_of(first, 0), half_of(first, 1)};
    }
    for (std::size_t i = 0; i < count(); ++i) {
      multiply(i, 4 * i, 4 * i + 2, first);
      multiply(i, 4 * i + 1, 4 * i + 3, second);
    }
    const ScorePair even = half_of(first, 0), odd = half_of(second, 1);
    return {{even[0] + odd[0], even[1] + odd[1]}};
  }

  const DecodeBlock& block_;
  KernelBuilder& k_;
  const Queries& queries_;
  const Words words_;
};

}  // namespace

Scores scores_of(const DecodeBlock& block, const Queries& queries, const CacheTile& tile,
                 const std::vector<TokenParameters>& parameters) {
  KernelBuilder& k = block.k;
  const I32 zero = k.i32(0);
  Scores scores(parameters.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    for (std::size_t parity = 0; parity < 2; ++parity) {
      const int in_block = static_cast<int>(i), of_parity = static_cast<int>(parity);
      std::vector<ScorePair>& of_keys = scores[i][parity];
      of_keys =
          ScoresOfEightKeys(block, queries, words_of(block, tile.key_words(in_block, of_parity)))
              .products();
      if (!kv_quantized(block.spec.k_bits)) continue;
      if (!block.cache.k_has_zero_point()) {
        const auto scale = k.unpack2(DType::f16, parameters[i].s_k[parity]);
        for (ScorePair& of_half : of_keys) of_half = {of_half[0] * scale[0], of_half[1] * scale[1]};
        continue;
      }
      const MmaC zeros =
          k.mma_k8(queries.sums(of_parity), MmaShortB(DType::f16, {parameters[i].z_k}),
                   {zero, zero, zero, zero});
      const auto scale = k.unpack2(DType::f16, parameters[i].s_k[parity]);
      for (std::size_t half = 0; half < of_keys.size(); ++half) {
        for (std::size_t column = 0; column < 2; ++column) {
          F32& score = of_keys[half][column];
          score = k.fma(score, scale[column], k.as_f32(zeros[2 * half + column]));
        }
      }
    }
  }
  return scores;
}

void hide(const DecodeBlock& block, const TokenMask& mask, Scores& scores) {
  KernelBuilder& k = block.k;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    for (std::size_t parity = 0; parity < 2; ++parity) {
      for (std::size_t half = 0; half < scores[i][parity].size(); ++half) {
        for (std::size_t column = 0; column < 2; ++column) {
          F32& score = scores[i][parity][half][column];
          score = k.select(mask.sees(static_cast<int>(half), static_cast<int>(i),
                                     static_cast<int>(parity), static_cast<int>(column)),
                           score, k.f32(kHidden));
        }
      }
    }
  }
}

}  // namespace sagegen::decode
