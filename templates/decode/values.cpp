#include "templates/decode/values.h"

namespace sagegen::decode {

using namespace dsl;

namespace {

constexpr float kUnit = 0x1p24f;  // of codes that are read as f16
constexpr std::int32_t kThousand =
    0x64006400;  // 1024 twice, whose last bits of 10 count as those of whole numbers do

// In the order of Values::operands().
std::vector<ChannelTile> channel_tiles(const KvBlock& cache, bool normal_codes) {
  const float unit = normal_codes ? 1.0f : kUnit;
  const float unit_of_byte = cache.v_codes == KvCoding::e4m3 ? kUnitOfE4m3 : unit;
  std::vector<ChannelTile> tiles;
  const int piece = cache.v_piece_bytes();
  for (int of_lane = 0; of_lane < cache.v_units(); ++of_lane) {
    const int byte = 8 * piece * of_lane;  // of lane row 0
    switch (cache.v_bits) {
      case 16:
        tiles.push_back({2, {16 * of_lane, 16 * of_lane + 1}, {1.0f, 1.0f}});
        break;
      case 8:
        for (int word = 0; word < piece; word += 2)
          tiles.push_back({piece, {byte + word, byte + word + 1}, {unit_of_byte, unit_of_byte}});
        break;
      case 4:
        for (int word = 0; word < piece; ++word)
          tiles.push_back(
              {2 * piece, {2 * (byte + word), 2 * (byte + word) + 1}, {unit, unit / 16}});
        break;
      default:
        for (int word = 0; word < piece; ++word) {
          for (int code = 0; code < 4; code += 2) {
            const int channel = 4 * (byte + word) + code;
            const float unit_of_code = code == 0 ? unit : unit / 16;
            tiles.push_back({4 * piece, {channel, channel + 1}, {unit_of_code, unit_of_code / 4}});
          }
        }
    }
  }
  return tiles;
}

}  // namespace

Values::Values(const DecodeBlock& block)
    : block_(block), tiles_(channel_tiles(block.cache, block.schedule.normal_codes)) {
  KernelBuilder& k = block.k;
  sums_.resize(tiles_.size());
  for (auto& tile : sums_) {
    for (int half = 0; half < block.row_halves(); ++half) {
      tile.emplace_back();
      for (Var<F32>& sum : tile.back()) sum = k.var(k.f32(0.0f));
    }
  }
}

F32 Values::sum(std::size_t tile, int half, int upper, int column) const {
  return sums_[tile][static_cast<std::size_t>(half)][static_cast<std::size_t>(2 * upper + column)];
}

void Values::rescale(int half, const std::array<F32, 2>& factors) {
  for (auto& tile : sums_) {
    auto& sums = tile[static_cast<std::size_t>(half)];
    for (std::size_t i = 0; i < 4; ++i) sums[i] = sums[i].get() * factors[i % 2];
  }
}

// Words of four tokens: their bytes 0 and 2 are the tokens of the first half of k, 1 and 3 of the second one.
std::vector<std::array<I32, 4>> Values::operands(const std::vector<I32>& words) const {
  KernelBuilder& k = block_.k;
  std::vector<std::array<I32, 4>> result;
  if (block_.spec.v_bits == 16) return {{words[0], words[1], words[2], words[3]}};
  if (block_.spec.v_codes == KvCoding::e4m3) {
    for (std::size_t i = 0; i < words.size(); i += 2) {
      const auto first = f16_of_e4m3(words[i]), second = f16_of_e4m3(words[i + 1]);
      result.push_back({first[0], second[0], first[1], second[1]});
    }
    return result;
  }
  // A code c below 256, in the last bits of 1024, is 1024 + c: all of these numbers are exact.
  const bool normal = block_.schedule.normal_codes;
  // In registers: an instruction of a mask and an OR has room for one constant.
  const I32 thousand = normal ? block_.opaque(kThousand, 0) : k.i32(0);
  const auto less_thousand = [&](I32 pair) {
    return normal ? k.subtract2(DType::f16, pair, thousand) : pair;
  };
  const auto number = [&](I32 code) { return normal ? less_thousand(code | thousand) : code; };
  if (block_.spec.v_bits == 8) {
    const I32 zero = normal ? block_.opaque(kThousand >> 8, 0) : k.i32(0);
    const auto even = [&](I32 word) { return number(word & 0x00FF00FF); };
    const auto odd = [&](I32 word) {
      return less_thousand(k.permute_bytes(word, zero, {1, 4, 3, 4}));
    };
    for (std::size_t i = 0; i < words.size(); i += 2)
      result.push_back({even(words[i]), even(words[i + 1]), odd(words[i]), odd(words[i + 1])});
    return result;
  }
  const std::vector<std::int32_t> masks =
      block_.spec.v_bits == 4
          ? std::vector<std::int32_t>{0x000F000F, 0x00F000F0}
          : std::vector<std::int32_t>{0x00030003, 0x000C000C, 0x00300030, 0x00C000C0};
  for (const I32 word : words) {
    const I32 shifted = word >> 8;
    for (std::size_t i = 0; i < masks.size(); i += 2)
      result.push_back({number(word & masks[i]), number(word & masks[i + 1]),
                        number(shifted & masks[i]), number(shifted & masks[i + 1])});
  }
  return result;
}

void Values::add(const CacheTile& tile, const std::vector<Weights>& weights,
                 const TokenMask* mask) {
  KernelBuilder& k = block_.k;
  const DType type = block_.p_type();
  for (std::size_t i = 0; i < weights.size(); ++i) {
    std::size_t channels = 0;
    for (int unit = 0; unit < block_.cache.v_units(); ++unit) {
      for (auto operand : operands(tile.value_words(static_cast<int>(i), unit))) {
        if (mask != nullptr && block_.spec.v_bits == 16)
          operand = mask->masked_v16(operand, static_cast<int>(i));
        auto& of_channels = sums_[channels++];
        for (std::size_t half = 0; half < of_channels.size(); ++half) {
          auto& sums = of_channels[half];
          const MmaC sum = k.mma(
              MmaA(type, operand), weights[i].of_codes[half],
              MmaC(k.as_bits(sums[0]), k.as_bits(sums[1]), k.as_bits(sums[2]), k.as_bits(sums[3])));
          for (std::size_t j = 0; j < 4; ++j) sums[j] = k.as_f32(sum[j]);
        }
      }
    }
  }
}

}  // namespace sagegen::decode
