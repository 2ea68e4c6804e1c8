// MUFU functions as correctly rounded functions. The PTX ISA bounds the hardware's error around the
// exact value; the nearest float is the middle of what it allows.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float nan_result() { return std::bit_cast<float>(0x7fffffffu); }

// The float nearest to an exact value that `approximation` meets within a few double ulps, if that
// determines it; otherwise the float nearest to `precise()`, an 80-bit evaluation. No float
// argument of the functions below brings the exact value within 2^-60 of a rounding boundary unless
// it is exact.
template <typename Precise>
float round_once(double approximation, Precise precise) {
  constexpr double kMargin = 4 * std::numeric_limits<double>::epsilon();
  const float low = static_cast<float>(approximation * (1.0 - kMargin));
  const float high = static_cast<float>(approximation * (1.0 + kMargin));
  return low == high ? low : static_cast<float>(precise());
}

float flush_if(float value, bool ftz) { return ftz ? flush_denormal(value) : value; }

}  // namespace

float ex2_approx(float x, bool ftz) {
  if (std::isnan(x)) {
    return nan_result();
  }
  x = flush_if(x, ftz);
  if (x >= 128.0f) {
    return kInfinity;
  }
  if (x < -150.0f) {  // below half of the smallest subnormal
    return 0.0f;
  }
  const float y = round_once(std::exp2(static_cast<double>(x)),
                             [x] { return std::exp2(static_cast<long double>(x)); });
  return flush_if(y, ftz);
}

float lg2_approx(float x, bool ftz) {
  x = flush_if(x, ftz);
  if (x == 0.0f) {
    return -kInfinity;
  }
  if (!(x > 0.0f)) {
    return nan_result();
  }
  if (x == kInfinity) {
    return kInfinity;
  }
  return round_once(std::log2(static_cast<double>(x)),
                    [x] { return std::log2(static_cast<long double>(x)); });
}

float rcp_approx(float x, bool ftz) {
  if (std::isnan(x)) {
    return nan_result();
  }
  x = flush_if(x, ftz);
  if (x == 0.0f) {
    return std::copysign(kInfinity, x);
  }
  return flush_if(1.0f / x, ftz);
}

float rsqrt_approx(float x, bool ftz) {
  x = flush_if(x, ftz);
  if (x == 0.0f) {
    return std::copysign(kInfinity, x);
  }
  if (!(x > 0.0f)) {
    return nan_result();
  }
  if (x == kInfinity) {
    return 0.0f;
  }
  return round_once(1.0 / std::sqrt(static_cast<double>(x)),
                    [x] { return 1.0L / std::sqrt(static_cast<long double>(x)); });
}

float sqrt_approx(float x, bool ftz) {
  x = flush_if(x, ftz);
  if (x == 0.0f || x == kInfinity) {
    return x;
  }
  if (!(x > 0.0f)) {
    return nan_result();
  }
  return std::sqrt(x);
}

}  // namespace sagegen::emulator
