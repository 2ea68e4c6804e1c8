#include "templates/shared/hadamard.h"

#include <cmath>

namespace sagegen {

using namespace dsl;

// A butterfly for each bit of a channel's number: bits of pieces, then two that tell lanes of a quad apart, then bits of
// pieces of a lane, which are 4 pieces apart.
std::vector<F32> hadamard_of_quad(KernelBuilder& k, std::vector<F32> channels, I32 quad, int piece,
                                  int rotated) {
  for (int step = 1; step < rotated; step *= 2) {
    if (step >= piece && step < 4 * piece) {
      const int mask = step / piece;
      const F32 sign = k.select((quad & mask) == 0, k.f32(1.0f), k.f32(-1.0f));
      for (F32& own : channels) own = k.fma(own, sign, k.shuffle_xor(own, mask));
      continue;
    }
    const auto apart = static_cast<std::size_t>(step < piece ? step : step / 4);
    for (std::size_t i = 0; i < channels.size(); ++i) {
      if ((i & apart) != 0) continue;
      const F32 sum = channels[i] + channels[i + apart];
      channels[i + apart] = channels[i] - channels[i + apart];
      channels[i] = sum;
    }
  }
  const float unit = 1.0f / std::sqrt(static_cast<float>(rotated));
  for (F32& channel : channels) channel = channel * unit;
  return channels;
}

}  // namespace sagegen
